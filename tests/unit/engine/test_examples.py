"""The examples run and say what the documentation says that they say."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path

import opendt.engine.simulation
import opendt.model.tasks

ROOT = Path(__file__).resolve().parents[3]


def test_what_if(capsys):
    runpy.run_path(str(ROOT / "examples/what_if.py"))
    # Eight tasks fill four hosts for an hour: 4 x 350 W. Half the frequency from the middle on takes another hour at a
    # quarter of the dynamic power: 4 x (100 + 250 / 4) W.
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "as it is: done after 60 min, 1.40 kWh",
        "at half speed: done after 90 min, 1.35 kWh",
    ]


def test_docstrings():
    for module in (opendt.engine.simulation, opendt.model.tasks):
        failed, tried = doctest.testmod(module)
        assert tried > 0
        assert failed == 0

"""How numbers are told, and which words a command line takes for numbers."""

from __future__ import annotations

import click
import pytest

from opendt.cli.parameters import PositiveNumber
from opendt.cli.words import duration, facts


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (90_000, "1.5 min"),
        (3_600_000, "1 h"),
        (126_230_400_000, "1,461 d"),
    ],
)
def test_durations(ms, words):
    assert duration(ms) == words


def test_facts_carry_their_units():
    told = facts({"topologies": 1, "hosts": 1, "tasks": 1200, "gpus": 0, "span_ms": 60_000, "mean_power_w": 21_693.94})
    assert told == "1 topology, 1 host, 1,200 tasks, span 1 min, mean power 21,693.9 W"


@pytest.mark.parametrize("word", ["nan", "0", "-1", "inf", "1e7", "fast"])
def test_no_positive_number(word):
    with pytest.raises(click.BadParameter):
        PositiveNumber().convert(word, None, None)


def test_a_positive_number():
    assert PositiveNumber().convert("2.5e3", None, None) == 2500

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_example_of_advice_says_what_two_hosts_less_do(capsys):
    runpy.run_path(str(ROOT / "examples/advice.py"))
    # Six hosts at 100 W, one of them at half load: 725 W; with four 525 W, 27.6 % less.
    assert capsys.readouterr().out.splitlines() == [
        "llm: Most hosts of g1 are empty and idle power dominates: switch two off.",
        '{"type":"remove_hosts","count":2}',
        "energy: expected -20%, simulated -28%",
    ]

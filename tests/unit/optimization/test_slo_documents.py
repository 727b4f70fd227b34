"""What the documentation shows is what happens."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from opendt.model.slo import read_slo
from opendt.optimization.rules import RULES

ROOT = Path(__file__).resolve().parents[3]


def test_the_example_of_objectives_is_read():
    slo = read_slo(ROOT / "examples" / "slo.json")
    assert slo.window_s == 300
    assert None not in (slo.energy, slo.carbon, slo.peak_power, slo.runtime, slo.utilization)
    assert (ROOT / "examples" / slo.schema_).resolve().is_file()


def test_the_guide_prints_what_it_says(capsys):
    text = (ROOT / "docs" / "guides" / "slo.md").read_text(encoding="utf-8")
    code, printed = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "text"))
    exec(textwrap.dedent(code), {})
    assert capsys.readouterr().out == textwrap.dedent(printed)


def test_the_rules_are_documented_in_their_order():
    text = (ROOT / "docs" / "concepts" / "slo.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text.split("## The rules")[1], re.M) == list(RULES)

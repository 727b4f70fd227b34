"""Every constant of the forecasts stands in the table of docs/concepts/calibration.md, with the value that the code has."""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "concepts" / "calibration.md"
MODULES = ("settings", "mixture", "calibrate", "state_space", "meter", "bands", "blind", "guard", "drift", "curve")
# Not part of any forecast: names of rows and snapshots, sizes of blocks that leave all figures as they are, what follows from others.
NO_AMOUNT = {
    "settings.Disturbance.held",
    "settings.METERS",
    "settings.STEADY",
    "settings.NIMBLE",
    "settings.FAMILY",
    "settings.CalibrationSettings.meter_share",
    "settings.CalibrationSettings.meter_share_sd",
    "calibrate._BLOCK_TICKS",
    "calibrate._SNAPSHOT_VERSION",
    "calibrate._OWN",
    "calibrate._PLAIN",
    "bands._PRIOR_SCORES",
    "bands.HOUR_BAND",
    "bands.FIVE_MINUTE_BAND",
    "bands.BLIND_HOUR_BAND",
    "blind.EXPERTS",
    "guard._BLOCK_TICKS",
    "guard._LEAST_ERROR",
    "guard.ROLLBACK_DEFAULTS",
    "drift.DRIFT_DEFAULTS",
}


def table() -> dict[str, tuple[str, str]]:
    """Value and origin, as written, of each constant of the table by its full name."""
    section = PAGE.read_text(encoding="utf-8").split("## Where each constant comes from")[1].split("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        names = re.findall(r"`([^`]+)`", cells[0])
        if len(cells) != 3 or not names or not names[0].startswith(tuple(f"{module}." for module in MODULES)):
            continue
        module = names[0].split(".")[0]
        values = re.findall(r"`([^`]+)`", cells[1])
        assert len(values) in (1, len(names)), f"{line}: {len(names)} names, {len(values)} values"
        values = values * len(names) if len(values) == 1 else values
        for name, value in zip(names, values, strict=True):
            full = name if name.startswith(f"{module}.") else f"{module}.{name}"
            assert full not in rows, f"{full} stands in the table twice"
            rows[full] = value, cells[2]
    return rows


def declared() -> set[str]:
    """Constants and defaults of dataclasses that the modules declare."""
    names = set()
    for module in MODULES:
        tree = ast.parse((ROOT / "src" / "opendt" / "twin" / f"{module}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            bodies = [(f"{module}.", [node])]
            if isinstance(node, ast.ClassDef):
                bodies = [(f"{module}.{node.name}.", node.body)]
            for prefix, body in bodies:
                names |= {
                    prefix + part.target.id
                    for part in body
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value is not None
                }
    return names


def actual(name: str) -> Any:
    """What the code has: a constant, a default of a dataclass, or an attribute of a constant."""
    module, *path = name.split(".")
    value: Any = importlib.import_module(f"opendt.twin.{module}")
    for part in path:
        if isinstance(value, type) and is_dataclass(value):
            (field,) = (field for field in fields(value) if field.name == part)
            assert field.default is not MISSING, f"{name} has no default"
            value = field.default
        else:
            value = getattr(value, part)
    return value


TABLE = table()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_page_says_what_the_code_has(name):
    value, origin = TABLE[name]
    assert ast.literal_eval(value) == actual(name)
    assert origin.split()[0].rstrip(":;,") in {"stated", "literature", "learned", "synthetic", "data"}


def test_no_constant_is_left_out():
    assert declared() - set(TABLE) == NO_AMOUNT

"""How right the twin's forecasts of the SURF week are, judged by `forecast_accuracy.py`, which shares no code with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data import surf_week
from harness import Context, Samples, bench

HERE = Path(__file__).resolve().parent
OPENDT = Path(sys.executable).with_name("opendt")
# A plant that drifts, jumps once and is read with noise.
PERTURBED = ("--drift", "0.12", "--step", "-0.06", "--noise", "0.005")


@bench
def accuracy(context: Context) -> Samples:
    """Errors and bands of all three kinds of forecast over the week."""
    with context.scratch() as folder:
        kinds = _judged(surf_week(), folder)
    hour, window, blind = (kinds[name] for name in ("hour", "window", "blind_hour"))
    rival = blind["persistence"]
    parts = [
        100 * ratio
        for kind in kinds.values()
        for ratio in [*kind["coverage_by_day"].values(), *kind["coverage_by_load_tercile"]]
    ]
    return {
        "hour-mape": [hour["mape_percent"]],
        "window-mape": [window["mape_percent"]],
        # Skill is 1 - error / error of persistence, on the points that have both.
        "blind-ratio": [1 - rival["skill"]],
        "blind-ratio-upper": [1 - rival["low"]],
        "coverage": [_worst_coverage(kinds)],
        "coverage-lowest": [min(parts)],
        "coverage-highest": [max(parts)],
        "hour-winkler": [hour["persistence"]["winkler_ratio"]],
        "window-winkler": [window["persistence"]["winkler_ratio"]],
    }


@bench
def accuracy_perturbed(context: Context) -> Samples:
    """The same where the measured power drifts, steps and is noisy."""
    with context.scratch() as folder:
        trace = folder / "trace"
        _script("perturb", str(surf_week()), str(trace), *PERTURBED)
        kinds = _judged(trace, folder)
    return {
        "perturbed-hour-mape": [kinds["hour"]["mape_percent"]],
        "perturbed-window-mape": [kinds["window"]["mape_percent"]],
        "perturbed-coverage": [_worst_coverage(kinds)],
    }


def _judged(trace: Path, folder: Path) -> dict[str, Any]:
    """Run the demo over a trace and judge what it predicted."""
    command = [str(OPENDT), "demo", "--trace", str(trace), "-o", str(folder / "out"), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _script("judge", str(trace), str(folder / "out/predictions.parquet"), "--json", str(folder / "judged.json"))
    kinds = json.loads((folder / "judged.json").read_text(encoding="utf-8"))
    assert isinstance(kinds, dict)
    return kinds


def _script(*words: str) -> None:
    """Run a command of the judge."""
    script = [sys.executable, str(HERE / "forecast_accuracy.py")]
    subprocess.run([*script, *words], check=True, stdout=subprocess.DEVNULL)


def _worst_coverage(kinds: dict[str, Any]) -> float:
    """Percent of points inside the band, of the kind of forecast that is farthest from 90."""
    return max((100 * float(kind["coverage"]) for kind in kinds.values()), key=lambda percent: abs(percent - 90))

"""Commands as whole processes: what a person waits for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data import surf_week
from harness import Context, Samples, bench

OPENDT = Path(sys.executable).with_name("opendt")


@bench
def command_help(context: Context) -> Samples:
    """``opendt --help``."""
    return {"help": [process.wall_ms for process in context.processes(lambda _: [str(OPENDT), "--help"])]}


@bench
def simulate(context: Context) -> Samples:
    """``opendt simulate`` on the SURF week, with two files and with all five."""
    two = context.processes(lambda folder: _simulate(folder, ["powerSource", "service"]))
    five = context.processes(lambda folder: _simulate(folder, ["host", "task", "powerSource", "battery", "service"]))
    return {
        "simulate": [process.wall_ms for process in two],
        "simulate-peak": [process.peak_mb for process in two],
        "simulate-all-files": [process.wall_ms for process in five],
        "simulate-all-files-peak": [process.peak_mb for process in five],
    }


@bench
def demo(context: Context) -> Samples:
    """``opendt demo`` over the SURF week."""
    week = surf_week()
    runs = context.processes(lambda folder: [str(OPENDT), "demo", "--trace", str(week), "-o", str(folder), "--quiet"])
    return {"demo": [process.wall_ms / 1000 for process in runs], "demo-peak": [process.peak_mb for process in runs]}


def _simulate(folder: Path, files: list[str]) -> list[str]:
    """Command line for the week at 30 s with these result files; writes the experiment first."""
    week = surf_week()
    experiment = {
        "name": "surf",
        "topologies": [{"pathToFile": str(week / "topology.json")}],
        "workloads": [{"pathToFile": str(week), "type": "ComputeWorkload"}],
        "exportModels": [{"exportInterval": 30, "printFrequency": None, "filesToExport": files}],
    }
    path = folder / "experiment.json"
    path.write_text(json.dumps(experiment), encoding="utf-8")
    return [str(OPENDT), "simulate", str(path), "-o", str(folder / "out"), "--quiet"]

"""The two yardsticks: the same week in a plain heap loop in Rust and in SimPy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from data import export_week, load_week, surf_week
from harness import Context, Samples, bench

HERE = Path(__file__).resolve().parent


@bench
def heap_loop(context: Context) -> Samples:
    """Time the loop of the Rust program, by its own clock."""
    with context.scratch() as folder:
        export_week(load_week(surf_week()), folder / "week.bin")
        cargo = [
            "cargo",
            "run",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
            str(HERE / "heap_loop/Cargo.toml"),
        ]
        answer = _json([*cargo, "--", str(folder / "week.bin"), str(context.repeats)])
    return {"heap-loop": answer["loop_ms"], "heap-loop-energy-j": [answer["energy_j"]]}


@bench
def simpy(context: Context) -> Samples:
    """Time the SimPy program as a whole, and its loop by its own clock."""
    command = [sys.executable, str(HERE / "yardstick_simpy.py"), str(surf_week())]
    whole = context.processes(lambda _: command)
    answers = [_json(command) for _ in range(context.repeats)]
    return {
        "simpy": [process.wall_ms for process in whole],
        "simpy-loop": [answer["loop_s"] * 1000 for answer in answers],
        "simpy-energy-j": [answers[0]["energy_j"]],
    }


def _json(command: list[str]) -> dict[str, Any]:
    """Run a program and read the JSON object it prints."""
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert isinstance(answer, dict)
    return answer

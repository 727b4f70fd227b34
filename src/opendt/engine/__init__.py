"""The Python face of the simulation kernel: simulations that advance, fork and change, and experiments on files.

Everything long runs without the GIL and listens to Ctrl-C. Names are found in their modules when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opendt.engine.experiment import ScenarioResult, run_experiment, run_scenario
    from opendt.engine.simulation import KNOTS, Simulation, load_workload, to_engine

__all__ = ["KNOTS", "ScenarioResult", "Simulation", "load_workload", "run_experiment", "run_scenario", "to_engine"]

_HOMES: Final = {
    "KNOTS": "simulation",
    "Simulation": "simulation",
    "load_workload": "simulation",
    "to_engine": "simulation",
    "ScenarioResult": "experiment",
    "run_experiment": "experiment",
    "run_scenario": "experiment",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'opendt.engine' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"opendt.engine.{home}"), name)
    globals()[name] = value
    return value

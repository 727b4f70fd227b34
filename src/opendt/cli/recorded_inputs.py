"""Options and words that questions about a recorded demand share: ``opendt optimize`` and ``opendt plan-capacity``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.parameters import PositiveNumber

if TYPE_CHECKING:
    from opendt.model.topology import Topology
    from opendt.optimization.recorded import Recorded
    from opendt.optimization.trials import Trial

__all__ = ["HEADER", "inputs", "read_recorded", "table", "trial_json", "trial_row"]

HEADER: Final = ("", "energy", "change", "carbon", "cost", "p95 wait", "peak", "hosts", "tasks done", "met")

_MS_PER_HOUR: Final = 3_600_000


def inputs(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which demand, on which hosts, under which objectives."""
    path = click.Path(path_type=Path)
    options = (
        click.option(
            "--trace", type=path, required=True, metavar="DIR", help="Record: tasks, fragments and topology.json."
        ),
        click.option("--slo", "slo_file", type=path, required=True, metavar="FILE", help="Objectives."),
        click.option("--topology", type=path, metavar="FILE", help="Hosts, instead of those of the record."),
        click.option(
            "--load", type=PositiveNumber(), default=1.0, show_default=True, help="So many times the recorded tasks."
        ),
        click.option(
            "--drain",
            "drain_h",
            type=click.FloatRange(min=0, max=8760),
            default=12.0,
            show_default=True,
            help="Hours simulated after the record's end, in which work that was put off is done.",
        ),
        click.option(
            "--resampled",
            type=click.IntRange(min=0, max=64),
            default=0,
            show_default=True,
            help="Other demands made of the record's days, which the answer must suit as well.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all randomness."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_recorded(
    trace: Path, topology_file: Path | None, load: float, drain_h: float, resampled: int, seed: int
) -> Recorded:
    """Read a record and make the demands of it."""
    from opendt.engine.simulation import load_workload
    from opendt.formats.opendc import read_topology
    from opendt.optimization.demand import scaled_load
    from opendt.optimization.recorded import Recorded
    from opendt.orchestrator.environment import with_carbon

    topology: Topology = read_topology(trace / "topology.json" if topology_file is None else topology_file)
    topology = with_carbon(topology, trace / "carbon.parquet")
    workload = load_workload(trace)
    if load != 1.0:
        workload = scaled_load(workload, load, seed)
    drain_ms = round(drain_h * _MS_PER_HOUR)
    return Recorded.of(topology, workload, drain_ms=drain_ms, resampled=resampled, seed=seed)


def trial_json(trial: Trial) -> dict[str, Any]:
    """Tell a configuration as data."""
    from dataclasses import asdict

    return {
        "what": trial.words,
        "changes": [change.model_dump(mode="json") for change in trial.changes],
        "metrics": asdict(trial.metrics),
        "cost": trial.cost if trial.error is None else None,
        "score": trial.score.total,
        "breached": [part.name for part in trial.score.parts if part.violation > 0],
        "unknown": list(trial.score.unknown),
        "keeps_work": trial.keeps_work,
        "meets": trial.meets,
        "error": trial.error,
    }


def trial_row(name: str, trial: Trial, baseline: Trial) -> tuple[str, ...]:
    """Tell a configuration as a row under `HEADER`."""
    metrics, before = trial.metrics, baseline.metrics
    breached = [part.name for part in trial.score.parts if part.violation > 0]
    if trial.error is not None:
        return (name, *[""] * (len(HEADER) - 2), f"refused: {trial.error}")
    energy, energy_before = metrics.energy_kwh or 0.0, before.energy_kwh or 0.0
    return (
        name,
        f"{energy:.2f} kWh",
        f"{100 * (energy / energy_before - 1):+.1f} %" if energy_before else "",
        f"{metrics.emission_kg or 0.0:.2f} kg",
        f"{trial.cost:.2f}",
        "-" if metrics.task_wait_p95_s is None else f"{metrics.task_wait_p95_s:.4g} s",
        "-" if metrics.peak_power_kw is None else f"{metrics.peak_power_kw:.2f} kW",
        f"{metrics.hosts_up}",
        f"{metrics.tasks_completed}",
        ", ".join([*breached, *([] if trial.keeps_work else ["work lost"])]) or "all",
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns under each other, the first one to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        first, *others = (
            cell.ljust(width) if column in {0, len(header) - 1} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)

"""``opendt plan-capacity``: the fewest hosts that a recorded demand needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opendt.cli.parameters import PositiveNumber
from opendt.cli.progress import stages
from opendt.cli.recorded_inputs import HEADER, inputs, read_recorded, table, trial_json, trial_row

if TYPE_CHECKING:
    from opendt.model.slo import Slo
    from opendt.optimization.capacity import CapacityPlan
    from opendt.optimization.recorded import Recorded


@click.command()
@inputs
@click.option(
    "--max-ratio",
    type=PositiveNumber(most=1000),
    default=1.0,
    show_default=True,
    help="Most hosts of a group, relative to the topology's.",
)
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    trace: Path,
    slo_file: Path,
    topology: Path | None,
    load: float,
    drain_h: float,
    resampled: int,
    seed: int,
    max_ratio: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Say how few hosts the demand of DIR needs under the objectives of FILE.

    Every number of hosts in the answer was simulated with the whole record. Numbers around it and a spread of others are, too, and
    those that contradict "more hosts, better service" are named. Exit code 1 when no number of hosts meets the objectives.
    """
    from opendt.model.slo import read_slo

    slo = read_slo(slo_file)
    with stages(quiet) as begin:
        begin("reading")
        recorded = read_recorded(trace, topology, load, drain_h, resampled, seed)
        plan = _plan(recorded, slo, max_ratio, begin)
    if as_json:
        click.echo(json.dumps(_json(plan), indent=2))
    elif not quiet:
        rows = [trial_row(trial.words, trial, plan.baseline) for trial in plan.trials]
        click.echo(table(HEADER, rows))
        click.echo(_words(plan), err=True)
    if plan.fewest is None:
        click.get_current_context().exit(1)


def _plan(recorded: Recorded, slo: Slo, max_ratio: float, begin: Any) -> CapacityPlan:
    from opendt.optimization.capacity import plan_capacity
    from opendt.optimization.search import SearchSettings
    from opendt.optimization.search_space import SpaceLimits

    only_hosts = SpaceLimits(
        max_host_ratio=max_ratio, min_host_ratio=0.0, min_core_speed_ratio=1.0, min_power_cap_ratio=1.0
    )
    settings = SearchSettings(work_tolerance_ratio=0.0)
    trials = recorded.trials(slo, settings, limits=only_hosts)
    return plan_capacity(trials, lambda count: begin(f"{count} configurations"))


def _words(plan: CapacityPlan) -> str:
    if plan.fewest is None:
        breached: list[str] = [part.name for part in plan.nearest.score.parts if part.violation > 0] or ["work lost"]
        tried = f"{len(plan.trials)} numbers of hosts, up to {plan.trials[-1].metrics.hosts_up}"
        return (
            f"none of {tried}, meets all objectives; nearest is {plan.nearest.words}, with {', '.join(breached)} missed. "
            "--max-ratio allows more hosts"
        )
    odd = [trial.words for trial in plan.exceptions]
    lucky = f"; fewer meet them by chance: {'; '.join(odd)}" if odd else ""
    return f"fewest that meet all objectives: {plan.fewest.words}{lucky}"


def _json(plan: CapacityPlan) -> dict[str, Any]:
    return {
        "meets": plan.fewest is not None,
        "fewest": None if plan.fewest is None else trial_json(plan.fewest),
        "baseline": trial_json(plan.baseline),
        "nearest": trial_json(plan.nearest),
        "exceptions": [trial_json(trial) for trial in plan.exceptions],
        "simulated": [trial_json(trial) for trial in plan.trials],
    }

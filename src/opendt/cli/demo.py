"""``opendt demo``: the closed loop over a week, a recorded one or one made on the spot."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.orchestrator.environment import Environment
    from opendt.orchestrator.rehearsal import Rehearsal


@click.command()
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Recorded week: tasks, fragments, topology and consumption."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True, help="Results."
)
@click.option(
    "--slo", "slo_file", type=click.Path(path_type=Path), help="Objectives [default: made from the datasheet]."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all randomness.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="Stop after so many hours of the week.")
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    trace: Path | None,
    output: Path,
    slo_file: Path | None,
    seed: int,
    hours: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run the closed loop over a week of data and write a report.

    Windows of five minutes close one after the other. At each, the next window is predicted, at each full hour the next hour,
    with the workload known and blind, before its power is seen; the twin learns from the power that was measured, checks the
    objectives, proposes changes and simulates their effect. Without --trace a synthetic week is made from the seed.

    OUTPUT gets predictions.parquet, windows.parquet, proposals.parquet, curves.parquet, series.parquet, summary.json and
    report.html.
    """
    started = time.perf_counter()
    with _environment(trace, seed) as environment:
        rehearsal = _rehearsal(environment, slo_file, seed)
        kept = _run(rehearsal, hours, quiet)
    summary = _write(rehearsal, output, time.perf_counter() - started)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    elif not quiet:
        _print_summary(summary, output)
    if not kept:
        click.echo(f"interrupted: results up to there are in {output}", err=True)
        click.get_current_context().exit(130)


@contextmanager
def _environment(trace: Path | None, seed: int) -> Iterator[Environment]:
    from opendt.orchestrator.environment import replay

    if trace is not None:
        yield replay(trace)
        return
    from opendt.formats.synthetic import generate_week

    with tempfile.TemporaryDirectory(prefix="opendt-") as folder:
        week = Path(folder) / f"synthetic-week-{seed}"
        generate_week(seed, week)
        yield replay(week)


def _rehearsal(environment: Environment, slo_file: Path | None, seed: int) -> Rehearsal:
    from opendt.model.slo import read_slo
    from opendt.orchestrator.cycle import Settings
    from opendt.orchestrator.rehearsal import Rehearsal
    from opendt.orchestrator.slo import default_slo

    slo = read_slo(slo_file) if slo_file is not None else default_slo(environment.topology)
    return Rehearsal(environment, slo, Settings(seed=seed))


def _run(rehearsal: Rehearsal, hours: float | None, quiet: bool) -> bool:
    """Run the loop under the live view; False when it was interrupted."""
    from opendt.cli.demo_view import watch

    with watch(rehearsal, quiet=quiet) as on_turn:
        try:
            rehearsal.run(on_turn, until_ms=None if hours is None else int(hours * 3_600_000))
        except KeyboardInterrupt:
            return False
    return True


def _write(rehearsal: Rehearsal, output: Path, wall_s: float) -> dict[str, Any]:
    from opendt.orchestrator.outcome import Outcome
    from opendt.orchestrator.report import report_data
    from opendt.verification.report import write_report

    outcome = Outcome(rehearsal, wall_s)
    summary = outcome.write(output)
    write_report(report_data(outcome), output / "report.html")
    return summary


def _print_summary(summary: dict[str, Any], output: Path) -> None:
    names = {"hour": "one hour, workload known", "window": "next window", "blind_hour": "one hour, blind"}
    click.echo(f"{'forecast':26}{'error':>8}{'as now':>8}{'skill':>8}{'in band':>9}")
    for kind, score in summary["forecasts"].items():
        rival = score["persistence_mape_ratio"]
        skill = score["skill_ratio"]["value"] if score["skill_ratio"] else None
        click.echo(
            f"{names.get(kind, kind):26}{_percent(score['mape_ratio'])}{_percent(rival)}"
            f"{'' if skill is None else f'{skill:.3f}':>8}{_percent(score['coverage_ratio'], 1):>9}"
        )
    energy = summary["energy"]
    click.echo(f"energy {energy['measured_kwh']:.1f} kWh measured, {energy['twin_kwh']:.1f} kWh by the twin")
    click.echo(
        f"{summary['proposals']} proposals, each simulated; {summary['windows']} windows in {summary['speed']['wall_s']:.1f} s"
    )
    click.echo(f"report: {output / 'report.html'}")


def _percent(ratio: float | None, digits: int = 2) -> str:
    return f"{'' if ratio is None else f'{100 * ratio:.{digits}f} %':>8}"

"""``opendt simulate``: run an experiment file, or one topology with one workload."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opendt.cli.parameters import PositiveNumber
from opendt.cli.progress import stages, steps

if TYPE_CHECKING:
    from opendt.engine.experiment import ScenarioResult


@click.command()
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for the results [default: as stated there]."
)
@click.option("-p", "--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Scenarios at a time.")
@click.option("--topology", type=click.Path(path_type=Path), help="Topology of a quick look, instead of EXPERIMENT.")
@click.option("--workload", type=click.Path(path_type=Path), help="Workload folder of a quick look.")
@click.option("--strict", is_flag=True, help="Refuse keys that the format does not have.")
@click.option(
    "--ram-ratio",
    type=PositiveNumber(),
    default=1.5,
    show_default=True,
    help="Memory overcommitment of the prefabs.",
)
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals as JSON.")
def command(
    experiment: Path | None,
    output: Path | None,
    parallel: int,
    topology: Path | None,
    workload: Path | None,
    strict: bool,
    ram_ratio: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run EXPERIMENT and write its result files, or look at a topology with a workload.

    EXPERIMENT is a JSON file of the OpenDC runner or of its SDK. The results are the same tree of Parquet files:
    OUTPUT/<name>/raw-output/<scenario>/seed=<k>/. Totals go to stdout, words to stderr.

    With --topology and --workload a single simulation is run; files are written only with -o.
    """
    if (experiment is None) == (topology is None and workload is None):
        message = "give either an EXPERIMENT file, or --topology and --workload"
        raise click.UsageError(message)
    if experiment is not None:
        results = _simulate_experiment(experiment, output, parallel, strict, ram_ratio, quiet)
    elif topology is None or workload is None:
        message = "a quick look needs both --topology and --workload"
        raise click.UsageError(message)
    else:
        results = [_simulate_pair(topology, workload, output, strict, quiet)]
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    elif not quiet:
        _print_table(results)


def _simulate_experiment(
    file: Path, output: Path | None, parallel: int, strict: bool, ram_ratio: float, quiet: bool
) -> list[ScenarioResult]:
    from opendt.engine.experiment import run_experiment
    from opendt.formats.opendc import read_experiment

    experiment = read_experiment(file, strict=strict, ram_ratio=ram_ratio)
    for warning in experiment.warnings if not quiet else ():
        click.echo(f"Warning: {warning}", err=True)
    target = output if output is not None else Path(experiment.output_folder)
    total = len(experiment.scenarios) * experiment.runs
    done = 0
    with steps(experiment.name, total, quiet) as step:

        def count(_result: ScenarioResult) -> None:
            nonlocal done
            done += 1
            if step is not None:
                step()

        try:
            results = run_experiment(experiment, target, parallelism=parallel, on_result=count)
        except KeyboardInterrupt:
            kept = (
                f"{done} of {total} runs are complete in {target / experiment.name}" if done else "nothing was written"
            )
            click.echo(f"stopped: {kept}", err=True)
            raise
    if not quiet:
        click.echo(f"wrote {total} {'run' if total == 1 else 'runs'} to {target / experiment.name}", err=True)
    return results


def _simulate_pair(topology: Path, workload: Path, output: Path | None, strict: bool, quiet: bool) -> ScenarioResult:
    from opendt._engine import read_workload
    from opendt.cli.words import duration
    from opendt.engine.experiment import ScenarioResult, run_scenario
    from opendt.formats.opendc_dialect import OpenDCReading
    from opendt.formats.opendc_topology import read_topology
    from opendt.model.options import Options

    def say(words: str) -> None:
        if not quiet:
            click.echo(words, err=True)

    reading = OpenDCReading(strict=strict)
    read = read_topology(topology, reading=reading)
    for warning in reading.warnings:
        say(f"Warning: {warning}")
    tasks = read_workload(workload)
    if tasks.dropped_tasks:
        say(f"{tasks.dropped_tasks} tasks have no fragments and are left out")
    files = dict.fromkeys(("host", "task", "powerSource", "battery", "service"))
    options = Options(start_epoch_ms=tasks.first_submission_ms)
    with stages(quiet) as begin:
        begin(f"{len(tasks):,} tasks on {read.host_count:,} hosts")
        totals = run_scenario(read, options, tasks, output, files=files if output else {}, interval_ms=300_000)
    result = ScenarioResult(scenario=0, seed=0, folder=str(output or ""), **totals)
    say(f"simulated {len(tasks):,} tasks on {read.host_count:,} hosts for {duration(result.makespan_ms)}")
    if output is not None:
        say(f"wrote {', '.join(files)} to {output}")
    return result


def _print_table(results: list[ScenarioResult]) -> None:
    header = (
        "scenario",
        "seed",
        "tasks",
        "completed",
        "terminated",
        "makespan",
        "mean wait",
        "p95 wait",
        "energy",
        "carbon",
        "utilisation",
    )
    rows = [header, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _row(result: ScenarioResult) -> tuple[str, ...]:
    from opendt.cli.words import duration

    return (
        str(result.scenario),
        str(result.seed),
        str(result.tasks_total),
        str(result.tasks_completed),
        str(result.tasks_terminated),
        f"{result.makespan_ms / 3_600_000:.2f} h",
        duration(result.mean_wait_ms),
        duration(result.p95_wait_ms),
        f"{result.energy_j / 3.6e6:.3f} kWh",
        f"{result.emission_g / 1000:.3f} kg",
        f"{100 * result.mean_utilization_ratio:.1f} %",
    )

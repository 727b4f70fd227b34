"""``opendt sweep``: many simulations of one spec, on threads or on a Dask cluster."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from opendt.optimization.sweep_journal import Journal
    from opendt.optimization.sweep_run import Backend, Sweep

_LINES: Final = 10


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The table [default: the spec's name with .parquet]."
)
@click.option(
    "-t", "--threads", type=click.IntRange(min=1), help="Simulations at a time [default: one for each processor]."
)
@click.option("--scheduler", metavar="ADDRESS", help="Simulate on the workers of this Dask scheduler.")
@click.option(
    "--local-cluster", type=click.IntRange(min=1), metavar="N", help="Simulate on N Dask worker processes made here."
)
@click.option("--force", is_flag=True, help="Begin anew, whatever is kept.")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(
    spec: Path,
    output: Path | None,
    threads: int | None,
    scheduler: str | None,
    local_cluster: int | None,
    force: bool,
    no_plots: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Simulate every configuration that SPEC asks for: grids and samples of topologies, policies, models and seeds.

    SPEC is a YAML file. The result is one Parquet table with a row for each simulation, in the order of the spec and the
    same wherever it was computed, and a plot for each pair of axes in the folder OUTPUT-plots.

    Finished rows are kept in OUTPUT.journal: after Ctrl-C or a crash the same command goes on.
    """
    if sum(choice is not None for choice in (threads, scheduler, local_cluster)) > 1:
        message = "give one of --threads, --scheduler and --local-cluster"
        raise click.UsageError(message)
    from opendt.optimization.sweep_run import open_sweep

    sweep = open_sweep(spec)
    for warning in sweep.warnings if not quiet else ():
        click.echo(f"Warning: {warning}", err=True)
    target = output or Path(f"{spec.stem}.parquet")
    began = time.monotonic()
    with _journal(target, sweep, force) as journal:
        kept = len(journal.totals)
        if kept and not quiet:
            click.echo(f"{kept} of {len(sweep.rows)} rows are done already", err=True)
        if kept < len(sweep.rows):
            _run(sweep, journal, _backend(threads, scheduler, local_cluster), quiet)
        table, plots = _write(sweep, journal, target, no_plots)
    if not quiet:
        drawn = f" and {len(plots)} {'plot' if len(plots) == 1 else 'plots'}" if plots else ""
        click.echo(f"wrote {table.num_rows} rows to {target}{drawn} in {time.monotonic() - began:.1f} s", err=True)
    if as_json:
        record = {
            "rows": table.num_rows,
            "simulated": table.num_rows - kept,
            "table": str(target),
            "plots": [str(plot) for plot in plots],
            "journal": str(journal.path),
        }
        click.echo(json.dumps(record, indent=2))
    elif not quiet:
        _print_summary(table)


def _journal(target: Path, sweep: Sweep, force: bool) -> Journal:
    from opendt.model.errors import FormatError
    from opendt.optimization.sweep_journal import Journal

    path = target.with_name(f"{target.name}.journal")
    if target.exists() and not path.exists() and not force:
        hint = "Choose another result with -o, or overwrite it with --force."
        raise FormatError(target, "", "an existing file without the journal of a sweep", "a path that is free", hint)
    return Journal(path, sweep.identity, len(sweep.rows), force=force)


def _backend(threads: int | None, scheduler: str | None, local_cluster: int | None) -> AbstractContextManager[Backend]:
    from opendt.optimization.sweep_run import local_threads

    if scheduler is None and local_cluster is None:
        return local_threads(threads or len(os.sched_getaffinity(0)))
    from opendt.optimization.sweep import dask_backend

    return dask_backend(scheduler, local_workers=local_cluster or 0)


def _run(sweep: Sweep, journal: Journal, made: AbstractContextManager[Backend], quiet: bool) -> None:
    """Simulate what is left; whatever ends it, say what is kept."""
    from opendt.optimization.sweep_run import run_sweep

    total = len(sweep.rows)
    try:
        with _progress(len(journal.totals), total, quiet) as step, made as backend:
            run_sweep(sweep, journal, backend, lambda _row: step())
    except BaseException:
        words = f"stopped: {journal.kept()} of {total} rows are kept in {journal.path}; the same command goes on"
        click.echo(words, err=True)
        raise


@contextmanager
def _progress(done: int, total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show how far it is and how long it will take: a bar on a terminal, else a line for each tenth."""
    if quiet:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        yield Lines(done, total, time.monotonic, lambda line: click.echo(line, err=True))
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sweep", total=total, completed=done)
        yield lambda: bar.advance(task)


class Lines:
    """Says each tenth of the way with the time that is left, at the pace since the start.

    Parameters
    ----------
    done, total : int
        Rows that were finished before, and all of them.
    clock : callable
        Seconds.
    say : callable
        Where lines go.
    """

    def __init__(self, done: int, total: int, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self._before = self._done = done
        self._total, self._clock, self._say = total, clock, say
        self._began_s = clock()

    def __call__(self) -> None:
        """Count a row that is done."""
        from opendt.cli.words import duration

        self._done += 1
        tenth = self._done * _LINES // self._total
        if tenth == (self._done - 1) * _LINES // self._total or self._done == self._total:
            return
        pace_s = (self._clock() - self._began_s) / (self._done - self._before)
        left_ms = 1000.0 * pace_s * (self._total - self._done)
        self._say(f"{self._done} of {self._total} rows, {duration(left_ms)} left")


def _write(sweep: Sweep, journal: Journal, target: Path, no_plots: bool) -> tuple[pa.Table, list[Path]]:
    """Write the table, then the plots."""
    from opendt.formats.parquet import write_table
    from opendt.formats.staging import staged_file
    from opendt.optimization.sweep_plot import pair_plots
    from opendt.optimization.sweep_run import result_table

    table = result_table(sweep, journal)
    with staged_file(target, force=True) as file:
        write_table(table, file)
    plots = []
    for name, text in {} if no_plots else pair_plots(table, sweep.axes).items():
        path = target.with_name(f"{target.stem}-plots") / name
        with staged_file(path, force=True) as file:
            file.write_text(text, encoding="utf-8")
        plots.append(path)
    return table, plots


def _print_summary(table: Any) -> None:
    """Least, median and most of each quantity, and the rows of the least and the most."""
    from statistics import median

    from opendt.optimization.sweep_plot import QUANTITIES

    rows = [("", "least", "in row", "median", "most", "in row")]
    for column, words, divisor in QUANTITIES:
        values = [value / divisor for value in table.column(column).to_pylist()]
        least, most = min(values), max(values)
        numbers = (f"{least:.6g}", str(values.index(least)), f"{median(values):.6g}", f"{most:.6g}")
        rows.append((words, *numbers, str(values.index(most))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for words, *cells in rows:
        numbers_text = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        click.echo(f"{words.ljust(widths[0])}  {numbers_text}")

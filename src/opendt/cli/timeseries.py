"""``opendt timeseries``: what was simulated and measured, tick by tick, as a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.parameters import Moment

if TYPE_CHECKING:
    from opendt.orchestrator.settings_model import Settings

_SUFFIXES: Final = (".csv", ".parquet")


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
)
@click.option("--datacenter", metavar="NAME", help="Which one, when there are several.")
@click.option("--since", type=Moment(), metavar="TIME", help="From this time on: 2026-03-01T12:00 (UTC), or ms.")
@click.option("--until", type=Moment(), metavar="TIME", help="Up to this time.")
@click.option("--columns", metavar="NAME,...", help="Only these, as power_w,measured_w; time_ms comes first.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write this file, .csv or .parquet; CSV on stdout unless given.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite FILE if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON: an array for each column.")
def command(
    config: Path | None,
    datacenter: str | None,
    since: int | None,
    until: int | None,
    columns: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Print the series of the windows gone by: what the twin went through, and measured power beside it.

    They are read from the result files, also while a process writes them; the last windows come with the next file.
    """
    from opendt.model.errors import InputError
    from opendt.orchestrator.settings import load_settings

    if output is not None and as_json:
        raise click.UsageError("--json and --output exclude each other.")
    if output is not None and output.suffix not in _SUFFIXES:
        raise InputError("--output", str(output), f"a name that ends in {' or '.join(_SUFFIXES)}")
    if since is not None and until is not None and since > until:
        raise InputError("--until", str(until), f"a time not before --since, {since}")
    settings = load_settings(config)
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    found = _read(_folder(settings, datacenter), since, until, names)
    _write(found, output, force=force, as_json=as_json)


def _folder(settings: Settings, datacenter: str | None) -> Path:
    from opendt.model.errors import InputError

    results = settings.state_dir / "results"
    known = sorted(path.name for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    if not known:
        hint = "They come with `opendt run`; name its settings with --config."
        raise InputError("state_dir", f"no results in {settings.state_dir}", "those of a datacenter", hint)
    if datacenter is None and len(known) > 1:
        raise InputError("--datacenter", "no name", f"one of {', '.join(known)}")
    name = known[0] if datacenter is None else datacenter
    if name not in known:
        raise InputError("--datacenter", name, f"one of {', '.join(known)}")
    return results / name


def _read(folder: Path, since: int | None, until: int | None, names: list[str] | None) -> dict[str, Any]:
    from opendt.model.errors import InputError
    from opendt.orchestrator.buffer import SimulationResultsBuffer

    buffer = SimulationResultsBuffer(
        folder, datacenter=folder.name, is_reader=True, on_event=lambda event: click.echo(event.said, err=True)
    )
    if buffer.last_index is None:
        raise InputError(
            folder.name, "no file yet", "windows that are complete", "The first file comes after an hour of windows."
        )
    found = buffer.timeseries(since, until, names)
    if not len(found["time_ms"]):
        raise InputError(
            folder.name, "nothing between these times", "times of windows gone by", "Leave out --since and --until."
        )
    for name in names or ():
        if name not in found:
            known = ", ".join(buffer.timeseries(since, until))
            raise InputError("--columns", name, f"some of {known}")
    return found


def _write(columns: dict[str, Any], output: Path | None, *, force: bool, as_json: bool) -> None:
    import pyarrow as pa

    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})  # NaN is null
    if as_json:
        import json

        click.echo(json.dumps(table.to_pydict()))
        return
    from pyarrow import csv, parquet

    if output is None:
        csv.write_csv(table, sys.stdout.buffer)
        return
    from opendt.formats.staging import staged_file

    with staged_file(output, force=force) as file:
        if output.suffix == ".csv":
            csv.write_csv(table, file)
        else:
            parquet.write_table(table, file)
    click.echo(f"wrote {output}: {table.num_rows:,} rows, {table.num_columns} columns", err=True)

"""``opendt ledger``: what was recorded, as text, and whether it still is what was recorded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.words import duration

if TYPE_CHECKING:
    from opendt.verification.ledger import Ledger

_PATIENCE_S: Final = 10.0


@click.group()
def command() -> None:
    """Export, check and describe the ledger. Nothing in it is changed; it may be in use meanwhile."""


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which ledger is meant, and what of it."""
    ledger = click.option(
        "--ledger",
        "place",
        metavar="URL|FILE",
        help="File of SQLite, or postgresql://USER@HOST/DATABASE [default: that of the settings].",
    )
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
    )
    datacenter = click.option("--datacenter", "names", multiple=True, metavar="NAME", help="Only this one; repeatable.")
    return ledger(config(datacenter(function)))


@command.command()
@_where
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write here, not to stdout.")
@click.option("-f", "--force", is_flag=True, help="Overwrite FILE if it is there.")
def export(place: str | None, config: Path | None, names: tuple[str, ...], output: Path | None, force: bool) -> None:
    """Write everything that is a function of the inputs as canonical JSON lines.

    Equal inputs give equal bytes, whatever the database, the time of day and how often the process was killed.
    """
    from opendt.formats.staging import staged_file

    with opened_ledger(place, config) as ledger:
        if output is None:
            ledger.export(sys.stdout.buffer, names or None)
            return
        with staged_file(output, force=force) as file, file.open("wb") as stream:
            count = ledger.export(stream, names or None)
    click.echo(f"wrote {output}: {count:,} lines", err=True)


@command.command()
@_where
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def verify(ctx: click.Context, place: str | None, config: Path | None, names: tuple[str, ...], as_json: bool) -> None:
    """Compute every hash again and say what does not match; the exit code is 1 if anything does not."""
    with opened_ledger(place, config) as ledger:
        problems = ledger.verify(names or None)
        checked = names or ledger.datacenters()
        where = ledger.place
    if as_json:
        rows = [{"datacenter": row.datacenter, "place": row.place, "text": row.text} for row in problems]
        click.echo(json.dumps({"ledger": where, "datacenters": list(checked), "problems": rows}, indent=2))
    else:
        for problem in problems:
            click.echo(f"Error: {problem}", err=True)
        if not problems:
            click.echo(f"ok  {where}: {len(checked)} datacenters, every hash as recorded")
    if problems:
        from opendt.cli.main import EXIT_FAILED

        ctx.exit(EXIT_FAILED)


@command.command()
@_where
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(place: str | None, config: Path | None, names: tuple[str, ...], as_json: bool) -> None:
    """Say what is recorded of each datacenter, and how far."""
    with opened_ledger(place, config) as ledger:
        rows = [_describe(ledger, name) for name in names or ledger.datacenters()]
        where, schema = ledger.place, ledger.schema
    if as_json:
        click.echo(json.dumps({"ledger": where, "schema": schema, "datacenters": rows}, indent=2, ensure_ascii=False))
        return
    click.echo(f"{where}: schema {schema}, {len(rows)} datacenters")
    for row in rows:
        last = row["last_window"]
        span = "no window yet" if last is None else f"{last['index'] + 1:,} windows, {duration(row['span_ms'])}"
        head = "" if last is None else f", {last['hash'][:12]}"
        counts = ", ".join(f"{count:,} {name}" for name, count in row["rows"].items() if count and name != "windows")
        click.echo(f"{row['datacenter']}: {span}{head}: {counts}")


def _describe(ledger: Ledger, name: str) -> dict[str, Any]:
    last = ledger.last_window(name)
    first = None if last is None else next(ledger.windows(name, 0, 0), None)
    return {
        "datacenter": name,
        "last_window": None if last is None else {"index": last.index, "end_ms": last.end_ms, "hash": last.hash},
        "span_ms": 0 if last is None or first is None else last.end_ms - first.start_ms,
        "rows": ledger.counts(name),
    }


@contextmanager
def opened_ledger(place: str | None, config: Path | None) -> Iterator[Ledger]:
    """Open the ledger that is meant, to read."""
    from opendt.verification.ledger import Ledger
    from opendt.verification.ledger_patience import Patience

    if place is None:
        from opendt.orchestrator.settings import load_settings

        place = load_settings(config).ledger_address
    with Ledger.open(
        place,
        read_only=True,
        patience=Patience(limit_s=_PATIENCE_S),
        on_trouble=lambda text: click.echo(f"Warning: {text}", err=True),
    ) as ledger:
        yield ledger

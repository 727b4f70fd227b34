"""``opendt validate``: read inputs wholly, and say what each is or the one thing that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from opendt.cli.progress import steps
from opendt.cli.words import facts


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILE_OR_DIR...", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Refuse keys that the format does not have.")
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def command(ctx: click.Context, inputs: tuple[Path, ...], strict: bool, quiet: bool, as_json: bool) -> None:
    """Read each FILE_OR_DIR wholly and say what it holds, or the first thing that is wrong with it.

    Told apart by themselves: OpenDC experiments, topologies (both dialects, with the files they name), workload folders,
    carbon and failure traces; measured power; slo.json; SWF; WfFormat; WTA; the openb lists; SPECpower tables; network
    latencies; the LANL and FTA failure archives. Text may be packed (.gz, .xz, .zip).

    A line for each good input goes to stdout, one for each bad one to stderr. The exit code is 1 if any is bad.
    """
    records = []
    with steps("validate", len(inputs), quiet) as step:
        for path in inputs:
            records.append(_examine(path, strict))
            if step is not None:
                step()
    for record in records:
        for warning in [] if quiet else record["warnings"]:
            click.echo(f"Warning: {warning}", err=True)
        if record["error"] is not None:
            click.echo(f"Error: {record['error']['message']}", err=True)
        elif not (quiet or as_json):
            click.echo(f"ok  {record['path']}: {record['kind']}: {facts(record['facts'])}")
    if as_json:
        click.echo(json.dumps(records, indent=2))
    if any(record["error"] is not None for record in records):
        from opendt.cli.main import EXIT_FAILED

        ctx.exit(EXIT_FAILED)


def _examine(path: Path, strict: bool) -> dict[str, Any]:
    from opendt.formats.survey import survey
    from opendt.model.errors import InputError

    record: dict[str, Any] = {"path": str(path), "kind": None, "facts": {}, "warnings": [], "error": None}
    try:
        found = survey(path, strict=strict)
    except InputError as error:
        parts = ("file", "place", "found", "expected", "hint", "message")
        return record | {"error": {part: getattr(error, part) for part in parts}}
    except OSError as error:  # the system's refusal names the path already
        return record | {"error": {"message": str(error)}}
    return record | {"kind": str(found.kind), "facts": found.facts, "warnings": list(found.warnings)}

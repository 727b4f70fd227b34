"""``opendt propose``: a person's change takes the road that everybody's takes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from opendt.cli.asking import chosen, desk_of, where_options


@click.command()
@click.argument("patch", type=click.Path(path_type=Path), metavar="PATCH.json")
@where_options
def command(patch: Path, config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """Propose a change: {"changes": [...], "reason": "..."}.

    It is simulated, certified and decided on with the next window of whatever follows this datacenter; opendt proposals list
    shows what became of it.
    """
    from opendt.cli.ledger import opened_ledger
    from opendt.cli.words import moment
    from opendt.model.errors import FormatError, InputError
    from opendt.orchestrator.decisions import human_proposal

    settings, section = chosen(config, datacenter)
    try:
        content = json.loads(patch.read_text(encoding="utf-8"))
        human_proposal(content, 0)
    except (OSError, ValueError) as error:
        raise FormatError(patch, "", str(error), "a file with a JSON object") from error
    except InputError as error:
        raise FormatError(patch, error.place, error.found, error.expected, error.hint) from error
    with opened_ledger(None, config) as ledger:
        asked = desk_of(settings, section.name, ledger).propose(content)
    if as_json:
        said = {"datacenter": section.name, "time_ms": asked.time_ms, "place": asked.place, "proposal": asked.value}
        click.echo(json.dumps(said))
        return
    count = len(asked.value["changes"])
    words = f"{count} change{'' if count == 1 else 's'} proposed for the window after {moment(asked.time_ms - 1)} UTC"
    click.echo(f"{section.name}: {words}, on {asked.place}")

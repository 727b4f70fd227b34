"""``opendt config``: what the settings are, and where each of them came from."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def command() -> None:
    """Show the settings of the live process."""


@command.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def show(file: Path | None, as_json: bool) -> None:
    """Show every setting with its value and its source: flag, environment, file or default. Secrets are hidden."""
    from opendt.orchestrator.settings import explain

    rows = explain(file)
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2, ensure_ascii=False))
        return
    key_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for row in rows:
        click.echo(f"{row.key:<{key_width}}  {row.value:<{min(value_width, 60)}}  {row.source}")

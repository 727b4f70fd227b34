"""``opendt explain``: why a plan is as it is."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import click

from opendt.cli.fleet_client import FleetClient, fleet_options


@click.command()
@click.argument("plan_id", metavar="PLAN")
@fleet_options
def command(plan_id: str, config: Path | None, server: str | None, as_json: bool) -> None:
    """Print why a plan is as it is: what was compared, what decided, where the time will go."""
    from opendt.orchestrator.settings import load_settings

    answer = FleetClient(load_settings(config), server).get(f"/plan/{quote(plan_id, safe='')}/explain")
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False) if as_json else answer["explanation"])

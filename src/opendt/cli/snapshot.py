"""``opendt snapshot``: the fleet as last seen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from opendt.cli.fleet_client import FleetClient, fleet_options


@click.command()
@click.option("--cluster", metavar="NAME", help="Only this one.")
@fleet_options
def command(cluster: str | None, config: Path | None, server: str | None, as_json: bool) -> None:
    """Print clusters, nodes and pods as the twin has last seen them."""
    from urllib.parse import quote

    from opendt.orchestrator.settings import load_settings

    path = "/snapshot" if cluster is None else f"/snapshot?cluster={quote(cluster, safe='')}"
    seen = FleetClient(load_settings(config), server).get(path)
    if as_json:
        click.echo(json.dumps(seen, indent=2, ensure_ascii=False))
        return
    click.echo("\n".join(_lines(seen)))


def _lines(seen: dict[str, Any]) -> list[str]:
    from opendt.cli.words import moment

    lines = [f"version {seen['version']}, {moment(seen['time_ms'])} UTC"]
    names = [cluster["name"] for cluster in seen["clusters"]]
    width = max(map(len, names), default=0)
    for cluster in seen["clusters"]:
        name = cluster["name"]
        nodes = [node for node in seen["nodes"] if node["cluster"] == name]
        ready = sum(node["is_ready"] and not node["is_cordoned"] for node in nodes)
        cores = sum(node["cpu_millicores"] for node in nodes) / 1000
        phases = Counter(pod["phase"] for pod in seen["pods"] if pod["cluster"] == name)
        pods = ", ".join(f"{count} {phase.lower()}" for phase, count in sorted(phases.items())) or "no pods"
        state = "" if cluster["is_reachable"] else f"  AWAY: {cluster['message']}"
        lines.append(f"  {name:<{width}}  {ready} of {len(nodes)} nodes ready, {cores:,.1f} cores, {pods}{state}")
    return lines

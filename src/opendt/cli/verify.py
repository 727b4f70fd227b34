"""``opendt verify``: a plan held against what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from opendt.cli.fleet_client import FleetClient, fleet_options

_QUANTITIES: Final = {
    "latency_ms": ("latency", "ms"),
    "energy_kwh": ("energy", "kWh"),
    "cpu_seconds": ("CPU", "s"),
    "memory_peak_mib": ("memory peak", "MiB"),
}


@click.command()
@click.argument("plan_id", metavar="PLAN")
@fleet_options
def command(plan_id: str, config: Path | None, server: str | None, as_json: bool) -> None:
    """Print what was predicted of a plan, what was observed, and how far apart they are."""
    from opendt.orchestrator.settings import load_settings

    verdict = FleetClient(load_settings(config), server).get(f"/plan/{quote(plan_id, safe='')}/verify")
    if as_json:
        click.echo(json.dumps(verdict, indent=2))
        return
    click.echo("\n".join(_lines(verdict)))


def _lines(verdict: dict[str, Any]) -> list[str]:
    if not verdict["is_complete"]:
        return [f"{verdict['plan_id']}: not over yet"]
    word = {True: "within tolerance", False: "outside of tolerance", None: "not judged"}
    lines = [f"{verdict['plan_id']}: {word[verdict['within_tolerance']]}"]
    for key, (name, unit) in _QUANTITIES.items():
        one = verdict[key]
        if one["observed"] is None:
            lines.append(f"  {name:<11}  predicted {one['predicted']:,.6g} {unit}, not observed")
            continue
        error = "" if one["error_ratio"] is None else f", error {one['error_ratio']:+.1%}"
        band = "" if one["in_interval"] is None else f", {'in' if one['in_interval'] else 'outside of'} its band"
        source = " (modelled)" if one["is_modelled"] else ""
        lines.append(
            f"  {name:<11}  predicted {one['predicted']:,.6g} {unit}, observed {one['observed']:,.6g} {unit}{source}{error}{band}"
        )
    return lines

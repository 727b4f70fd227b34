"""``opendt plan``: a job is placed on the fleet, and what will happen is predicted before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opendt.cli.fleet_client import FleetClient, ServiceAwayError, fleet_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.job import Job
    from opendt.orchestrator.settings_model import Settings


@click.command()
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.yaml")
@click.option("--strategy", metavar="NAME", help="Policy that places it [default: the service's].")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@fleet_options
def command(
    job: Path, strategy: str | None, dry_run: bool, config: Path | None, server: str | None, as_json: bool
) -> None:
    """Place a job, or several under `jobs`, and print where each stage goes and what is predicted.

    The service that `opendt run` serves is asked. Where none answers, a dry run is planned here, on the fleet that the settings
    describe.
    """
    from opendt.formats.jobspec import read_jobs
    from opendt.orchestrator.settings import load_settings

    jobs = read_jobs(job)
    settings = load_settings(config)
    try:
        plans = _ask(FleetClient(settings, server), jobs, strategy, dry_run=dry_run)
    except ServiceAwayError:
        if not dry_run or not settings.fleet.is_followed:
            raise
        plans = _plan_here(settings, jobs, strategy)
    if as_json:
        click.echo(json.dumps(plans if len(jobs) > 1 else plans[0], indent=2, ensure_ascii=False))
        return
    click.echo("\n\n".join("\n".join(_lines(plan)) for plan in plans))


def _ask(client: FleetClient, jobs: Sequence[Job], strategy: str | None, *, dry_run: bool) -> list[dict[str, Any]]:
    body = {"jobs": [json.loads(job.model_dump_json()) for job in jobs], "strategy": strategy, "dry_run": dry_run}
    plans: list[dict[str, Any]] = client.post("/plans", json.dumps(body).encode())["plans"]
    return plans


def _plan_here(settings: Settings, jobs: Sequence[Job], strategy: str | None) -> list[dict[str, Any]]:
    from opendt.api.answers import PlanAnswer
    from opendt.orchestrator.fleet_factory import fleet_seen_once

    with fleet_seen_once(settings) as service:
        plans = service.plan_all(jobs, strategy, dry_run=True)
    return [json.loads(PlanAnswer.of(plan).model_dump_json()) for plan in plans]


def _lines(plan: dict[str, Any]) -> list[str]:
    bands = plan["intervals"]
    latency, energy = bands["latency_ms"], bands["energy_kwh"]
    what = "would go" if plan["dry_run"] else "goes"
    lines = [f"{plan['plan_id']}: job {plan['job_id']} {what} by {plan['strategy']}, scale 1:{plan['scale']:g}"]
    width = max(len(name) for name in plan["placements"])
    for name, place in plan["placements"].items():
        shadow = plan["shadow_plan"].get(name)
        beside = "" if shadow is None else f"  shadow {shadow['cluster']}/{shadow['node_name']}"
        lines.append(f"  {name:<{width}}  {place['cluster']}/{place['node_name']}  {place['exec_format']}{beside}")
    lines += [
        (
            f"  latency  {plan['predicted_latency_ms'] / 1000:,.2f} s  "
            f"({latency['lower'] / 1000:,.2f} to {latency['upper'] / 1000:,.2f} s, p95 {plan['predicted_latency_p95_ms'] / 1000:,.2f} s)"
        ),
        f"  energy   {plan['predicted_energy_kwh']:.3g} kWh  ({energy['lower']:.3g} to {energy['upper']:.3g} kWh)",
        f"  CPU      {plan['predicted_cpu_seconds']:,.1f} s, memory peak {plan['predicted_memory_peak_mib']:,.0f} MiB",
        f"  carbon   {plan['predicted_carbon_g']:.3g} g, cost {plan['predicted_cost']:.3g}",
        f"  risk     {plan['risk_score']:.1%} (deadline missed: {plan['deadline_miss_probability']:.1%})",
    ]
    return lines

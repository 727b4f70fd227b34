"""``opendt act``: what a person has done to the fleet, through the same gate as plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from opendt.cli.fleet_client import FleetClient, fleet_options


def _options(function: Callable[..., None]) -> Callable[..., None]:
    dry = click.option("--dry-run", is_flag=True, help="Only ask the API server whether it would be done.")
    return fleet_options(dry(function))


@click.group()
def command() -> None:
    """Do something to the fleet by hand: it is written down before it is done, and what came of it after."""


@command.command()
@click.argument("cluster")
@click.argument("node")
@_options
def cordon(cluster: str, node: str, **options: Any) -> None:
    """Keep new pods off a node."""
    _ask({"action": "cordon", "cluster": cluster, "node": node}, **options)


@command.command()
@click.argument("cluster")
@click.argument("node")
@_options
def uncordon(cluster: str, node: str, **options: Any) -> None:
    """Let pods come to a node again."""
    _ask({"action": "uncordon", "cluster": cluster, "node": node}, **options)


@command.command()
@click.argument("cluster")
@click.argument("pod", metavar="NAMESPACE/POD")
@click.option("--grace", "grace_s", type=click.IntRange(min=0), metavar="S", help="Time it gets to end, s.")
@_options
def evict(cluster: str, pod: str, grace_s: int | None, **options: Any) -> None:
    """Ask a pod to leave, as disruption budgets allow it."""
    namespace, name = _two(pod, "NAMESPACE/POD")
    grace = {} if grace_s is None else {"grace_s": grace_s}
    _ask({"action": "evict", "cluster": cluster, "namespace": namespace, "pod": name} | grace, **options)


@command.command()
@click.argument("cluster")
@click.argument("deployment", metavar="NAMESPACE/DEPLOYMENT")
@click.argument("replicas", type=click.IntRange(min=0))
@_options
def scale(cluster: str, deployment: str, replicas: int, **options: Any) -> None:
    """Set how many pods a Deployment has."""
    namespace, name = _two(deployment, "NAMESPACE/DEPLOYMENT")
    asked = {"action": "scale", "cluster": cluster, "namespace": namespace, "deployment": name, "replicas": replicas}
    _ask(asked, **options)


@command.command()
@click.argument("plan_id", metavar="PLAN")
@click.argument("stage_id", metavar="STAGE")
@_options
def migrate(plan_id: str, stage_id: str, **options: Any) -> None:
    """Let a stage of a plan go on at its shadow placement, or at another place with room."""
    _ask({"action": "migrate", "plan_id": plan_id, "stage_id": stage_id}, **options)


@command.command()
@click.argument("plan_id", metavar="PLAN")
@click.argument("stage_id", metavar="STAGE")
@_options
def replicate(plan_id: str, stage_id: str, **options: Any) -> None:
    """Run a stage of a plan a second time elsewhere; the pod that succeeds first counts."""
    _ask({"action": "replicate", "plan_id": plan_id, "stage_id": stage_id}, **options)


def _two(text: str, form: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (slash and namespace and name):
        raise click.BadParameter(f"found {text!r}, expected {form}")
    return namespace, name


def _ask(request: dict[str, Any], *, config: Path | None, server: str | None, as_json: bool, dry_run: bool) -> None:
    from opendt.model.errors import OpenDTError
    from opendt.orchestrator.settings import load_settings

    body = json.dumps({"request": request, "dry_run": dry_run}).encode()
    answer = FleetClient(load_settings(config), server).post("/actions", body)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        words = {"done": "done", "unchanged": "it was so already", "would_be_done": "would be done"}
        where = f"{answer['action']} {answer['target']} in {answer['cluster']}"
        if answer["outcome"] != "failed":
            click.echo(", ".join(part for part in (f"{where}: {words[answer['outcome']]}", answer["message"]) if part))
    if answer["outcome"] == "failed":
        raise OpenDTError(f"{answer['action']} {answer['target']} in {answer['cluster']}: {answer['message']}")

"""``opendt topology``: the versions of a topology file, what differs between them, and the way back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.model.topology import Topology
    from opendt.orchestrator.version_store import VersionStore


class _Place(NamedTuple):
    datacenter: str
    file: Path | None
    store: VersionStore


@click.group()
def command() -> None:
    """List, compare and bring back versions of a topology.

    Every version that came into force is kept under STATE_DIR/topology.
    """


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which datacenter is meant."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
    )
    datacenter = click.option("--datacenter", metavar="NAME", help="Which one, when the settings have several.")
    return config(datacenter(function))


@command.command()
@_where
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def history(config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """List all versions, oldest first, each with what it changed."""
    place = _place(config, datacenter)
    rows: list[dict[str, Any]] = []
    before: Topology | None = None
    for kept in place.store.history():
        topology, problem = _read(place, kept.number)
        saved = datetime.fromtimestamp(kept.saved_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        words = [problem] if topology is None else _change(before, topology)
        rows.append(
            {
                "version": kept.number,
                "saved": saved,
                "hash": kept.content_hash,
                "changes": words,
                "file": str(kept.path),
            }
        )
        before = topology
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo(f"{row['version']:>4}  {row['saved']}  {row['hash'][:12]}  {'; '.join(row['changes'])}")
    if not rows:
        click.echo(f"{place.datacenter}: no version yet; the first comes with opendt run", err=True)


@command.command()
@_where
@click.argument("old", type=int, required=False)
@click.argument("new", type=int, required=False)
def diff(config: Path | None, datacenter: str | None, old: int | None, new: int | None) -> None:
    """Say what differs between version OLD and version NEW.

    Without NEW: between OLD (the latest version unless given) and the file as it is now.
    """
    from opendt.formats.opendc import read_topology
    from opendt.orchestrator.topology import read_topology_version, topology_differences

    place = _place(config, datacenter)
    if old is None:
        latest = place.store.latest()
        old = 1 if latest is None else latest.number
    before = read_topology_version(place.store, old, place.file)
    after = read_topology(_file(place)) if new is None else read_topology_version(place.store, new, place.file)
    differences = topology_differences(before, after)
    for line in differences:
        click.echo(line)
    if not differences:
        click.echo("no difference", err=True)


@command.command()
@_where
@click.argument("version", type=int)
def rollback(config: Path | None, datacenter: str | None, version: int) -> None:
    """Write VERSION over the topology file; it takes effect in the next window, as any edit does, with a new number."""
    from opendt.orchestrator.topology import roll_back_topology

    place = _place(config, datacenter)
    file = _file(place)
    number, aside = roll_back_topology(file, place.store, version)
    if aside is not None:
        click.echo(f"Warning: what the file held did not validate; it is kept as {aside}", err=True)
    click.echo(f"{file}: version {version} again, now with number {number}")


def _place(config: Path | None, datacenter: str | None) -> _Place:
    from opendt.model.errors import InputError
    from opendt.orchestrator.settings import load_settings
    from opendt.orchestrator.topology import topology_store

    settings = load_settings(config)
    names = ", ".join(settings.datacenter)
    if not names:
        raise InputError(
            "datacenter", "none", "a section [datacenter.NAME] in the settings", "Name them with --config."
        )
    if datacenter is None and len(settings.datacenter) > 1:
        raise InputError("--datacenter", "no name", f"one of {names}")
    section = settings.datacenters[0] if datacenter is None else settings.datacenter.get(datacenter)
    if section is None:
        raise InputError("--datacenter", str(datacenter), f"one of {names}")
    return _Place(section.name, section.topology, topology_store(settings.state_dir, section.name))


def _file(place: _Place) -> Path:
    from opendt.model.errors import InputError

    if place.file is None:
        key = f"datacenter.{place.datacenter}.topology"
        raise InputError(key, "nothing", "a topology file", "This datacenter's topology comes on dc.topology.")
    return place.file


def _read(place: _Place, number: int) -> tuple[Topology | None, str]:
    """A version, or what is wrong with it by now (a trace that it names may be gone)."""
    from opendt.model.errors import InputError
    from opendt.orchestrator.topology import read_topology_version

    try:
        return read_topology_version(place.store, number, place.file), ""
    except InputError as error:
        return None, str(error)


def _change(before: Topology | None, after: Topology) -> list[str]:
    from opendt.orchestrator.topology import topology_differences

    if before is not None:
        return topology_differences(before, after) or ["the same hosts"]
    clusters, hosts = len(after.clusters), after.host_count
    return [f"{hosts:,} host{'' if hosts == 1 else 's'} in {clusters:,} cluster{'' if clusters == 1 else 's'}"]

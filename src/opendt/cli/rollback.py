"""``opendt rollback``: take back what the gate changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opendt.cli.asking import chosen, where_options

if TYPE_CHECKING:
    from opendt.model.topology import Topology
    from opendt.orchestrator.version_store import VersionStore
    from opendt.verification.ledger import Ledger

_NEXT = (
    "It takes effect with the next window, as an edit by hand. In mode auto the same may be proposed and applied again: "
    "set another mode first."
)


@click.command()
@where_options
@click.option("--to", "version", type=int, metavar="VERSION", help="One of opendt topology history, whoever made it.")
def command(config: Path | None, datacenter: str | None, as_json: bool, version: int | None) -> None:
    """Write the topology file as it was before the gate's last change.

    The running process takes it with the next window, as an edit by hand, with a new number; in mode auto the same may be
    proposed and applied again, so set another mode first.
    """
    from opendt.cli.ledger import opened_ledger
    from opendt.model.errors import InputError
    from opendt.orchestrator.topology import roll_back_topology, topology_store

    settings, section = chosen(config, datacenter)
    if section.topology is None:
        key = f"datacenter.{section.name}.topology"
        raise InputError(key, "nothing", "a topology file", "This datacenter's topology comes on dc.topology.")
    store = topology_store(settings.state_dir, section.name)
    undone = ""
    if version is None:
        with opened_ledger(None, config) as ledger:
            before, undone = _before_the_last_change(ledger, section.name, section.topology)
        version = _backup_of(store, before, section.topology)
    number, aside = roll_back_topology(section.topology, store, version)
    if as_json:
        answer = {"file": str(section.topology), "version": version, "number": number, "undone": undone or None}
        click.echo(json.dumps(answer | {"set_aside": None if aside is None else str(aside)}))
        return
    if aside is not None:
        click.echo(f"Warning: what the file held did not validate; it is kept as {aside}", err=True)
    what = f" (undoes {undone})" if undone else ""
    click.echo(f"{section.topology}: version {version} again, now with number {number}{what}")
    click.echo(_NEXT, err=True)


def _before_the_last_change(ledger: Ledger, datacenter: str, file: Path) -> tuple[Topology, str]:
    """What held before the gate's last change, and the proposal that it applied."""
    from opendt.formats.opendc import read_topology
    from opendt.model.errors import InputError
    from opendt.model.topology import Topology
    from opendt.orchestrator.actuator import is_same
    from opendt.orchestrator.plan_of_versions import DECIDED

    rows = [recorded.row for recorded in ledger.topology_versions(datacenter)]
    decided = [number for number, row in enumerate(rows) if row.source.startswith(DECIDED) and number]
    if not decided:
        raise InputError("topology", "no change by the gate", "one in the ledger", "Name a version with --to.")
    before, after = (Topology.model_validate_json(json.dumps(rows[decided[-1] + n].content)) for n in (-1, 0))
    if not is_same(read_topology(file), after):
        hint = "It was edited since: name a version of `opendt topology history` with --to."
        raise InputError("", "another topology than that of the gate's last change", "it", hint, file=str(file))
    return before, rows[decided[-1]].source.removeprefix(DECIDED)


def _backup_of(store: VersionStore, topology: Topology, file: Path) -> int:
    """Number of the newest backup that holds a topology."""
    from opendt.model.errors import InputError
    from opendt.orchestrator.actuator import is_same
    from opendt.orchestrator.topology import read_topology_version

    for number in reversed(store.numbers()):
        try:
            kept = read_topology_version(store, number, file)
        except InputError:  # a trace that it names may be gone
            continue
        if is_same(kept, topology):
            return number
    hint = "Name a version of `opendt topology history` with --to."
    raise InputError("topology", "no backup of what held before", "one", hint, file=str(store.directory))

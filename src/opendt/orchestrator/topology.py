"""The topology file of a datacenter: its versions while the process runs, and what differs between two of them in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from opendt.formats.opendc_dialect import OpenDCReading
from opendt.formats.opendc_topology import read_topology
from opendt.orchestrator.sharing import with_shared_carbon
from opendt.orchestrator.version_store import Rollback, VersionStore, roll_back
from opendt.orchestrator.versions import Version, VersionedFile

if TYPE_CHECKING:
    from opendt.model.topology import Cluster, HostGroup, Topology
    from opendt.orchestrator.event_types import Event

__all__ = [
    "TopologyFile",
    "TopologyVersion",
    "read_topology_version",
    "roll_back_topology",
    "topology_differences",
    "topology_file",
    "topology_store",
]

TopologyVersion: TypeAlias = "Version[Topology]"
TopologyFile: TypeAlias = "VersionedFile[Topology]"
Named = TypeVar("Named", "Cluster", "HostGroup")


def topology_store(state_dir: Path, datacenter: str) -> VersionStore:
    """Backups of a datacenter's topology: ``STATE_DIR/topology/NAME``."""
    return VersionStore(state_dir / "topology" / datacenter)


def topology_file(
    file: Path | None,
    state_dir: Path,
    datacenter: str,
    *,
    on_event: Callable[[Event], None] | None = None,
    clock_s: Callable[[], float] = time.monotonic,
) -> TopologyFile:
    """Watch the topology of a datacenter; see `VersionedFile`."""
    return VersionedFile(
        "topology",
        file,
        topology_store(state_dir, datacenter),
        _reader(file),
        datacenter=datacenter,
        on_event=on_event,
        clock_s=clock_s,
    )


def read_topology_version(store: VersionStore, number: int, file: Path | None) -> Topology:
    """Read a backup; the traces it names lie beside the topology file.

    Raises
    ------
    InputError
        When there is no such version, or it no longer validates.
    """
    return _reader(file)(store.path(number))


def roll_back_topology(file: Path, store: VersionStore, number: int) -> Rollback:
    """Write an earlier version over the file; see `roll_back`."""
    return roll_back(file, store, number, _reader(file))


def _reader(file: Path | None) -> Callable[[Path], Topology]:
    folder = Path() if file is None else file.absolute().parent

    def read(path: Path) -> Topology:
        return with_shared_carbon(read_topology(path, reading=OpenDCReading(working_directory=folder)))

    return read


def topology_differences(old: Topology, new: Topology) -> list[str]:
    """Say what differs between two topologies, a line each; nothing when nothing does.

    Counts, cores, clocks and memory are told with both values; of all else it is told that it differs.
    """
    before, after = _by_name(old.clusters), _by_name(new.clusters)
    lines = []
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            lines.append(f"{name}: gone ({_hosts(before[name].host_count)})")
        elif name not in before:
            lines.append(f"{name}: new ({_hosts(after[name].host_count)})")
        else:
            lines += _cluster_differences(name, before[name], after[name])
    if old.links != new.links:
        lines.append("links differ")
    return lines


def _cluster_differences(name: str, old: Cluster, new: Cluster) -> Iterator[str]:
    before, after = _by_name(old.hosts), _by_name(new.hosts)
    for group in dict.fromkeys([*before, *after]):
        place = f"{name}/{group}"
        if group not in after:
            yield f"{place}: gone ({_size(before[group])})"
        elif group not in before:
            yield f"{place}: new ({_size(after[group])})"
        elif before[group] != after[group]:
            yield f"{place}: {', '.join(_group_differences(before[group], after[group]))}"
    if list(before) != list(after) and sorted(before) == sorted(after):
        yield f"{name}: groups in another order"
    if old.power_source != new.power_source:
        yield f"{name}: power source differs"
    if old.battery != new.battery:
        yield f"{name}: battery differs"


def _group_differences(old: HostGroup, new: HostGroup) -> Iterator[str]:
    numbers = (
        ("hosts", old.count, new.count),
        ("cores", old.core_count, new.core_count),
        ("MHz", old.core_speed_mhz, new.core_speed_mhz),
        ("MiB", old.memory_mib, new.memory_mib),
    )
    for unit, before, after in numbers:
        if before != after:
            yield (
                f"{before:,g} -> {after:,g} {unit}" if isinstance(before, float) else f"{before:,} -> {after:,} {unit}"
            )
    told = {"count", "core_count", "core_speed_mhz", "memory_mib"}
    for field in type(old).model_fields:
        if field not in told and getattr(old, field) != getattr(new, field):
            yield f"{field.replace('_', ' ')} differs"


def _size(group: HostGroup) -> str:
    return f"{_hosts(group.count)} of {group.core_count:,} cores at {group.core_speed_mhz:,g} MHz"


def _hosts(count: int) -> str:
    return f"{count:,} host{'' if count == 1 else 's'}"


def _by_name(records: tuple[Named, ...]) -> dict[str, Named]:
    """Records by name; the second of a name is NAME#2."""
    named: dict[str, Named] = {}
    for record in records:
        name, number = record.name, 1
        while name in named:
            number += 1
            name = f"{record.name}#{number}"
        named[name] = record
    return named

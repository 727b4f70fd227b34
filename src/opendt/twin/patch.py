"""From changes of a running system to the topology file that says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.model.change import (
    AddHosts,
    ClusterHosts,
    GroupHosts,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    SetPowerCap,
    ThrottleHosts,
)
from opendt.model.errors import ModelError
from opendt.twin.resized import resized_power

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.engine.simulation import Simulation
    from opendt.model.change import Change, Hosts
    from opendt.model.topology import Cluster, HostGroup, Topology

__all__ = ["patched"]

_WRITABLE = (AddHosts, RemoveHosts, ResizeHosts, SetPowerCap, ThrottleHosts)
_HINT = "A topology file describes groups of equal hosts; such a change can be advised only."

_Key = tuple[str, str]
_Kinds = dict[_Key, set[tuple[int, float]]]
_Names = dict[_Key, set[str]]


def patched(topology: Topology, changes: Sequence[Change], simulation: Simulation) -> Topology:
    """Give the topology that a system has after changes; power models are those of the hosts as they are then.

    Parameters
    ----------
    topology : Topology
        As it is.
    changes : sequence of Change
        Applied in this order, all or none.
    simulation : Simulation
        The system as it is; forked, never changed.

    Raises
    ------
    EngineError
        When the changes cannot be applied.
    ModelError
        When a topology file cannot say what they do.
    """
    for number, change in enumerate(changes):
        if not isinstance(change, _WRITABLE):
            raise ModelError(f"changes[{number}]", change.type, "a change of hosts or of a power cap", _HINT)
    fork = simulation.fork(with_basis=False)
    _, before = _groups(fork)
    fork.apply(*changes)
    names, after = _groups(fork)
    clusters = []
    for cluster in topology.clusters:
        groups = [*cluster.hosts, *_added(cluster, changes)]
        hosts = tuple(_patched_group((cluster.name, group), names, before, after, changes) for group in groups)
        cap = {one.cluster: one.max_power_w for one in changes if isinstance(one, SetPowerCap)}
        source = cluster.power_source
        if cluster.name in cap:
            source = source.model_copy(update={"max_power_w": cap[cluster.name]})
        clusters.append(cluster.model_copy(update={"hosts": hosts, "power_source": source}))
    return type(topology).model_validate(topology.model_copy(update={"clusters": tuple(clusters)}).model_dump())


def _groups(simulation: Simulation) -> tuple[_Names, _Kinds]:
    """Hosts that stay in each group, and the sizes (cores, capacity in MHz) that they have."""
    hosts = simulation.hosts()
    names: _Names = {}
    kinds: _Kinds = {}
    columns = ("name", "cluster", "group", "status", "core_count", "capacity_mhz")
    for name, cluster, group, status, cores, capacity_mhz in zip(*(hosts[one] for one in columns), strict=True):
        if status in ("removed", "draining"):
            continue
        key = (cluster, group)
        names.setdefault(key, set()).add(name)
        kinds.setdefault(key, set()).add((int(cores), float(capacity_mhz)))
    return names, kinds


def _added(cluster: Cluster, changes: Sequence[Change]) -> list[HostGroup]:
    known = {group.name for group in cluster.hosts}
    added = (one.group for one in changes if isinstance(one, AddHosts) and one.cluster == cluster.name)
    return list({group.name: group for group in added if group.name not in known}.values())


def _patched_group(
    place: tuple[str, HostGroup], names: _Names, before: _Kinds, after: _Kinds, changes: Sequence[Change]
) -> HostGroup:
    cluster, group = place
    key = (cluster, group.name)
    there = names.get(key, set())
    count = len(there)
    update: dict[str, object] = {"count": count}
    sizes = after.get(key, set())
    if count and sizes != before.get(key, sizes):
        if len(sizes) > 1:
            raise ModelError(f"{cluster}.{group.name}", f"hosts of {len(sizes)} sizes", "equal hosts in a group", _HINT)
        cores, capacity_mhz = next(iter(sizes))
        mhz = capacity_mhz / cores
        update |= {"core_count": cores, "core_speed_mhz": mhz, "power_model": resized_power(group, cores, mhz)}
    for change in changes:
        if isinstance(change, ResizeHosts) and change.memory_mib is not None and key in before:
            meant = _meant(change.hosts, key, there)
            if meant and meant != there:
                found = f"another memory for {len(meant)} of {count} hosts"
                raise ModelError(f"{cluster}.{group.name}", found, "equal hosts in a group", _HINT)
            if meant:
                update["memory_mib"] = change.memory_mib
    return group.model_copy(update=update)


def _meant(hosts: Hosts, key: _Key, there: set[str]) -> set[str]:
    """Which of a group's hosts are meant."""
    if isinstance(hosts, NamedHosts):
        return there.intersection(hosts.names)
    if isinstance(hosts, ClusterHosts):
        return there if hosts.cluster == key[0] else set()
    if isinstance(hosts, GroupHosts):
        return there if hosts.group == key[1] else set()
    return there

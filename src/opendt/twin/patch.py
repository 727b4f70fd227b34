"""From changes of a running system to the topology file that says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.model.change import AddHosts, RemoveHosts, ResizeHosts, SetPowerCap, SetPowerModel, ThrottleHosts
from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.engine.simulation import Simulation
    from opendt.model.change import Change
    from opendt.model.topology import Cluster, HostGroup, Topology

__all__ = ["patched"]

_WRITABLE = (AddHosts, RemoveHosts, ResizeHosts, SetPowerCap, SetPowerModel, ThrottleHosts)
_HINT = "A topology file describes groups of equal hosts; such a change can be advised only."

_Kinds = dict[tuple[str, str], set[tuple[int, float]]]


def patched(topology: Topology, changes: Sequence[Change], simulation: Simulation) -> Topology:
    """Give the topology that a system has after changes.

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
    before = _groups(fork)[1]
    fork.apply(*changes)
    counts, after = _groups(fork)
    clusters = []
    for cluster in topology.clusters:
        groups = [*cluster.hosts, *_added(cluster, changes)]
        hosts = tuple(_patched_group(cluster.name, group, counts, before, after, changes) for group in groups)
        cap = {one.cluster: one.max_power_w for one in changes if isinstance(one, SetPowerCap)}
        source = cluster.power_source
        if cluster.name in cap:
            source = source.model_copy(update={"max_power_w": cap[cluster.name]})
        clusters.append(cluster.model_copy(update={"hosts": hosts, "power_source": source}))
    return type(topology).model_validate(topology.model_copy(update={"clusters": tuple(clusters)}).model_dump())


def _groups(simulation: Simulation) -> tuple[dict[tuple[str, str], int], _Kinds]:
    """Hosts that stay in each group, and the sizes (cores, capacity in MHz) that they have."""
    hosts = simulation.hosts()
    counts: dict[tuple[str, str], int] = {}
    kinds: _Kinds = {}
    columns = (hosts["cluster"], hosts["group"], hosts["status"], hosts["core_count"], hosts["capacity_mhz"])
    for cluster, group, status, cores, capacity_mhz in zip(*columns, strict=True):
        if status in ("removed", "draining"):
            continue
        key = (cluster, group)
        counts[key] = counts.get(key, 0) + 1
        kinds.setdefault(key, set()).add((int(cores), float(capacity_mhz)))
    return counts, kinds


def _added(cluster: Cluster, changes: Sequence[Change]) -> list[HostGroup]:
    known = {group.name for group in cluster.hosts}
    added = (one.group for one in changes if isinstance(one, AddHosts) and one.cluster == cluster.name)
    return list({group.name: group for group in added if group.name not in known}.values())


def _patched_group(
    cluster: str,
    group: HostGroup,
    counts: dict[tuple[str, str], int],
    before: _Kinds,
    after: _Kinds,
    changes: Sequence[Change],
) -> HostGroup:
    key = (cluster, group.name)
    count = counts.get(key, 0)
    update: dict[str, object] = {"count": count}
    sizes = after.get(key, set())
    if count and sizes != before.get(key, sizes):
        if len(sizes) > 1:
            raise ModelError(f"{cluster}.{group.name}", f"hosts of {len(sizes)} sizes", "equal hosts in a group", _HINT)
        cores, capacity_mhz = next(iter(sizes))
        update |= {"core_count": cores, "core_speed_mhz": capacity_mhz / cores}
    for change in changes:
        if isinstance(change, ResizeHosts) and change.memory_mib is not None and key in before:
            update["memory_mib"] = change.memory_mib
        if isinstance(change, SetPowerModel):
            update["power_model"] = change.power_model
    return group.model_copy(update=update)

"""From one topology to another: the changes that make a running system the other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from opendt.model.change import AddHosts, NamedHosts, RemoveHosts, ResizeHosts, SetCarbon, SetPowerCap, SetPowerModel
from opendt.model.errors import ModelError
from opendt.twin.resized import is_same_power, resized_power

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.engine.simulation import Simulation
    from opendt.model.change import Change
    from opendt.model.topology import Cluster, HostGroup, PowerSource, Topology

__all__ = ["transition"]

Named = TypeVar("Named", "Cluster", "HostGroup")
_SIZES = frozenset({"core_count", "core_speed_mhz", "memory_mib"})
_CHANGEABLE = _SIZES | {"count", "power_model"}
_RESTART = "Begin anew with it: another state directory."


def transition(old: Topology, new: Topology, simulation: Simulation) -> list[Change]:
    """Changes that lead from one topology to another.

    Hosts that go are idle ones first; busy ones finish their tasks and take no new ones.

    Parameters
    ----------
    old, new : Topology
        What the system is taken to be, and what it is to be.
    simulation : Simulation
        The system as it is then: tells the names of hosts.

    Returns
    -------
    list of Change
        Empty when nothing that can be simulated differs.

    Raises
    ------
    ModelError
        When something differs that a running system cannot change: clusters, links, batteries, sharing.
    """
    before, after = _by_name(old.clusters, "clusters"), _by_name(new.clusters, "clusters")
    if before.keys() != after.keys():
        raise ModelError("clusters", ", ".join(after), f"{', '.join(before)}, as while it runs", _RESTART)
    if old.links != new.links:
        raise ModelError("links", "others", "the same while the system runs", _RESTART)
    hosts = simulation.hosts()
    members: dict[tuple[str, str], list[str]] = {}
    for name, cluster, group, status in zip(
        hosts["name"], hosts["cluster"], hosts["group"], hosts["status"], strict=True
    ):
        if status not in ("removed", "draining"):
            members.setdefault((cluster, group), []).append(name)
    changes: list[Change] = []
    for name, cluster in after.items():
        changes += _cluster_changes(before[name], cluster, members)
    return changes


def _cluster_changes(old: Cluster, new: Cluster, members: dict[tuple[str, str], list[str]]) -> Iterator[Change]:
    if old.battery != new.battery:
        raise ModelError(f"{new.name}.battery", "another", "the same while the system runs", _RESTART)
    yield from _source_changes(new.name, old.power_source, new.power_source)
    before, after = _by_name(old.hosts, f"{old.name}.hosts"), _by_name(new.hosts, f"{new.name}.hosts")
    for name in before.keys() - after.keys():
        names = members.get((new.name, name), [])
        if names:
            yield RemoveHosts(hosts=NamedHosts(names=tuple(names)))
    for name, group in after.items():
        names = members.get((new.name, name), [])
        if name not in before:
            if group.count:
                yield AddHosts(cluster=new.name, group=group)
        else:
            yield from _group_changes(new.name, before[name], group, names)


def _group_changes(cluster: str, old: HostGroup, new: HostGroup, names: list[str]) -> Iterator[Change]:
    differing = {name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)}
    fixed = sorted(differing - _CHANGEABLE)
    if fixed:
        raise ModelError(f"{cluster}.{new.name}.{fixed[0]}", "another", "the same while the system runs", _RESTART)
    hosts = NamedHosts(names=tuple(names)) if names else None
    if hosts is not None and differing & _SIZES:
        sizes = {name: getattr(new, name) for name in sorted(differing & _SIZES)}
        yield ResizeHosts(hosts=hosts, **sizes)
    # A model that is scaled as the hosts are is what the engine makes of the one it has, which may be a learned one.
    power_model = resized_power(old, new.core_count, new.core_speed_mhz)
    if hosts is not None and "power_model" in differing and not is_same_power(new.power_model, power_model):
        yield SetPowerModel(hosts=hosts, power_model=new.power_model)
    if new.count < len(names) and hosts is not None:
        yield RemoveHosts(hosts=hosts, count=len(names) - new.count)
    elif new.count > len(names):
        yield AddHosts(cluster=cluster, group=new.model_copy(update={"count": new.count - len(names)}))


def _source_changes(cluster: str, old: PowerSource, new: PowerSource) -> Iterator[Change]:
    if old.max_power_w != new.max_power_w:
        yield SetPowerCap(cluster=cluster, max_power_w=new.max_power_w)
    if old.carbon != new.carbon:
        yield SetCarbon(cluster=cluster, carbon=new.carbon)


def _by_name(records: tuple[Named, ...], place: str) -> dict[str, Named]:
    named = {record.name: record for record in records}
    if len(named) != len(records):
        raise ModelError(place, "names that are used twice", "a name each", "Only then can an edit be followed.")
    return named

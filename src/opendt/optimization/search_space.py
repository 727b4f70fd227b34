"""What a search may change, as a grid of whole numbers, and the way from there to typed changes and back.

A *gene* is one thing that can be set: the number of hosts of a group in service, its cores, its clock, the power cap of a cluster,
the policy that places tasks. It has a few *levels*; one of them is how things are now. A *point* names a level of each gene. So a
point is a whole configuration, two searches that come to the same configuration name the same point, and nothing is simulated twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opendt.model.change import (
    AddHosts,
    ClusterHosts,
    GroupHosts,
    Hosts,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    SetAllocation,
    SetPowerCap,
    ThrottleHosts,
)
from opendt.model.proposal import Bounds
from opendt.optimization.search_genes import (
    Gene,
    GeneKind,
    Key,
    SpaceLimits,
    cap_genes,
    clocks,
    hosts_gene,
    number_gene,
    standing_hosts,
    switched_off,
)

if TYPE_CHECKING:
    from opendt.model.change import Change
    from opendt.model.options import Allocation
    from opendt.model.topology import HostGroup, Topology
    from opendt.optimization.base import Context, GroupState
    from opendt.optimization.rules import Installed

__all__ = ["Gene", "Point", "SearchSpace", "SpaceLimits", "installed_of"]

Point = tuple[int, ...]
"""A level of each gene."""

_EVERYWHERE: Final[Key] = ("", "")


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All configurations that a search may come to.

    Attributes
    ----------
    genes : tuple of Gene
        In a fixed order; only those with more than one level.
    groups : mapping
        (cluster, group) -> its hosts now.
    templates : mapping
        (cluster, group) -> what a host that is added is like.
    policies : mapping
        Name -> policy.
    homes : tuple of tuple of str
        Groups whose hosts the largest task fits; one host of one of them always stays.
    """

    genes: tuple[Gene, ...]
    groups: Mapping[Key, GroupState]
    templates: Mapping[Key, HostGroup]
    policies: Mapping[str, Allocation]
    homes: tuple[Key, ...]

    @classmethod
    def of(
        cls,
        context: Context,
        *,
        limits: SpaceLimits | None = None,
        topology: Topology | None = None,
        policies: Mapping[str, Allocation] | None = None,
        installed: Installed | None = None,
        largest_core_count: int | None = None,
    ) -> SearchSpace:
        """Describe what could be changed from here.

        Parameters
        ----------
        context : Context
            The present.
        limits : SpaceLimits, optional
            How far to go.
        topology : Topology, optional
            What is installed, in service or not; without it no host can be added and the present counts as installed.
        policies : mapping, optional
            Policies of placing tasks to choose from, by name.
        installed : dict, optional
            (cluster, group) -> cores and MHz as first seen, which limits refer to; of the topology, or the present, if absent.
        largest_core_count : int, optional
            Cores of the largest task that is to come, where it is known; else of the largest in the system.
        """
        limits = limits or SpaceLimits()
        templates = _templates(topology)
        groups = {(state.cluster, state.group): state for state in context.groups}
        groups.update((key, switched_off(key, template)) for key, template in templates.items() if key not in groups)
        stand = standing_hosts(context)
        reference = installed_of(context)
        reference.update({key: (group.core_count, group.core_speed_mhz) for key, group in templates.items()})
        reference.update(installed or {})
        largest = context.load.largest_core_count if largest_core_count is None else largest_core_count
        genes: list[Gene] = []
        for key, state in groups.items():
            cores, mhz = reference[key]
            genes.append(hosts_gene(key, state, templates.get(key), stand.get(key, 0), limits))
            least = max(1, min(largest, state.core_count), math.ceil(cores * limits.min_core_ratio - 1e-9))
            most = math.floor(cores * limits.max_core_ratio + 1e-9)
            genes.append(number_gene("cores", key, range(least, most + 1), state.core_count))
            genes.append(number_gene("clock", key, clocks(mhz, limits), state.core_speed_mhz))
        genes += cap_genes(context, topology, limits)
        names = tuple(policies or {})
        genes.append(Gene("allocation", _EVERYWHERE, (None, *names), 0))
        homes = tuple(key for key, state in groups.items() if state.core_count >= largest) or tuple(groups)[-1:]
        kept = tuple(gene for gene in genes if len(gene.levels) > 1 and not limits.leaves(gene))
        return cls(kept, groups, templates, dict(policies or {}), homes)

    @property
    def now(self) -> Point:
        """The present configuration."""
        return tuple(gene.now for gene in self.genes)

    @property
    def size(self) -> int:
        """Number of configurations."""
        return math.prod(len(gene.levels) for gene in self.genes)

    def legal(self, levels: Sequence[float]) -> Point:
        """Round to levels that exist, and keep a host that the largest task fits."""
        point = [min(max(round(float(x)), 0), len(g.levels) - 1) for x, g in zip(levels, self.genes, strict=True)]
        hosts = {gene.key: index for index, gene in enumerate(self.genes) if gene.kind == "hosts"}
        counts = {key: self.genes[index].levels[point[index]] for key, index in hosts.items()}
        fixed = [key for key in self.homes if key not in hosts and self.groups[key].host_count]
        if self.homes and not fixed and not any(counts.get(key, 0) for key in self.homes):
            index = hosts[next((key for key in reversed(self.homes) if key in hosts), self.homes[-1])]
            point[index] = next(i for i, level in enumerate(self.genes[index].levels) if level > 0)
        return tuple(point)

    def values(self, point: Point) -> dict[tuple[GeneKind, Key], Any]:
        """What a point sets: (kind, key) -> value."""
        return {(gene.kind, gene.key): gene.levels[level] for gene, level in zip(self.genes, point, strict=True)}

    def changes(self, point: Point) -> tuple[Change, ...]:
        """Typed changes that lead from the present to a point; none for the present itself.

        Hosts first, so that hosts that are added get the cores and the clock of the others.
        """
        moved = {
            (gene.kind, gene.key): gene.levels[level]
            for gene, level in zip(self.genes, point, strict=True)
            if level != gene.now
        }
        changes: list[Change] = []
        for key, state in self.groups.items():
            hosts: int | None = moved.get(("hosts", key))
            cores: int | None = moved.get(("cores", key))
            mhz: float | None = moved.get(("clock", key))
            if hosts is not None and hosts < state.host_count:
                changes.append(_removal(state, state.host_count - hosts))
            elif hosts is not None:
                template = self.templates[key]
                added = template.model_copy(update={"count": hosts - state.host_count})
                changes.append(AddHosts(cluster=state.cluster, group=added))
                if (state.core_count, state.core_speed_mhz) != (template.core_count, template.core_speed_mhz):
                    cores = state.core_count if cores is None else cores
                    mhz = state.core_speed_mhz if mhz is None else mhz
            if (cores is not None or mhz is not None) and hosts != 0:
                changes.append(ResizeHosts(hosts=_selector(state), core_count=cores, core_speed_mhz=mhz))
        for (kind, (cluster, _)), value in moved.items():
            if kind == "power_cap":
                changes.append(SetPowerCap(cluster=cluster, max_power_w=value))
            elif kind == "allocation":
                changes.append(SetAllocation(allocation=self.policies[value]))
        return tuple(changes)

    def nearest(self, changes: Sequence[Change]) -> Point | None:
        """The point nearest to where changes lead; None when they change something that is not searched."""
        at = {(gene.kind, gene.key): gene.levels[level] for gene, level in zip(self.genes, self.now, strict=True)}
        for change in changes:
            if not self._follow(change, at):
                return None
        return self.legal([gene.nearest(at[gene.kind, gene.key]) for gene in self.genes])

    def added_cores(self, point: Point) -> int:
        """Cores that a configuration has beyond those in service now, over all groups together; never negative."""
        now = sum(state.host_count * state.core_count for state in self.groups.values())
        return max(0, self._cores(point) - now)

    def hosts(self, point: Point) -> int:
        """Hosts in service."""
        at = self.values(point)
        return sum(at.get(("hosts", key), state.host_count) for key, state in self.groups.items())

    def words(self, point: Point) -> str:
        """What a point changes, in words for a person."""
        many = len(self.groups) > 1
        parts = []
        for gene, level in zip(self.genes, point, strict=True):
            if level == gene.now:
                continue
            value, now = gene.levels[level], gene.levels[gene.now]
            where = f" of {'/'.join(part for part in gene.key if part)}" if many and gene.key != _EVERYWHERE else ""
            parts.append(
                {
                    "hosts": f"{value} host{'' if value == 1 else 's'}{where} (now {now})",
                    "cores": f"{value} cores a host{where} (now {now})",
                    "clock": f"{value:g} MHz{where} (now {now:g})" if gene.kind == "clock" else "",
                    "power_cap": f"power cap {value / 1000:.3g} kW{where}" if gene.kind == "power_cap" else "",
                    "allocation": f"policy {value}",
                }[gene.kind]
            )
        return ", ".join(parts) or "no change"

    def bounds(self) -> Bounds:
        """Limits that all points keep."""

        def span(kind: GeneKind, now: Sequence[float]) -> tuple[float, float]:
            levels = [gene.levels for gene in self.genes if gene.kind == kind]
            values = [*now, *(level for one in levels for level in one)]
            return min(values), max(values)

        if not self.groups:
            return Bounds()
        states = tuple(self.groups.values())
        fewest, most = self.legal([0] * len(self.genes)), tuple(len(gene.levels) - 1 for gene in self.genes)
        cores = span("cores", [state.core_count for state in states])
        mhz = span("clock", [state.core_speed_mhz for state in states])
        return Bounds(
            min_hosts=self.hosts(fewest),
            max_hosts=self.hosts(most),
            min_core_count=int(cores[0]),
            max_core_count=int(cores[1]),
            min_core_speed_mhz=mhz[0],
            max_core_speed_mhz=mhz[1],
        )

    def _cores(self, point: Point) -> int:
        at = self.values(point)
        return sum(
            int(at.get(("hosts", key), state.host_count) * at.get(("cores", key), state.core_count))
            for key, state in self.groups.items()
        )

    def _follow(self, change: Change, at: dict[tuple[GeneKind, Key], Any]) -> bool:
        """Let one change have its effect on values; False when it has another effect than genes can tell."""
        match change:
            case RemoveHosts(evict=False):
                return self._remove(change, at)
            case AddHosts():
                key = (change.cluster, change.group.name)
                if ("hosts", key) not in at:
                    return False
                at["hosts", key] += change.group.count
            case ResizeHosts(memory_mib=None):
                for key in self._meant(change.hosts):
                    for kind, value in (("cores", change.core_count), ("clock", change.core_speed_mhz)):
                        if value is not None:
                            at[kind, key] = value  # type: ignore[index] # one of the kinds
            case ThrottleHosts():
                for key in self._meant(change.hosts):
                    at["clock", key] = self.groups[key].core_speed_mhz * change.speed_ratio
            case SetPowerCap():
                at["power_cap", (change.cluster, "")] = change.max_power_w
            case SetAllocation():
                at["allocation", _EVERYWHERE] = next(
                    (name for name, policy in self.policies.items() if policy == change.allocation), None
                )
            case _:
                return False
        return True

    def _remove(self, change: RemoveHosts, at: dict[tuple[GeneKind, Key], Any]) -> bool:
        if isinstance(change.hosts, NamedHosts):
            names = set(change.hosts.names)
            for key, state in self.groups.items():
                at["hosts", key] = at.get(("hosts", key), state.host_count) - len(names & {*state.idle, *state.busy})
            return change.count is None
        meant = self._meant(change.hosts)
        left = math.inf if change.count is None else change.count
        for of in ("idle", "busy"):  # idle ones first, and of these the last defined, as the engine does
            for key in reversed(meant):
                count = min(left, len(getattr(self.groups[key], of)))
                at["hosts", key] = at.get(("hosts", key), self.groups[key].host_count) - int(count)
                left -= count
        return True

    def _meant(self, hosts: Hosts) -> list[Key]:
        match hosts:
            case GroupHosts():
                return [key for key in self.groups if key[1] == hosts.group]
            case ClusterHosts():
                return [key for key in self.groups if key[0] == hosts.cluster]
            case NamedHosts():
                names = set(hosts.names)
                return [key for key, state in self.groups.items() if names & {*state.idle, *state.busy}]
            case _:
                return list(self.groups)


def installed_of(context: Context) -> Installed:
    """Cores and MHz of each group as they are now."""
    return {(state.cluster, state.group): (state.core_count, state.core_speed_mhz) for state in context.groups}


def _templates(topology: Topology | None) -> dict[Key, HostGroup]:
    if topology is None:
        return {}
    return {(cluster.name, group.name): group for cluster in topology.clusters for group in cluster.hosts}


def _selector(state: GroupState) -> Hosts:
    return GroupHosts(group=state.group) if state.unique else NamedHosts(names=(*state.idle, *state.busy))


def _removal(state: GroupState, count: int) -> RemoveHosts:
    """Take hosts away, idle ones first; by name where a count would hit others, as in `opendt.optimization.rules`."""
    if state.unique and state.intact:
        return RemoveHosts(hosts=GroupHosts(group=state.group), count=count)
    last_first = (*reversed(state.idle), *reversed(state.busy))
    return RemoveHosts(hosts=NamedHosts(names=last_first[:count]))

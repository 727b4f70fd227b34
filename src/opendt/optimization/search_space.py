"""What a search may change, as a grid of whole numbers, and the way from there to typed changes and back.

A *gene* is one thing that can be set: the number of hosts of a group in service, its cores, its clock, the power cap of a cluster,
the policy that places tasks. It has a few *levels*; one of them is how things are now. A *point* names a level of each gene. So a
point is a whole configuration, two searches that come to the same configuration name the same point, and nothing is simulated twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

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
from opendt.optimization.base import GroupState

if TYPE_CHECKING:
    from opendt.model.change import Change
    from opendt.model.options import Allocation
    from opendt.model.topology import HostGroup, Topology
    from opendt.optimization.base import Context
    from opendt.optimization.rules import Installed

__all__ = ["Gene", "Point", "SearchSpace", "SpaceLimits", "installed_of"]

Point = tuple[int, ...]
"""A level of each gene."""

GeneKind = Literal["hosts", "cores", "clock", "power_cap", "allocation"]
Key = tuple[str, str]
"""Cluster and group; the group is empty where a whole cluster is meant, both where everything is."""

_EVERYWHERE: Final[Key] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceLimits:
    """How far a search may go; ratios are relative to what is installed.

    Parameters
    ----------
    min_host_ratio, max_host_ratio : float
        Hosts in service. More than are installed can only be planned, not switched on.
    reserve_ratio, reserve_hosts : float, int
        Idle hosts that each group keeps: this share of its busy hosts, and at least so many, as the rules leave. A decision rests
        on an hour of sampled futures; what comes after it must find room. 0 and 0 where all that comes is known.
    min_core_speed_ratio, core_speed_step_ratio : float
        Slowest clock, and the distance of the clocks that are tried. 0.5 as for the rules.
    min_core_ratio, max_core_ratio : float
        Cores of a host. 1 and 1: cores are bought, not switched, so a search leaves them alone unless it is told.
    min_power_cap_ratio, power_cap_step_ratio : float
        Lowest power cap relative to the present peak, and the distance of the caps that are tried; 1 tries none.
    """

    min_host_ratio: float = 0.0
    max_host_ratio: float = 1.0
    reserve_ratio: float = 0.2
    reserve_hosts: int = 1
    min_core_speed_ratio: float = 0.5
    core_speed_step_ratio: float = 0.025
    min_core_ratio: float = 1.0
    max_core_ratio: float = 1.0
    min_power_cap_ratio: float = 0.7
    power_cap_step_ratio: float = 0.05

    def __post_init__(self) -> None:
        """Refuse limits that make no sense.

        Raises
        ------
        ValueError
            When a minimum is above its maximum or a ratio is not finite or out of range.
        """
        for low, high, what in (
            (self.min_host_ratio, self.max_host_ratio, "host_ratio"),
            (self.min_core_ratio, self.max_core_ratio, "core_ratio"),
        ):
            if not 0 <= low <= high < math.inf:
                raise ValueError(f"min_{what} is {low} and max_{what} {high}, expected 0 <= min <= max")
        if not 0 <= self.reserve_ratio < math.inf or self.reserve_hosts < 0:
            raise ValueError(
                f"reserve_ratio is {self.reserve_ratio} and reserve_hosts {self.reserve_hosts}, expected at least 0"
            )
        for name in ("min_core_speed_ratio", "core_speed_step_ratio", "min_power_cap_ratio", "power_cap_step_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a ratio above 0 and up to 1")


@dataclass(frozen=True, slots=True)
class Gene:
    """One thing that can be set.

    Attributes
    ----------
    kind : str
        What.
    key : tuple of str
        Where: (cluster, group), (cluster, "") or ("", "").
    levels : tuple
        Rising: hosts, cores, MHz; of caps and policies the first is None, which leaves things as they are, then W or names.
    now : int
        The level that is how things are.
    """

    kind: GeneKind
    key: Key
    levels: tuple[Any, ...]
    now: int

    def nearest(self, value: Any) -> int:
        """Index of the level nearest to a value, the lower one of two; a cap or policy that is not a level leaves things alone."""
        if self.kind == "allocation":
            return self.levels.index(value) if value in self.levels else 0
        if value is None:
            return 0
        known = [index for index, level in enumerate(self.levels) if level is not None]
        return min(known, key=lambda index: abs(self.levels[index] - value))


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
        groups.update((key, _switched_off(key, template)) for key, template in templates.items() if key not in groups)
        standing = _standing(context)
        reference = installed_of(context)
        reference.update({key: (group.core_count, group.core_speed_mhz) for key, group in templates.items()})
        reference.update(installed or {})
        largest = context.load.largest_core_count if largest_core_count is None else largest_core_count
        genes: list[Gene] = []
        for key, state in groups.items():
            cores, mhz = reference[key]
            genes.append(_hosts_gene(key, state, templates.get(key), standing.get(key, 0), limits))
            least = max(1, min(largest, state.core_count), math.ceil(cores * limits.min_core_ratio - 1e-9))
            most = math.floor(cores * limits.max_core_ratio + 1e-9)
            genes.append(_gene("cores", key, range(least, most + 1), state.core_count))
            genes.append(_gene("clock", key, _clocks(mhz, limits), state.core_speed_mhz))
        genes += _cap_genes(context, topology, limits)
        names = tuple(policies or {})
        genes.append(Gene("allocation", _EVERYWHERE, (None, *names), 0))
        homes = tuple(key for key, state in groups.items() if state.core_count >= largest) or tuple(groups)[-1:]
        kept = tuple(gene for gene in genes if len(gene.levels) > 1)
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


def _gene(kind: GeneKind, key: Key, levels: Sequence[float], now: float) -> Gene:
    """A gene of numbers; how things are now is always one of its levels."""
    ordered = tuple(sorted({*levels, now}))
    return Gene(kind, key, ordered, ordered.index(now))


def _hosts_gene(key: Key, state: GroupState, template: HostGroup | None, standing: int, limits: SpaceLimits) -> Gene:
    """Hosts that are failed or draining stand where others could, so they are not added a second time."""
    installed = max(standing, 0 if template is None else template.count)
    busy = len(state.busy)
    reserve = max(limits.reserve_hosts, math.ceil(limits.reserve_ratio * busy - 1e-9)) if state.host_count else 0
    reserve += busy if reserve else 0
    least = min(max(math.ceil(installed * limits.min_host_ratio - 1e-9), reserve), state.host_count)
    most = min(state.host_count, math.floor(installed * limits.max_host_ratio + 1e-9))
    # A name that two clusters use would resize hosts of both, and added hosts have no names yet.
    if template is not None and state.unique:
        most = state.host_count + max(0, math.floor(installed * limits.max_host_ratio + 1e-9) - standing)
    return _gene("hosts", key, range(least, most + 1), state.host_count)


def _standing(context: Context) -> dict[Key, int]:
    """Hosts of each group that are not removed, in service or not."""
    source: Any = context.source
    counts = {(state.cluster, state.group): state.host_count for state in context.groups}
    if hasattr(source, "hosts"):
        columns = source.hosts()
        counts = {}
        for status, *key in zip(columns["status"], columns["cluster"], columns["group"], strict=True):
            if status != "removed":
                counts[key[0], key[1]] = counts.get((key[0], key[1]), 0) + 1
    return counts


def _switched_off(key: Key, template: HostGroup) -> GroupState:
    """A group of which no host is in service, but which could be switched on."""
    return GroupState(
        cluster=key[0],
        group=key[1],
        core_count=template.core_count,
        core_speed_mhz=template.core_speed_mhz,
        idle=(),
        busy=(),
        free_cores=(),
    )


def _clocks(mhz: float, limits: SpaceLimits) -> list[float]:
    steps = math.floor((1.0 - limits.min_core_speed_ratio) / limits.core_speed_step_ratio + 1e-9)
    return [mhz] + [round(mhz * (1.0 - step * limits.core_speed_step_ratio), 1) for step in range(1, steps + 1)]


def _cap_genes(context: Context, topology: Topology | None, limits: SpaceLimits) -> list[Gene]:
    """Caps below the present peak of each cluster; of several clusters the share of each is taken from its full power."""
    peak_kw = context.metrics.peak_power_kw
    steps = math.floor((1.0 - limits.min_power_cap_ratio) / limits.power_cap_step_ratio + 1e-9)
    clusters = dict.fromkeys(state.cluster for state in context.groups)
    shares = dict.fromkeys(clusters, 1.0)
    if len(clusters) > 1:
        full_w = _full_power_w(topology)
        shares = {name: watts / sum(full_w.values()) for name, watts in full_w.items() if name in clusters}
    if not peak_kw or not steps:
        return []
    genes = []
    for name, share in shares.items():
        caps = [peak_kw * 1000.0 * share * (1.0 - step * limits.power_cap_step_ratio) for step in range(1, steps + 1)]
        genes.append(Gene("power_cap", (name, ""), (None, *sorted(round(cap, 1) for cap in caps)), 0))
    return genes


def _full_power_w(topology: Topology | None) -> dict[str, float]:
    if topology is None:
        return {}
    return {
        cluster.name: sum(group.count * group.power_model.watts_at(1.0) for group in cluster.hosts)
        for cluster in topology.clusters
    }


def _selector(state: GroupState) -> Hosts:
    return GroupHosts(group=state.group) if state.unique else NamedHosts(names=(*state.idle, *state.busy))


def _removal(state: GroupState, count: int) -> RemoveHosts:
    """Take hosts away, idle ones first; by name where a count would hit others, as in `opendt.optimization.rules`."""
    if state.unique and state.intact:
        return RemoveHosts(hosts=GroupHosts(group=state.group), count=count)
    last_first = (*reversed(state.idle), *reversed(state.busy))
    return RemoveHosts(hosts=NamedHosts(names=last_first[:count]))

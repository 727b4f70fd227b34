"""The single things that a search may set, each with its levels, and how far they may go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from opendt.optimization.base import GroupState

if TYPE_CHECKING:
    from opendt.model.topology import HostGroup, Topology
    from opendt.optimization.base import Context
    from opendt.optimization.bounds import Limits

__all__ = [
    "Gene",
    "GeneKind",
    "Key",
    "SpaceLimits",
    "cap_genes",
    "clocks",
    "hosts_gene",
    "number_gene",
    "standing_hosts",
    "switched_off",
]

GeneKind = Literal["hosts", "cores", "clock", "power_cap", "allocation"]
Key = tuple[str, str]
"""Cluster and group; the group is empty where a whole cluster is meant, both where everything is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceLimits:
    """How far a search may go; ratios are relative to what is installed.

    Parameters
    ----------
    min_host_ratio, max_host_ratio : float
        Hosts in service. More than are installed can only be planned, not switched on.
    max_removed_ratio : float
        Share of each group's hosts that one proposal takes away at most. 1 for a plan; in a loop what certification lets through at once
        (`opendt.optimization.bounds.Limits`), the rest being left for the next.
    max_added_ratio : float
        Hosts that one proposal switches on at most, relative to those of the group in service.
    reserve_ratio, reserve_hosts : float, int
        Idle hosts that each group keeps: this share of its busy hosts, and at least so many, as the rules leave. A decision rests
        on an hour of sampled futures; what comes after it must find room. 0 and 0 where all that comes is known.
    min_core_speed_ratio, core_speed_step_ratio : float
        Slowest clock, and the distance of the clocks that are tried. 0.5 as for the rules.
    min_core_ratio, max_core_ratio : float
        Cores of a host. 1 and 1: cores are bought, not switched, so a search leaves them alone unless it is told.
    min_power_cap_ratio, power_cap_step_ratio : float
        Lowest power cap relative to the present peak, and the distance of the caps that are tried; 1 tries none.
    fixed : frozenset of str
        Kinds of genes that are left as they are.
    protected_clusters, protected_groups : tuple of str
        What is left as it is.
    """

    min_host_ratio: float = 0.0
    max_host_ratio: float = 1.0
    max_removed_ratio: float = 1.0
    max_added_ratio: float = math.inf
    reserve_ratio: float = 0.2
    reserve_hosts: int = 1
    min_core_speed_ratio: float = 0.5
    core_speed_step_ratio: float = 0.025
    min_core_ratio: float = 1.0
    max_core_ratio: float = 1.0
    min_power_cap_ratio: float = 0.7
    power_cap_step_ratio: float = 0.05
    fixed: frozenset[GeneKind] = frozenset()
    protected_clusters: tuple[str, ...] = ()
    protected_groups: tuple[str, ...] = ()

    @classmethod
    def within(cls, limits: Limits) -> SpaceLimits:
        """What certification lets through at once, for a loop: to search further would be to be refused."""
        kinds: dict[GeneKind, str] = {
            "cores": "resize_hosts",
            "clock": "resize_hosts",
            "power_cap": "set_power_cap",
            "allocation": "set_allocation",
        }
        return cls(
            max_removed_ratio=limits.max_removed_ratio if "remove_hosts" in limits.allowed else 0.0,
            max_added_ratio=limits.max_added_ratio if "add_hosts" in limits.allowed else 0.0,
            min_core_speed_ratio=max(limits.min_speed_ratio, cls().min_core_speed_ratio),
            fixed=frozenset(kind for kind, action in kinds.items() if action not in limits.allowed),
            protected_clusters=limits.protected_clusters,
            protected_groups=limits.protected_groups,
        )

    def leaves(self, gene: Gene) -> bool:
        """Whether what a gene sets is to be left as it is."""
        cluster, group = gene.key
        return gene.kind in self.fixed or cluster in self.protected_clusters or group in self.protected_groups

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
        if not 0 <= self.max_removed_ratio <= 1:
            raise ValueError(f"max_removed_ratio is {self.max_removed_ratio}, expected a ratio from 0 to 1")
        if not self.max_added_ratio >= 0:
            raise ValueError(f"max_added_ratio is {self.max_added_ratio}, expected at least 0")
        for name in (
            "min_core_speed_ratio",
            "core_speed_step_ratio",
            "min_power_cap_ratio",
            "power_cap_step_ratio",
        ):
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


def number_gene(kind: GeneKind, key: Key, levels: Sequence[float], now: float) -> Gene:
    """A gene of numbers; how things are now is always one of its levels."""
    ordered = tuple(sorted({*levels, now}))
    return Gene(kind, key, ordered, ordered.index(now))


def hosts_gene(key: Key, state: GroupState, template: HostGroup | None, standing: int, limits: SpaceLimits) -> Gene:
    """Number of hosts in service; those that are failed or draining stand where others could, so they are not added a second time."""
    installed = max(standing, 0 if template is None else template.count)
    busy = len(state.busy)
    reserve = max(limits.reserve_hosts, math.ceil(limits.reserve_ratio * busy - 1e-9)) if state.host_count else 0
    reserve += busy if reserve else 0
    least = min(max(math.ceil(installed * limits.min_host_ratio - 1e-9), reserve), state.host_count)
    least = max(least, state.host_count - math.floor(limits.max_removed_ratio * state.host_count + 1e-9))
    most = min(state.host_count, math.floor(installed * limits.max_host_ratio + 1e-9))
    # A name that two clusters use would resize hosts of both, and added hosts have no names yet.
    if template is not None and state.unique:
        room = max(0, math.floor(installed * limits.max_host_ratio + 1e-9) - standing)
        at_once = math.inf if math.isinf(limits.max_added_ratio) else limits.max_added_ratio * state.host_count + 1e-9
        most = state.host_count + (room if at_once >= room else math.floor(at_once))
    return number_gene("hosts", key, range(least, most + 1), state.host_count)


def standing_hosts(context: Context) -> dict[Key, int]:
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


def switched_off(key: Key, template: HostGroup) -> GroupState:
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


def clocks(mhz: float, limits: SpaceLimits) -> list[float]:
    """Speeds of a core to try, MHz: what is installed, and below it in even steps."""
    steps = math.floor((1.0 - limits.min_core_speed_ratio) / limits.core_speed_step_ratio + 1e-9)
    return [mhz] + [round(mhz * (1.0 - step * limits.core_speed_step_ratio), 1) for step in range(1, steps + 1)]


def cap_genes(context: Context, topology: Topology | None, limits: SpaceLimits) -> list[Gene]:
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

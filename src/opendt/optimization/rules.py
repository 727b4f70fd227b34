"""The rules of the rule-based optimiser, each a function of its own: what to change, and why, or None.

A rule reads the context and nothing else; which rule is heard is decided in `opendt.optimization.rule_based`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from opendt.model.change import (
    Change,
    GroupHosts,
    Hosts,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    ThrottleHosts,
)
from opendt.optimization.bounds import Limits
from opendt.optimization.room import keeps_homes, keeps_room

if TYPE_CHECKING:
    from opendt.optimization.base import Context, GroupState
    from opendt.optimization.scoring import SloStatus

__all__ = ["RULES", "Draft", "Installed", "Rule", "RuleSettings", "Statuses", "worst_runtime"]

_RUNTIME: Final = ("makespan", "task_wait_p95", "task_slowdown_p95")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """Thresholds and amounts; ratios, so that they mean the same for a rack and for a hall.

    Parameters
    ----------
    massive_energy_excess_ratio, frequency_energy_excess_ratio : float
        Energy above target from which hosts are taken away, and from which the frequency is lowered.
    runtime_excess_ratio, light_runtime_excess_ratio : float
        Runtime above target from which cores are added, many or few.
    low_utilization_ratio : float
        Utilisation below which empty hosts are switched off.
    downscale_ratio, frequency_cut_ratio, core_gain_ratio, light_core_gain_ratio : float
        How much is taken or added at once.
    min_core_speed_ratio : float
        Least frequency relative to what was installed. 0.5: about the range of server CPUs between lowest and base clock.
    max_core_ratio : float
        Most cores relative to what was installed. 2: the next larger model of a line of servers, not another machine.
    max_removed_ratio : float
        Share of the hosts in service that one proposal takes away at most: that of `opendt.optimization.bounds.Limits`, beyond
        which a proposal is refused. What is more is left for the next one.
    reserve_ratio, reserve_hosts : float, int
        What consolidation leaves of idle hosts in each group: this share of its busy hosts, and at least so many.
    cooldown_ms : int
        Time after a proposal in which only a more urgent rule is heard, ms. An hour: what is proposed needs a person's look
        and some windows to show its effect.
    """

    massive_energy_excess_ratio: float = 0.30
    frequency_energy_excess_ratio: float = 0.15
    runtime_excess_ratio: float = 0.25
    light_runtime_excess_ratio: float = 0.10
    low_utilization_ratio: float = 0.40
    downscale_ratio: float = 0.30
    frequency_cut_ratio: float = 0.15
    core_gain_ratio: float = 0.25
    light_core_gain_ratio: float = 0.10
    min_core_speed_ratio: float = 0.5
    max_core_ratio: float = 2.0
    max_removed_ratio: float = Limits().max_removed_ratio
    reserve_ratio: float = 0.2
    reserve_hosts: int = 1
    cooldown_ms: int = 3_600_000

    def __post_init__(self) -> None:
        """Refuse amounts that make no sense.

        Raises
        ------
        ValueError
            When an amount is negative or not finite, or a share that is taken away is not below 1.
        """
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"rule setting {name} is {value}, expected a number of at least 0")
        for name in ("downscale_ratio", "frequency_cut_ratio"):
            if getattr(self, name) >= 1:
                raise ValueError(f"rule setting {name} is {getattr(self, name)}, expected a share below 1")


@dataclass(frozen=True, slots=True)
class Draft:
    """What a rule wants changed, and why."""

    reason: str
    changes: tuple[Change, ...]


Installed = dict[tuple[str, str], tuple[int, float]]
"""(cluster, group) -> cores and MHz as the optimiser first saw them; the bounds refer to these."""

Statuses = dict[str, "SloStatus"]
Taken = list[tuple["GroupState", int]]
"""How many hosts of which group."""
Rule = Callable[["Context", Statuses, RuleSettings, Installed], Draft | None]


def worst_runtime(statuses: Statuses) -> SloStatus | None:
    """Find the runtime target that is exceeded most; None when nothing is known of any."""
    known = [s for name in _RUNTIME if (s := statuses.get(name)) is not None and s.excess_ratio is not None]
    return max(known, key=lambda status: status.excess_ratio or 0.0, default=None)


def scale_up(context: Context, statuses: Statuses, settings: RuleSettings, installed: Installed) -> Draft | None:
    """Runtime far above target: many more cores."""
    worst = _exceeding(worst_runtime(statuses), settings.runtime_excess_ratio)
    return _more_cores(context, worst, settings.core_gain_ratio, settings, installed) if worst else None


def light_scale_up(context: Context, statuses: Statuses, settings: RuleSettings, installed: Installed) -> Draft | None:
    """Runtime somewhat above target: some more cores."""
    worst = _exceeding(worst_runtime(statuses), settings.light_runtime_excess_ratio)
    return _more_cores(context, worst, settings.light_core_gain_ratio, settings, installed) if worst else None


def massive_downscale(context: Context, statuses: Statuses, settings: RuleSettings, _: Installed) -> Draft | None:
    """Energy far above target: many fewer hosts, idle ones first."""
    energy = _exceeding(statuses.get("energy"), settings.massive_energy_excess_ratio)
    if energy is None:
        return None
    total = context.host_count or context.metrics.hosts_up or 0
    wanted = min(max(1, math.floor(settings.downscale_ratio * total)), total - 1, _most_removed(total, settings))
    if wanted < 1 or settings.downscale_ratio == 0:
        return None
    if not context.groups:
        return Draft(f"{_words(energy)}: take {wanted} of {total} hosts away", (RemoveHosts(count=wanted),))
    taken = _leave_homes(context, _keep_clusters(context, _take(context, wanted)))
    changes = _removals(taken)
    if not changes:
        return None
    count = sum(count for _, count in taken)
    idle = sum(min(count, len(group.idle)) for group, count in taken)
    return Draft(f"{_words(energy)}: take {count} of {total} hosts away, {idle} of them idle", changes)


def lower_frequency(context: Context, statuses: Statuses, settings: RuleSettings, installed: Installed) -> Draft | None:
    """Energy above target: a lower clock."""
    energy = _exceeding(statuses.get("energy"), settings.frequency_energy_excess_ratio)
    kept = 1.0 - settings.frequency_cut_ratio
    if energy is None:
        return None
    cut = f"{_words(energy)}: lower the clock by {settings.frequency_cut_ratio:.0%}"
    if not context.groups:
        return Draft(cut, (ThrottleHosts(speed_ratio=kept),)) if kept < 1 else None
    changes = []
    for group in context.groups:
        _, installed_mhz = installed.get((group.cluster, group.group), (group.core_count, group.core_speed_mhz))
        mhz = round(max(group.core_speed_mhz * kept, installed_mhz * settings.min_core_speed_ratio), 1)
        if mhz < group.core_speed_mhz:
            changes.append(ResizeHosts(hosts=_selector(group), core_speed_mhz=mhz))
    return Draft(cut, tuple(changes)) if changes else None


def consolidate(context: Context, _: Statuses, settings: RuleSettings, __: Installed) -> Draft | None:
    """Hosts stand empty: switch off those that neither the present tasks nor a reserve need."""
    utilization = context.metrics.utilization_ratio
    if utilization is None or utilization >= settings.low_utilization_ratio:
        return None
    words = f"utilisation was {utilization:.0%}, below {settings.low_utilization_ratio:.0%}"
    if not context.groups:
        up, busy = context.metrics.hosts_up or 0, context.metrics.hosts_busy
        spare = 0 if busy is None else up - busy - context.load.queued - _reserve(busy, settings)
        spare = min(spare, _most_removed(up, settings))
        return Draft(f"{words}: switch off {spare} empty hosts", (RemoveHosts(count=spare),)) if spare > 0 else None
    idle = _keep_clusters(context, _spare_idle(context, settings))
    taken = _at_most(_leave_room(context, idle, settings), _most_removed(context.host_count, settings))
    count = sum(count for _, count in taken)
    if not count:
        return None
    changes = _removals(taken)
    left = sum(len(group.idle) for group in context.groups) - count
    return Draft(f"{words}: switch off {count} empty hosts of {context.host_count}, leaving {left} in reserve", changes)


RULES: Final[dict[str, Rule]] = {
    "scale_up": scale_up,
    "light_scale_up": light_scale_up,
    "massive_downscale": massive_downscale,
    "lower_frequency": lower_frequency,
    "consolidate": consolidate,
}
"""Rules by name, the most urgent first."""


def _exceeding(status: SloStatus | None, ratio: float) -> SloStatus | None:
    """Keep a status that lies at least `ratio` above its target."""
    if status is None or status.excess_ratio is None:
        return None
    # 2.3 over 2 is 15 % above to a person and a little less in floating point.
    return status if status.excess_ratio >= ratio - 1e-9 else None


def _words(status: SloStatus) -> str:
    name = {"energy": "energy", "task_wait_p95": "wait (p95)", "task_slowdown_p95": "slowdown (p95)"}
    excess, measured = status.excess_ratio or 0.0, status.measured or 0.0
    value = f"{measured:.4g} {status.unit}, {excess:.0%} above the target of {status.target:.4g}"
    return f"{name.get(status.name, status.name)} was {value}"


def _more_cores(
    context: Context, worst: SloStatus, gain_ratio: float, settings: RuleSettings, installed: Installed
) -> Draft | None:
    changes = []
    for group in context.groups:
        installed_cores, _ = installed.get((group.cluster, group.group), (group.core_count, group.core_speed_mhz))
        most = math.floor(installed_cores * settings.max_core_ratio)
        # The small deduction keeps 20 x 1.1 at 22: it is a little above that in floating point.
        cores = min(math.ceil(group.core_count * (1.0 + gain_ratio) - 1e-9), most)
        if cores > group.core_count:
            changes.append(ResizeHosts(hosts=_selector(group), core_count=cores))
    return Draft(f"{_words(worst)}: give each host {gain_ratio:.0%} more cores", tuple(changes)) if changes else None


def _selector(group: GroupState) -> Hosts:
    """Name the hosts of a group."""
    return GroupHosts(group=group.group) if group.unique else NamedHosts(names=(*group.idle, *group.busy))


def _removal(group: GroupState, count: int) -> RemoveHosts:
    """Take hosts of a group away, idle ones first.

    A count is clearer to a person, and is still right when another host is idle by the time it is applied; but the engine
    counts failed and draining hosts in, so a group with such hosts is told by name.
    """
    if group.unique and group.intact:
        return RemoveHosts(hosts=GroupHosts(group=group.group), count=count)
    last_first = (*reversed(group.idle), *reversed(group.busy))
    return RemoveHosts(hosts=NamedHosts(names=last_first[:count]))


def _by_waste(groups: Iterable[GroupState]) -> list[GroupState]:
    """Order groups by the power of an idle core, highest first; equal ones stay in the order of definition."""
    return sorted(groups, key=lambda group: -group.idle_power_w / group.core_count)


def _removals(taken: Taken) -> tuple[RemoveHosts, ...]:
    return tuple(_removal(group, count) for group, count in taken if count)


def _take(context: Context, wanted: int) -> Taken:
    """Share `wanted` hosts among the groups, idle ones first."""
    groups = _by_waste(context.groups)
    large = [group for group in groups if group.core_count >= context.load.largest_core_count]
    last_home = large[-1] if large else groups[-1]  # keeps one host, or the largest task could never run again
    room = {id(group): group.host_count - (group is last_home) for group in groups}
    taken = dict.fromkeys(room, 0)
    for kind in ("idle", "busy"):
        for group in groups:
            key = id(group)
            count = min(wanted, len(getattr(group, kind)), room[key] - taken[key])
            taken[key] += count
            wanted -= count
    return [(group, taken[id(group)]) for group in groups]


def _most_removed(total: int, settings: RuleSettings) -> int:
    """How many of so many hosts one proposal may take away."""
    return math.floor(settings.max_removed_ratio * total + 1e-9)


def _at_most(taken: Taken, most: int) -> Taken:
    """Take no more than so many hosts, from the first groups on."""
    kept: Taken = []
    for group, count in taken:
        kept.append((group, min(count, most)))
        most -= kept[-1][1]
    return kept


def _keep_clusters(context: Context, taken: Taken) -> Taken:
    """Let every cluster keep a host: one without any is refused, whatever it would save."""
    for cluster in {group.cluster for group in context.groups}:
        there = sum(group.host_count for group in context.groups if group.cluster == cluster)
        if there == sum(count for group, count in taken if group.cluster == cluster):
            last = max(n for n, (group, count) in enumerate(taken) if group.cluster == cluster and count)
            group, count = taken[last]
            taken = [*taken[:last], (group, count - 1), *taken[last + 1 :]]
    return taken


def _leave_homes(context: Context, taken: Taken) -> Taken:
    """Let a group that would go altogether keep a host where some task would else fit no host that stays."""
    for number, (group, count) in enumerate(taken):
        simulation = context.simulation
        if simulation is None or keeps_homes(simulation, _removals(taken)):
            break
        if count == group.host_count:
            taken = [*taken[:number], (group, count - 1), *taken[number + 1 :]]
    return taken


def _reserve(busy: int, settings: RuleSettings) -> int:
    return max(settings.reserve_hosts, math.ceil(settings.reserve_ratio * busy - 1e-9))


def _spare_idle(context: Context, settings: RuleSettings) -> Taken:
    """Count the idle hosts of each group that are not needed, by cores.

    Each group keeps its reserve, because the tasks that run there may fit nowhere else (memory, architecture, GPUs). Over
    all groups there stays room for the queue and for the reserve's share of the running tasks, each taken to be as large
    as the largest of them.
    """
    largest = context.load.largest_core_count
    free = [cores for group in context.groups for cores in group.free_cores]
    room = sum(cores // largest for cores in free) if largest else 0
    needed = context.load.queued + math.ceil(settings.reserve_ratio * context.load.running - 1e-9)
    taken = []
    for group in _by_waste(context.groups):
        spare = max(0, len(group.idle) - _reserve(len(group.busy), settings))
        room_of_host = group.core_count // largest if largest else 0
        if room_of_host:
            spare = min(spare, max(0, (room - needed) // room_of_host))
        room -= spare * room_of_host
        taken.append((group, spare))
    return taken


def _leave_room(context: Context, taken: Taken, settings: RuleSettings) -> Taken:
    """Take fewer hosts where tasks would miss them for something other than cores: memory, GPUs, what they are bound to.

    Everything that would be placed now must be placed without the hosts too, with the reserve's share of each group's busy hosts
    out of service. Group by group, half as many are taken until that holds.
    """
    simulation = context.simulation
    displaced = [name for group in context.groups for name in _fullest(group, settings.reserve_ratio)]

    def fits(taken: Taken) -> bool:
        removals = _removals(taken)
        return (
            simulation is None or not removals or all(keeps_room(simulation, removals, one) for one in ((), displaced))
        )

    if fits(taken):
        return taken
    kept: Taken = []
    for group, wanted in taken:
        count = wanted
        while count and not fits([*kept, (group, count)]):
            count //= 2
        kept.append((group, count))
    return kept


def _fullest(group: GroupState, ratio: float) -> list[str]:
    """Share of a group's busy hosts, those with the fewest free cores first."""
    free_cores = group.free_cores[len(group.idle) :]
    ordered = sorted(zip(free_cores, range(len(group.busy)), strict=True))
    return [group.busy[n] for _, n in ordered[: math.ceil(ratio * len(group.busy) - 1e-9)]]

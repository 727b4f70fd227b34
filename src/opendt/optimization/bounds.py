"""What no proposal may do, whatever good a simulation would find in it: checked before anything is simulated.

In this order, each with a named reason (`Reason.code`):

=====================  ==================================================================================================
``schema``             it is no proposal
``too_many_changes``   more changes than `Limits.max_changes`
``not_allowed``        a kind of change that is not on the list: others change the model of the world, not the world
``unknown``            a cluster, group or host that does not exist
``out_of_service``     a host that is switched off
``protected``          a cluster, group or host that may not be touched
``out_of_bounds``      cores, frequency, memory, power or counts that the installed hardware cannot have
``unknown_hardware``   new hosts of a kind that is neither installed nor in the catalogue
``empty``              a change of nothing
``refused``            the engine cannot apply it
``diff_limit``         too large a share of the hosts removed, added or changed at once
``own_bounds``         beyond the limits that the proposer claims to have kept
``no_hosts``           a cluster would be left without hosts
``does_not_fit``       a running task would have fewer cores than it asked for, or a task no host that is large enough
``capacity``           less capacity than what runs now takes
=====================  ==================================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, ValidationError, field_validator

from opendt.model.base import Count, Model, NonNegative, Positive, Ratio
from opendt.model.certificate import Reason
from opendt.model.change import (
    AddHosts,
    ClusterHosts,
    ConserveWork,
    GroupHosts,
    MigrateTask,
    NamedHosts,
    RemoveHosts,
    RepairHosts,
    ResizeHosts,
    SetPowerCap,
    ThrottleHosts,
)
from opendt.model.errors import OpenDTError, shown
from opendt.model.proposal import Proposal
from opendt.model.topology import HostGroup
from opendt.optimization.bounds_plant import IN_SERVICE, Plant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.engine.simulation import Simulation
    from opendt.model.change import Change, Hosts
    from opendt.model.topology import Topology

__all__ = ["ACTIONS", "Limits", "check_proposal", "read_proposal"]

ACTIONS: Final = (
    "add_hosts",
    "migrate_task",
    "remove_hosts",
    "repair_hosts",
    "resize_hosts",
    "set_allocation",
    "set_power_cap",
    "throttle_hosts",
)
"""Changes that somebody can carry out. The others tell the model what the world did (a failure, a new power curve, work)."""

_MOST_BYTES: Final = 1_000_000


class Limits(Model):
    """What an operator lets anybody propose.

    Parameters
    ----------
    allowed : tuple of str
        Kinds of change.
    protected_clusters, protected_groups, protected_hosts : tuple of str
        What may not be touched.
    catalogue : tuple of HostGroup
        Hardware that may be added beside what is installed; `name` and `count` do not matter.
    max_changes : int
        In one proposal.
    max_removed_ratio, max_added_ratio, max_changed_ratio : float
        Share of the hosts in service that one proposal may switch off, add, and change otherwise.
    min_speed_ratio, max_speed_ratio : float
        Frequency relative to the installed one.
    max_core_ratio : float
        Cores relative to the installed ones.
    max_memory_ratio : float
        Memory relative to the installed one.
    """

    allowed: tuple[str, ...] = ACTIONS
    protected_clusters: tuple[str, ...] = ()
    protected_groups: tuple[str, ...] = ()
    protected_hosts: tuple[str, ...] = ()
    catalogue: tuple[HostGroup, ...] = ()
    max_changes: Annotated[Count, Field(ge=1)] = 64
    max_removed_ratio: Ratio = 0.5
    max_added_ratio: NonNegative = 0.5
    max_changed_ratio: Ratio = 1.0
    min_speed_ratio: Positive = 0.4
    max_speed_ratio: Positive = 1.0
    max_core_ratio: Positive = 2.0
    max_memory_ratio: Positive = 2.0

    @field_validator("allowed")
    @classmethod
    def _can_be_carried_out(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        strange = next((name for name in value if name not in ACTIONS), None)
        if strange is not None:
            raise ValueError(f"{strange!r} is none of {', '.join(ACTIONS)}")
        return value


def read_proposal(data: bytes | str) -> Proposal | Reason:
    """Read a proposal from JSON of a stranger; what is wrong with it comes as a reason, never as an exception."""
    if len(data) > _MOST_BYTES:
        return Reason(code="schema", text=f"{len(data):,} bytes, expected at most {_MOST_BYTES:,}")
    try:
        return Proposal.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return Reason(code="schema", text=f"{place}: found {shown(first['input'])}, expected: {first['msg']}")


def check_proposal(
    proposal: Proposal, present: Simulation, installed: Topology, limits: Limits | None = None
) -> tuple[Reason, ...]:
    """Say what speaks against a proposal in the state that it is to be applied to; nothing if nothing does.

    Parameters
    ----------
    proposal : Proposal
        Somebody's.
    present : Simulation
        The system as it is; forked, never changed.
    installed : Topology
        The hardware as it was bought.
    limits : Limits, optional
        The operator's.

    Returns
    -------
    tuple of Reason
        The first reason of each change; the effect of all of them together is looked at only if each one holds.
    """
    limits = limits or Limits()
    if len(proposal.changes) > limits.max_changes:
        text = f"{len(proposal.changes)} changes, expected at most {limits.max_changes}"
        return (Reason(code="too_many_changes", text=text),)
    plant = Plant.of(present, installed)
    reasons = []
    for number, change in enumerate(proposal.changes):
        first = next(_problems(change, plant, limits), None)
        if first is not None:
            code, text = first
            reasons.append(Reason(code=code, text=f"changes[{number}] ({change.type}): {text}"))
    if reasons:
        return tuple(reasons)
    trial = present.fork(with_basis=False)
    try:
        trial.apply(ConserveWork(), *proposal.changes)
    except OpenDTError as error:
        return (Reason(code="refused", text=str(error)),)
    after = Plant.of(trial, installed)
    return tuple(Reason(code=code, text=text) for code, text in _effects(proposal, plant, after, limits))


def _problems(change: Change, plant: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    """What is wrong with one change by itself."""
    if change.type not in limits.allowed:
        yield "not_allowed", f"expected one of {', '.join(limits.allowed)}"
        return
    if isinstance(change, AddHosts | SetPowerCap):
        yield from _cluster_problems(change.cluster, plant, limits)
    if isinstance(change, RemoveHosts | ResizeHosts | ThrottleHosts | RepairHosts):
        yield from _selector_problems(change.hosts, plant, limits)
    if isinstance(change, MigrateTask):
        yield from _selector_problems(NamedHosts(names=(change.host,)), plant, limits)
    if isinstance(change, AddHosts):
        yield from _new_hosts(change, plant, limits)
    elif isinstance(change, RemoveHosts):
        yield from _removal(change, plant)
    elif isinstance(change, ResizeHosts):
        yield from _resize(change, plant, limits)
    elif isinstance(change, ThrottleHosts):
        yield from _within(change.speed_ratio, limits.min_speed_ratio, limits.max_speed_ratio, "speed_ratio")
    elif isinstance(change, SetPowerCap):
        yield from _cap(change, plant)


def _within(value: float, low: float, high: float, name: str) -> Iterator[tuple[str, str]]:
    if not low <= value <= high:
        yield "out_of_bounds", f"{name} is {value:g}, expected {low:g} to {high:g}"


def _cluster_problems(cluster: str, plant: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    if cluster not in plant.clusters:
        yield "unknown", f"there is no cluster {shown(cluster)}, expected one of {', '.join(sorted(plant.clusters))}"
    elif cluster in limits.protected_clusters:
        yield "protected", f"cluster {cluster} may not be touched"


def _selector_problems(hosts: Hosts, plant: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    stranger = next(_strangers(hosts, plant), None)
    if stranger is not None:
        yield stranger
        return
    numbers = plant.selected(hosts)
    if not numbers:
        yield "empty", "no host in service is meant"
    for column, protected in (
        ("cluster", limits.protected_clusters),
        ("group", limits.protected_groups),
        ("name", limits.protected_hosts),
    ):
        for name in (plant.hosts[column][number] for number in numbers):
            if name in protected:
                yield "protected", f"{column.replace('name', 'host')} {name} may not be touched"


def _strangers(hosts: Hosts, plant: Plant) -> Iterator[tuple[str, str]]:
    """Names that mean nothing here."""
    if isinstance(hosts, ClusterHosts) and hosts.cluster not in plant.clusters:
        yield (
            "unknown",
            f"there is no cluster {shown(hosts.cluster)}, expected one of {', '.join(sorted(plant.clusters))}",
        )
    elif isinstance(hosts, GroupHosts) and hosts.group not in plant.hosts["group"]:
        known = sorted(set(plant.hosts["group"]))
        yield "unknown", f"there is no host group {shown(hosts.group)}, expected one of {', '.join(known[:8])}"
    elif isinstance(hosts, NamedHosts):
        for name in hosts.names:
            if name not in plant.numbers:
                yield "unknown", f"there is no host {shown(name)}"
            elif plant.hosts["status"][plant.numbers[name]] not in IN_SERVICE:
                yield "out_of_service", f"host {name} is {plant.hosts['status'][plant.numbers[name]]}"
        if len(set(hosts.names)) != len(hosts.names):
            yield "out_of_bounds", "a host is named twice"


def _new_hosts(change: AddHosts, plant: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    group = change.group
    if group.count == 0:
        yield "empty", "no host is added"

    def kind(one: HostGroup) -> HostGroup:
        return one.model_copy(update={"name": "any", "count": 1})

    known = (*plant.groups.values(), *limits.catalogue)
    if not any(kind(group) == kind(other) for other in known):
        found = f"{group.core_count} cores at {group.core_speed_mhz:g} MHz with {group.memory_mib} MiB"
        yield "unknown_hardware", f"{found}: neither installed nor in the catalogue in all its values"


def _removal(change: RemoveHosts, plant: Plant) -> Iterator[tuple[str, str]]:
    if change.count is None:
        return
    # The engine takes hosts that are up when it is told a number.
    there = sum(plant.hosts["status"][number] == "up" for number in plant.selected(change.hosts))
    if change.count == 0:
        yield "empty", "count is 0"
    elif change.count > there:
        yield "out_of_bounds", f"count is {change.count}, and {there} such hosts are up"


def _resize(change: ResizeHosts, plant: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    if change.core_count is None and change.core_speed_mhz is None and change.memory_mib is None:
        yield "empty", "neither cores nor frequency nor memory are changed"
    known = (*plant.groups.values(), *limits.catalogue)
    numbers = plant.selected(change.hosts)
    columns = (plant.hosts["cluster"], plant.hosts["group"])
    for key in dict.fromkeys((columns[0][number], columns[1][number]) for number in numbers):
        # Hosts that were added from the catalogue under a name of their own may be what any known hardware is.
        kinds = (plant.groups[key],) if key in plant.groups else known
        if change.core_count is not None:
            most = max(one.core_count for one in kinds) * limits.max_core_ratio
            yield from _within(change.core_count, 1, most, "core_count")
        if change.core_speed_mhz is not None:
            slowest, fastest = (pick(one.core_speed_mhz for one in kinds) for pick in (min, max))
            low, high = slowest * limits.min_speed_ratio, fastest * limits.max_speed_ratio
            yield from _within(change.core_speed_mhz, low, high, "core_speed_mhz")
        if change.memory_mib is not None:
            most = max(one.memory_mib for one in kinds) * limits.max_memory_ratio
            yield from _within(change.memory_mib, 1, most, "memory_mib")


def _cap(change: SetPowerCap, plant: Plant) -> Iterator[tuple[str, str]]:
    """A cap below what the hosts take at rest cannot be kept by any throttling."""
    if change.max_power_w is None:
        return
    members = [number for number in plant.in_service() if plant.hosts["cluster"][number] == change.cluster]
    kinds = (plant.kind(number) for number in members)
    rest_w = sum(kind.power_model.watts_at(0.0) for kind in kinds if kind is not None)
    if change.max_power_w < rest_w:
        yield "out_of_bounds", f"max_power_w is {change.max_power_w:g}, and the hosts take {rest_w:g} W at rest"


# -- what all changes do together --------------------------------------------------------------------------------------


def _effects(proposal: Proposal, before: Plant, after: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    yield from _diff(before, after, limits)
    yield from _own_bounds(proposal, before, after)
    for cluster in sorted({before.hosts["cluster"][number] for number in before.up()}):
        if not any(after.hosts["cluster"][number] == cluster for number in after.up()):
            yield "no_hosts", f"cluster {cluster} would be left without hosts"
    yield from _fits(before, after)
    yield from _capacity(before, after)


def _diff(before: Plant, after: Plant, limits: Limits) -> Iterator[tuple[str, str]]:
    served = before.in_service()
    total = max(len(served), 1)
    status = after.hosts["status"]
    gone = [n for n in served if status[n] != before.hosts["status"][n] and status[n] in ("removed", "draining")]
    columns = ("core_count", "capacity_mhz")
    changed = sum(any(before.hosts[c][n] != after.hosts[c][n] for c in columns) for n in served)
    added = len(after.hosts["name"]) - len(before.hosts["name"])
    for words, count, most in (
        ("removed", len(gone), limits.max_removed_ratio),
        ("changed", changed, limits.max_changed_ratio),
        ("added", added, limits.max_added_ratio),
    ):
        if count > most * total:
            text = f"{count} of {total} hosts would be {words} at once, expected at most {most:.0%}"
            yield "diff_limit", text


def _own_bounds(proposal: Proposal, before: Plant, after: Plant) -> Iterator[tuple[str, str]]:
    bounds, hosts = proposal.bounds, after.hosts
    up = after.up()
    least = before.hosts
    changed = [
        number
        for number in up
        if number >= len(least["name"])
        or (least["core_count"][number], least["capacity_mhz"][number])
        != (hosts["core_count"][number], hosts["capacity_mhz"][number])
    ]
    speeds = [hosts["capacity_mhz"][number] / hosts["core_count"][number] for number in changed]
    for name, values in (
        ("hosts", [len(up)]),
        ("core_count", [hosts["core_count"][number] for number in changed]),
        ("core_speed_mhz", speeds),
    ):
        low, high = getattr(bounds, f"min_{name}"), getattr(bounds, f"max_{name}")
        slack = 1e-9 * abs(high or low or 0.0)
        if values and low is not None and min(values) < low - slack:
            yield "own_bounds", f"{name} would be {min(values):g}, and the proposal says at least {low:g}"
        if values and high is not None and max(values) > high + slack:
            yield "own_bounds", f"{name} would be {max(values):g}, and the proposal says at most {high:g}"


def _fits(before: Plant, after: Plant) -> Iterator[tuple[str, str]]:
    cores = after.hosts["core_count"]
    before_cores, asked_before = before.hosts["core_count"], before.asked_cores()
    for host, asked in sorted(after.asked_cores().items()):
        was_over = host < len(before_cores) and asked_before[host] > before_cores[host]
        if asked > cores[host] and not was_over:
            text = f"tasks on host {after.hosts['name'][host]} asked for {asked} cores, and it would have {cores[host]}"
            yield "does_not_fit", text
            break
    live = [n for state, n in zip(after.tasks["state"], after.tasks["cpu_count"], strict=True) if state != "blocked"]
    up = after.up()
    largest, room = max(live, default=0), max((cores[number] for number in up), default=0)
    room_before = max((before_cores[number] for number in before.up()), default=0)
    if up and largest > room and largest <= room_before:
        yield "does_not_fit", f"a task asked for {largest} cores, and the largest host would have {room}"


def _capacity(before: Plant, after: Plant) -> Iterator[tuple[str, str]]:
    running = [host >= 0 for host in before.tasks["host"]]
    needs = {
        "core_count": sum(n for n, runs in zip(before.tasks["cpu_count"], running, strict=True) if runs),
        "capacity_mhz": sum(before.tasks["cpu_mhz"]),
    }
    for column, unit in (("core_count", "cores"), ("capacity_mhz", "MHz")):
        have = sum(after.hosts[column][number] for number in after.up())
        had = sum(before.hosts[column][number] for number in before.up())
        if have < min(needs[column], had) * (1.0 - 1e-9):
            yield "capacity", f"{have:g} {unit} would be left, and what runs takes {needs[column]:g}"

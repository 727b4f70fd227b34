"""What every optimiser is given and gives: a `Context` in, a `Proposal` or nothing out. An optimiser never acts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation
    from opendt.model.proposal import Proposal
    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.twin.metrics import WindowMetrics

__all__ = ["Context", "GroupState", "Optimizer", "SystemState", "TaskLoad", "groups_of_hosts", "groups_of_topology"]


_IN_SYSTEM: Final = frozenset({"running", "queued", "failed", "paused"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupState:
    """The hosts of one group of one cluster as they are now; those out of service are left out.

    Parameters
    ----------
    cluster, group : str
        Names.
    core_count : int
        Cores of a host; of the largest, where a change has made them differ.
    core_speed_mhz : float
        Speed of a core; of the fastest host, since slower ones are throttled for reasons of their own.
    idle, busy : tuple of str
        Hosts in service without and with tasks, in the order of their definition.
    free_cores : tuple of int
        Cores that no task has asked for, of the hosts of `idle`, then of those of `busy`.
    idle_power_w : float
        Power of a host without tasks, W; 0 where unknown.
    unique : bool
        Whether no other cluster has a group of this name, so that the name alone means this one.
    intact : bool
        Whether none of the group's hosts is failed or draining, so that all that are not removed are in service.
    """

    cluster: str
    group: str
    core_count: int
    core_speed_mhz: float
    idle: tuple[str, ...]
    busy: tuple[str, ...]
    free_cores: tuple[int, ...]
    idle_power_w: float = 0.0
    unique: bool = True
    intact: bool = True

    @property
    def host_count(self) -> int:
        """Hosts in service."""
        return len(self.idle) + len(self.busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLoad:
    """Tasks in the system now: how many run, how many wait, and the cores of the largest of them (0 without tasks)."""

    running: int = 0
    queued: int = 0
    largest_core_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemState:
    """Hosts in service and tasks in the system at a moment."""

    groups: tuple[GroupState, ...] = ()
    load: TaskLoad = TaskLoad()

    @classmethod
    def of(cls, simulation: Simulation) -> SystemState:
        """Read the state of a simulation as it stands (about 0.3 ms for 300 hosts)."""
        tasks = simulation.tasks()
        present = [
            (number, state == "running", cores)
            for number, state, cores in zip(
                tasks["host"].tolist(), tasks["state"], tasks["cpu_count"].tolist(), strict=True
            )
            if state in _IN_SYSTEM
        ]
        asked_cores: dict[int, int] = {}
        for host, runs, cores in present:
            if runs:
                asked_cores[host] = asked_cores.get(host, 0) + cores
        running = sum(runs for _, runs, _ in present)
        largest = max((cores for _, _, cores in present), default=0)
        load = TaskLoad(running=running, queued=len(present) - running, largest_core_count=largest)
        return cls(groups=groups_of_hosts(simulation.hosts(), asked_cores), load=load)


@dataclass(frozen=True, kw_only=True)
class Context:
    """The state that a decision is based on.

    Parameters
    ----------
    now_ms : int
        Present time, ms since the start.
    slo : Slo
        Objectives.
    metrics : WindowMetrics
        The window that has just closed.
    source : Simulation or SystemState
        A fork of the twin that nobody advances, or the state itself. A fork is read when an optimiser first asks for hosts
        or tasks: most windows need no more than the metrics.
    """

    now_ms: int
    slo: Slo
    metrics: WindowMetrics
    source: Simulation | SystemState

    @classmethod
    def of(cls, simulation: Simulation, slo: Slo, metrics: WindowMetrics) -> Context:
        """Take the context of a simulation as it stands; it may be advanced and changed afterwards."""
        return cls(now_ms=simulation.now_ms, slo=slo, metrics=metrics, source=simulation.fork(with_basis=False))

    @cached_property
    def system(self) -> SystemState:
        """Hosts and tasks, read once."""
        return self.source if isinstance(self.source, SystemState) else SystemState.of(self.source)

    @property
    def simulation(self) -> Simulation | None:
        """The fork, for questions that only a simulation can answer; None where only the state is known."""
        return None if isinstance(self.source, SystemState) else self.source

    @property
    def groups(self) -> tuple[GroupState, ...]:
        """Hosts in service; empty where only their number is known."""
        return self.system.groups

    @property
    def load(self) -> TaskLoad:
        """Tasks in the system."""
        return self.system.load

    @property
    def host_count(self) -> int:
        """Hosts in service."""
        return sum(group.host_count for group in self.groups)


class Optimizer(Protocol):
    """Something that may propose changes."""

    def propose(self, context: Context) -> Proposal | None:
        """Propose changes, or None when things are best left as they are."""


def groups_of_hosts(hosts: dict[str, Any], asked_cores: dict[int, int]) -> tuple[GroupState, ...]:
    """Group the columns of ``Simulation.hosts()``; `asked_cores` maps a host's number to the cores its tasks ask for."""
    members: dict[tuple[str, str], list[int]] = {}
    broken: set[tuple[str, str]] = set()
    for number, (status, *key) in enumerate(zip(hosts["status"], hosts["cluster"], hosts["group"], strict=True)):
        if status == "up":
            members.setdefault((key[0], key[1]), []).append(number)
        elif status != "removed":
            broken.add((key[0], key[1]))
    clusters_of: dict[str, set[str]] = {}
    for cluster, group in members.keys() | broken:
        clusters_of.setdefault(group, set()).add(cluster)
    columns = {name: hosts[name].tolist() for name in ("tasks", "core_count", "capacity_mhz", "power_w")}
    names = hosts["name"]
    states = []
    for (cluster, group), numbers in members.items():
        idle = [n for n in numbers if columns["tasks"][n] == 0]
        busy = [n for n in numbers if columns["tasks"][n] != 0]
        idle_w = max((columns["power_w"][n] for n in idle), default=0.0)
        states.append(
            GroupState(
                cluster=cluster,
                group=group,
                core_count=max(columns["core_count"][n] for n in numbers),
                core_speed_mhz=max(columns["capacity_mhz"][n] / columns["core_count"][n] for n in numbers),
                idle=tuple(names[n] for n in idle),
                busy=tuple(names[n] for n in busy),
                free_cores=tuple(columns["core_count"][n] - asked_cores.get(n, 0) for n in (*idle, *busy)),
                idle_power_w=idle_w,
                unique=len(clusters_of[group]) == 1,
                intact=(cluster, group) not in broken,
            )
        )
    return tuple(states)


def groups_of_topology(topology: Topology, hosts_busy: int) -> tuple[GroupState, ...]:
    """Group the hosts of a topology file, of which only the number of busy ones is known.

    Busy hosts are taken to be the first ones, because the order of definition breaks the scheduler's ties, and to have no
    free core.
    """
    names = [group.name for cluster in topology.clusters for group in cluster.hosts]
    numbered: dict[str, int] = {}  # group name -> hosts of this name so far, in all clusters
    states = []
    for cluster in topology.clusters:
        for group in cluster.hosts:
            busy = min(hosts_busy, group.count)
            hosts_busy -= busy
            first = numbered.get(group.name, 0)
            numbered[group.name] = first + group.count
            hosts = tuple(_host_name(group.name, first + i) for i in range(group.count))
            states.append(
                GroupState(
                    cluster=cluster.name,
                    group=group.name,
                    core_count=group.core_count,
                    core_speed_mhz=group.core_speed_mhz,
                    idle=hosts[busy:],
                    busy=hosts[:busy],
                    free_cores=(group.core_count,) * (group.count - busy) + (0,) * busy,
                    unique=names.count(group.name) == 1,
                )
            )
    return tuple(state for state in states if state.host_count)


def _host_name(group: str, ordinal: int) -> str:
    """Name a host as the engine does: ``name``, ``name-0``, ``name-1``, …."""
    return group if ordinal == 0 else f"{group}-{ordinal - 1}"

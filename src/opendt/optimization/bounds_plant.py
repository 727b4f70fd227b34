"""The plant as `opendt.optimization.bounds` looks at it: hosts and tasks of a simulation at a moment, beside what is installed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opendt.model.change import ClusterHosts, GroupHosts, NamedHosts

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation
    from opendt.model.change import Hosts
    from opendt.model.topology import HostGroup, Topology

__all__ = ["IN_SERVICE", "Plant"]

IN_SERVICE: Final = ("up", "failed", "draining")
"""States of hosts that are not switched off."""

_TASK_COLUMNS: Final = ("state", "host", "cpu_count", "cpu_mhz")


@dataclass(frozen=True, slots=True)
class Plant:
    """Hosts and tasks at a moment, as columns, with what is installed."""

    hosts: dict[str, Any]
    tasks: dict[str, Any]
    numbers: dict[str, int]
    groups: dict[tuple[str, str], HostGroup]
    clusters: frozenset[str]

    @classmethod
    def of(cls, simulation: Simulation, installed: Topology) -> Plant:
        """Read a simulation as it stands."""
        hosts = simulation.hosts()
        hosts = {name: column if isinstance(column, list) else column.tolist() for name, column in hosts.items()}
        tasks = simulation.tasks()
        return cls(
            hosts=hosts,
            tasks={name: tasks[name] if name == "state" else tasks[name].tolist() for name in _TASK_COLUMNS},
            numbers={name: number for number, name in enumerate(hosts["name"])},
            groups={(cluster.name, group.name): group for cluster in installed.clusters for group in cluster.hosts},
            clusters=frozenset(cluster.name for cluster in installed.clusters),
        )

    def in_service(self) -> list[int]:
        """Numbers of the hosts that are not switched off."""
        return [number for number, status in enumerate(self.hosts["status"]) if status in IN_SERVICE]

    def up(self) -> list[int]:
        """Numbers of the hosts that take tasks."""
        return [number for number, status in enumerate(self.hosts["status"]) if status == "up"]

    def selected(self, hosts: Hosts) -> list[int]:
        """Hosts in service that a selector of known names means."""
        if isinstance(hosts, NamedHosts):
            return [self.numbers[name] for name in hosts.names]
        column, name = "name", None
        if isinstance(hosts, ClusterHosts):
            column, name = "cluster", hosts.cluster
        elif isinstance(hosts, GroupHosts):
            column, name = "group", hosts.group
        values = self.hosts[column]
        return [number for number in self.in_service() if name is None or values[number] == name]

    def kind(self, number: int) -> HostGroup | None:
        """Hardware of a host as it was bought; None for one that was added since under another name."""
        return self.groups.get((self.hosts["cluster"][number], self.hosts["group"][number]))

    def asked_cores(self) -> Counter[int]:
        """Cores that running tasks asked for, by host."""
        asked: Counter[int] = Counter()
        for host, cores in zip(self.tasks["host"], self.tasks["cpu_count"], strict=True):
            if host >= 0:
                asked[host] += cores
        return asked

"""How long a workflow takes: its critical path, a list schedule on its machines, and what the workflow system adds.

A workflow system does not start a task the moment its parents end. Two numbers describe what it adds (`Overhead`): a task
is noticed `startup_s` after its last parent ended, and one dispatcher hands out the noticed tasks, one every `dispatch_s`, in
the order in which they became ready. Both are simulated, not added up: each task is preceded by a delay and by its turn
at a dispatcher of one core, in the same engine and schedule as the task itself.

The schedule is the engine's: first come, first served, a task takes its cores on a machine that has them free and keeps its
measured running time. What queues without holding up the rest (the dispatcher; each machine, where placements are given)
is a host that admits everybody and serves in order of arrival. docs/concepts/workflows.md discusses what that leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opendt.engine.simulation import Simulation
from opendt.model.errors import EngineError
from opendt.model.options import Options
from opendt.model.topology import Cluster, FirstFit, HostGroup, Topology
from opendt.model.workload import Workload

if TYPE_CHECKING:
    from opendt.formats.wfformat import Workflow

__all__ = ["NO_OVERHEAD", "Overhead", "WorkflowStudy", "fit_overhead", "leave_one_out", "simulated_makespan_s"]

_DISPATCHER: Final = "dispatcher"
_WAITING: Final = "waiting room"
_MACHINES: Final = "machines"
_LARGEST_S: Final = 1024.0
_ZOOMS: Final = 4


@dataclass(frozen=True)
class Overhead:
    """What a workflow system adds: s between two dispatches, and s until a ready task is noticed."""

    dispatch_s: float
    startup_s: float = 0.0


NO_OVERHEAD: Final = Overhead(0.0)


@dataclass(frozen=True)
class WorkflowStudy:
    """A workflow's makespans in s: bounds, simulated and measured, and the overhead that other instances taught.

    `scheduled_s` is the list schedule without overhead, `as_placed_s` the same with each task on the machine it ran on;
    `predicted_s` has the `overhead` fitted on the other instances of its system, both None where there is no other.
    """

    name: str
    system: str
    tasks: int
    cores: int
    critical_path_s: float
    scheduled_s: float
    as_placed_s: float | None
    measured_s: float
    overhead: Overhead | None
    predicted_s: float | None

    @property
    def scheduled_error_ratio(self) -> float:
        """Error of the schedule without overhead, as a share of the measured makespan."""
        return self.scheduled_s / self.measured_s - 1.0

    @property
    def predicted_error_ratio(self) -> float | None:
        """Error of the prediction with overhead, as a share of the measured makespan."""
        return None if self.predicted_s is None else self.predicted_s / self.measured_s - 1.0


def simulated_makespan_s(workflow: Workflow, overhead: Overhead = NO_OVERHEAD, *, as_placed: bool = False) -> float:
    """Simulate a list schedule of a workflow on its machines.

    Parameters
    ----------
    workflow : Workflow
        Tasks with their measured running times, and machines.
    overhead : Overhead
        What the workflow system adds.
    as_placed : bool
        Keep each task on the machine it ran on, which then has the speed it had.

    Raises
    ------
    EngineError
        When no machine can hold a task.
    """
    # The engine's scheduler looks once a second unless told otherwise; how often a real one does is part of the overhead.
    options = Options(scaling_policy="perfect", scheduling_quantum_ms=1)
    simulation = Simulation(_hosts(workflow, as_placed), options)
    simulation.submit(_with_turns(workflow, overhead, as_placed))
    simulation.run()
    if simulation.counts["terminated"]:
        raise EngineError(workflow.name, "a task that fits no machine", "machines for every task")
    return simulation.now_ms / 1000.0


def fit_overhead(workflows: Sequence[Workflow], *, with_startup: bool = False) -> Overhead:
    """Find the overhead that explains measured makespans best: least squares of the logarithms of their ratios.

    Parameters
    ----------
    workflows : sequence of Workflow
        Instances of one workflow system.
    with_startup : bool
        Fit the start-up delay too; not with a single instance, since one number cannot tell two apart. The search is a
        grid that zooms in four times, to about 5 % of each number.

    Raises
    ------
    ValueError
        Without workflows.
    """
    if not workflows:
        raise ValueError("an overhead is fitted on at least one workflow")
    known: dict[tuple[int, Overhead], float] = {}

    def loss(overhead: Overhead) -> float:
        total = 0.0
        for index, workflow in enumerate(workflows):
            key = (index, overhead)
            if key not in known:
                ratio = max(simulated_makespan_s(workflow, overhead), 1e-3) / max(workflow.makespan_s, 1e-3)
                known[key] = math.log(ratio) ** 2
            total += known[key]
        return total

    doubling = [0.0, *(2.0**power for power in range(-3, int(math.log2(_LARGEST_S)) + 1))]
    startups = doubling if with_startup and len(workflows) > 1 else [0.0]
    grid = [Overhead(dispatch, startup) for dispatch in doubling for startup in startups]
    best, factor = min(grid, key=loss), 2.0
    for _ in range(_ZOOMS):
        factor = math.sqrt(factor)
        steps = (1.0 / factor, 1.0, factor)
        near = [
            Overhead(best.dispatch_s * a, best.startup_s * b)
            for a in steps
            for b in (steps if best.startup_s else (1.0,))
        ]
        best = min((best, *near), key=loss)
    return best


def leave_one_out(workflows: Sequence[Workflow], *, with_startup: bool = False) -> list[WorkflowStudy]:
    """Study each workflow, with the overhead fitted on the other instances of its system and never on itself."""
    studies = []
    for index, workflow in enumerate(workflows):
        others = [other for place, other in enumerate(workflows) if place != index and other.system == workflow.system]
        overhead = fit_overhead(others, with_startup=with_startup) if others else None
        placed = all(workflow.machine_of_task)
        studies.append(
            WorkflowStudy(
                name=workflow.name,
                system=workflow.system,
                tasks=len(workflow.workload),
                cores=sum(group.count * group.core_count for group in workflow.machines.clusters[0].hosts),
                critical_path_s=workflow.critical_path_s(),
                scheduled_s=simulated_makespan_s(workflow),
                as_placed_s=simulated_makespan_s(workflow, as_placed=True) if placed else None,
                measured_s=workflow.makespan_s,
                overhead=overhead,
                predicted_s=None if overhead is None else simulated_makespan_s(workflow, overhead),
            )
        )
    return studies


def _hosts(workflow: Workflow, as_placed: bool) -> Topology:
    """Machines of 1 MHz a core, beside a dispatcher and room for all tasks that are not noticed yet."""
    room = max(1, len(workflow.workload))
    groups = workflow.machines.clusters[0].hosts
    machines = tuple(
        # Speeds are left out: running times were measured at them.
        _served_in_order(group.name, max(room, group.core_count), group.core_count, group.memory_mib)
        if as_placed
        else HostGroup(
            name=group.name,
            count=group.count,
            core_count=group.core_count,
            core_speed_mhz=1.0,
            memory_mib=group.memory_mib,
        )
        for group in groups
    )
    manager = (_served_in_order(_DISPATCHER, room, 1, 0), _served_in_order(_WAITING, room, room, 0))
    return Topology(clusters=(Cluster(name=_MACHINES, hosts=machines), Cluster(name="manager", hosts=manager)))


def _served_in_order(name: str, admitted: int, served: int, memory_mib: int) -> HostGroup:
    """Host that admits many tasks of one core and runs as many of them at a time as it can serve, in order of arrival."""
    speed_mhz = served / admitted
    return HostGroup(
        name=name, count=1, core_count=admitted, core_speed_mhz=speed_mhz, memory_mib=memory_mib, cpu_sharing=FirstFit()
    )


def _with_turns(workflow: Workflow, overhead: Overhead, as_placed: bool) -> Workload:
    """Put a delay and a turn at the dispatcher before each task, as tasks of their own."""
    import numpy as np

    tasks = workflow.workload
    count = len(tasks)
    # Stages that a task passes before it runs: length in ms and host.
    delays = ((overhead.startup_s, _WAITING), (overhead.dispatch_s, _DISPATCHER))
    stages = [(round(delay_s * 1000), host) for delay_s, host in delays if delay_s > 0]
    before = len(stages) * count
    ones = np.ones(count, dtype=np.int64)
    edges = 0 if tasks.parents is None else len(tasks.parents)
    own = np.zeros(count, dtype=np.int64) if tasks.parent_offset is None else np.diff(tasks.parent_offset)
    # The first stage waits for the real parents, each later one for the stage before it.
    parents = [before + (np.empty(0, dtype=np.int64) if tasks.parents is None else tasks.parents.astype(np.int64))]
    parents += [np.arange(count) + stage * count for stage in range(len(stages))]
    lengths_ms = np.concatenate([*(np.full(count, length_ms) for length_ms, _ in stages), tasks.run_ms])
    cores = np.concatenate([*(ones for _ in stages), tasks.cpu_count.astype(np.int64)])
    machines = list(workflow.machine_of_task) if as_placed else [_MACHINES] * count
    columns: dict[str, Any] = {
        "ids": np.arange(before + count),
        "submission_ms": np.zeros(before + count, dtype=np.int64),
        "duration_ms": lengths_ms,
        "cpu_count": cores,
        "cpu_capacity_mhz": cores.astype(np.float64),
        "memory_mib": np.concatenate([*(0 * ones for _ in stages), tasks.memory_mib]),
        "pinned": [*(host for _, host in stages for _ in range(count)), *machines],
        "fragment_offset": np.arange(before + count + 1),
        "fragment_duration_ms": lengths_ms,
        "fragment_cpu_mhz": cores.astype(np.float64),
    }
    if before or edges:
        columns["parent_offset"] = np.concatenate(([0], np.cumsum(np.concatenate([own, *(ones for _ in stages)]))))
        columns["parents"] = np.concatenate(parents)
    return Workload.from_columns(columns)

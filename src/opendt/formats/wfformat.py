"""WfFormat 1.5, the JSON of WfCommons: executions of workflows measured on real machines.

What a workflow becomes: a task for each of its tasks, with its measured running time; dependencies from ``parents`` and
``children``; and on each edge the data that the parent writes and the child reads (files that are output of one and input of
the other). All are submitted at time 0. The demand is cores x speed x average CPU use: ``coreCount`` (1 where it is not
said, or enough for ``avgCPU`` above 100 %), the speed of the machine it ran on (``speedInMHz``, else `core_speed_mhz`), and
``avgCPU`` as a share of those cores (all of them where it is not said), at most the cores. Runtimes include what the
task waited for files, as they were measured. See https://wfcommons.org/format.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.formats.json_cursor import Cursor, Reading
from opendt.model.errors import ModelError
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.model.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Workflow", "read_wfformat"]

_BYTES_PER_MIB: Final = 2**20
_LONGEST_S: Final = (2**32 - 1) / 1000
_LARGEST_CORES: Final = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Workflow:
    """A measured execution of a workflow.

    `makespan_s` is the measured one; `machines` is a topology with one cluster of the machines; `machine_of_task` names
    the machine each task ran on ("" unknown), in the order of the workload; `system` is the workflow system.
    """

    name: str
    system: str
    workload: Workload
    machines: Topology
    machine_of_task: tuple[str, ...]
    makespan_s: float

    def critical_path_s(self) -> float:
        """Longest chain of running times in s: no schedule is shorter, however many machines there are."""
        workload = self.workload
        run_s = (workload.run_ms / 1000.0).tolist()
        if workload.parent_offset is None or workload.parents is None:
            return max(run_s, default=0.0)
        offset, parents = workload.parent_offset.tolist(), workload.parents.tolist()
        finish = [0.0] * len(run_s)
        for task in _topological(offset, parents):
            ready = max((finish[parent] for parent in parents[offset[task] : offset[task + 1]]), default=0.0)
            finish[task] = ready + run_s[task]
        return max(finish, default=0.0)


@dataclass(frozen=True)
class _Machine:
    cores: int
    speed_mhz: float
    memory_mib: int
    arch: str | None


def read_wfformat(path: Path | str, *, core_speed_mhz: float = 2000.0) -> Workflow:
    """Read a workflow instance.

    Parameters
    ----------
    path : Path or str
        JSON file.
    core_speed_mhz : float
        Speed of machines that do not say theirs, in MHz.

    Raises
    ------
    FormatError
        Naming the key; also for dependencies in a circle.
    """
    top = Cursor.at_file(Path(path), Reading())
    keys = top.open()
    workflow = keys.need("workflow").open()
    specification, execution = workflow.need("specification").open(), workflow.need("execution").open()
    system = keys.get("runtimeSystem")
    machines = _machines(execution.items("machines"), core_speed_mhz)
    measured = {item.open().text("id"): item for item in execution.need("tasks").items()}
    file_bytes = {
        item.open().text("id"): item.open().number("sizeInBytes", least=0) for item in specification.items("files")
    }
    tasks = specification.need("tasks")
    columns, machine_of_task = _columns(tasks, measured, machines, file_bytes, core_speed_mhz)
    try:
        workload = Workload.from_columns(columns)
    except ModelError as error:
        raise tasks.error(error.expected, found=f"{error.place}: {error.found}") from error
    return Workflow(
        name=keys.text("name", Path(path).stem),
        system="" if system is None else system.open().text("name", ""),
        workload=workload,
        machines=_topology(machines),
        machine_of_task=tuple(machine_of_task),
        makespan_s=execution.number("makespanInSeconds", least=0),
    )


def _machines(items: list[Cursor], core_speed_mhz: float) -> dict[str, _Machine]:
    machines = {}
    for item in items:
        keys = item.open()
        cpu = keys.get("cpu")
        part = None if cpu is None else cpu.open()
        machines[keys.text("nodeName")] = _Machine(
            cores=1 if part is None else part.integer("coreCount", 1, least=1, most=_LARGEST_CORES),
            speed_mhz=core_speed_mhz if part is None else part.number("speedInMHz", core_speed_mhz, above=0),
            memory_mib=int(keys.number("memoryInBytes", 2.0**40, 0) // _BYTES_PER_MIB),
            arch=keys.text("architecture", "") or None,
        )
    return machines


def _topology(machines: dict[str, _Machine]) -> Topology:
    hosts = tuple(
        HostGroup(
            name=name,
            count=1,
            core_count=machine.cores,
            core_speed_mhz=machine.speed_mhz,
            memory_mib=machine.memory_mib,
            arch=machine.arch,
        )
        for name, machine in machines.items()
    )
    return Topology(clusters=(Cluster(name="machines", hosts=hosts),) if hosts else ())


def _columns(
    tasks: Cursor,
    measured: dict[str, Cursor],
    machines: dict[str, _Machine],
    file_bytes: dict[str, float],
    core_speed_mhz: float,
) -> tuple[dict[str, Any], list[str]]:
    opened = [item.open() for item in tasks.items()]
    ids = [keys.text("id") for keys in opened]
    if not ids:
        raise tasks.error("at least one task", found="none")
    columns: dict[str, list[Any]] = {
        name: [] for name in ("duration_ms", "cpu_count", "memory_mib", "fragment_cpu_mhz")
    }
    machine_of_task = []
    for keys, task in zip(opened, ids, strict=True):
        if task not in measured:
            raise keys.need("id").error("an entry of workflow.execution.tasks with this id")
        run_ms, cores, memory_mib, demand_mhz, machine = _execution(measured[task], machines, core_speed_mhz)
        for name, value in zip(columns, (run_ms, cores, memory_mib, demand_mhz), strict=True):
            columns[name].append(value)
        machine_of_task.append(machine)
    speeds = [machines[name].speed_mhz if name in machines else core_speed_mhz for name in machine_of_task]
    edges = _edges(opened, ids, file_bytes)
    return {
        "ids": ids,
        "names": [keys.text("name", "") for keys in opened],
        "submission_ms": [0] * len(ids),
        **columns,
        "cpu_capacity_mhz": [cores * speed for cores, speed in zip(columns["cpu_count"], speeds, strict=True)],
        "fragment_offset": list(range(len(ids) + 1)),
        "fragment_duration_ms": columns["duration_ms"],
        **edges,
    }, machine_of_task


def _execution(
    cursor: Cursor, machines: dict[str, _Machine], core_speed_mhz: float
) -> tuple[int, int, int, float, str]:
    """Running time in ms, cores, memory in MiB, demand in MHz and machine of a task."""
    keys = cursor.open()
    run_s = keys.number("runtimeInSeconds", least=0, most=_LONGEST_S)
    used = keys.number("avgCPU", -1.0) / 100.0
    names = [item.text() for item in keys.items("machines")]
    machine = machines.get(names[0]) if names else None
    most = machine.cores if machine else _LARGEST_CORES
    least_cores = min(max(1, math.ceil(used - 1e-9)), most)
    # Some recorders write fractions of cores, and -1 or 0 for unknown.
    stated = keys.number("coreCount", 0.0, most=float(_LARGEST_CORES))
    cores = math.ceil(stated) if stated > 0 else least_cores
    busy = min(used, float(cores)) if used > 0 else float(cores)
    speed_mhz = machine.speed_mhz if machine else core_speed_mhz
    memory_mib = math.ceil(keys.number("memoryInBytes", 0.0, 0) / _BYTES_PER_MIB)
    return round(run_s * 1000), cores, memory_mib, busy * speed_mhz, names[0] if names else ""


def _edges(opened: Sequence[Any], ids: list[str], file_bytes: dict[str, float]) -> dict[str, Any]:
    position = {task: index for index, task in enumerate(ids)}
    parents: list[set[int]] = [set() for _ in ids]
    for index, keys in enumerate(opened):
        for item in keys.items("parents"):
            parents[index].add(_known(item, position))
        for item in keys.items("children"):
            parents[_known(item, position)].add(index)
    if not any(parents):
        return {}
    outputs = [{item.text() for item in keys.items("outputFiles")} for keys in opened]
    inputs = [{item.text() for item in keys.items("inputFiles")} for keys in opened]
    offset, flat, mib = [0], [], []
    for child, found in enumerate(parents):
        for parent in sorted(found):
            flat.append(parent)
            shared = sorted(outputs[parent] & inputs[child])
            mib.append(sum(file_bytes.get(name, 0.0) for name in shared) / _BYTES_PER_MIB)
        offset.append(len(flat))
    return {"parent_offset": offset, "parents": flat, "edge_mib": mib}


def _known(cursor: Cursor, position: dict[str, int]) -> int:
    found = position.get(cursor.text())
    if found is None:
        raise cursor.error("the id of a task of this workflow")
    return found


def _topological(offset: list[int], parents: list[int]) -> list[int]:
    """Tasks, each after its parents; the workload was checked to have no circle."""
    children: list[list[int]] = [[] for _ in range(len(offset) - 1)]
    missing = [end - begin for begin, end in itertools.pairwise(offset)]
    for child, count in enumerate(missing):
        for parent in parents[offset[child] : offset[child] + count]:
            children[parent].append(child)
    ready = [task for task, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        task = ready.pop()
        order.append(task)
        for child in children[task]:
            missing[child] -= 1
            if missing[child] == 0:
                ready.append(child)
    return order

"""Alibaba's openb lists (cluster-trace-gpu-v2023): nodes to a topology, pods to a workload.

Assumptions: a node has ``cpu_milli`` / 1000 cores (rounded down) of `core_speed_mhz` and ``gpu`` devices of 1000 cores of 1 MHz
each, so that a thousandth of a GPU (``gpu_milli``) is one core; nodes with equal cores, memory and model are one group, named
after them. A pod is a task of ceil(``cpu_milli`` / 1000) cores with a demand of exactly ``cpu_milli`` / 1000 x
`core_speed_mhz` and ``num_gpu`` x ``gpu_milli`` GPU cores (fully used), from ``creation_time`` for
``deletion_time`` - ``scheduled_time`` seconds. Pods that were never scheduled, or ended when they began, are left out. ``gpu_spec`` and ``qos`` are not used.

`read_openb_machines` and `read_openb_requests` give the lists as they are, thousandths of cores and of GPUs, ``gpu_spec`` and all, for
placing pods one by one (`opendt.policy.packing`).
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opendt.formats.simple_tasks import constant_tasks
from opendt.formats.textfile import open_text
from opendt.model.errors import FormatError, ModelError
from opendt.model.topology import Cluster, Gpu, HostGroup, Topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.workload import Workload

__all__ = [
    "OpenbMachine",
    "OpenbRequest",
    "PodList",
    "read_openb_machines",
    "read_openb_nodes",
    "read_openb_pods",
    "read_openb_requests",
]

_GPU_CORES: Final = 1000
_LARGEST: Final = 2**40


@dataclass(frozen=True, eq=False)
class PodList:
    """Pods as tasks; `wait_ms` is the measured wait of each; `dropped` never ran, as far as the list says."""

    workload: Workload
    wait_ms: NDArray[np.int64]
    dropped: int


@dataclass(frozen=True, slots=True)
class OpenbMachine:
    """A node as listed; `gpu_model` is empty without GPUs."""

    name: str
    cpu_millicores: int
    memory_mib: int
    gpu: int
    gpu_model: str


@dataclass(frozen=True, slots=True)
class OpenbRequest:
    """A pod as listed: what it asks for, which models of GPU will do (any when empty), and its times in s, -1 where not given.

    `gpu_millis` is of each of its GPUs.
    """

    name: str
    cpu_millicores: int
    memory_mib: int
    gpu: int
    gpu_millis: int
    gpu_models: tuple[str, ...]
    created_s: int
    scheduled_s: int
    deleted_s: int

    @property
    def run_s(self) -> int | None:
        """How long it ran; None where the list does not say."""
        known = self.scheduled_s >= 0 and self.deleted_s >= 0
        return max(self.deleted_s - self.scheduled_s, 0) if known else None


def read_openb_machines(path: Path | str) -> tuple[OpenbMachine, ...]:
    """Read a list of nodes, one by one; raises as `read_openb_nodes`."""
    found = []
    for number, row in _rows(path, ("sn", "cpu_milli", "memory_mib", "gpu", "model")):
        cpu, memory_mib, gpus = (_whole(path, number, row, name) for name in ("cpu_milli", "memory_mib", "gpu"))
        found.append(OpenbMachine(row["sn"], cpu, memory_mib, gpus, row["model"]))
    return tuple(found)


def read_openb_requests(path: Path | str) -> tuple[OpenbRequest, ...]:
    """Read a list of pods, all of them, in the order of the file; raises as `read_openb_pods`."""
    times = ("creation_time", "scheduled_time", "deletion_time")
    sizes = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
    found = []
    for number, row in _rows(path, ("name", *sizes, "gpu_spec", *times)):
        cpu, memory_mib, gpus, millis = (_whole(path, number, row, name) for name in sizes)
        created, scheduled, deleted = (_whole(path, number, row, name) if row[name] else -1 for name in times)
        models = tuple(model for model in row["gpu_spec"].split("|") if model)
        found.append(OpenbRequest(row["name"], cpu, memory_mib, gpus, millis, models, created, scheduled, deleted))
    return tuple(found)


def read_openb_nodes(path: Path | str, *, core_speed_mhz: float = 2000.0) -> Topology:
    """Read a list of nodes.

    Raises
    ------
    FormatError
        Naming line and column.
    """
    counts: Counter[tuple[int, int, int, str]] = Counter()
    for number, row in _rows(path, ("cpu_milli", "memory_mib", "gpu", "model")):
        cores, memory_mib, gpus = (_whole(path, number, row, name) for name in ("cpu_milli", "memory_mib", "gpu"))
        if cores < 1000:
            raise FormatError(path, f"line {number}, column cpu_milli", row["cpu_milli"], "at least 1000, one core")
        counts[cores // 1000, memory_mib, gpus, row["model"] or ("GPU" if gpus else "CPU")] += 1
    groups = tuple(
        HostGroup(
            name=f"{model}-{cores}c-{memory_mib // 1024}g-{gpus}x",
            count=count,
            core_count=cores,
            core_speed_mhz=core_speed_mhz,
            memory_mib=memory_mib,
            gpu=Gpu(count=gpus, core_count=_GPU_CORES, core_speed_mhz=1.0) if gpus else None,
        )
        for (cores, memory_mib, gpus, model), count in counts.items()
    )
    if not groups:
        raise FormatError(path, "", "no nodes", "at least one node")
    return Topology(clusters=(Cluster(name="openb", hosts=groups),))


def read_openb_pods(path: Path | str, *, core_speed_mhz: float = 2000.0) -> PodList:
    """Read a list of pods; times are from the start of the trace.

    Raises
    ------
    FormatError
        Naming line and column.
    """
    import numpy as np

    times = ("creation_time", "deletion_time", "scheduled_time")
    sizes = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
    names, values, dropped = [], [], 0
    for number, row in _rows(path, ("name", *sizes, *times)):
        found = [_whole(path, number, row, name) for name in (*sizes, *times) if row[name]]
        if len(found) < len(sizes) + len(times) or found[-2] <= found[-1]:
            dropped += 1
            continue
        names.append(row["name"])
        values.append(found)
    if not names:
        raise FormatError(path, "", "no pods that ran", "at least one pod")
    table = np.array(values, dtype=np.int64)
    cpu_milli, memory_mib, gpus, gpu_milli, created, deleted, scheduled = table.T
    gpu_cores = gpus * gpu_milli
    try:
        workload = constant_tasks(
            ids=names,
            submission_ms=created * 1000,
            run_ms=(deleted - scheduled) * 1000,
            cpu_mhz=cpu_milli / 1000.0 * core_speed_mhz,
            cpu_count=np.ceil(cpu_milli / 1000.0),
            cpu_capacity_mhz=np.ceil(cpu_milli / 1000.0) * core_speed_mhz,
            memory_mib=memory_mib,
            gpu_count=gpu_cores if gpu_cores.any() else None,
            gpu_capacity_mhz=gpu_cores.astype(np.float64) if gpu_cores.any() else None,
            fragment_gpu_mhz=gpu_cores if gpu_cores.any() else None,
        )
    except ModelError as error:
        raise FormatError(path, error.place, error.found, error.expected) from error
    wait_ms = ((scheduled - created) * 1000)[np.argsort(created, kind="stable")]
    return PodList(workload, wait_ms, dropped)


def _rows(path: Path | str, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    with open_text(path) as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise FormatError(path, "header", f"columns {', '.join(reader.fieldnames or ())}", f"a column {missing[0]}")
        try:
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise FormatError(path, f"line {reader.line_num}", str(error), "comma-separated values") from error
    for number, row in rows:
        if None in row or any(value is None for value in row.values()):
            raise FormatError(path, f"line {number}", "another number of values", "as many values as columns")
    return rows


def _whole(path: Path | str, number: int, row: dict[str, str], name: str) -> int:
    try:
        value = float(row[name])
    except ValueError:
        value = -1.0
    if not (0 <= value <= _LARGEST and value.is_integer()):
        raise FormatError(path, f"line {number}, column {name}", repr(row[name]), "a whole number >= 0")
    return int(value)

"""What a window of time tells the twin: tasks that were submitted in it, and work that was seen to end in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.engine.simulation import EngineWorkload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["NO_WORK", "Tasks", "Work", "tasks_from_columns"]


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks that were submitted, in the order in which the scheduler sees them.

    Attributes
    ----------
    ids : tuple of str
        Identifiers; unique among the tasks in the system.
    workload : EngineWorkload
        Their requests, without any fragment; edges to parents among themselves.
    earlier_parents : tuple of (int, str)
        Task, by position, and a parent that is none of these: waited for if it is in the system still.
    """

    ids: tuple[str, ...]
    workload: EngineWorkload
    earlier_parents: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Fragments that have ended, by task, in the order in which they ran.

    Attributes
    ----------
    ids : tuple of str
        A task each.
    offset : ndarray of uint32, shape (tasks + 1,)
        Borders of each task's fragments.
    duration_ms : ndarray of uint32, shape (fragments,)
        Durations, ms.
    cpu_mhz : ndarray of float64, shape (fragments,)
        CPU demand, MHz.
    closed : ndarray of bool, shape (tasks,)
        Whether nothing more comes of a task.
    gpu_mhz : ndarray of float64, shape (fragments,), optional
        GPU demand, MHz.
    """

    ids: tuple[str, ...]
    offset: NDArray[np.uint32]
    duration_ms: NDArray[np.uint32]
    cpu_mhz: NDArray[np.float64]
    closed: NDArray[np.bool_]
    gpu_mhz: NDArray[np.float64] | None = None

    def select(self, tasks: Sequence[int]) -> Work:
        """The work of some of the tasks, by position."""
        starts, stops = self.offset[:-1], self.offset[1:]
        fragments = np.concatenate([np.empty(0, np.intp), *(np.arange(starts[i], stops[i]) for i in tasks)]).astype(
            np.intp
        )
        lengths = np.array([int(stops[i] - starts[i]) for i in tasks], dtype=np.uint32)
        return Work(
            ids=tuple(self.ids[i] for i in tasks),
            offset=np.concatenate([np.zeros(1, np.uint32), np.cumsum(lengths, dtype=np.uint32)]),
            duration_ms=self.duration_ms[fragments],
            cpu_mhz=self.cpu_mhz[fragments],
            closed=self.closed[list(tasks)],
            gpu_mhz=None if self.gpu_mhz is None else self.gpu_mhz[fragments],
        )


NO_WORK: Final = Work((), np.zeros(1, np.uint32), np.empty(0, np.uint32), np.empty(0), np.empty(0, np.bool_))
"""Of a window in which nothing ended."""


def tasks_from_columns(ids: Sequence[str], columns: dict[str, Any], parents: Sequence[Sequence[str]] = ()) -> Tasks:
    """Tasks from columns named as in `opendt.model.Workload`, without those of fragments and parents.

    Parameters
    ----------
    ids : sequence of str
        Identifiers.
    columns : dict
        Requests.
    parents : sequence of sequence of str
        Tasks that each of them waits for; empty when none waits. One that comes in a later window than its child is not waited
        for.

    Raises
    ------
    EngineError
        When the columns do not fit together.
    """
    count = len(ids)
    edges, earlier = _edges(ids, parents)
    requests = {
        "duration_ms": np.full(count, -1, np.int64),
        "cpu_capacity_mhz": np.zeros(count),
        "memory_mib": np.zeros(count, np.int64),
        **columns,
        **edges,
        "ids": list(ids),
        "fragment_offset": np.zeros(count + 1, np.uint32),
        "fragment_duration_ms": np.empty(0, np.uint32),
        "fragment_cpu_mhz": np.empty(0),
    }
    return Tasks(tuple(ids), EngineWorkload.from_columns(requests), earlier)


def _edges(ids: Sequence[str], parents: Sequence[Sequence[str]]) -> tuple[dict[str, Any], tuple[tuple[int, str], ...]]:
    """Columns of the edges between these tasks, and the parents that are none of them."""
    if not any(parents):
        return {}, ()
    place = {name: number for number, name in enumerate(ids)}
    inside = [[place[parent] for parent in some if parent in place] for some in parents]
    earlier = tuple((number, parent) for number, some in enumerate(parents) for parent in some if parent not in place)
    if not any(inside):
        return {}, earlier
    columns = {
        "parent_offset": np.concatenate([[0], np.cumsum([len(some) for some in inside])]).astype(np.uint32),
        "parents": np.array(list(chain.from_iterable(inside)), np.uint32),
    }
    return columns, earlier

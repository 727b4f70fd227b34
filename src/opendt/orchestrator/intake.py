"""From the window that streams closed to the window that the loop takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from opendt.orchestrator.environment import Window, readings_on_ticks
from opendt.twin.arrivals import NO_WORK, Tasks, Work, tasks_from_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.telemetry.messages import TaskArrival, TaskId
    from opendt.telemetry.windows import FragmentColumns, WindowInput

__all__ = ["window_of"]

_OPTIONAL = (
    ("gpu_count", "gpu_count", np.uint32, 0),
    ("gpu_capacity_mhz", "gpu_capacity_mhz", np.float64, 0.0),
    ("gpu_memory_mib", "gpu_memory_mib", np.int64, 0),
    ("deadline_ms", "deadline_ms", np.int64, -1),
)


def window_of(closed: WindowInput, tick_ms: int) -> Window:
    """Put a closed window on the twin's clock: ms since its start, readings on ticks, identifiers as text."""
    start_ms, end_ms = closed.start_ms - closed.origin_ms, closed.end_ms - closed.origin_ms
    measured_w = readings_on_ticks(closed.power_ms - closed.origin_ms, closed.power_w, start_ms, end_ms, tick_ms)
    work = _work(closed.fragments, closed.completed)
    return Window(closed.index, start_ms, end_ms, measured_w, _tasks(closed.tasks), work)


def _tasks(arrivals: Sequence[TaskArrival]) -> Tasks | None:
    if not arrivals:
        return None
    columns: dict[str, Any] = {
        "submission_ms": np.array([task.submission_ms for task in arrivals], np.int64),
        "duration_ms": np.array([task.duration_ms for task in arrivals], np.int64),
        "cpu_count": np.array([task.cpu_count for task in arrivals], np.uint32),
        "cpu_capacity_mhz": np.array([task.cpu_capacity_mhz for task in arrivals], np.float64),
        "memory_mib": np.array([task.memory_mib for task in arrivals], np.int64),
    }
    for name, attribute, kind, absent in _OPTIONAL:
        values = [getattr(task, attribute) for task in arrivals]
        if any(value != absent for value in values):
            columns[name] = np.array(values, kind)
    parents = [[str(parent) for parent in task.parents] for task in arrivals]
    return tasks_from_columns([str(task.id) for task in arrivals], columns, parents)


def _work(fragments: FragmentColumns, completed: Sequence[TaskId]) -> Work:
    if not fragments.ids and not completed:
        return NO_WORK
    starts = fragments.offset[:-1]
    closed = np.logical_or.reduceat(fragments.last, starts) if len(starts) else np.empty(0, np.bool_)
    known = {task: number for number, task in enumerate(fragments.ids)}
    for task in completed:
        if task in known:
            closed[known[task]] = True
    silent = [task for task in completed if task not in known]
    end = fragments.offset[-1] if len(fragments.offset) else 0
    return Work(
        ids=tuple(str(task) for task in (*fragments.ids, *silent)),
        offset=np.concatenate([fragments.offset, np.full(len(silent), end)]).astype(np.uint32),
        duration_ms=fragments.duration_ms.astype(np.uint32),
        cpu_mhz=np.ascontiguousarray(fragments.cpu_mhz, np.float64),
        closed=np.concatenate([closed, np.ones(len(silent), np.bool_)]),
        gpu_mhz=None if fragments.gpu_mhz is None else np.ascontiguousarray(fragments.gpu_mhz, np.float64),
    )

"""Other demands made of a recorded one: more of it, weeks that never were, and coarser steps that are simulated faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.engine.simulation import EngineWorkload
from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["coarsened", "resampled_days", "scaled_load"]

_DAY_MS: Final = 86_400_000
_FRAGMENTS: Final = ("fragment_duration_ms", "fragment_cpu_mhz", "fragment_gpu_mhz")
_EDGES: Final = ("parent_offset", "parents", "edge_mib")


def scaled_load(workload: EngineWorkload, factor: float, seed: int = 0) -> EngineWorkload:
    """So many times the tasks: each as often as the whole part of the factor says, and a random share of them once more.

    Copies are submitted with their originals, so that the pattern of the day and the mix of sizes stay.

    Parameters
    ----------
    workload : EngineWorkload
        Tasks without dependencies.
    factor : float
        Above 0; below 1 a random share of the tasks stays, one at least.
    seed : int
        Of the choice.

    Raises
    ------
    ModelError
        When there is no task, the tasks are workflows, or the factor is not positive.
    """
    if not 0 < factor < 1000:
        raise ModelError("load", factor, "a factor above 0 and below 1000")
    count = len(workload)
    whole, more = int(factor), round((factor - int(factor)) * count)
    more = max(more, 0 if whole else 1)  # of a demand something is left
    chosen = np.sort(np.random.default_rng((seed, 1)).permutation(count)[:more])
    tasks = np.sort(np.concatenate([np.tile(np.arange(count), whole), chosen]), kind="stable")
    columns = _columns(workload)
    return _rebuilt(columns, tasks, columns["submission_ms"][tasks], None)


def resampled_days(workload: EngineWorkload, days: Sequence[int], *, until_ms: int) -> EngineWorkload:
    """A demand of given days of a record in a given order: block bootstrap by days.

    Day 0 begins with the first submission. What was running when the record began (submitted at that very time) begins the
    new demand too; all other tasks come with their day, at their time of day. A task runs on over the following days; what
    reaches beyond `until_ms` is cut off, as the end of a record cuts it.

    Parameters
    ----------
    workload : EngineWorkload
        Tasks without dependencies.
    days : sequence of int
        The day of the record that each day repeats, from 0; a day may come several times.
    until_ms : int
        End, ms since the first submission.

    Raises
    ------
    ModelError
        When there is no task, the tasks are workflows, or a day is not in the record.
    """
    columns = _columns(workload)
    begin_ms = workload.first_submission_ms
    since_ms = columns["submission_ms"] - begin_ms
    last = int(since_ms[-1]) // _DAY_MS
    parts, times = [np.flatnonzero(since_ms == 0)], [since_ms[since_ms == 0]]
    for slot, day in enumerate(days):
        if not 0 <= day <= last:
            raise ModelError(f"days[{slot}]", day, f"a day of the record, 0 to {last}")
        found = np.flatnonzero((since_ms // _DAY_MS == day) & (since_ms > 0))
        parts.append(found)
        times.append(since_ms[found] + (slot - day) * _DAY_MS)
    tasks, submitted_ms = np.concatenate(parts), np.concatenate(times)
    inside = submitted_ms < until_ms
    order = np.argsort(submitted_ms[inside], kind="stable")
    tasks, submitted_ms = tasks[inside][order], submitted_ms[inside][order]
    return _rebuilt(columns, tasks, submitted_ms + begin_ms, until_ms - submitted_ms)


def coarsened(workload: EngineWorkload, step_ms: int) -> EngineWorkload:
    """The same work in steps of at least `step_ms` each: successive fragments of a task become one of their mean demand.

    Work and duration of every task stay as they are; a curved power model sees a smoother demand, so energy differs a little. For
    looking quickly; what is found is simulated on the original.

    Raises
    ------
    ModelError
        When the step is not positive.
    """
    if step_ms <= 0:
        raise ModelError("step_ms", step_ms, "a positive time")
    columns = dict(workload.columns())
    duration_ms = columns["fragment_duration_ms"].astype(np.int64)
    offset = columns["fragment_offset"].astype(np.int64)
    if not len(duration_ms):
        return workload
    task = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
    ends_ms = np.cumsum(duration_ms)
    before_ms = np.concatenate([[0], ends_ms])[offset[:-1]]
    step = (ends_ms - duration_ms - before_ms[task]) // step_ms
    starts = np.flatnonzero((np.diff(task, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 0))
    merged_ms = np.add.reduceat(duration_ms, starts)
    # A duration is 32 bits wide in a fragment.
    if merged_ms.max() >= 2**32:
        raise ModelError("step_ms", step_ms, "a step that keeps fragments below 49 days")
    for name in ("fragment_cpu_mhz", "fragment_gpu_mhz"):
        if name in columns:
            work = np.add.reduceat(columns[name].astype(np.float64) * duration_ms, starts)
            idle = np.maximum(merged_ms, 1)
            columns[name] = np.where(merged_ms > 0, work / idle, 0.0)
    columns["fragment_duration_ms"] = merged_ms.astype(np.uint32)
    columns["fragment_offset"] = np.searchsorted(starts, offset).astype(np.uint32)
    return EngineWorkload.from_columns(columns)


def _columns(workload: EngineWorkload) -> dict[str, Any]:
    if not len(workload):
        raise ModelError("workload", "no task", "one task or more")
    columns = workload.columns()
    if len(columns.get("parents", ())):
        hint = "Use a record of single tasks; copies of a workflow would depend on each other's stages."
        raise ModelError("workload", "tasks that depend on others", "tasks without dependencies", hint)
    return {name: column for name, column in columns.items() if name not in _EDGES}


def _rebuilt(
    columns: dict[str, Any],
    tasks: NDArray[np.intp],
    submission_ms: NDArray[np.int64],
    longest_ms: NDArray[np.int64] | None,
) -> EngineWorkload:
    """Tasks (numbers, repeated at will) with new submissions, ids and, where given, longest durations."""
    offset = columns["fragment_offset"].astype(np.int64)
    counts = np.diff(offset)[tasks]
    new_offset = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(tasks)), counts)
    picked = offset[tasks][owner] + np.arange(new_offset[-1]) - new_offset[owner]
    fragments: dict[str, Any] = {name: columns[name][picked] for name in _FRAGMENTS if name in columns}
    if longest_ms is not None:
        duration_ms = fragments["fragment_duration_ms"].astype(np.int64)
        ends_ms = np.cumsum(duration_ms)
        begins_ms = ends_ms - duration_ms - np.concatenate([[0], ends_ms])[new_offset[owner]]
        left_ms = np.minimum(duration_ms, longest_ms[owner] - begins_ms)
        kept = left_ms > 0
        fragments["fragment_duration_ms"] = left_ms.astype(np.uint32)
        fragments = {name: column[kept] for name, column in fragments.items()}
        new_offset = np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=len(tasks)))])
    shift_ms = submission_ms - columns["submission_ms"][tasks]
    made: dict[str, Any] = {"ids": np.arange(len(tasks), dtype=np.int64)}
    for name, column in columns.items():
        if name in {"ids", "names", "fragment_offset", *_FRAGMENTS}:
            continue
        made[name] = [column[task] for task in tasks] if isinstance(column, list) else column[tasks]
    if "deadline_ms" in made:
        made["deadline_ms"] = np.where(made["deadline_ms"] < 0, -1, made["deadline_ms"] + shift_ms)
    made["submission_ms"] = np.ascontiguousarray(submission_ms)
    return EngineWorkload.from_columns({**made, **fragments, "fragment_offset": new_offset.astype(np.uint32)})

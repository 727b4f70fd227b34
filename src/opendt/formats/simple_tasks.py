"""Workloads of tasks that each ask for the same demand as long as they run: what most archives know of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from opendt.model.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["LONGEST_FRAGMENT_MS", "constant_tasks"]

LONGEST_FRAGMENT_MS: Final = 2**32 - 1


def constant_tasks(
    *,
    ids: Sequence[str] | ArrayLike,
    submission_ms: ArrayLike,
    run_ms: ArrayLike,
    cpu_mhz: ArrayLike,
    edges: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    **columns: Any,
) -> Workload:
    """Make a workload of one fragment a task, ordered by submission (ties keep their order).

    Parameters
    ----------
    ids, submission_ms : sequence
        As in `Workload`.
    run_ms : array
        Running time, which also becomes the stated duration; at most 2^32 - 1 ms, 49 days, in one fragment: longer ones
        are split.
    cpu_mhz : array
        Demand over all cores, in MHz.
    edges : pair of arrays, optional
        Child and parent of each dependency, as positions in the other columns; repetitions do not count.
    **columns
        Other task columns of `Workload`, and ``fragment_gpu_mhz`` with one value a task.
    """
    import numpy as np

    order = np.argsort(np.asarray(submission_ms), kind="stable")
    run = np.asarray(run_ms, dtype=np.int64)[order]
    pieces = np.maximum(1, -(-run // LONGEST_FRAGMENT_MS))
    task = np.repeat(np.arange(len(run)), pieces)
    offset = np.concatenate(([0], np.cumsum(pieces)))
    within = np.arange(len(task)) - offset[:-1][task]
    last = within == pieces[task] - 1
    duration = np.where(last, run[task] - within * LONGEST_FRAGMENT_MS, LONGEST_FRAGMENT_MS)
    gpu = columns.pop("fragment_gpu_mhz", None)
    ordered = {name: _ordered(column, order) for name, column in columns.items() if column is not None}
    return Workload.from_columns(
        {
            "ids": _ordered(ids, order),
            "submission_ms": np.asarray(submission_ms)[order],
            "duration_ms": run,
            "fragment_offset": offset,
            "fragment_duration_ms": duration,
            "fragment_cpu_mhz": np.asarray(cpu_mhz, dtype=np.float64)[order][task],
            "fragment_gpu_mhz": None if gpu is None else np.asarray(gpu, dtype=np.float64)[order][task],
            **ordered,
            **({} if edges is None else _dependencies(edges, order)),
        }
    )


def _dependencies(edges: tuple[NDArray[np.int64], NDArray[np.int64]], order: NDArray[np.int64]) -> dict[str, Any]:
    """Compress (child, parent) pairs to the parents of each task, in the order of submission."""
    import numpy as np

    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    pairs = np.unique(np.column_stack((position[edges[0]], position[edges[1]])), axis=0)
    if not len(pairs):
        return {}
    counts = np.bincount(pairs[:, 0], minlength=len(order))
    return {"parent_offset": np.concatenate(([0], np.cumsum(counts))), "parents": pairs[:, 1]}


def _ordered(column: Any, order: Any) -> Any:
    return [column[index] for index in order.tolist()] if isinstance(column, list) else column[order]

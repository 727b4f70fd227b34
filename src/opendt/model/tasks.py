"""Small workloads written by hand: one mapping a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from opendt.model.errors import ModelError
from opendt.model.workload import Workload

__all__ = ["workload_from_tasks"]

_MAX_U32: Final = 2**32 - 1
_MAX_I64: Final = 2**63 - 1

# Key of a task -> bounds of the whole number; the columns have the same names.
_WHOLE: Final = {
    "submission_ms": (-_MAX_I64, _MAX_I64),
    "duration_ms": (0, _MAX_I64),
    "cpu_count": (0, _MAX_U32),
    "memory_mib": (0, _MAX_I64),
    "gpu_count": (0, _MAX_U32),
    "gpu_memory_mib": (0, _MAX_I64),
    "deadline_ms": (-1, _MAX_I64),
}
_REAL: Final = ("cpu_capacity_mhz", "gpu_capacity_mhz", "slowdown")
_DEFAULTS: Final[dict[str, Any]] = {
    "submission_ms": 0,
    "cpu_count": 1,
    "memory_mib": 0,
    "gpu_count": 0,
    "gpu_memory_mib": 0,
    "deadline_ms": -1,
    "cpu_capacity_mhz": 0.0,
    "gpu_capacity_mhz": 0.0,
    "slowdown": 1.0,
    "deferrable": False,
    "name": "",
    "pinned": "",
    "parents": (),
}
_KEYS: Final = frozenset(("id", "fragments", "duration_ms", *_DEFAULTS))
# Columns that are left out when no task says anything about them.
_OPTIONAL: Final = ("gpu_count", "gpu_memory_mib", "gpu_capacity_mhz", "deadline_ms", "slowdown", "deferrable")


def workload_from_tasks(tasks: Iterable[Mapping[str, Any]]) -> Workload:
    """Make a small workload from one mapping a task.

    Parameters
    ----------
    tasks : iterable of mapping
        Tasks in the order in which the scheduler sees equal submission times. Keys of each, with their defaults:

        ``id``
            Whole number or text, the same kind for all tasks. Required.
        ``fragments``
            Pieces of work in order, each ``(duration_ms, cpu_mhz)`` or ``(duration_ms, cpu_mhz, gpu_mhz)``; demands are
            totals over all cores. Required, at least one.
        ``submission_ms`` = 0, ``deadline_ms`` = -1 (none)
            Absolute times, ms since the epoch.
        ``cpu_count`` = 1, ``memory_mib`` = 0, ``gpu_count`` = 0, ``gpu_memory_mib`` = 0
            What is asked for at admission; demands may exceed it.
        ``cpu_capacity_mhz`` = 0, ``gpu_capacity_mhz`` = 0
            Read by the capacity filters only.
        ``parents`` = ()
            Identifiers of tasks that must complete first, or a mapping from them to the data they send, in MiB.
        ``slowdown`` = 1
            Factor by which the exec format lengthens the work.
        ``pinned`` = ""
            Name of the cluster or host that the task must run on.
        ``name`` = "", ``deferrable`` = False, ``duration_ms`` = sum of the fragments
            A label; whether a time-shifting policy may delay the task; the length it states.

    Returns
    -------
    Workload
        Validated.

    Raises
    ------
    ModelError
        Naming the task and key, what was found and what is expected.

    Examples
    --------
    >>> workload = workload_from_tasks(
    ...     [
    ...         {"id": "map", "cpu_count": 4, "fragments": [(60_000, 8_000.0)]},
    ...         {"id": "reduce", "fragments": [(30_000, 2_000.0)], "parents": {"map": 512.0}},
    ...     ]
    ... )
    >>> len(workload), workload.span_ms
    (2, 60000)
    """
    rows = [_row(position, task) for position, task in enumerate(tasks)]
    ids = [row["id"] for row in rows]
    if len({type(task_id) for task_id in ids}) > 1:
        raise ModelError("tasks", "identifiers of both kinds", "only whole numbers or only texts as id")
    columns: dict[str, Any] = {"ids": ids}
    for key in ("submission_ms", "duration_ms", "cpu_count", "cpu_capacity_mhz", "memory_mib", *_OPTIONAL):
        values = [row[key] for row in rows]
        if key not in _OPTIONAL or any(value != _DEFAULTS[key] for value in values):
            columns[key] = _array(values)
    for key, column in (("name", "names"), ("pinned", "pinned")):
        texts = [row[key] for row in rows]
        if any(texts):
            columns[column] = texts
    columns |= _fragment_columns(rows) | _parent_columns(rows, ids)
    return Workload.from_columns(columns)


def _row(position: int, task: Mapping[str, Any]) -> dict[str, Any]:
    """Check one task and fill in what it leaves out."""
    place = f"task {_task_id(f'tasks[{position}]', task)}"
    row = _DEFAULTS | dict(task)
    row["fragments"] = [_fragment(f"{place}.fragments[{i}]", piece) for i, piece in enumerate(task["fragments"])]
    if not row["fragments"]:
        raise ModelError(f"{place}.fragments", "no fragments", "at least one (duration_ms, cpu_mhz)")
    row.setdefault("duration_ms", sum(piece[0] for piece in row["fragments"]))
    for key, (least, most) in _WHOLE.items():
        _check_whole(f"{place}.{key}", row[key], least, most)
    for key in _REAL:
        row[key] = _real(f"{place}.{key}", row[key])
    for key, kind, expected in (("name", str, "text"), ("pinned", str, "text"), ("deferrable", bool, "True or False")):
        if not isinstance(row[key], kind):
            raise ModelError(f"{place}.{key}", row[key], expected)
    return row


def _task_id(place: str, task: Any) -> int | str:
    """Identifier of a task whose keys are all known."""
    if not isinstance(task, Mapping):
        raise ModelError(place, task, "a mapping such as {'id': 1, 'fragments': [(60_000, 2_000.0)]}")
    for key in task:
        if key not in _KEYS:
            raise ModelError(f"{place}.{key}", "a key of this name", f"one of {', '.join(sorted(_KEYS))}")
    for key in ("id", "fragments"):
        if key not in task:
            raise ModelError(f"{place}.{key}", "nothing", "this key, which every task has")
    task_id = task["id"]
    if isinstance(task_id, bool) or not isinstance(task_id, int | str):
        raise ModelError(f"{place}.id", task_id, "a whole number or text")
    return task_id


def _fragment(place: str, piece: Any) -> tuple[int, float, float]:
    if isinstance(piece, str) or not hasattr(piece, "__len__") or len(piece) not in (2, 3):
        raise ModelError(place, piece, "(duration_ms, cpu_mhz) or (duration_ms, cpu_mhz, gpu_mhz)")
    duration_ms, cpu_mhz, *gpu_mhz = piece
    _check_whole(f"{place} duration_ms", duration_ms, 0, _MAX_U32)
    return duration_ms, _real(f"{place} cpu_mhz", cpu_mhz), _real(f"{place} gpu_mhz", gpu_mhz[0] if gpu_mhz else 0.0)


def _check_whole(place: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ModelError(place, value, f"a whole number from {least} to {most}")


def _real(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ModelError(place, value, "a finite number >= 0")
    return float(value)


def _array(values: list[Any]) -> Any:
    import numpy as np

    return np.array(values) if values else np.empty(0, dtype=np.int64)


def _fragment_columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np

    pieces = [piece for row in rows for piece in row["fragments"]]
    lengths = [len(row["fragments"]) for row in rows]
    columns = {
        "fragment_offset": np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        "fragment_duration_ms": np.array([piece[0] for piece in pieces], dtype=np.uint32),
        "fragment_cpu_mhz": np.array([piece[1] for piece in pieces], dtype=np.float64),
    }
    if any(piece[2] for piece in pieces):
        columns["fragment_gpu_mhz"] = np.array([piece[2] for piece in pieces], dtype=np.float64)
    return columns


def _parent_columns(rows: list[dict[str, Any]], ids: list[Any]) -> dict[str, Any]:
    """Turn the parents' identifiers into indices."""
    import numpy as np

    if not any(row["parents"] for row in rows):
        return {}
    index = {task_id: position for position, task_id in enumerate(ids)}
    parents: list[int] = []
    data_mib: list[float] = []
    offset = [0]
    for row in rows:
        place = f"task {row['id']}.parents"
        given = row["parents"]
        if isinstance(given, str):
            raise ModelError(place, given, "a list of identifiers, or a mapping from them to MiB")
        sizes = given if isinstance(given, Mapping) else dict.fromkeys(given, 0.0)
        if len(sizes) != len(given):
            raise ModelError(place, given, "each parent once")
        for parent, size_mib in sizes.items():
            if parent not in index:
                raise ModelError(place, parent, "the id of another of the tasks")
            parents.append(index[parent])
            data_mib.append(_real(f"{place}[{parent!r}]", size_mib))
        offset.append(len(parents))
    columns = {"parent_offset": np.array(offset, dtype=np.uint32), "parents": np.array(parents, dtype=np.uint32)}
    if any(data_mib):
        columns["edge_mib"] = np.array(data_mib)
    return columns

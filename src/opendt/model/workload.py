"""Tasks and their fragments as columns.

The columns are named exactly as in ``crates/opendt-engine/src/workload.rs`` and cross the border without copying.
All task columns have one entry a task, ``fragment_offset`` has one more; ``parent_offset`` and ``parents`` are a
compressed list of the tasks (indices into the workload) that must complete first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Workload"]

_DTYPES: Final = {
    "submission_ms": "int64",
    "duration_ms": "int64",
    "cpu_count": "uint32",
    "cpu_capacity_mhz": "float64",
    "memory_mib": "int64",
    "gpu_count": "uint32",
    "gpu_capacity_mhz": "float64",
    "gpu_memory_mib": "int64",
    "deferrable": "bool",
    "deadline_ms": "int64",
    "slowdown": "float64",
    "parent_offset": "uint32",
    "parents": "uint32",
    "edge_mib": "float64",
    "fragment_offset": "uint32",
    "fragment_duration_ms": "uint32",
}
_USAGES: Final = ("fragment_cpu_mhz", "fragment_gpu_mhz")
_TEXTS: Final = ("names", "pinned")
_PER_TASK: Final = (
    "ids",
    "names",
    "submission_ms",
    "duration_ms",
    "cpu_count",
    "cpu_capacity_mhz",
    "memory_mib",
    "gpu_count",
    "gpu_capacity_mhz",
    "gpu_memory_mib",
    "deferrable",
    "deadline_ms",
    "slowdown",
    "pinned",
)
_PER_FRAGMENT: Final = ("fragment_duration_ms", "fragment_cpu_mhz", "fragment_gpu_mhz")
_NOT_NEGATIVE: Final = (
    "duration_ms",
    "cpu_capacity_mhz",
    "memory_mib",
    "gpu_capacity_mhz",
    "gpu_memory_mib",
    "edge_mib",
    "fragment_cpu_mhz",
    "fragment_gpu_mhz",
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Workload:
    """Tasks in the order in which the scheduler sees equal submission times, with their fragments.

    Times are ms (absolute ones since the epoch, UTC), demands and capacities MHz over all cores of the task, memory and
    data MiB. `deadline_ms` is -1 for none; `slowdown` is the factor by which the exec format lengthens the work;
    `pinned` names the cluster or host a task must run on, or is "". Columns that no task uses are None.
    """

    ids: NDArray[np.int64] | list[str]
    submission_ms: NDArray[np.int64]
    duration_ms: NDArray[np.int64]
    cpu_count: NDArray[np.uint32]
    cpu_capacity_mhz: NDArray[np.float64]
    memory_mib: NDArray[np.int64]
    fragment_offset: NDArray[np.uint32]
    fragment_duration_ms: NDArray[np.uint32]
    fragment_cpu_mhz: NDArray[np.float32] | NDArray[np.float64]
    fragment_gpu_mhz: NDArray[np.float32] | NDArray[np.float64] | None = None
    names: list[str] | None = None
    gpu_count: NDArray[np.uint32] | None = None
    gpu_capacity_mhz: NDArray[np.float64] | None = None
    gpu_memory_mib: NDArray[np.int64] | None = None
    deferrable: NDArray[np.bool_] | None = None
    deadline_ms: NDArray[np.int64] | None = None
    slowdown: NDArray[np.float64] | None = None
    pinned: list[str] | None = None
    parent_offset: NDArray[np.uint32] | None = None
    parents: NDArray[np.uint32] | None = None
    edge_mib: NDArray[np.float64] | None = None

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Workload:
        """Make a workload from arrays or sequences, converted to the right types and checked.

        Raises
        ------
        ModelError
            When a column is unknown, missing, of a wrong type, or breaks a bound; see `validate`.
        """
        known = {field.name for field in fields(cls)}
        for name in columns:
            if name not in known:
                raise ModelError(name, "a column of this name", f"one of {', '.join(sorted(known))}")
        present = {name: _converted(name, value) for name, value in columns.items() if not _is_absent(name, value)}
        for field in fields(cls):
            if field.name not in present and not _is_optional(field.name):
                raise ModelError(field.name, "no such column", "this column, which every workload has")
        workload = cls(**present)
        workload.validate()
        return workload

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.submission_ms)

    @property
    def fragment_count(self) -> int:
        """Number of fragments of all tasks."""
        return len(self.fragment_duration_ms)

    @property
    def columns(self) -> dict[str, Any]:
        """Name -> column, of those that are present."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}

    @property
    def run_ms(self) -> NDArray[np.int64]:
        """Sum of the fragments of each task, in ms: its running time when nothing delays it."""
        import numpy as np

        total = np.concatenate(([0], np.cumsum(self.fragment_duration_ms, dtype=np.int64)))
        result: NDArray[np.int64] = np.diff(total[self.fragment_offset])
        return result

    @property
    def span_ms(self) -> int:
        """Time from the first submission to the last end, if every task started when submitted; 0 without tasks."""
        if not len(self):
            return 0
        return int((self.submission_ms + self.run_ms).max() - self.submission_ms.min())

    @property
    def core_seconds(self) -> float:
        """Sum over the tasks of cores asked for x running time, in core seconds."""
        return float((self.cpu_count * (self.run_ms / 1000.0)).sum())

    def select(self, which: ArrayLike) -> Workload:
        """Take some of the tasks, given as a mask or as indices, in that order; parents outside it count as done."""
        import numpy as np

        index = np.arange(len(self))[np.asarray(which)]
        begin, end = self.fragment_offset[:-1][index].astype(np.int64), self.fragment_offset[1:][index]
        lengths = end - begin
        taken: dict[str, Any] = {"fragment_offset": _offsets(lengths)}
        rows = _ranges(begin, lengths)
        for name in _PER_FRAGMENT:
            column = getattr(self, name)
            taken[name] = None if column is None else column[rows]
        for name in _PER_TASK:
            column = getattr(self, name)
            taken[name] = [column[i] for i in index] if isinstance(column, list) else _taken(column, index)
        return replace(self, **taken, **self._selected_parents(index))

    def _selected_parents(self, index: NDArray[np.int64]) -> dict[str, Any]:
        import numpy as np

        if self.parent_offset is None or self.parents is None:
            return {}
        position = np.full(len(self), -1, dtype=np.int64)
        position[index] = np.arange(len(index))
        begin = self.parent_offset[:-1][index].astype(np.int64)
        lengths = self.parent_offset[1:][index] - begin
        rows = _ranges(begin, lengths)
        parents = position[self.parents[rows]]
        kept = parents >= 0
        child = np.repeat(np.arange(len(index)), lengths)[kept]
        return {
            "parent_offset": _offsets(np.bincount(child, minlength=len(index))),
            "parents": parents[kept].astype(np.uint32),
            "edge_mib": None if self.edge_mib is None else self.edge_mib[rows][kept],
        }

    def validate(self) -> None:
        """Check lengths, bounds, identifiers and dependencies.

        Raises
        ------
        ModelError
            Naming the column and, where there is one, the task or fragment.
        """
        self._check_lengths()
        self._check_values()
        self._check_ids()
        if self.parent_offset is not None and self.parents is not None:
            _check_acyclic(self, self.parent_offset, self.parents)

    def _check_lengths(self) -> None:
        tasks = len(self)
        for name in _PER_TASK:
            _check_length(name, getattr(self, name), tasks, "entries, one a task")
        _check_offsets("fragment_offset", self.fragment_offset, tasks, len(self.fragment_duration_ms))
        for name in _PER_FRAGMENT:
            _check_length(name, getattr(self, name), len(self.fragment_duration_ms), "entries, one a fragment")
        if (self.parent_offset is None) != (self.parents is None):
            raise ModelError("parents", "one of parents and parent_offset", "both of them or neither")
        if self.parent_offset is not None and self.parents is not None:
            _check_offsets("parent_offset", self.parent_offset, tasks, len(self.parents))
            _check_length("edge_mib", self.edge_mib, len(self.parents), "entries, one a parent")
        elif self.edge_mib is not None:
            raise ModelError("edge_mib", "a column", "no such column without parents")

    def _check_values(self) -> None:
        import numpy as np

        empty = np.flatnonzero(np.diff(self.fragment_offset) == 0)
        if len(empty):
            raise ModelError(self.label(empty[0]), "no fragments", "at least one", "Drop tasks that do nothing.")
        for name in _NOT_NEGATIVE:
            self._check_each(name, "a finite number >= 0", lambda v: np.isfinite(v) & (v >= 0))
        self._check_each("slowdown", "a finite number > 0", lambda v: np.isfinite(v) & (v > 0))
        self._check_each("deadline_ms", "a time in ms, or -1 for none", lambda v: v >= -1)

    def _check_each(self, name: str, expected: str, holds: Any) -> None:
        column = getattr(self, name)
        if column is None:
            return
        bad = (~holds(column)).nonzero()[0]
        if len(bad):
            place = f"{name}[{bad[0]}]"
            if name in _PER_FRAGMENT:
                task = int(self.fragment_offset.searchsorted(bad[0], side="right")) - 1
                place = f"{place} ({self.label(task)})"
            raise ModelError(place, str(column[bad[0]]), expected)

    def _check_ids(self) -> None:
        import numpy as np

        if isinstance(self.ids, list):
            repeated = [] if len(set(self.ids)) == len(self.ids) else _first_repeated(self.ids)
        else:
            ordered = np.sort(self.ids)
            repeated = ordered[1:][ordered[1:] == ordered[:-1]].tolist()
        if len(repeated):
            raise ModelError("ids", f"{repeated[0]!r} more than once", "a different identifier for each task")

    def label(self, index: int) -> str:
        """Name a task in messages."""
        return f"task {self.ids[int(index)]}"

    def equals(self, other: Workload) -> bool:
        """Whether both hold the same columns with the same values."""
        import numpy as np

        mine, theirs = self.columns, other.columns
        return mine.keys() == theirs.keys() and all(
            np.array_equal(np.asarray(mine[name]), np.asarray(theirs[name])) for name in mine
        )


def _is_optional(name: str) -> bool:
    return name not in (
        "ids",
        "submission_ms",
        "duration_ms",
        "cpu_count",
        "cpu_capacity_mhz",
        "memory_mib",
        "fragment_offset",
        "fragment_duration_ms",
        "fragment_cpu_mhz",
    )


def _is_absent(name: str, value: Any) -> bool:
    return value is None or (_is_optional(name) and len(value) == 0)


def _converted(name: str, value: Any) -> Any:
    """Convert a column to its type, refusing what would lose anything."""
    import numpy as np

    if name in _TEXTS or (name == "ids" and not _is_integer(value)):
        return _texts(name, value)
    if name in _USAGES:
        array = np.asarray(value)
        target = np.dtype("float32") if array.dtype == np.float32 else np.dtype("float64")
    else:
        array, target = np.asarray(value), np.dtype(_DTYPES.get(name, "int64"))
    if array.ndim != 1 or not (array.dtype.kind in "iufb" or len(array) == 0):
        raise ModelError(name, f"{array.ndim} dimensions of {array.dtype}", f"one dimension of {target}")
    if array.dtype == target:
        return np.ascontiguousarray(array)
    if target.kind in "iu":
        limits = np.iinfo(str(target))
        outside = ~((array >= limits.min) & (array <= limits.max) & (array == np.floor(array)))
        if outside.any():
            row = int(outside.argmax())
            raise ModelError(f"{name}[{row}]", str(array[row]), f"a whole number from {limits.min} to {limits.max}")
    return array.astype(target)


def _is_integer(value: Any) -> bool:
    import numpy as np

    return (
        isinstance(value, np.ndarray) and value.dtype.kind in "iu"
        if hasattr(value, "dtype")
        else bool(len(value) and all(type(item) is int for item in value))
    )


def _texts(name: str, value: Sequence[Any]) -> list[str]:
    texts = value.tolist() if hasattr(value, "tolist") else list(value)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ModelError(f"{name}[{row}]", text, "text")
    return texts


def _check_length(name: str, column: Any, length: int, what: str) -> None:
    if column is not None and len(column) != length:
        raise ModelError(name, f"{len(column)} entries", f"{length} {what}")


def _check_offsets(name: str, offset: NDArray[np.uint32], tasks: int, total: int) -> None:
    if len(offset) != tasks + 1:
        raise ModelError(name, f"{len(offset)} entries", f"{tasks + 1}, one more than tasks")
    if offset[0] != 0 or offset[-1] != total or (offset[1:] < offset[:-1]).any():
        raise ModelError(name, f"{offset[0]} … {offset[-1]}", f"borders that rise from 0 to {total}")


def _check_acyclic(workload: Workload, offset: NDArray[np.uint32], parents: NDArray[np.uint32]) -> None:
    """Kahn's algorithm, a generation of tasks at a time: linear in the number of edges."""
    import numpy as np

    tasks = len(workload)
    if len(parents) and int(parents.max()) >= tasks:
        raise ModelError("parents", str(parents.max()), f"indices of tasks, below {tasks}")
    child = np.repeat(np.arange(tasks), np.diff(offset))
    order = np.argsort(parents, kind="stable")
    border = np.concatenate(([0], np.cumsum(np.bincount(parents, minlength=tasks))))
    missing = np.diff(offset).astype(np.int64)
    ready, done = np.flatnonzero(missing == 0), 0
    while len(ready):
        done += len(ready)
        released = child[order[_ranges(border[ready], border[ready + 1] - border[ready])]]
        np.subtract.at(missing, released, 1)
        candidates = np.unique(released)
        ready = candidates[missing[candidates] == 0]
    if done < tasks:
        stuck = int(np.flatnonzero(missing > 0)[0])
        raise ModelError(
            f"parents of {workload.label(stuck)}",
            "a task that waits, directly or through others, for itself",
            "dependencies without a cycle",
        )


def _ranges(begin: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Concatenate begin[i] … begin[i] + lengths[i] - 1 for all i."""
    import numpy as np

    total = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    result: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(begin - starts, lengths)
    return result


def _offsets(lengths: NDArray[Any]) -> NDArray[np.uint32]:
    import numpy as np

    return np.concatenate(([0], np.cumsum(lengths))).astype(np.uint32)


def _taken(column: Any, index: NDArray[np.int64]) -> Any:
    return None if column is None else column[index]


def _first_repeated(texts: list[str]) -> list[str]:
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return [text]
        seen.add(text)
    return []

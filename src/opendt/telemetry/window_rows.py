"""Fragments that are known but belong to windows to come, and the columns in which a window gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from opendt.telemetry.messages import TaskId

__all__ = ["Backlog", "FragmentColumns"]

_ERA: Final = 64
_FEW: Final = 4

Columns = tuple["NDArray[Any]", ...]


@dataclass(frozen=True, slots=True, eq=False)
class FragmentColumns:
    """Fragments released in a window, grouped by task, in order within a task.

    Attributes
    ----------
    ids : tuple of (int or str)
        Tasks that have fragments here, in the order in which they were submitted.
    offset : int64 array
        Fragments of ``ids[i]`` are from ``offset[i]`` to ``offset[i + 1]``.
    first_index : int64 array
        Index of the first of them in its task.
    duration_ms : int64 array
        Length of each fragment.
    cpu_mhz : float64 array
        Demand over all cores.
    gpu_mhz : float64 array or None
        Demand of accelerators; None when none has any.
    last : bool array
        Whether it is the last of its task.
    """

    ids: tuple[TaskId, ...]
    offset: NDArray[np.int64]
    first_index: NDArray[np.int64]
    duration_ms: NDArray[np.int64]
    cpu_mhz: NDArray[np.float64]
    gpu_mhz: NDArray[np.float64] | None
    last: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of fragments."""
        return len(self.duration_ms)

    @property
    def code(self) -> NDArray[np.int64]:
        """Position in `ids` of each fragment's task."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.offset))


class Backlog:
    """Rows of equal columns, each of which waits for its window.

    A task that is sent whole has rows in a thousand windows. Such rows are kept by eras of windows and sorted when their era
    begins, so that taking a window costs what is in it.
    """

    def __init__(self) -> None:
        self._windows: dict[int, list[Columns]] = {}
        self._eras: dict[int, list[tuple[NDArray[np.int64], Columns]]] = {}
        self._era = -1

    def add(self, windows: NDArray[np.int64], columns: Columns) -> None:
        """Add rows with the window of each."""
        if not len(windows):
            return
        low, high = int(windows.min()), int(windows.max())
        if low == high:
            self._windows.setdefault(low, []).append(columns)
        elif high - low < _FEW:
            for window in range(low, high + 1):
                self._put(window, windows == window, columns)
        else:
            self._spread(windows, columns)

    def take(self, window: int) -> list[Columns]:
        """Take the rows of a window, which are asked for in order."""
        era = window // _ERA
        if era != self._era:
            self._era = era
            for windows, columns in self._eras.pop(era, ()):
                self._by_window(windows, columns)
        return self._windows.pop(window, [])

    def pieces(self) -> Iterator[Columns]:
        """All rows that wait, in pieces."""
        for pieces in self._windows.values():
            yield from pieces
        for spread in self._eras.values():
            for _, columns in spread:
                yield columns

    def _put(self, window: int, mask: NDArray[np.bool_], columns: Columns) -> None:
        if mask.any():
            self._windows.setdefault(window, []).append(tuple(column[mask] for column in columns))

    def _spread(self, windows: NDArray[np.int64], columns: Columns) -> None:
        eras = windows // _ERA
        for era in np.unique(eras).tolist():
            mask = eras == era
            some = tuple(column[mask] for column in columns)
            if era <= self._era:
                self._by_window(windows[mask], some)
            else:
                self._eras.setdefault(era, []).append((windows[mask], some))

    def _by_window(self, windows: NDArray[np.int64], columns: Columns) -> None:
        order = np.argsort(windows, kind="stable")
        windows = windows[order]
        border = np.flatnonzero(np.diff(windows)) + 1
        begins, ends = [0, *border.tolist()], [*border.tolist(), len(windows)]
        ordered = [column[order] for column in columns]
        for begin, end in zip(begins, ends, strict=True):
            piece = tuple(column[begin:end] for column in ordered)
            self._windows.setdefault(int(windows[begin]), []).append(piece)

"""What is kept of tasks: which are open, what windows get of them, what survives a restart.

A fragment is *accepted* when all before it are, and *released* in the window in which it has ended and is known. What is accepted but
not released is not part of the state that survives a restart: its records are read again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from opendt.telemetry.messages import TaskArrival, TaskId
from opendt.telemetry.window_rows import Backlog, FragmentColumns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.telemetry.window_inbox import Grid

__all__ = ["Finished", "Open", "Released", "Sent", "TaskTable", "arrival_digest"]

_COLUMNS: Final = ("number", "count", "end_ms", "known_ms", "released", "released_end_ms", "final")
_UNRELEASED: Final = -1


class Sent(NamedTuple):
    """Fragments that a record brought without saying their places."""

    topic: str
    partition: int
    offset: int
    first: int
    length: int


@dataclass(slots=True)
class Open:
    """What is kept of an open task beside its columns."""

    arrival: TaskArrival
    digest: str = ""
    sent: list[Sent] = field(default_factory=list)


class Finished(NamedTuple):
    """What is kept of a task that is done, to know it when it comes again."""

    end_ms: int
    digest: str
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Released:
    """What a window gets of tasks."""

    tasks: tuple[TaskArrival, ...]
    fragments: FragmentColumns
    completed: tuple[TaskId, ...]


def arrival_digest(arrival: TaskArrival) -> str:
    """Short digest of what a task message says of the task, to tell a repetition from a contradiction."""
    return hashlib.blake2b(repr(arrival.fields).encode(), digest_size=8).hexdigest()


class TaskTable:
    """All open tasks of a datacenter, a slot each, and what is to be known of those that are done."""

    def __init__(self, grid: Grid, memory_ms: int) -> None:
        self.grid = grid
        self.memory_ms = memory_ms
        self.slots: dict[TaskId, int] = {}
        self.open: list[Open | None] = []
        self.finished: dict[TaskId, Finished] = {}
        self.older: set[int] = set()
        self.backlog = Backlog()
        self.restored_window = -1
        self._free: list[int] = []
        self._next_number = 0
        self._columns = {name: np.zeros(64, np.int64) for name in _COLUMNS}
        self._arrivals: dict[int, list[tuple[int, str, int, int, int]]] = {}
        self._closes: dict[int, list[tuple[int, TaskId]]] = {}
        self._fresh: dict[tuple[int, int], tuple[int, float, float, bool, int]] = {}
        self._recent: deque[tuple[int, tuple[NDArray[Any], ...]]] = deque()

    def column(self, name: str) -> NDArray[np.int64]:
        """Give a column of numbers, one a slot."""
        return self._columns[name]

    def _of(self, slot: int) -> Open:
        state = self.open[slot]
        assert state is not None
        return state

    def _register(self, arrival: TaskArrival, older: bool) -> int:
        slot = self._free.pop() if self._free else len(self.open)
        if slot == len(self.open):
            self.open.append(None)
            if slot >= len(self._columns["number"]):
                self._columns = {name: np.concatenate((c, np.zeros_like(c))) for name, c in self._columns.items()}
        self.open[slot] = Open(arrival)
        if older:
            self.older.add(slot)
        self.slots[arrival.id] = slot
        values = (_UNRELEASED, 0, arrival.submission_ms, arrival.submission_ms, 0, arrival.submission_ms, -1)
        for name, value in zip(_COLUMNS, values, strict=True):
            self._columns[name][slot] = value
        return slot

    def _flush_fresh(self) -> None:
        """Put fragments that were accepted one by one where the others are."""
        if not self._fresh:
            return
        keys, rows = list(self._fresh), list(self._fresh.values())
        self._fresh.clear()
        self.backlog.add(
            np.array([row[4] for row in rows], np.int64),
            (
                np.array([slot for slot, _ in keys], np.int64),
                np.array([index for _, index in keys], np.int64),
                np.array([row[0] for row in rows], np.int64),
                np.array([row[1] for row in rows], np.float64),
                np.array([row[2] for row in rows], np.float64),
                np.array([row[3] for row in rows], np.bool_),
            ),
        )

    def _content(self, slot: int, index: int) -> tuple[Any, ...] | None:
        """Length and demands of a known fragment; None when it was released so long ago that they are forgotten."""
        fresh = self._fresh.get((slot, index))
        if fresh is not None:
            return fresh[:3]
        for piece in self.backlog.pieces():
            found = _found(piece, slot, index)
            if found is not None:
                return found
        return self._recent_content(int(self._columns["number"][slot]), index)

    def _recent_content(self, number: int, index: int) -> tuple[Any, ...] | None:
        for _, piece in self._recent:
            found = _found(piece, number, index)
            if found is not None:
                return found
        return None

    # ---------------------------------------------------------------- what windows get

    def release(self, window: int, older: Any = None) -> Released:
        """Give what belongs to a window, whose records have all been taken.

        Parameters
        ----------
        window : int
            Number of the window.
        older : callable, optional
            Gives the rows of the older pair, when the tasks of the window have their numbers.
        """
        arrivals = sorted(self._arrivals.pop(window, []))
        tasks = tuple(self._of(slot).arrival for *_, slot in arrivals)
        for *_, slot in arrivals:
            self._columns["number"][slot] = self._next_number
            self._next_number += 1
        pieces = self.backlog.take(window)
        silent: list[int] = []
        if older is not None:
            piece, silent = older()
            pieces.append(piece)
        fragments, done = self._grouped(pieces, window)
        completed = []
        for slot, task_id in self._closes.pop(window, []):
            if self.slots.get(task_id) == slot:
                completed.append((int(self._columns["number"][slot]), slot))
        completed += [(int(self._columns["number"][slot]), slot) for slot in silent]
        completed.sort()
        ids = tuple(self._of(slot).arrival.id for _, slot in completed)
        end_ms = self.grid.end_ms(window)
        for slot in (*done, *(slot for _, slot in completed)):
            self._finish(slot, end_ms)
        self._forget(end_ms)
        return Released(tasks, fragments, ids)

    def _grouped(self, pieces: list[tuple[NDArray[Any], ...]], window: int) -> tuple[FragmentColumns, list[int]]:
        """Put rows in the order of tasks and places, note them as released; gives also the slots of tasks that are done."""
        pieces = [piece for piece in pieces if len(piece[0])]
        if not pieces:
            none = np.zeros(0, np.int64)
            return FragmentColumns((), np.zeros(1, np.int64), none, none, np.zeros(0), None, np.zeros(0, np.bool_)), []
        slot, place, duration_ms, cpu_mhz, gpu_mhz, last = (
            np.concatenate(column) for column in zip(*pieces, strict=True)
        )
        number = self._columns["number"][slot]
        order = np.lexsort((place, number))
        slot, place, duration_ms, cpu_mhz = slot[order], place[order], duration_ms[order], cpu_mhz[order]
        gpu_mhz, last, number = gpu_mhz[order], last[order], number[order]
        start = np.flatnonzero(np.concatenate(([True], slot[1:] != slot[:-1])))
        group = slot[start]
        offset = np.concatenate((start, [len(slot)]))
        self._columns["released"][group] = place[offset[1:] - 1] + 1
        self._columns["released_end_ms"][group] += np.add.reduceat(duration_ms, start)
        self._recent.append((window, (number, place, duration_ms, cpu_mhz, gpu_mhz)))
        ids = tuple(self._of(one).arrival.id for one in group.tolist())
        gpu = gpu_mhz if gpu_mhz.any() else None
        return FragmentColumns(ids, offset, place[start], duration_ms, cpu_mhz, gpu, last), slot[last].tolist()

    def _finish(self, slot: int, end_ms: int) -> None:
        arrival = self._of(slot).arrival
        self.finished[arrival.id] = Finished(end_ms, arrival_digest(arrival), int(self._columns["number"][slot]))
        del self.slots[arrival.id]
        self.open[slot] = None
        self.older.discard(slot)
        self._free.append(slot)

    def _forget(self, end_ms: int) -> None:
        """Forget what is so old that nobody will repeat it."""
        while self.finished:
            oldest = next(iter(self.finished))
            if self.finished[oldest].end_ms > end_ms - self.memory_ms:
                break
            del self.finished[oldest]
        kept_ms = self.grid.lateness_ms + self.grid.window_ms
        while self._recent and self.grid.end_ms(self._recent[0][0]) <= end_ms - kept_ms:
            self._recent.popleft()

    # ---------------------------------------------------------------- what survives a restart

    def state(self) -> dict[str, Any]:
        """Give what must survive: released tasks that are open, what was released of them, and the memory of the rest."""
        column = {name: values.tolist() for name, values in self._columns.items()}
        tasks = []
        for slot, state in enumerate(self.open):
            if state is None or column["number"][slot] < 0:
                continue
            released = column["released"][slot]
            tasks.append(
                {
                    "task": list(state.arrival.fields),
                    "is_older": slot in self.older,
                    "digest": state.digest,
                    "sent": [list(sent) for sent in state.sent if sent.first + sent.length > released],
                    "number": column["number"][slot],
                    "released": released,
                    "released_end_ms": column["released_end_ms"][slot],
                    "known_ms": column["known_ms" if slot in self.older else "released_end_ms"][slot],
                }
            )
        return {
            "next_number": self._next_number,
            "tasks": sorted(tasks, key=lambda task: int(task["number"])),
            "finished": [[task_id, *kept] for task_id, kept in self.finished.items()],
            "recent": [[window, *(values.tolist() for values in piece)] for window, piece in self._recent],
        }

    def restore(self, state: dict[str, Any], window: int) -> None:
        """Continue from a state; `window` is the last that was closed."""
        self.restored_window = window
        self._next_number = state["next_number"]
        for one in state["tasks"]:
            *fields, parents = one["task"]
            arrival: TaskArrival = TaskArrival(*[*fields, tuple(parents)])
            slot = self._register(arrival, one["is_older"])
            self._of(slot).digest = one["digest"]
            self._of(slot).sent = [Sent(*sent) for sent in one["sent"]]
            released, end_ms = one["released"], one["released_end_ms"]
            values = (one["number"], released, end_ms, one["known_ms"], released, end_ms, -1)
            for name, value in zip(_COLUMNS, values, strict=True):
                self._columns[name][slot] = value
        self.finished = {task_id: Finished(*kept) for task_id, *kept in state["finished"]}
        kinds = (np.int64, np.int64, np.int64, np.float64, np.float64)
        for number, *piece in state["recent"]:
            columns = tuple(np.array(values, kind) for values, kind in zip(piece, kinds, strict=True))
            self._recent.append((number, columns))


def _found(piece: tuple[NDArray[Any], ...], task: int, place: int) -> tuple[Any, ...] | None:
    """Look a fragment up among rows."""
    rows = np.flatnonzero((piece[0] == task) & (piece[1] == place))
    if not len(rows):
        return None
    row = int(rows[-1])
    return int(piece[2][row]), float(piece[3][row]), float(piece[4][row])

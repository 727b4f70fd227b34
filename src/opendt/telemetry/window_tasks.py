"""Tasks and their fragments as records tell of them: which are new, repeated, contradictory, late, or wait for another.

Fragments have places in their tasks, so a repeated one is known as such whatever message brings it. What is kept of tasks, and what
windows get of them, is in `window_table`.
"""

from __future__ import annotations

import hashlib
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from opendt.telemetry.message_columns import FragmentRows
from opendt.telemetry.messages import Task, TaskArrival, TaskId, encode_parts
from opendt.telemetry.window_table import Sent, TaskTable, arrival_digest
from opendt.telemetry.window_tally import Where

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.telemetry.window_inbox import Batch, Grid, Inbox
    from opendt.telemetry.window_tally import Tally

__all__ = ["TaskBook", "where_of"]

_UNKNOWN: Final = -1


class Waiting(NamedTuple):
    """A fragment whose task, or whose predecessor, has not come."""

    inbox: Inbox
    where: Where
    time_ms: int
    passed: int
    ended: int
    id: TaskId
    place: int
    duration_ms: int
    cpu_mhz: float
    gpu_mhz: float
    last: bool


class TaskBook(TaskTable):
    """The tasks of a datacenter, with what records say of them."""

    def __init__(self, grid: Grid, memory_ms: int) -> None:
        super().__init__(grid, memory_ms)
        self._waiting: dict[TaskId, dict[int, Waiting]] = {}

    def take(self, inbox: Inbox, ranges: list[tuple[Batch, int, int]], window: int, tally: Tally) -> None:
        """Go through records of `dc.workload` up to the one that closes a window."""
        if not self._take_regular(inbox, ranges, window, tally):
            for batch, begin, end in ranges:
                for i in range(begin, end):
                    self._take_record(inbox, batch, i, window, tally)
        self._flush_fresh()

    def _take_record(self, inbox: Inbox, batch: Batch, i: int, window: int, tally: Tally) -> None:
        item, where = batch.items[i], where_of(inbox, batch, i)
        if isinstance(item, Task):
            self.take_task(inbox, item, where, batch, i, window, tally)
        elif batch.plain[i]:
            self._take_rows(inbox, batch, i, i + 1, window, tally)

    def _take_regular(self, inbox: Inbox, ranges: list[tuple[Batch, int, int]], window: int, tally: Tally) -> bool:
        """Go through records among which nothing is out of the ordinary; False, and nothing done, when something is.

        Then all tasks are new, so it is the same to go through them first and through all fragments at once afterwards.
        """
        if self._waiting:
            return False
        tasks: list[tuple[Batch, int]] = []
        ids: set[TaskId] = set()
        for batch, begin, end in ranges:
            if batch.records[begin].offset < inbox.recover_below:
                return False
            for i in (np.flatnonzero(~batch.plain[begin:end]) + begin).tolist():
                if isinstance(batch.items[i], Task):
                    task_id = batch.items[i].task.id
                    if task_id in self.slots or task_id in self.finished or task_id in ids:
                        return False
                    ids.add(task_id)
                    tasks.append((batch, i))
        for batch, i in tasks:
            self.take_task(inbox, batch.items[i], where_of(inbox, batch, i), batch, i, window, tally)
        for batch, begin, end in ranges:
            if self._waiting or not self._accept_all(inbox, batch, begin, end, window, tally):
                self._take_rows(inbox, batch, begin, end, window, tally)
        return True

    def take_task(
        self,
        inbox: Inbox,
        item: Task,
        where: Where,
        batch: Batch,
        i: int,
        window: int,
        tally: Tally,
        *,
        older: bool = False,
    ) -> None:
        """Register a task, or take further fragments of one that is known."""
        slot = self.slots.get(item.task.id)
        value = batch.records[i].value
        end_ms = self.grid.end_ms(window)
        if slot is not None:
            self._take_again(inbox, slot, item, where, batch, i, window, tally)
            return
        finished = self.finished.get(item.task.id)
        if finished is not None:
            if finished.digest == arrival_digest(item.task):
                tally.count("duplicate", where)
            else:
                why = f"task {item.task.id} is done and came with other values before"
                tally.refuse(where, "conflict", why, value, end_ms)
            return
        submission_ms = item.task.submission_ms
        if submission_ms < self.grid.origin_ms:
            why = (
                f"task {item.task.id} was submitted at {submission_ms}, before the first window ({self.grid.origin_ms})"
            )
            tally.refuse(where, "late", why, value, end_ms)
            return
        target = int(self.grid.window_of(submission_ms))
        passed = self._passed(where, batch, i, window)
        if target <= passed:
            why = f"task {item.task.id} belongs to window {target}, window {passed} has been passed"
            tally.refuse(where, "late", why, value, end_ms)
            return
        if target <= int(self.grid.ended_by(batch.before_ms[i])):
            tally.count("merged", where)
        slot = self._register(item.task, older)
        self._arrivals.setdefault(target, []).append(
            (submission_ms, where.partition.topic, where.partition.number, where.offset, slot)
        )
        inbox.hold(where.offset, target)
        if len(item.duration_ms):
            self._append(inbox, slot, item, item.first_fragment or 0, where, batch, i, window, tally)
        elif item.complete:
            self._close(inbox, slot, target, where)
        self._attach(item.task.id, where.is_old, window, tally)

    def _take_again(
        self, inbox: Inbox, slot: int, item: Task, where: Where, batch: Batch, i: int, window: int, tally: Tally
    ) -> None:
        state = self._of(slot)
        value = batch.records[i].value
        column = self._columns
        if where.is_old and column["number"][slot] >= 0:
            self._recover(inbox, slot, item, where, batch, i, window, tally)
            return
        if item.task != state.arrival:
            why = f"task {item.task.id} came with other values before: {_difference(state.arrival, item.task)}"
            tally.refuse(where, "conflict", why, value, self.grid.end_ms(window))
            return
        is_final = column["final"][slot] >= 0
        if not len(item.duration_ms):
            if item.complete and not is_final:
                target = max(int(self.grid.window_of(column["known_ms"][slot])), window)
                target = max(target, int(self.grid.window_of(item.timestamp_ms)))
                self._close(inbox, slot, target, where)
            else:
                tally.count("duplicate", where)
            return
        if state.digest == _digest(value):
            tally.count("duplicate", where)
            return
        first = item.first_fragment
        if first is None:
            first = 0 if is_final else int(column["count"][slot])
        self._append(inbox, slot, item, first, where, batch, i, window, tally)

    def _recover(
        self, inbox: Inbox, slot: int, item: Task, where: Where, batch: Batch, i: int, window: int, tally: Tally
    ) -> None:
        """Take again, after a restart, what a record has for windows to come."""
        place = (*where.partition, where.offset)
        for sent in self._of(slot).sent:
            if sent[:3] == place:
                self._append(inbox, slot, item, sent.first, where, batch, i, window, tally)
                return
        if item.complete and not len(item.duration_ms):
            target = int(self.grid.window_of(item.timestamp_ms))
            if target > self.restored_window:
                self._close(inbox, slot, target, where)

    def _close(self, inbox: Inbox, slot: int, target: int, where: Where) -> None:
        self._columns["final"][slot] = self._columns["count"][slot]
        self._closes.setdefault(target, []).append((slot, self._of(slot).arrival.id))
        inbox.hold(where.offset, target)

    def _append(
        self,
        inbox: Inbox,
        slot: int,
        item: Task,
        first: int,
        where: Where,
        batch: Batch,
        i: int,
        window: int,
        tally: Tally,
    ) -> None:
        """Take the fragments inside a task message."""
        state, column = self._of(slot), self._columns
        count = len(item.duration_ms)
        place = (*where.partition, where.offset)
        if not (where.is_old and column["number"][slot] >= 0):
            state.digest = _digest(batch.records[i].value)
            released = int(column["released"][slot])
            state.sent = [sent for sent in state.sent if sent.first + sent.length > released]
            state.sent.append(Sent(*place, first, count))
        known = int(column["count"][slot])
        skipped = min(max(known - first, 0), count) if where.is_old else 0
        duration_ms, cpu_mhz = item.duration_ms[skipped:], item.cpu_mhz[skipped:]
        gpu_mhz = np.zeros(len(cpu_mhz)) if item.gpu_mhz is None else item.gpu_mhz[skipped:]
        if not len(duration_ms):
            return
        last = np.zeros(len(duration_ms), np.bool_)
        last[-1] = item.complete
        index = np.arange(first + skipped, first + count)
        nominal_ms = column["end_ms"][slot] + np.cumsum(duration_ms)
        known_ms = np.maximum(np.maximum(nominal_ms, item.timestamp_ms), column["known_ms"][slot])
        windows = self.grid.window_of(known_ms)
        passed = self._passed(where, batch, i, window)
        ended = int(self.grid.ended_by(batch.before_ms[i]))
        regular = index[0] == known and column["final"][slot] < 0 and state.arrival.id not in self._waiting
        if regular and not (windows <= passed).any():
            if int(self.grid.window_of(item.timestamp_ms)) <= ended:
                tally.count("merged", where, len(index))
            column["count"][slot] += len(index)
            column["end_ms"][slot], column["known_ms"][slot] = nominal_ms[-1], known_ms[-1]
            if item.complete:
                column["final"][slot] = column["count"][slot]
            rows = (np.full(len(index), slot), index, duration_ms, cpu_mhz, gpu_mhz, last)
            self.backlog.add(windows, rows)
            inbox.hold(where.offset, int(windows[-1]))
            return
        columns = (index, duration_ms, cpu_mhz, gpu_mhz, last)
        for row in zip(*(c.tolist() for c in columns), strict=True):
            self._take_row(
                Waiting(inbox, where, item.timestamp_ms, passed, ended, state.arrival.id, *row), window, tally
            )

    def _accept_all(self, inbox: Inbox, batch: Batch, begin: int, end: int, window: int, tally: Tally) -> bool:
        """Accept the fragments of many records at once; False, and nothing done, when any of them is out of the ordinary."""
        low, high = int(batch.border[begin]), int(batch.border[end])
        if low == high or batch.rows is None:
            return True
        rows, column, grid = batch.rows, self._columns, self.grid
        count = high - low
        slots = np.fromiter(map(self.slots.get, rows.ids[low:high], repeat(_UNKNOWN)), np.int64, count)
        if slots.min() < 0:
            return False
        order = np.argsort(slots, kind="stable")
        slot = slots[order]
        start = np.flatnonzero(np.concatenate(([True], slot[1:] != slot[:-1])))
        lengths = np.diff(np.concatenate((start, [count])))
        stop = start + lengths - 1
        group = slot[start]
        places, last = rows.place[low:high][order], rows.last[low:high][order]
        inner = last.copy()
        inner[stop] = False
        expected = np.arange(count) + np.repeat(column["count"][group] - start, lengths)
        if inner.any() or (column["final"][group] >= 0).any() or not np.array_equal(places, expected):
            return False
        if self.older and not self.older.isdisjoint(group.tolist()):
            return False
        duration_ms = rows.duration_ms[low:high][order]
        total = np.cumsum(duration_ms)
        nominal_ms = total + np.repeat(column["end_ms"][group] - total[start] + duration_ms[start], lengths)
        records = np.diff(batch.border[begin : end + 1])
        time_ms = np.repeat(batch.times_ms[begin:end], records)[order]
        known_ms = np.maximum(time_ms, nominal_ms)
        falls = known_ms[1:] < known_ms[:-1]
        falls[start[1:] - 1] = False
        if falls.any() or (known_ms[start] < column["known_ms"][group]).any():
            return False
        before_ms = np.repeat(batch.before_ms[begin:end], records)[order]
        windows = grid.window_of(known_ms)
        if (windows <= np.maximum(grid.passed_by(before_ms), window - 1)).any():
            return False
        tally.counts["merged"] += int((grid.window_of(time_ms) <= grid.ended_by(before_ms)).sum())
        column["count"][group] += lengths
        column["end_ms"][group], column["known_ms"][group] = nominal_ms[stop], known_ms[stop]
        done = group[last[stop]]
        column["final"][done] = column["count"][done]
        gpu_mhz = np.zeros(count) if rows.gpu_mhz is None else rows.gpu_mhz[low:high][order]
        self.backlog.add(windows, (slot, places, duration_ms, rows.cpu_mhz[low:high][order], gpu_mhz, last))
        _hold_rows(inbox, np.repeat(batch.offsets[begin:end], records)[order], windows, window)
        return True

    def _take_rows(self, inbox: Inbox, batch: Batch, begin: int, end: int, window: int, tally: Tally) -> None:
        """Take the fragments of records one by one."""
        rows = batch.rows
        if rows is None:
            return
        for i in range(begin, end):
            where = where_of(inbox, batch, i)
            passed, ended = self._passed(where, batch, i, window), int(self.grid.ended_by(batch.before_ms[i]))
            low, high = int(batch.border[i]), int(batch.border[i + 1])
            part = rows.part(low, high)
            gpu_mhz = [0.0] * (high - low) if part.gpu_mhz is None else part.gpu_mhz.tolist()
            columns = (
                part.place.tolist(),
                part.duration_ms.tolist(),
                part.cpu_mhz.tolist(),
                gpu_mhz,
                part.last.tolist(),
            )
            for task_id, *row in zip(part.ids, *columns, strict=True):
                one = Waiting(inbox, where, int(batch.times_ms[i]), passed, ended, task_id, *row)
                self._take_row(one, window, tally)

    def _take_row(self, row: Waiting, window: int, tally: Tally) -> None:
        """Take one fragment: accept it, let it wait, count it as a repetition or refuse it."""
        slot = self.slots.get(row.id)
        column = self._columns
        if slot is None:
            finished = self.finished.get(row.id)
            if finished is None:
                self._wait(row, window, tally)
            elif not row.where.is_old:
                self._repeated(row, self._recent_content(finished.number, row.place), window, tally)
            return
        if slot in self.older:
            self._refuse_row(
                row, "conflict", f"task {row.id} gets its fragments on the older pair of topics", window, tally
            )
            return
        count, final = int(column["count"][slot]), int(column["final"][slot])
        if row.place < count:
            if not row.where.is_old:
                self._repeated(row, self._content(slot, row.place), window, tally)
        elif final >= 0:
            why = f"fragment {row.place} of task {row.id}, whose last was fragment {final - 1}"
            self._refuse_row(row, "conflict", why, window, tally)
        elif row.place > count:
            self._wait(row, window, tally)
        elif self._accept(slot, row, window, tally):
            self._attach(row.id, row.where.is_old, window, tally)

    def _accept(self, slot: int, row: Waiting, window: int, tally: Tally) -> bool:
        column = self._columns
        nominal_ms = int(column["end_ms"][slot]) + row.duration_ms
        known_ms = max(row.time_ms, nominal_ms, int(column["known_ms"][slot]))
        target = int(self.grid.window_of(known_ms))
        if target <= row.passed:
            why = (
                f"fragment {row.place} of task {row.id} belongs to window {target}, window {row.passed} has been passed"
            )
            self._refuse_row(row, "late", why, window, tally)
            return False
        if int(self.grid.window_of(row.time_ms)) <= row.ended:
            tally.count("merged", row.where)
        column["count"][slot], column["end_ms"][slot], column["known_ms"][slot] = row.place + 1, nominal_ms, known_ms
        if row.last:
            column["final"][slot] = row.place + 1
        self._fresh[slot, row.place] = (row.duration_ms, row.cpu_mhz, row.gpu_mhz, row.last, target)
        row.inbox.hold(row.where.offset, target)
        return True

    def _wait(self, row: Waiting, window: int, tally: Tally) -> None:
        others = self._waiting.setdefault(row.id, {})
        if row.place in others:
            other = others[row.place]
            self._repeated(row, (other.duration_ms, other.cpu_mhz, other.gpu_mhz), window, tally)
        elif row.where.is_old and int(self.grid.window_of(row.time_ms)) <= self.restored_window:
            if not others:
                del self._waiting[row.id]
        else:
            if int(self.grid.window_of(row.time_ms)) <= row.ended:
                tally.count("merged", row.where)
            others[row.place] = row._replace(ended=_UNKNOWN)
            row.inbox.hold(row.where.offset, int(self.grid.window_of(row.time_ms)))

    def _attach(self, task_id: TaskId, is_old: bool, window: int, tally: Tally) -> None:
        """Take fragments that waited for what has come now, which is when they are judged."""
        slot = self.slots.get(task_id)
        while slot is not None and (others := self._waiting.get(task_id)):
            count, final = int(self._columns["count"][slot]), int(self._columns["final"][slot])
            ready = [index for index in others if index <= count or final >= 0]
            if not ready:
                return
            row = others.pop(min(ready))
            if not others:
                del self._waiting[task_id]
            row = row._replace(where=row.where._replace(is_old=is_old))
            self._take_row(row, window, tally)

    def settle(self, window: int, tally: Tally) -> None:
        """End the waiting of what belongs to this window: a missing predecessor is given up, an unknown task refused."""
        for task_id in list(self._waiting):
            while (others := self._waiting.get(task_id)) is not None:
                due = [i for i, row in others.items() if int(self.grid.window_of(row.time_ms)) <= window]
                if not due:
                    break
                row = others.pop(min(others) if task_id in self.slots else min(due))
                if not others:
                    del self._waiting[task_id]
                row = row._replace(where=row.where._replace(is_old=False))
                slot = self.slots.get(task_id)
                if slot is None:
                    why = f"fragment {row.place} of task {task_id}, of which nothing is known"
                    self._refuse_row(row, "unknown", why, window, tally)
                else:
                    self._columns["count"][slot] = max(self._columns["count"][slot], row.place)
                    self._take_row(row, window, tally)
        self._flush_fresh()

    def _repeated(self, row: Waiting, content: tuple[Any, ...] | None, window: int, tally: Tally) -> None:
        if content is None or content == (row.duration_ms, row.cpu_mhz, row.gpu_mhz):
            tally.count("duplicate", row.where)
        else:
            why = f"fragment {row.place} of task {row.id} came as {content[0]} ms at {content[1]:g} MHz before"
            self._refuse_row(row, "conflict", why, window, tally)

    def _refuse_row(self, row: Waiting, word: str, why: str, window: int, tally: Tally) -> None:
        rows = FragmentRows(
            [row.id],
            np.array([row.place]),
            np.array([row.duration_ms]),
            np.array([row.cpu_mhz]),
            np.array([row.gpu_mhz]) if row.gpu_mhz else None,
            np.array([row.last]),
        )
        tally.refuse(row.where, word, why, encode_parts(row.time_ms, rows), self.grid.end_ms(window))

    def _passed(self, where: Where, batch: Batch, i: int, window: int) -> int:
        """Greatest window that takes nothing more from this record's stream: passed by it, or closed without it."""
        return self.restored_window if where.is_old else max(int(self.grid.passed_by(batch.before_ms[i])), window - 1)


def where_of(inbox: Inbox, batch: Batch, i: int) -> Where:
    """Where a record lies."""
    record = batch.records[i]
    return Where(inbox.partition, record.offset, record.key, record.offset < inbox.recover_below)


def _hold_rows(inbox: Inbox, offsets: NDArray[np.int64], windows: NDArray[np.int64], window: int) -> None:
    """Note which records have fragments for windows to come, and for which at last."""
    later = windows > window
    if not later.any():
        return
    offsets, windows = offsets[later], windows[later]
    order = np.argsort(offsets, kind="stable")
    offsets, windows = offsets[order], windows[order]
    start = np.flatnonzero(np.concatenate(([True], offsets[1:] != offsets[:-1])))
    latest = np.maximum.reduceat(windows, start)
    for offset, last in zip(offsets[start].tolist(), latest.tolist(), strict=True):
        inbox.hold(offset, last)


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=8).hexdigest()


def _difference(one: TaskArrival, other: TaskArrival) -> str:
    """Say the first thing in which two tasks differ."""
    names = TaskArrival.__dataclass_fields__
    name = next(name for name in names if getattr(one, name) != getattr(other, name))
    return f"{name} is {getattr(other, name)!r} and was {getattr(one, name)!r}"

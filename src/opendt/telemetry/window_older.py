"""The older pair of topics: `tasks` and `fragments`, whose fragments say when they began instead of which they are.

A task and its fragments come on different partitions, so what a fragment is can only be said when a window closes: then every
partition has been read up to the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from opendt.telemetry.message_columns import FragmentRows
from opendt.telemetry.messages import Task, encode_fragments
from opendt.telemetry.window_rows import Backlog
from opendt.telemetry.window_tally import Where
from opendt.telemetry.window_tasks import where_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.telemetry.window_inbox import Batch, Inbox
    from opendt.telemetry.window_tally import Tally
    from opendt.telemetry.window_tasks import TaskBook

__all__ = ["OlderPair"]


class OlderPair:
    """Fragments of the older pair until their windows close."""

    def __init__(self, book: TaskBook) -> None:
        self.book = book
        self.backlog = Backlog()
        self._inboxes: list[Inbox] = []

    def take_tasks(self, inbox: Inbox, ranges: list[tuple[Batch, int, int]], window: int, tally: Tally) -> None:
        """Go through records of `tasks`."""
        for batch, begin, end in ranges:
            for i in range(begin, end):
                item = batch.items[i]
                if isinstance(item, Task):
                    self.book.take_task(inbox, item, where_of(inbox, batch, i), batch, i, window, tally, older=True)

    def take_fragments(self, inbox: Inbox, ranges: list[tuple[Batch, int, int]], window: int, tally: Tally) -> None:
        """Go through records of `fragments`: each row goes to the window in which it ends; those that are late come up now."""
        grid = self.book.grid
        for batch, begin, end in ranges:
            low, high = int(batch.border[begin]), int(batch.border[end])
            if batch.rows is None or low == high:
                continue
            rows = batch.rows.part(low, high)
            records = np.diff(batch.border[begin : end + 1])
            offsets = np.repeat(batch.offsets[begin:end], records)
            before_ms = np.repeat(batch.before_ms[begin:end], records)
            windows = grid.window_of(rows.place + rows.duration_ms)
            old = offsets < inbox.recover_below
            late = ~old & (windows <= np.maximum(grid.passed_by(before_ms), window - 1))
            tally.counts["merged"] += int((~old & ~late & (windows <= grid.ended_by(before_ms))).sum())
            kept = ~old | (windows > self.book.restored_window)
            kept &= rows.duration_ms > 0  # begins with the next one and does nothing
            windows = np.where(late, window, windows)
            later = kept & (windows > window)
            if later.any():
                self._hold(inbox, offsets[later], windows[later])
            ids = np.empty(len(rows), object)
            ids[:] = rows.ids
            stream = np.full(len(rows), self._stream(inbox))
            keys = np.repeat(np.array([record.key for record in batch.records[begin:end]], object), records)
            gpu_mhz = np.zeros(len(rows)) if rows.gpu_mhz is None else rows.gpu_mhz
            columns = (ids, rows.place, rows.duration_ms, rows.cpu_mhz, gpu_mhz, offsets, stream, keys, late)
            if kept.all():
                self.backlog.add(windows, columns)
            else:
                self.backlog.add(windows[kept], tuple(column[kept] for column in columns))

    def _hold(self, inbox: Inbox, offsets: NDArray[np.int64], windows: NDArray[np.int64]) -> None:
        for offset in np.unique(offsets).tolist():
            inbox.hold(offset, int(windows[offsets == offset].max()))

    def _stream(self, inbox: Inbox) -> int:
        for number, known in enumerate(self._inboxes):
            if known is inbox:
                return number
        self._inboxes.append(inbox)
        return len(self._inboxes) - 1

    @property
    def is_used(self) -> bool:
        """Whether there is anything of the pair to look after."""
        return bool(self._inboxes) or bool(self.book.older)

    def release(self, window: int, tally: Tally) -> tuple[tuple[NDArray[Any], ...], list[int]]:
        """Give the rows of a window for the task book, and the tasks that are done without one here.

        A task is done when nothing of it is known beyond what has been released: its next fragment would have begun by now.
        """
        book, column = self.book, self.book.column
        pieces = self.backlog.take(window)
        waiting = self._waiting_slots()
        rows = self._placed(pieces, window, tally)
        slot, last = rows[0], rows[5]
        has_rows = dict(zip(slot.tolist(), range(len(slot)), strict=True))
        silent = []
        numbers = column("number")
        for one in sorted(book.older):
            if numbers[one] < 0 or one in waiting:
                continue
            if one in has_rows:
                last[has_rows[one]] = True
            else:
                silent.append(one)
        return rows, silent

    def _waiting_slots(self) -> set[int]:
        """Tasks that have fragments for windows to come."""
        ids: set[Any] = set()
        for piece in self.backlog.pieces():
            ids.update(piece[0].tolist())
        return {slot for task_id in ids if (slot := self.book.slots.get(task_id)) is not None}

    def _placed(self, pieces: list[tuple[NDArray[Any], ...]], window: int, tally: Tally) -> tuple[NDArray[Any], ...]:
        """Find the tasks of rows and their places in them; drop repetitions, refuse what does not fit."""
        book = self.book
        ids, start_ms, duration_ms, cpu_mhz, gpu_mhz, offsets, stream, keys, late = _joined(pieces)
        slot = np.fromiter((book.slots.get(one, -1) for one in ids), np.int64, len(ids))
        order = np.lexsort((np.arange(len(ids)), start_ms, slot))
        rank = {i: inbox.partition for i, inbox in enumerate(self._inboxes)}
        if len(rank) > 1:  # several partitions: their order must not depend on which was heard first
            places = {i: place for place, i in enumerate(sorted(rank, key=lambda i: rank[i]))}
            streams = np.array([places[i] for i in stream.tolist()], np.int64)
            order = np.lexsort((np.arange(len(ids)), offsets, streams, start_ms, slot))
        slot, start_ms, duration_ms = slot[order], start_ms[order], duration_ms[order]
        columns = (
            ids[order],
            start_ms,
            duration_ms,
            cpu_mhz[order],
            gpu_mhz[order],
            offsets[order],
            stream[order],
            keys[order],
        )
        count = len(slot)
        if not count:
            keep = np.zeros(0, np.bool_)
        else:
            keep = self._regular(slot, start_ms, duration_ms, late[order])
            if not keep.all():
                keep = self._judged(slot, columns, late[order], window, tally)
        slot, start_ms, duration_ms = slot[keep], start_ms[keep], duration_ms[keep]
        index = self._indices(slot, start_ms, duration_ms)
        return slot, index, duration_ms, columns[3][keep], columns[4][keep], np.zeros(len(slot), np.bool_)

    def _regular(
        self,
        slot: NDArray[np.int64],
        start_ms: NDArray[np.int64],
        duration_ms: NDArray[np.int64],
        late: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Which rows follow upon what is known of their task without a gap; one that does not spoils those after it."""
        expected = np.empty(len(slot), np.int64)
        expected[1:] = start_ms[:-1] + duration_ms[:-1]
        first = np.concatenate(([True], slot[1:] != slot[:-1]))
        expected[first] = self.book.column("known_ms")[slot[first]]
        older = np.array([one in self.book.older for one in slot[first].tolist()])
        fits = np.repeat(older, np.diff(np.concatenate((np.flatnonzero(first), [len(slot)]))))
        result: NDArray[np.bool_] = fits & (start_ms == expected) & ~late
        return result

    def _judged(
        self,
        slots: NDArray[np.int64],
        columns: tuple[NDArray[Any], ...],
        late: NDArray[np.bool_],
        window: int,
        tally: Tally,
    ) -> NDArray[np.bool_]:
        """Judge rows one by one."""
        keep = np.zeros(len(slots), np.bool_)
        before: tuple[Any, ...] = ()
        ends: dict[int, int] = {}
        known_ms, released = self.book.column("known_ms"), self.book.column("released_end_ms")
        rows = zip(slots.tolist(), *(c.tolist() for c in columns), late.tolist(), strict=True)
        for i, (slot, task_id, start_ms, duration_ms, cpu_mhz, gpu_mhz, offset, stream, key, is_late) in enumerate(
            rows
        ):
            content = (slot, start_ms, duration_ms, cpu_mhz, gpu_mhz)
            where = Where(self._inboxes[stream].partition, offset, key, False)
            bare = (task_id, start_ms, duration_ms, cpu_mhz, gpu_mhz)
            name = f"the fragment of task {task_id} that began at {start_ms}"
            if slot not in self.book.older:
                self._refuse_stray(where, bare, name, slot, is_late, window, tally)
                continue
            end_ms = ends.get(slot, int(known_ms[slot]))
            if start_ms < end_ms:
                self._judge_earlier(where, bare, before, content, name, released[slot] == known_ms[slot], window, tally)
            elif is_late:
                why = f"{name} belongs to a window that has been passed"
                self._refuse(where, "late", why, bare, window, tally)
            else:
                keep[i] = True
                ends[slot], before = start_ms + duration_ms, content
        return keep

    def _judge_earlier(
        self,
        where: Where,
        bare: tuple[Any, ...],
        before: tuple[Any, ...],
        content: tuple[Any, ...],
        name: str,
        is_whole: bool,
        window: int,
        tally: Tally,
    ) -> None:
        """Judge a row that began before what is known of its task ends."""
        if before[:2] == content[:2]:
            if before == content:
                tally.count("duplicate", where)
            else:
                why = f"{name} came as {before[2]} ms at {before[3]:g} MHz before"
                self._refuse(where, "conflict", why, bare, window, tally)
        elif before and before[0] == content[0]:
            self._refuse(where, "conflict", f"{name} overlaps the one before it", bare, window, tally)
        elif is_whole:
            tally.count("duplicate", where)
        else:
            self._refuse(where, "late", f"{name}: later ones have been taken", bare, window, tally)

    def _refuse_stray(
        self, where: Where, bare: tuple[Any, ...], name: str, slot: int, is_late: bool, window: int, tally: Tally
    ) -> None:
        finished = self.book.finished.get(bare[0])
        if slot >= 0:
            self._refuse(where, "conflict", f"{name}: the task came on dc.workload", bare, window, tally)
        elif finished is not None and bare[1] + bare[2] <= finished.end_ms:
            tally.count("duplicate", where)
        elif finished is not None:
            self._refuse(where, "late", f"{name}: the task was silent and counts as done", bare, window, tally)
        elif is_late:
            self._refuse(where, "late", f"{name} belongs to a window that has been passed", bare, window, tally)
        else:
            self._refuse(where, "unknown", f"{name}: nothing is known of the task", bare, window, tally)

    def _refuse(self, where: Where, word: str, why: str, bare: tuple[Any, ...], window: int, tally: Tally) -> None:
        task_id, start_ms, duration_ms, cpu_mhz, gpu_mhz = bare
        rows = FragmentRows(
            [task_id],
            np.array([start_ms]),
            np.array([duration_ms]),
            np.array([cpu_mhz]),
            np.array([gpu_mhz]) if gpu_mhz else None,
        )
        tally.refuse(where, word, why, encode_fragments(rows), self.book.grid.end_ms(window))

    def _indices(
        self, slot: NDArray[np.int64], start_ms: NDArray[np.int64], duration_ms: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Give rows their indices in their tasks, and note them as accepted."""
        if not len(slot):
            return np.zeros(0, np.int64)
        column = self.book.column
        start = np.flatnonzero(np.concatenate(([True], slot[1:] != slot[:-1])))
        lengths = np.diff(np.concatenate((start, [len(slot)])))
        group = slot[start]
        index = np.arange(len(slot)) + np.repeat(column("count")[group] - start, lengths)
        column("count")[group] += lengths
        column("end_ms")[group] += np.add.reduceat(duration_ms, start)
        stop = start + lengths - 1
        column("known_ms")[group] = start_ms[stop] + duration_ms[stop]
        return index


def _joined(pieces: Sequence[tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    if pieces:
        return tuple(np.concatenate(column) for column in zip(*pieces, strict=True))
    none, real = np.zeros(0, np.int64), np.zeros(0)
    no_objects = np.empty(0, object)
    return no_objects, none, none, real, real, none, none, no_objects, np.zeros(0, np.bool_)

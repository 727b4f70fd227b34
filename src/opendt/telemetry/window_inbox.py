"""What a stream has delivered and no window has taken yet: decoded, with the time each record brings the stream to."""

from __future__ import annotations

import gc
import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from opendt.model.errors import MessageError
from opendt.telemetry import messages
from opendt.telemetry.message_columns import FragmentRows, batch_rows, object_rows, parts_rows
from opendt.telemetry.message_models import LATEST_MS, PowerMessage, SettingMessage, TopologyMessage
from opendt.telemetry.messages import (
    FRAGMENTS,
    TASKS,
    WORKLOAD,
    Fragments,
    Heartbeat,
    Parts,
    Task,
    decode_parsed,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from opendt.telemetry.source import Partition, Record

__all__ = ["NEVER", "Batch", "Grid", "Inbox"]

NEVER: Final = -(2**62)
"""A time before all others."""
_AT_ONCE: Final = 1_000
"""Records that are decoded together: enough to work on columns, few enough to stay in the processor's cache."""
_ENOUGH: Final = 100
"""Records that are worth decoding together."""
_SHORT_BYTES: Final = 4_096
"""What is longer is not parsed twice."""
_UNKNOWN_MS: Final = float("inf")
_ENVELOPE: Final = itemgetter("message_type", "timestamp", "parts")
_OLDER_KEYS: Final = ("id", "submission_time", "duration", "cpu_usage")


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows of event time: number i is (origin + i width, origin + (i + 1) width], number 0 holds the origin too."""

    origin_ms: int
    window_ms: int
    lateness_ms: int

    def end_ms(self, window: int) -> int:
        """End of a window, which belongs to it."""
        return self.origin_ms + (window + 1) * self.window_ms

    def threshold_ms(self, window: int) -> int:
        """Event time at which a stream has passed a window: no record before its end is taken from then on."""
        # With no lateness allowed, records at the very end still belong to the window: it is passed just after it.
        return self.end_ms(window) + max(self.lateness_ms, 1)

    def window_of(self, time_ms: Any) -> Any:
        """Number of the window that holds a time (or an array of them) at or after the origin."""
        return np.maximum(-((self.origin_ms - time_ms) // self.window_ms) - 1, 0)

    def passed_by(self, watermark_ms: Any) -> Any:
        """Greatest window that a stream with this watermark (or an array) has passed; below 0 for none."""
        return (watermark_ms - max(self.lateness_ms, 1) - self.origin_ms) // self.window_ms - 1

    def ended_by(self, watermark_ms: Any) -> Any:
        """Greatest window whose end a stream with this watermark (or an array) is beyond: what comes for it is merged."""
        return (watermark_ms - 1 - self.origin_ms) // self.window_ms - 1


@dataclass(slots=True, eq=False)
class Batch:
    """Records that came together, in order.

    Attributes
    ----------
    records : sequence of Record
        As delivered.
    items : list
        What each says: a message, a `MessageError`, or None for fragments, which are in `rows`.
    before_ms, after_ms : int64 array
        Watermark of the stream before and after each record.
    rows : FragmentRows or None
        Fragments of all records.
    border : int64 array
        Rows of record i are from border[i] to border[i + 1].
    offsets, times_ms : int64 array
        Offset and event time of each record; `NEVER` where it has no time.
    plain : bool array
        Which records are nothing but fragments.
    is_broken : bool
        Whether any item is an error.
    begin : int
        Records before it have been taken.
    """

    records: Sequence[Record]
    items: list[Any]
    offsets: NDArray[np.int64]
    before_ms: NDArray[np.int64]
    after_ms: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    rows: FragmentRows | None
    border: NDArray[np.int64]
    plain: NDArray[np.bool_]
    is_broken: bool
    begin: int = 0

    def __len__(self) -> int:
        """Return the number of records not yet taken."""
        return len(self.records) - self.begin


@dataclass(slots=True, eq=False)
class Inbox:
    """The records of one partition that belong to one datacenter.

    Records that come by ones and twos, as they do in life, are gathered and decoded together, at the latest when they may bring
    the stream to a time that is asked for.

    Attributes
    ----------
    partition : Partition
        Where they come from.
    declared : bool
        Known to exist although nothing was heard of it.
    is_at_end : bool
        Everything the partition holds has been delivered.
    watermark_ms, next_offset : int
        Watermark of what windows have taken, and the offset after it.
    recover_below : int
        Records below were taken before a restart; they are read again for what they hold of later windows.
    """

    partition: Partition
    declared: bool = False
    is_at_end: bool = False
    watermark_ms: int = NEVER
    next_offset: int = 0
    read_offset: int = 0
    recover_below: int = 0
    heard: bool = False
    _seen_ms: int = NEVER
    _first_task_ms: int = NEVER
    _gathered: list[Record] = field(default_factory=list)
    _gathered_ms: float = NEVER
    _batches: deque[Batch] = field(default_factory=deque)
    _holds: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_required(self) -> bool:
        """Whether windows wait for it."""
        return self.declared or self.heard

    @property
    def seen_ms(self) -> int:
        """Watermark of all that was read."""
        self._decode_gathered()
        return self._seen_ms

    @property
    def reached_ms(self) -> int:
        """About `seen_ms`, without the cost of decoding: never less, and more only by what a refused record said."""
        return self.seen_ms if self._gathered_ms == _UNKNOWN_MS else int(max(self._seen_ms, self._gathered_ms))

    @property
    def first_task_ms(self) -> int:
        """Submission of the first task that was read."""
        self._decode_gathered()
        return self._first_task_ms

    @property
    def is_recovered(self) -> bool:
        """Whether all that was taken before a restart has been read again."""
        return self.read_offset >= self.recover_below

    def restore(self, resume_offset: int, next_offset: int, watermark_ms: int) -> None:
        """Continue where a window left off."""
        self.heard = True
        self._seen_ms = self.watermark_ms = watermark_ms
        self.next_offset = self.recover_below = next_offset
        self.read_offset = resume_offset

    def has_passed(self, threshold_ms: int) -> bool:
        """Whether a record at or after this time has been read."""
        if max(self._seen_ms, self._gathered_ms) < threshold_ms:
            return False
        return self.seen_ms >= threshold_ms and self.is_recovered

    def add(self, records: Sequence[Record]) -> None:
        """Take records in order; those that were delivered before are left out."""
        if records[0].offset < self.read_offset:
            records = [record for record in records if record.offset >= self.read_offset]
            if not records:
                return
        self.is_at_end = False
        self.heard = True
        self.read_offset = records[-1].offset + 1
        self._gathered.extend(records)
        if len(self._gathered) >= _ENOUGH:
            self._decode_gathered()
            return
        for record in records:
            self._gathered_ms = max(self._gathered_ms, _latest_ms(self.partition.topic, record.value))

    def _decode_gathered(self) -> None:
        if not self._gathered:
            return
        records, self._gathered, self._gathered_ms = self._gathered, [], NEVER
        for begin in range(0, len(records), _AT_ONCE):
            batch = _decode(self.partition.topic, records[begin : begin + _AT_ONCE], self._seen_ms)
            self._seen_ms = int(batch.after_ms[-1])
            if self._first_task_ms == NEVER:
                tasks = (item for item in batch.items if type(item) is Task)
                self._first_task_ms = next((task.task.submission_ms for task in tasks), NEVER)
            self._batches.append(batch)

    def forget_heartbeats(self) -> None:
        """Drop what was read, of which nothing is kept: heartbeats before the first task."""
        self._decode_gathered()
        for batch in self._batches:
            if any(type(item) is not Heartbeat for item in batch.items):
                return
        if self._batches:
            self.next_offset, self.watermark_ms = self.read_offset, self._seen_ms
            self._batches.clear()

    def take(self, threshold_ms: int | None) -> list[tuple[Batch, int, int]]:
        """Take the records up to the first that brings the stream to a time, or all when it is None.

        Returns
        -------
        list of tuple
            Batches with the range of records in each.
        """
        if threshold_ms is None:
            return self._take(lambda batch: len(batch.records))
        return self._take(lambda batch: self._closing(batch, threshold_ms))

    def take_below(self, offset: int) -> list[tuple[Batch, int, int]]:
        """Take the records before an offset, as `take` does."""
        return self._take(lambda batch: int(np.searchsorted(batch.offsets, offset)))

    def _take(self, end_of: Callable[[Batch], int]) -> list[tuple[Batch, int, int]]:
        self._decode_gathered()
        taken = []
        while self._batches:
            batch = self._batches[0]
            begin, end = batch.begin, end_of(batch)
            if end > begin:
                taken.append((batch, begin, end))
                last = int(batch.offsets[end - 1]) + 1
                if last > self.next_offset:
                    self.next_offset, self.watermark_ms = last, int(batch.after_ms[end - 1])
                batch.begin = end
            if batch.begin < len(batch.records):
                break
            self._batches.popleft()
        return taken

    def _closing(self, batch: Batch, threshold_ms: int) -> int:
        """Give the end of the range: behind the closing record, or behind what has to be recovered."""
        if self.watermark_ms >= threshold_ms:
            end = int(np.searchsorted(batch.offsets, self.recover_below))
        else:
            end = int(np.searchsorted(batch.after_ms, threshold_ms)) + 1
            end = max(end, int(np.searchsorted(batch.offsets, self.recover_below)))
        return min(max(end, batch.begin), len(batch.records))

    def hold(self, offset: int, window: int) -> None:
        """Note that a record has something for a window to come."""
        heapq.heappush(self._holds, (offset, window))

    def resume_offset(self, window: int) -> int:
        """Smallest offset of a taken record that has something for a window after this one, else the next offset."""
        holds = self._holds
        while holds and holds[0][1] <= window:
            heapq.heappop(holds)
        return min(holds[0][0], self.next_offset) if holds else self.next_offset


def _latest_ms(topic: str, value: bytes) -> float:
    """Give the event time of a record if it is a good one; infinity where that takes to decode it."""
    if topic in (TASKS, FRAGMENTS) or len(value) > _SHORT_BYTES:
        return _UNKNOWN_MS
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return _UNKNOWN_MS
    moment = document.get("timestamp") if type(document) is dict else None
    return moment if type(moment) is int and moment <= LATEST_MS else _UNKNOWN_MS


def _decode(topic: str, records: Sequence[Record], seen_ms: int) -> Batch:
    """Decode records; the collector of cycles rests meanwhile, since parsed JSON has none and it would look at all of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return _decoded(topic, records, seen_ms)
    finally:
        if was_on:
            gc.enable()


def _decoded(topic: str, records: Sequence[Record], seen_ms: int) -> Batch:
    _, _, places, _, _, values = zip(*records, strict=True)
    documents: list[Any]
    try:
        documents = list(map(orjson.loads, values))
    except orjson.JSONDecodeError:
        documents = [_parsed(topic, value) for value in values]
    count = len(records)
    items: list[Any] = [None] * count
    times_ms = np.full(count, NEVER, np.int64)
    rows, border = None, np.zeros(count + 1, np.int64)
    quick: list[int] = []
    if topic == WORKLOAD:
        quick, rows, border = _quick_parts(documents, times_ms, border)
    elif topic == FRAGMENTS:
        quick, rows, border = _quick_fragments(documents, times_ms, border)
    done = set(quick)
    slow = [i for i in range(count) if i not in done] if len(done) < count else []
    for i in slow:
        items[i], times_ms[i] = _item(topic, documents[i])
    stragglers = [i for i in slow if type(items[i]) in (Parts, Fragments)]
    if stragglers:
        rows, border = _spliced(rows, border, [(i, items[i].rows) for i in stragglers])
        for i in stragglers:
            items[i] = None
    after_ms = np.maximum.accumulate(np.maximum(times_ms, seen_ms))
    before_ms = np.concatenate(([seen_ms], after_ms[:-1]))
    plain = np.diff(border) > 0
    is_broken = any(isinstance(items[i], MessageError) for i in slow)
    offsets = np.array(places, np.int64)
    return Batch(records, items, offsets, before_ms, after_ms, times_ms, rows, border, plain, is_broken)


def _parsed(topic: str, value: bytes) -> Any:
    try:
        return parse(topic, value)
    except MessageError as error:
        return error


def _item(topic: str, document: Any) -> tuple[Any, int]:
    """Give what a record says and its event time."""
    if isinstance(document, MessageError):
        return document, NEVER
    try:
        item = decode_parsed(topic, document)
    except MessageError as error:
        return error, NEVER
    if isinstance(item, Heartbeat | Task | Parts):
        return item, item.timestamp_ms
    if isinstance(item, Fragments):
        return item, int(item.rows.place.max()) if len(item.rows) else NEVER
    assert isinstance(item, PowerMessage | TopologyMessage | SettingMessage)
    return item, item.timestamp


_Rows = tuple[list[int], FragmentRows | None, "NDArray[np.int64]"]


def _quick_parts(documents: list[Any], times_ms: NDArray[np.int64], border: NDArray[np.int64]) -> _Rows:
    """Decode all `parts` messages at once; none when any of them is wrong, since then each is looked at by itself."""
    quick = [i for i, document in enumerate(documents) if type(document) is dict and "parts" in document]
    if not quick:
        return [], None, border
    some = documents if len(quick) == len(documents) else [documents[i] for i in quick]
    try:
        kinds, moments, columns = zip(*map(_ENVELOPE, some), strict=True)
        if {*kinds} != {"parts"} or {*map(type, moments)} != {int} or {*map(len, some)} != {3}:
            return [], None, border
        rows, counts = parts_rows(WORKLOAD, columns)
        times = np.array(moments, np.int64)
    except (KeyError, TypeError, OverflowError, MessageError):
        return [], None, border
    if times.min() < 0 or times.max() > LATEST_MS:
        return [], None, border
    times_ms[quick] = times
    border[np.array(quick) + 1] = counts
    return quick, rows, np.cumsum(border)


def _quick_fragments(documents: list[Any], times_ms: NDArray[np.int64], border: NDArray[np.int64]) -> _Rows:
    """Decode all messages of `fragments` at once, as `_quick_parts`."""
    quick, columns = [], []
    try:
        for i, document in enumerate(documents):
            if type(document) is dict:
                if "message_type" in document:
                    continue
                one = (
                    document
                    if type(document.get("id")) is list
                    else object_rows(FRAGMENTS, "", [document], _OLDER_KEYS)
                )
            elif type(document) is list:
                one = object_rows(FRAGMENTS, "", document, _OLDER_KEYS)
            else:
                continue
            quick.append(i)
            columns.append(messages.moments_to_ms(one))
        if not quick:
            return [], None, border
        rows, counts = batch_rows(FRAGMENTS, columns)
    except MessageError:
        return [], None, border
    border[np.array(quick) + 1] = counts
    border = np.cumsum(border)
    filled = np.flatnonzero(counts)
    if len(filled):
        index = np.array(quick)[filled]
        times_ms[index] = np.maximum.reduceat(rows.place, border[index])
    return quick, rows, border


def _spliced(
    rows: FragmentRows | None, border: NDArray[np.int64], extra: list[tuple[int, FragmentRows]]
) -> tuple[FragmentRows, NDArray[np.int64]]:
    """Put the rows of records that were decoded by themselves in their places."""
    pieces: dict[int, FragmentRows] = dict(extra)
    if rows is not None:
        for i, (begin, end) in enumerate(pairwise(border.tolist())):
            if end > begin:
                pieces[i] = rows.part(begin, end)
    counts = np.zeros(len(border), np.int64)
    for i, piece in pieces.items():
        counts[i + 1] = len(piece)
    return FragmentRows.join([pieces[i] for i in sorted(pieces)]), np.cumsum(counts)

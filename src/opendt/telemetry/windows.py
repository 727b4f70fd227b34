"""Windows of event time out of streams that arrive in any order.

Every decision about a record (in time, late, repeated, of which window) depends only on records before it in its own partition, and
a window closes when every stream it waits for has passed it. So windows do not depend on how partitions interleave, on how
records are delivered in batches, or on restarts: `state` at any window, with the records from the `resume_offset` of each stream,
continues as if nothing had happened.

Two things are no function of the streams: how much of what people send (topologies, settings) was there when a window took what is
there, and which stream was given up because it had ended. So a window that is derived again is told how far it took each stream
(`WindowAssembler.next`).
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import orjson

from opendt.model.errors import MessageError, ModelError
from opendt.telemetry.message_models import SettingMessage, TopologyMessage
from opendt.telemetry.messages import CONFIG, FRAGMENTS, POWER, TASKS, TOPOLOGY, WORKLOAD, TaskArrival, TaskId
from opendt.telemetry.source import Partition
from opendt.telemetry.window_inbox import NEVER, Grid, Inbox
from opendt.telemetry.window_older import OlderPair
from opendt.telemetry.window_power import PowerBook
from opendt.telemetry.window_rows import FragmentColumns
from opendt.telemetry.window_tally import Tally
from opendt.telemetry.window_tasks import TaskBook, where_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from opendt.telemetry.deadletter import DeadLetter
    from opendt.telemetry.source import Record
    from opendt.telemetry.window_inbox import Batch
    from opendt.telemetry.window_table import Released

__all__ = [
    "FragmentColumns",
    "SettingChange",
    "StreamPosition",
    "TaskArrival",
    "TopologyChange",
    "WindowAssembler",
    "WindowInput",
]

DAY_MS: Final = 86_400_000
_WORKLOAD: Final = (WORKLOAD, TASKS, FRAGMENTS)
_CONTROL: Final = (TOPOLOGY, CONFIG)
_TOPICS: Final = (*_WORKLOAD, POWER, *_CONTROL)
_STATE_VERSION: Final = 1


class _Position(Protocol):
    """Of `StreamPosition`, what tells how far a stream was taken."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def next_offset(self) -> int: ...


_Ranges = list[tuple["Batch", int, int]]


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """How far a window has taken a stream.

    Attributes
    ----------
    topic, partition : str, int
        The stream.
    resume_offset : int
        Where reading must begin to continue after the window.
    next_offset : int
        Offset after the last record that the window has taken.
    watermark_ms : int
        Greatest event time up to there, ms since the epoch.
    """

    topic: str
    partition: int
    resume_offset: int
    next_offset: int
    watermark_ms: int


@dataclass(frozen=True, slots=True)
class TopologyChange:
    """A topology of the real system that was announced.

    Attributes
    ----------
    timestamp_ms : int
        When, ms since the epoch.
    topology : dict
        OpenDC topology.json.
    version : int or None
        Number given to it.
    source : str
        Who made it.
    """

    timestamp_ms: int
    topology: dict[str, Any]
    version: int | None
    source: str


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that is to be changed."""

    timestamp_ms: int
    key: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class WindowInput:
    """All that happened in a window of event time, as far as it was in time.

    Attributes
    ----------
    datacenter : str
        Whose window.
    index : int
        Number, from 0.
    start_ms, end_ms : int
        After `start_ms` up to and including `end_ms`, ms since the epoch; number 0 holds `start_ms` too.
    origin_ms : int
        Start of window 0: the first submission.
    tasks : tuple of TaskArrival
        Submitted in the window, by submission time, equal ones as they came.
    fragments : FragmentColumns
        Released in the window.
    completed : tuple of (int or str)
        Tasks that turned out to be done without a further fragment.
    power_ms, power_w : int64 array, float64 array
        Readings by time: ms since the epoch, W.
    topology : TopologyChange or None
        The latest that was announced.
    settings : tuple of SettingChange
        To be changed, in order.
    counts : dict
        Of `tasks`, `fragments`, `readings` in the window; of what was judged while it was open: `late`, `duplicate`, `merged` (out of
        order but in time), `early` (readings before the origin), `dead` (refused, late ones included).
    positions : tuple of StreamPosition
        How far each stream was taken.
    input_hash : str
        SHA-256 of the content, without counts and positions.
    """

    datacenter: str
    index: int
    start_ms: int
    end_ms: int
    origin_ms: int
    tasks: tuple[TaskArrival, ...]
    fragments: FragmentColumns
    completed: tuple[TaskId, ...]
    power_ms: NDArray[np.int64]
    power_w: NDArray[np.float64]
    topology: TopologyChange | None
    settings: tuple[SettingChange, ...]
    counts: dict[str, int]
    positions: tuple[StreamPosition, ...]
    input_hash: str = ""


@dataclass(slots=True)
class _Control:
    """Topologies and settings that wait for their windows: (time, topic, partition, offset) and the message."""

    waiting: list[tuple[tuple[int, str, int, int], Any]] = field(default_factory=list)

    def release(self, end_ms: int) -> tuple[TopologyChange | None, tuple[SettingChange, ...]]:
        due = sorted((one for one in self.waiting if one[0][0] <= end_ms), key=lambda one: one[0])
        self.waiting = [one for one in self.waiting if one[0][0] > end_ms]
        topologies = [message for _, message in due if isinstance(message, TopologyChange)]
        settings = tuple(message for _, message in due if isinstance(message, SettingChange))
        return topologies[-1] if topologies else None, settings


class WindowAssembler:
    """Puts the records of one datacenter together to windows.

    Parameters
    ----------
    datacenter : str
        Name, for dead letters and hashes.
    window_ms : int
        Length of a window.
    lateness_ms : int
        How long after its end a window waits for records that are out of order; with 0 it closes just after its end.
    power_patience_ms : int
        How much event time the workload must be ahead before a window closes without a stream that has nothing more to
        give (`note_end`): power, or one of several partitions of the workload.
    origin_ms : int, optional
        Start of window 0, ms since the epoch; the first submission unless given.
    streams : collection of Partition
        Partitions that carry this datacenter's records although none may have been heard yet. Needed only where its
        workload comes on several partitions, as the older pair does: which was heard first must not matter.
    memory_ms : int
        How long finished tasks and readings are remembered, to know them when they come again; event time.

    Raises
    ------
    ModelError
        When a length is out of bounds.
    """

    def __init__(
        self,
        datacenter: str,
        *,
        window_ms: int,
        lateness_ms: int,
        power_patience_ms: int,
        origin_ms: int | None = None,
        streams: Collection[Partition] = (),
        memory_ms: int = DAY_MS,
    ) -> None:
        bounds = {"window_ms": (window_ms, 1), "lateness_ms": (lateness_ms, 0), "memory_ms": (memory_ms, 0)}
        for name, (value, least) in {**bounds, "power_patience_ms": (power_patience_ms, 0)}.items():
            if value < least:
                raise ModelError(name, value, f"at least {least} ms")
        self.datacenter = datacenter
        self.window_ms = window_ms
        self.lateness_ms = lateness_ms
        self.power_patience_ms = power_patience_ms
        self.memory_ms = memory_ms
        self._inboxes: dict[Partition, Inbox] = {}
        self._next = 0
        self._dead: list[DeadLetter] = []
        self._position: tuple[StreamPosition, ...] = ()
        self._control = _Control()
        self._grid: Grid | None = None
        for partition in streams:
            self._inbox(Partition(*partition)).declared = True
        if origin_ms is not None:
            self._begin(origin_ms)

    # ---------------------------------------------------------------- in

    def add(self, records: Sequence[Record]) -> None:
        """Take records of this datacenter, in order within each partition; those that were given before are left out."""
        streams: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            stream = (record.topic, record.partition)
            if stream in streams:
                streams[stream].append(record)
            else:
                streams[stream] = [record]
        for (topic, number), some in streams.items():
            self._inbox(Partition(topic, number)).add(some)

    def declare(self, partition: Partition) -> None:
        """Wait for a partition although none of its records may have been for this datacenter yet."""
        self._inbox(partition).declared = True

    def note_end(self, partition: Partition) -> None:
        """Note that everything a partition holds has been given; also of a power topic that has nothing of this datacenter.

        Say so only when it has been true for a moment: a producer that writes to several partitions in turn is not at its end.
        """
        self._inbox(partition).is_at_end = True

    def ahead(self, partition: Partition) -> int:
        """How many windows a partition has been read ahead of the next that will close; 0 while the origin is unknown."""
        inbox = self._inboxes.get(partition)
        if inbox is None or self._grid is None:
            return 0
        reached_ms = inbox.reached_ms
        return 0 if reached_ms == NEVER else max(0, int(self._grid.ended_by(reached_ms)) - self._next + 1)

    # ---------------------------------------------------------------- out

    def next(self, recorded: Iterable[_Position] | None = None) -> WindowInput | None:
        """Close the next window; None when it must wait for more.

        Parameters
        ----------
        recorded : iterable of StreamPosition, optional
            How far the window took each stream when it was closed before; None for one that is new. It takes each of them as
            far again, whatever has come there since.
        """
        if self._grid is None and not self._find_origin():
            return None
        grid = self._grid
        assert grid is not None
        window = self._next
        threshold_ms = grid.threshold_ms(window)
        limits = (
            None if recorded is None else {Partition(one.topic, one.partition): one.next_offset for one in recorded}
        )
        if not (self._is_ready(threshold_ms) if limits is None else self._is_there(limits)):
            return None
        tally = Tally(self.datacenter)
        for partition in sorted(self._inboxes):
            inbox = self._inboxes[partition]
            if limits is not None:
                ranges = inbox.take_below(limits.get(partition, 0))
            else:
                ranges = inbox.take(threshold_ms if inbox.has_passed(threshold_ms) else None)
            self._take(inbox, ranges, window, tally)
        self._tasks.settle(window, tally)
        older = (lambda: self._older.release(window, tally)) if self._older.is_used else None
        released = self._tasks.release(window, older)
        result = self._result(window, released, tally)
        self._dead.extend(sorted(tally.letters, key=lambda one: (one.topic, one.partition, one.offset)))
        self._next += 1
        self._position = result.positions
        return result

    def take_dead(self) -> list[DeadLetter]:
        """Give what the windows closed so far have refused, once."""
        dead, self._dead = self._dead, []
        return dead

    def position(self) -> tuple[StreamPosition, ...]:
        """How far the last window that closed has taken each stream."""
        return self._position

    # ---------------------------------------------------------------- restart

    def state(self) -> dict[str, Any]:
        """Give what must survive after the last window that closed, as plain data that JSON can hold."""
        if self._grid is None:
            return {}
        return {
            "version": _STATE_VERSION,
            "datacenter": self.datacenter,
            "window_ms": self.window_ms,
            "origin_ms": self._grid.origin_ms,
            "next_window": self._next,
            "positions": [list(astuple(position)) for position in self._position],
            "tasks": self._tasks.state(),
            "power": self._power.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the window at which `state` was taken; then give the records from each `resume_offset` on.

        Raises
        ------
        ModelError
            When the state is of another version, datacenter or window length.
        """
        if not state:
            return
        expected = {"version": _STATE_VERSION, "datacenter": self.datacenter, "window_ms": self.window_ms}
        for name, value in expected.items():
            if state.get(name) != value:
                raise ModelError(f"state.{name}", state.get(name), f"{value!r}", "Build it again from the streams.")
        self._begin(state["origin_ms"])
        self._next = state["next_window"]
        self._position = tuple(StreamPosition(*position) for position in state["positions"])
        for position in self._position:
            inbox = self._inbox(Partition(position.topic, position.partition))
            inbox.restore(position.resume_offset, position.next_offset, position.watermark_ms)
        self._tasks.restore(state["tasks"], self._next - 1)
        self._power.restore(state["power"], self._next - 1)

    # ---------------------------------------------------------------- inside

    def _inbox(self, partition: Partition) -> Inbox:
        inbox = self._inboxes.get(partition)
        if inbox is None:
            if partition.topic not in _TOPICS:
                raise ModelError("topic", partition.topic, f"one of {', '.join(_TOPICS)}")
            inbox = self._inboxes[partition] = Inbox(partition)
        return inbox

    def _of(self, topics: Iterable[str]) -> list[Inbox]:
        return [inbox for partition, inbox in self._inboxes.items() if partition.topic in topics]

    def _begin(self, origin_ms: int) -> None:
        self._grid = Grid(origin_ms, self.window_ms, self.lateness_ms)
        self._tasks = TaskBook(self._grid, self.memory_ms)
        self._older = OlderPair(self._tasks)
        self._power = PowerBook(self._grid, self.memory_ms)

    def _find_origin(self) -> bool:
        """Begin with the first task, once every stream of tasks has shown its first."""
        inboxes = [inbox for inbox in self._of((WORKLOAD, TASKS)) if inbox.is_required]
        firsts = [inbox.first_task_ms for inbox in inboxes if inbox.first_task_ms != NEVER]
        if not firsts:
            for inbox in inboxes:
                inbox.forget_heartbeats()
            return False
        if any(inbox.first_task_ms == NEVER and not inbox.is_at_end for inbox in inboxes if inbox.declared):
            return False
        self._begin(min(firsts))
        return True

    def _is_there(self, limits: dict[Partition, int]) -> bool:
        """Whether all that a window took before has been read again, or is gone."""
        inboxes = {partition: self._inbox(partition) for partition in limits}
        return all(inboxes[one].read_offset >= offset or inboxes[one].is_at_end for one, offset in limits.items())

    def _is_ready(self, threshold_ms: int) -> bool:
        """Whether every stream that the window waits for has passed it, or is given up."""
        workload = [inbox for inbox in self._of(_WORKLOAD) if inbox.is_required]
        if not any(inbox.has_passed(threshold_ms) for inbox in workload):
            return False

        def is_patience_over() -> bool:
            return max(inbox.seen_ms for inbox in workload) - self.power_patience_ms >= threshold_ms

        def is_settled(inbox: Inbox) -> bool:
            if inbox.has_passed(threshold_ms):
                return True
            return inbox.is_at_end and (inbox.partition.topic in _CONTROL or is_patience_over())

        power = self._of((POWER,))
        required = [inbox for inbox in power if inbox.is_required]
        if not required and not (any(inbox.is_at_end for inbox in power) and is_patience_over()):
            return False
        control = [inbox for inbox in self._of(_CONTROL) if inbox.is_required]
        return all(map(is_settled, (*workload, *required, *control)))

    def _take(self, inbox: Inbox, ranges: _Ranges, window: int, tally: Tally) -> None:
        """Go through the records of a stream up to the one that closes the window."""
        self._refuse_broken(inbox, ranges, window, tally)
        topic = inbox.partition.topic
        if topic == WORKLOAD:
            self._tasks.take(inbox, ranges, window, tally)
        elif topic == TASKS:
            self._older.take_tasks(inbox, ranges, window, tally)
        elif topic == FRAGMENTS:
            self._older.take_fragments(inbox, ranges, window, tally)
        elif topic == POWER:
            self._power.take(inbox, ranges, window, tally)
        else:
            self._take_control(inbox, ranges, window, tally)

    def _refuse_broken(self, inbox: Inbox, ranges: _Ranges, window: int, tally: Tally) -> None:
        assert self._grid is not None
        for batch, begin, end in ranges:
            if not batch.is_broken:
                continue
            for i in range(begin, end):
                error = batch.items[i]
                if isinstance(error, MessageError):
                    where = where_of(inbox, batch, i)
                    tally.refuse(where, "broken", str(error), batch.records[i].value, self._grid.end_ms(window))

    def _take_control(self, inbox: Inbox, ranges: _Ranges, window: int, tally: Tally) -> None:
        """Keep topologies and settings for their windows; one that comes late takes effect in the next that closes."""
        assert self._grid is not None
        closed_ms = self._grid.end_ms(window - 1)
        for batch, begin, end in ranges:
            for i in range(begin, end):
                item, where = batch.items[i], where_of(inbox, batch, i)
                change: TopologyChange | SettingChange
                if isinstance(item, TopologyMessage):
                    change = TopologyChange(item.timestamp, item.topology, item.version, item.source)
                elif isinstance(item, SettingMessage):
                    change = SettingChange(item.timestamp, item.setting_key, item.new_value, item.source)
                else:
                    continue
                if where.is_old and change.timestamp_ms <= closed_ms:
                    continue
                if change.timestamp_ms <= closed_ms and window > 0:
                    tally.count("merged", where)
                place = (change.timestamp_ms, inbox.partition.topic, inbox.partition.number, where.offset)
                self._control.waiting.append((place, change))
                inbox.hold(where.offset, int(self._grid.window_of(change.timestamp_ms)))

    def _result(self, window: int, released: Released, tally: Tally) -> WindowInput:
        assert self._grid is not None
        end_ms = self._grid.end_ms(window)
        power_ms, power_w = self._power.release(window)
        topology, settings = self._control.release(end_ms)
        tally.counts["tasks"] = len(released.tasks)
        tally.counts["fragments"] = len(released.fragments)
        tally.counts["readings"] = len(power_ms)
        positions = tuple(
            StreamPosition(*partition, inbox.resume_offset(window), inbox.next_offset, inbox.watermark_ms)
            for partition, inbox in sorted(self._inboxes.items())
            if inbox.next_offset > 0  # else none of its records has been taken
        )
        result = WindowInput(
            self.datacenter,
            window,
            end_ms - self.window_ms,
            end_ms,
            self._grid.origin_ms,
            released.tasks,
            released.fragments,
            released.completed,
            power_ms,
            power_w,
            topology,
            settings,
            tally.counts,
            positions,
        )
        return replace(result, input_hash=_hash(result))


def _hash(window: WindowInput) -> str:
    """SHA-256 of a window's content: its words as canonical JSON, then its columns, each after its length."""
    fragments = window.fragments
    words = [
        [window.datacenter, window.index, window.start_ms, window.end_ms, window.origin_ms],
        [task.fields for task in window.tasks],
        fragments.ids,
        window.completed,
        None if window.topology is None else astuple(window.topology),
        [astuple(setting) for setting in window.settings],
    ]
    digest = hashlib.sha256(orjson.dumps(words, option=orjson.OPT_SORT_KEYS))
    columns = (fragments.offset, fragments.first_index, fragments.duration_ms, fragments.cpu_mhz, fragments.gpu_mhz)
    for column in (*columns, fragments.last, window.power_ms, window.power_w):
        data = b"" if column is None else np.ascontiguousarray(column).tobytes()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()

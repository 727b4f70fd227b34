"""A recorded datacenter as a plan of messages in order of event time.

The plan of a recording is always the same: message number n is message number n, so a replay that was interrupted goes on where it
was. It is built from columns at once; messages are encoded when they are asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import orjson

from opendt.formats.any_workload import WORKLOAD_KINDS, read_any_workload
from opendt.formats.detect import detect
from opendt.formats.json_cursor import load_json
from opendt.formats.power import read_power
from opendt.model.errors import FormatError, ModelError
from opendt.telemetry.messages import (
    DEFAULT_DATACENTER,
    FRAGMENTS,
    POWER,
    TASKS,
    TOPOLOGY,
    WORKLOAD,
    Task,
    TaskArrival,
    encode_heartbeat,
    encode_older_task,
    encode_power,
    encode_task,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from opendt.model.workload import Workload
    from opendt.telemetry.messages import TaskId

__all__ = ["Form", "Outgoing", "Plan", "Recording", "ReplayOptions", "read_recording"]

Form = Literal["parts", "whole", "pair"]

_TOPOLOGY, _TASK, _ROWS, _READING, _HEARTBEAT = range(5)
_AT_ONCE: Final = 4_096
_NO_ROWS: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What is sent, and how.

    Attributes
    ----------
    datacenter : str
        Key of the messages.
    form : {"parts", "whole", "pair"}
        Fragments when they have ended; tasks with all their fragments when submitted; or the older pair of topics.
    from_ms : int
        Begin this long after the first submission. Tasks that run then are sent as submitted then, with what is left of them.
    length_ms : int or None
        Stop so long after that; None: at the end.
    repeat : int
        How often the recording is sent, one after the other, with other task ids.
    window_ms, lateness_ms : int
        Of whoever follows: a heartbeat is sent for each window in which a topic is silent, and one that closes the last window.
    """

    datacenter: str = DEFAULT_DATACENTER
    form: Form = "parts"
    from_ms: int = 0
    length_ms: int | None = None
    repeat: int = 1
    window_ms: int = 300_000
    lateness_ms: int = 60_000

    def __post_init__(self) -> None:
        """Check bounds.

        Raises
        ------
        ModelError
            Naming the option.
        """
        least = {"from_ms": 0, "repeat": 1, "window_ms": 1, "lateness_ms": 0, "length_ms": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ModelError(name, value, f"at least {bound}")


class Outgoing(NamedTuple):
    """A message to be sent: event time (ms since the epoch), topic, key and value."""

    time_ms: int
    topic: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What was recorded: tasks, readings (ms since the epoch, W), topology; `dropped` counts tasks that never ran."""

    name: str
    workload: Workload
    power_ms: NDArray[np.int64]
    power_w: NDArray[np.float64]
    topology: dict[str, Any] | None
    dropped: int

    @property
    def origin_ms(self) -> int:
        """First submission, ms since the epoch."""
        return int(self.workload.submission_ms.min())


def read_recording(path: Path | str, *, core_speed_mhz: float = 2000.0) -> Recording:
    """Read a workload of any format, with ``consumption.parquet`` and ``topology.json`` beside it if they are there.

    Parameters
    ----------
    path : Path or str
        Folder, or file of a format that is one.
    core_speed_mhz : float
        Speed that turns cores into demand where the format does not say it.

    Raises
    ------
    FormatError
        When a file is missing, damaged or no workload; names file and row.
    """
    path = Path(path)
    kind = detect(path)
    if kind not in WORKLOAD_KINDS:
        raise FormatError(
            path, "", f"{kind}", "a workload", "Give the folder or file of one; see docs/reference/formats.md."
        )
    read = read_any_workload(path, kind, core_speed_mhz=core_speed_mhz)
    if not len(read.workload):
        raise FormatError(path, "", "no tasks with fragments", "a workload with some")
    origin_ms = int(read.workload.submission_ms.min())
    if origin_ms < 0:
        raise FormatError(path, "submission_time", str(origin_ms), "times since the epoch, >= 0")
    folder = path if path.is_dir() else path.parent
    power_ms, power_w = _NO_ROWS, np.zeros(0)
    if (folder / "consumption.parquet").exists():
        power = read_power(folder / "consumption.parquet")
        power_ms, power_w = power.timestamp_ms.astype(np.int64), power.power_w.astype(np.float64)
        if len(power_ms) and power_ms[-1] < origin_ms:  # since the first submission, not since the epoch
            power_ms = power_ms + origin_ms
    topology = load_json(folder / "topology.json") if (folder / "topology.json").exists() else None
    return Recording(path.resolve().name, read.workload, power_ms, power_w, topology, read.dropped)


class Plan:
    """All messages of a replay, by number.

    Parameters
    ----------
    recording : Recording
        What was recorded.
    options : ReplayOptions
        What of it is sent, and how.
    """

    def __init__(self, recording: Recording, options: ReplayOptions) -> None:
        self.options = options
        self._topology = recording.topology
        self._is_older = options.form == "pair"
        begin_ms = recording.origin_ms + options.from_ms
        end_ms = None if options.length_ms is None else begin_ms + options.length_ms
        self._workload = _cut(recording.workload, begin_ms, end_ms)
        if not len(self._workload):
            raise ModelError(
                "from_ms", options.from_ms, "a time at which there is work", "Begin earlier or go on longer."
            )
        self.origin_ms = int(self._workload.submission_ms.min())
        kept = (recording.power_ms > begin_ms) & (recording.power_ms <= (end_ms or np.iinfo(np.int64).max))
        self._power_ms, self._power_w = recording.power_ms[kept], recording.power_w[kept]
        self._steps_ms = np.diff(self._power_ms, prepend=self._power_ms[:1] - _first_step(self._power_ms))
        self._ids = self._workload.ids if isinstance(self._workload.ids, list) else self._workload.ids.tolist()
        numbers = self._workload.ids
        self._id_span = 0 if isinstance(numbers, list) else int(numbers.max()) - int(numbers.min()) + 1
        self._rows(end_ms)
        self._events(end_ms)

    def __len__(self) -> int:
        """Return the number of messages."""
        return len(self._time_ms) * self.options.repeat + self._closing_count

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the messages are made of: equal ones are the same plan."""
        digest = hashlib.sha256(repr(self.options).encode())
        w = self._workload
        for column in (w.submission_ms, w.fragment_offset, w.fragment_duration_ms, w.fragment_cpu_mhz, self._power_w):
            digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(orjson.dumps([self._ids, self._topology]))
        return digest.hexdigest()[:16]

    @property
    def counts(self) -> dict[str, int]:
        """Tasks, fragments and readings of all repetitions."""
        times = self.options.repeat
        return {
            "tasks": len(self._workload) * times,
            "fragments": self._fragment_count * times,
            "readings": len(self._power_ms) * times,
        }

    @property
    def first_ms(self) -> int:
        """Event time of the first message, ms since the epoch."""
        return int(self._time_ms[0])

    @property
    def last_ms(self) -> int:
        """Event time of the last message but the closing heartbeats, ms since the epoch."""
        return int(self._time_ms[-1]) + (self.options.repeat - 1) * self._period_ms

    def messages(self, first: int = 0) -> Iterator[Outgoing]:
        """Messages in order, from number `first` on."""
        count = len(self._time_ms)
        for turn in range(first // count if count else 0, self.options.repeat):
            start = max(first - turn * count, 0)
            for low in range(start, count, _AT_ONCE):
                yield from self._some(low, min(low + _AT_ONCE, count), turn)
        done = count * self.options.repeat
        yield from list(self._closing())[max(first - done, 0) :]

    # ---------------------------------------------------------------- building

    def _rows(self, end_ms: int | None) -> None:
        """Put fragments in the order in which they are sent; equal times make one message."""
        w = self._workload
        offset = w.fragment_offset.astype(np.int64)
        lengths = np.diff(offset)
        task = np.repeat(np.arange(len(w)), lengths)
        index = np.arange(len(task)) - np.repeat(offset[:-1], lengths)
        duration_ms = w.fragment_duration_ms.astype(np.int64)
        total = np.cumsum(duration_ms)
        before = np.concatenate(([0], total))[offset[:-1]]
        end = total - np.repeat(before - w.submission_ms, lengths)
        self._fragment_end_ms = end
        time_ms = end - duration_ms if self._is_older else end
        last = index == np.repeat(lengths - 1, lengths)
        kept = np.ones(len(task), np.bool_) if end_ms is None else end <= end_ms
        order = np.flatnonzero(kept)[np.argsort(time_ms[kept], kind="stable")]
        self._fragment_count = len(order) if self.options.form != "whole" else len(task)
        if self.options.form == "whole":
            self._row_ms, self._border = _NO_ROWS, np.zeros(1, np.int64)
            return
        time_ms = time_ms[order]
        start = np.flatnonzero(np.concatenate(([True], time_ms[1:] != time_ms[:-1]))) if len(order) else _NO_ROWS
        self._border = np.concatenate((start, [len(order)]))
        self._row_ms = time_ms[start]
        self._task, self._index = task[order].astype(np.int32), index[order].astype(np.int32)
        self._duration_ms, self._last = w.fragment_duration_ms[order], last[order]
        self._cpu_mhz = w.fragment_cpu_mhz[order]
        self._gpu_mhz = None if w.fragment_gpu_mhz is None else w.fragment_gpu_mhz[order]

    def _events(self, end_ms: int | None) -> None:
        """Bring messages of all kinds into one order: by time, then kind, then number."""
        arrivals = np.argsort(self._workload.submission_ms, kind="stable")
        kinds = [
            (_TOPOLOGY, np.array([self.origin_ms] if self._topology is not None else [], np.int64), None),
            (_TASK, self._workload.submission_ms[arrivals], arrivals),
            (_ROWS, self._row_ms, None),
            (_READING, self._power_ms, None),
        ]
        window_ms = self.options.window_ms
        latest = max(int(self._fragment_end_ms.max()), *(int(times[-1]) for _, times, _ in kinds if len(times)))
        latest = latest if end_ms is None else min(latest, end_ms)
        windows = max(-((self.origin_ms - latest) // window_ms), 1)
        self._period_ms = windows * window_ms
        self._heartbeats: list[tuple[int, str]] = []
        busy = {topic: [_NO_ROWS] for topic in self._topics}
        for kind, times, _ in kinds:
            if kind != _TOPOLOGY and len(times):
                busy[self._topic_of(kind)].append(times)
        for topic, moments in busy.items():
            heard = np.unique(-((self.origin_ms - np.concatenate(moments)) // window_ms) - 1)
            silent = np.setdiff1d(np.arange(windows), heard)
            self._heartbeats += [(self.origin_ms + (int(w) + 1) * window_ms, topic) for w in silent]
        self._heartbeats.sort()
        kinds.append((_HEARTBEAT, np.array([time_ms for time_ms, _ in self._heartbeats], np.int64), None))
        times = np.concatenate([times for _, times, _ in kinds])
        kind_of = np.concatenate([np.full(len(times), kind, np.int8) for kind, times, _ in kinds])
        number = np.concatenate([np.arange(len(t)) if refs is None else refs for _, t, refs in kinds])
        rank = np.concatenate([np.arange(len(t)) for _, t, _ in kinds])
        order = np.lexsort((rank, kind_of, times))
        self._time_ms, self._kind, self._number = times[order], kind_of[order], number[order]

    @property
    def _topics(self) -> tuple[str, ...]:
        workload = (TASKS, FRAGMENTS) if self._is_older else (WORKLOAD,)
        return (*workload, POWER) if len(self._power_ms) else workload

    @property
    def _closing_count(self) -> int:
        return len(self._topics)

    def _topic_of(self, kind: int) -> str:
        if kind == _TASK:
            return TASKS if self._is_older else WORKLOAD
        if kind == _ROWS:
            return FRAGMENTS if self._is_older else WORKLOAD
        return POWER

    def _closing(self) -> Iterator[Outgoing]:
        """Heartbeats that close the last window."""
        time_ms = self.origin_ms + self.options.repeat * self._period_ms + max(self.options.lateness_ms, 1)
        for topic in self._topics:
            yield Outgoing(time_ms, topic, self._key, encode_heartbeat(time_ms))

    @property
    def _key(self) -> str:
        return self.options.datacenter

    # ---------------------------------------------------------------- encoding

    def _some(self, low: int, high: int, turn: int) -> Iterator[Outgoing]:
        """Encode messages `low` to `high` of a repetition."""
        shift_ms = turn * self._period_ms
        kinds, numbers = self._kind[low:high], self._number[low:high]
        groups = numbers[kinds == _ROWS]
        rows = self._row_values(groups, turn, shift_ms) if len(groups) else iter(())
        times = (self._time_ms[low:high] + shift_ms).tolist()
        for time_ms, kind, number in zip(times, kinds.tolist(), numbers.tolist(), strict=True):
            if kind == _ROWS:
                key, value = next(rows)
                yield Outgoing(time_ms, self._topic_of(_ROWS), key, value)
            elif kind == _TASK:
                yield self._task_message(number, time_ms, turn)
            elif kind == _READING:
                power_w = float(self._power_w[number])
                energy_j = power_w * int(self._steps_ms[number]) / 1000.0
                yield Outgoing(time_ms, POWER, self._key, encode_power(time_ms, power_w, energy_j))
            elif kind == _HEARTBEAT:
                yield Outgoing(time_ms, self._heartbeats[number][1], self._key, encode_heartbeat(time_ms))
            else:
                value = orjson.dumps({"timestamp": time_ms, "topology": self._topology, "source": "replay"})
                yield Outgoing(time_ms, TOPOLOGY, self._key, value)

    def _row_values(self, groups: NDArray[np.int64], turn: int, shift_ms: int) -> Iterator[tuple[str, bytes]]:
        """Encode the fragments of messages that follow upon one another."""
        first, last = int(groups[0]), int(groups[-1]) + 1
        low, high = int(self._border[first]), int(self._border[last])
        ids = [self._id(task, turn) for task in self._task[low:high].tolist()]
        index, duration_ms = self._index[low:high].tolist(), self._duration_ms[low:high].tolist()
        cpu_mhz, done = self._cpu_mhz[low:high].astype(np.float64).tolist(), self._last[low:high].tolist()
        gpu_mhz = None if self._gpu_mhz is None else self._gpu_mhz[low:high].astype(np.float64).tolist()
        begins = (self._border[first : last + 1] - low).tolist()
        moments = (self._row_ms[first:last] + shift_ms).tolist()
        for time_ms, begin, end in zip(moments, begins[:-1], begins[1:], strict=True):
            some = slice(begin, end)
            columns: dict[str, Any] = {"id": ids[some]}
            if self._is_older:
                columns["submission_time"] = [time_ms] * (end - begin)
            else:
                columns["first_fragment"] = index[some]
            columns["duration"], columns["cpu_usage"] = duration_ms[some], cpu_mhz[some]
            if gpu_mhz is not None:
                columns["gpu_usage"] = gpu_mhz[some]
            if self._is_older:
                yield _older_key(ids[begin]), orjson.dumps(columns)
            else:
                columns["complete"] = done[some]
                message = {"message_type": "parts", "timestamp": time_ms, "parts": columns}
                yield self._key, orjson.dumps(message)

    def _task_message(self, number: int, time_ms: int, turn: int) -> Outgoing:
        w = self._workload
        arrival = self._arrival(number, time_ms, turn)
        if self._is_older:
            return Outgoing(time_ms, TASKS, _older_key(arrival.id), encode_older_task(arrival))
        task = Task(time_ms, arrival, _NO_ROWS, np.zeros(0))
        if self.options.form == "whole":
            some = slice(int(w.fragment_offset[number]), int(w.fragment_offset[number + 1]))
            gpu_mhz = None if w.fragment_gpu_mhz is None else w.fragment_gpu_mhz[some].astype(np.float64)
            duration_ms = w.fragment_duration_ms[some].astype(np.int64)
            cpu_mhz = w.fragment_cpu_mhz[some].astype(np.float64)
            task = replace(task, duration_ms=duration_ms, cpu_mhz=cpu_mhz, gpu_mhz=gpu_mhz, complete=True)
        return Outgoing(time_ms, WORKLOAD, self._key, encode_task(task))

    def _arrival(self, number: int, time_ms: int, turn: int) -> TaskArrival:
        w = self._workload
        parents: tuple[TaskId, ...] = ()
        if w.parents is not None and w.parent_offset is not None:
            some = slice(int(w.parent_offset[number]), int(w.parent_offset[number + 1]))
            parents = tuple(self._id(parent, turn) for parent in w.parents[some].tolist())
        deadline_ms = -1 if w.deadline_ms is None else int(w.deadline_ms[number])
        return TaskArrival(
            self._id(number, turn),
            time_ms,
            int(w.duration_ms[number]),
            int(w.cpu_count[number]),
            float(w.cpu_capacity_mhz[number]),
            int(w.memory_mib[number]),
            0 if w.gpu_count is None else int(w.gpu_count[number]),
            0.0 if w.gpu_capacity_mhz is None else float(w.gpu_capacity_mhz[number]),
            0 if w.gpu_memory_mib is None else int(w.gpu_memory_mib[number]),
            deadline_ms if deadline_ms < 0 else deadline_ms + turn * self._period_ms,
            parents,
        )

    def _id(self, number: int, turn: int) -> TaskId:
        """Id of a task: of a repetition shifted beyond all others, or with the number of the repetition behind it."""
        task_id: TaskId = self._ids[number]
        if turn == 0:
            return task_id
        return task_id + turn * self._id_span if isinstance(task_id, int) else f"{task_id}~{turn}"


def _older_key(task_id: TaskId) -> str:
    return orjson.dumps({"id": task_id}).decode()


def _first_step(power_ms: NDArray[np.int64]) -> int:
    return int(power_ms[1] - power_ms[0]) if len(power_ms) > 1 else 0


def _cut(workload: Workload, begin_ms: int, end_ms: int | None) -> Workload:
    """Keep the tasks that run or are submitted in a stretch of time; what has run before it is cut off."""
    submission_ms, finish_ms = workload.submission_ms, workload.submission_ms + workload.run_ms
    kept = finish_ms > begin_ms
    if end_ms is not None:
        kept &= submission_ms <= end_ms
    if kept.all() and int(submission_ms.min()) >= begin_ms:
        return workload
    some = workload.select(kept)
    if not len(some) or int(some.submission_ms.min()) >= begin_ms:
        return some
    lengths = np.diff(some.fragment_offset).astype(np.int64)
    task = np.repeat(np.arange(len(some)), lengths)
    duration_ms = some.fragment_duration_ms.astype(np.int64)
    total = np.cumsum(duration_ms)
    before = np.concatenate(([0], total))[some.fragment_offset[:-1]]
    end = total - np.repeat(before - some.submission_ms, lengths)
    left_ms = np.minimum(duration_ms, np.maximum(end - begin_ms, 0))
    left = (left_ms > 0) | (some.submission_ms[task] >= begin_ms)
    offset = np.concatenate(([0], np.cumsum(np.bincount(task[left], minlength=len(some)))))
    gpu_mhz = None if some.fragment_gpu_mhz is None else some.fragment_gpu_mhz[left]
    return replace(
        some,
        submission_ms=np.maximum(some.submission_ms, begin_ms),
        fragment_offset=offset.astype(np.uint32),
        fragment_duration_ms=left_ms[left].astype(np.uint32),
        fragment_cpu_mhz=some.fragment_cpu_mhz[left],
        fragment_gpu_mhz=gpu_mhz,
    )

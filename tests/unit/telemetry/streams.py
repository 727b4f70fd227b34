"""Streams in memory, and messages written by hand."""

from __future__ import annotations

import json
from typing import Any

from opendt.telemetry.source import Partition, Record

ORIGIN = 1_000_000


def doc(**keys: Any) -> bytes:
    return json.dumps(keys).encode()


def task(task_id: Any, submission: int, fragments: list[tuple[int, float]] | None = None, **keys: Any) -> bytes:
    body: dict[str, Any] = {"id": task_id, "submission_time": submission, "cpu_count": 1}
    if fragments is not None:
        body["fragments"] = [{"duration": d, "cpu_usage": c} for d, c in fragments]
    timestamp = keys.pop("timestamp", submission)
    return doc(message_type="task", timestamp=timestamp, task=body | keys)


def parts(time_ms: int, *rows: tuple[Any, int, int, float, bool]) -> bytes:
    names = ("id", "first_fragment", "duration", "cpu_usage", "complete")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return doc(message_type="parts", timestamp=time_ms, parts=columns)


def heartbeat(time_ms: int) -> bytes:
    return doc(message_type="heartbeat", timestamp=time_ms)


def power(time_ms: int, power_w: float) -> bytes:
    return doc(timestamp=time_ms, power_draw=power_w)


def stream(topic: str, *values: bytes, number: int = 0, first: int = 0, key: str = "datacenter") -> list[Record]:
    return [Record(topic, number, first + i, key, 0, value) for i, value in enumerate(values)]


class Memory:
    """A transport in memory: a `Sink` and a `Source` of one partition a topic."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Record]] = {}
        self.flushed = 0
        self.fail_after: int | None = None
        self._read: dict[Partition, int] = {}

    def send(self, topic: str, value: bytes, *, key: str, timestamp_ms: int | None = None) -> None:
        if self.fail_after is not None and self.count >= self.fail_after:
            raise KeyboardInterrupt
        records = self.topics.setdefault(topic, [])
        records.append(Record(topic, 0, len(records), key, timestamp_ms or 0, value))

    @property
    def count(self) -> int:
        return sum(map(len, self.topics.values()))

    def flush(self) -> None:
        self.flushed = self.count

    def subscribe(self, topics, *, on_assigned, on_revoked) -> None:
        mine = [Partition(topic, 0) for topic in topics if topic in self.topics]
        begin = on_assigned(mine) if mine else {}
        self._read = {partition: begin.get(partition, 0) for partition in mine}

    def poll(self, max_records: int = 10_000, timeout_s: float = 0.0) -> list[Record]:
        found: list[Record] = []
        for partition, begin in self._read.items():
            some = self.topics[partition.topic][begin : begin + max_records]
            self._read[partition] = begin + len(some)
            found += some
        return found

    def pause(self, partitions) -> None: ...

    def resume(self, partitions) -> None: ...

    def is_at_end(self, partition: Partition) -> bool:
        return self._read[partition] == len(self.topics[partition.topic])

    def commit(self, offsets) -> None: ...

    def close(self) -> None: ...

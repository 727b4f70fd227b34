"""Windows depend on what the streams hold, not on how it arrives: any interleaving, any batches, any restart."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opendt.telemetry.source import Partition, Record
from opendt.telemetry.windows import WindowAssembler, WindowInput

ORIGIN = 1_000_000
SETTINGS: dict[str, Any] = {"window_ms": 1_000, "lateness_ms": 300, "power_patience_ms": 10_000}


def fragments_of(draw: random.Random, submission: int) -> list[tuple[int, int, float]]:
    """Start, duration and demand of a few fragments."""
    start, found = submission, []
    for _ in range(draw.randrange(0, 7)):
        duration = draw.choice((100, 250, 700, 1_900))
        found.append((start, duration, float(draw.randrange(0, 50) * 100)))
        start += duration
    return found


def task_of(draw: random.Random, number: int) -> dict[str, Any]:
    submission = ORIGIN if number == 0 else ORIGIN + draw.randrange(0, 6_000)
    return {
        "id": number if number % 3 else f"t{number}",
        "submission_time": submission,
        "duration": draw.choice((None, 500)),
        "cpu_count": draw.randrange(1, 9),
    }


def disturbed(draw: random.Random, events: list[tuple[int, bytes]]) -> list[bytes]:
    """Sort by time, some of them late within or beyond what is allowed, some repeated, some broken ones between."""
    shifted = []
    for time_ms, value in events:
        delay = draw.choice((0, 0, 0, 0, 0, 0, 150, 290, 2_500)) if draw.random() < 0.5 else 0
        shifted.append((time_ms + delay, draw.random(), value))
        if draw.random() < 0.15:
            shifted.append((time_ms + draw.randrange(0, 4_000), draw.random(), value))
    ordered = [value for *_, value in sorted(shifted)]
    if draw.random() < 0.4:
        ordered.insert(draw.randrange(len(ordered) + 1), b'{"message_type":"task"')
    return ordered


def workload_stream(draw: random.Random, tasks: list[dict[str, Any]]) -> list[bytes]:
    events: list[tuple[int, dict[str, Any]]] = []
    columns: dict[int, dict[str, list[Any]]] = {}
    for task in tasks:
        submission = task["submission_time"]
        pieces = fragments_of(draw, submission)
        sent = draw.randrange(len(pieces) + 1) if draw.random() < 0.5 else 0
        body: dict[str, Any] = dict(task)
        if sent:
            body["fragments"] = [{"duration": d, "cpu_usage": c} for _, d, c in pieces[:sent]]
            body["complete"] = sent == len(pieces)
        elif not pieces:
            body["complete"] = True
        events.append((submission, {"message_type": "task", "timestamp": submission, "task": body}))
        rest = pieces[sent:]
        if rest and sent and draw.random() < 0.3:  # a second task message carries the rest, ahead of its time
            more = [{"duration": d, "cpu_usage": c} for _, d, c in rest]
            at = submission + draw.randrange(0, 500)
            again = {**task, "fragments": more, "complete": True}
            events.append((at, {"message_type": "task", "timestamp": at, "task": again}))
            continue
        for index, (start, duration, cpu) in enumerate(rest, start=sent):
            parts = columns.setdefault(
                start + duration, {"id": [], "first_fragment": [], "duration": [], "cpu_usage": [], "complete": []}
            )
            row = (task["id"], index, duration, cpu, index == len(pieces) - 1)
            for column, cell in zip(parts.values(), row, strict=True):
                column.append(cell)
    for time_ms, parts in columns.items():
        events.append((time_ms, {"message_type": "parts", "timestamp": time_ms, "parts": parts}))
        if draw.random() < 0.1:  # the same places with other demands: a contradiction
            other = {**parts, "cpu_usage": [usage + 1 for usage in parts["cpu_usage"]]}
            events.append((time_ms + 50, {"message_type": "parts", "timestamp": time_ms + 50, "parts": other}))
    if draw.random() < 0.3:
        stray = {"id": ["nobody"], "first_fragment": [0], "duration": [5], "cpu_usage": [1], "complete": [True]}
        events.append((ORIGIN + 2_000, {"message_type": "parts", "timestamp": ORIGIN + 2_000, "parts": stray}))
    first = json.dumps(events[0][1]).encode()
    return [first, *disturbed(draw, [(t, json.dumps(e).encode()) for t, e in events[1:]]), heartbeat(ORIGIN + 40_000)]


def older_streams(draw: random.Random, tasks: list[dict[str, Any]]) -> dict[Partition, list[bytes]]:
    streams: dict[Partition, list[bytes]] = {}
    for number in (0, 1):
        some = [task for i, task in enumerate(tasks) if i % 2 == number]
        announced = [(task["submission_time"], json.dumps(task).encode()) for task in some]
        rows = []
        for task in some:
            for start, duration, cpu in fragments_of(draw, task["submission_time"]):
                row = {"id": task["id"], "submission_time": start, "duration": duration, "cpu_usage": cpu}
                rows.append((start, row))
        rows.sort(key=lambda one: one[0])
        batches: list[tuple[int, bytes]] = []
        while rows:
            size = draw.randrange(1, 4)
            batch, rows = [row for _, row in rows[:size]], rows[size:]
            form: Any = batch[0] if len(batch) == 1 else batch
            if draw.random() < 0.5:
                form = {key: [row[key] for row in batch] for key in batch[0]}
            batches.append((batch[-1]["submission_time"], json.dumps(form).encode()))
        begin = announced[:1] if number == 0 else []
        rest = announced[len(begin) :]
        end = [heartbeat(ORIGIN + 40_000)]
        streams[Partition("tasks", number)] = [*(value for _, value in begin), *disturbed(draw, rest), *end]
        streams[Partition("fragments", number)] = disturbed(draw, batches) + end
    return streams


def heartbeat(time_ms: int) -> bytes:
    return json.dumps({"message_type": "heartbeat", "timestamp": time_ms}).encode()


def world(draw: random.Random) -> dict[Partition, list[Record]]:
    tasks = [task_of(draw, number) for number in range(draw.randrange(1, 9))]
    if draw.random() < 0.5:
        streams = {Partition("dc.workload", 3): workload_stream(draw, tasks)}
    else:
        streams = older_streams(draw, tasks)
    readings = []
    for time_ms in range(ORIGIN - 500, ORIGIN + 9_000, 250):
        reading = {"timestamp": time_ms, "power_draw": float(draw.randrange(100, 200))}
        readings.append((time_ms, json.dumps(reading).encode()))
    streams[Partition("dc.power", 0)] = [*disturbed(draw, readings), heartbeat(ORIGIN + 40_000)]
    moments = sorted(ORIGIN + draw.randrange(0, 9_000) for _ in range(draw.randrange(0, 4)))
    changes = [{"setting_key": "a", "new_value": i, "timestamp": t, "source": ""} for i, t in enumerate(moments)]
    streams[Partition("sys.config", 0)] = [json.dumps(change).encode() for change in changes]
    records = {}
    for partition, values in streams.items():
        offset, placed = draw.randrange(0, 5), []
        for value in values:
            placed.append(Record(*partition, offset, "datacenter", 0, value))
            offset += draw.choice((1, 1, 1, 2))  # other datacenters have records between
        records[partition] = placed
    return records


def seen(window: WindowInput) -> dict[str, Any]:
    columns = window.fragments
    return {
        "index": window.index,
        "tasks": window.tasks,
        "completed": window.completed,
        "fragments": [columns.ids, *(getattr(columns, n).tolist() for n in ("offset", "first_index", "duration_ms"))],
        "demands": [columns.cpu_mhz.tolist(), columns.last.tolist()],
        "power": [window.power_ms.tolist(), window.power_w.tolist()],
        "settings": window.settings,
        "counts": window.counts,
        "positions": window.positions,
        "hash": window.input_hash,
    }


def follow(
    assembler: WindowAssembler,
    records: dict[Partition, list[Record]],
    draw: random.Random,
    stop_after: int | None = None,
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Give all records in a random interleaving and random batches; windows and dead letters in order."""
    left = {partition: list(some) for partition, some in records.items()}
    windows: list[dict[str, Any]] = []
    dead: list[Any] = []
    while True:
        batch: list[Record] = []
        for partition in draw.sample(sorted(left), len(left)):
            size = draw.choice((0, 1, 2, 5, 50))
            batch += left[partition][:size]
            left[partition] = left[partition][size:]
        assembler.add(batch)
        for partition, some in left.items():
            if not some:
                assembler.note_end(partition)
        while (window := assembler.next()) is not None:
            windows.append(seen(window))
            dead += assembler.take_dead()
            if stop_after is not None and len(windows) == stop_after:
                return windows, dead
        if not any(left.values()):
            return windows, dead


def assembler_for(records: dict[Partition, list[Record]]) -> WindowAssembler:
    return WindowAssembler("datacenter", **SETTINGS, streams=list(records))


@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_windows_do_not_depend_on_interleaving_or_batches(seed, other):
    records = world(random.Random(seed))
    windows, dead = follow(assembler_for(records), records, random.Random(other))
    again, dead_again = follow(assembler_for(records), records, random.Random(other + 1))
    assert len(windows) == 39  # up to the heartbeat, less the allowed lateness
    assert windows == again
    assert dead == dead_again


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(1, 12))
def test_a_restart_at_any_window_changes_nothing(seed, other, stop):
    records = world(random.Random(seed))
    windows, dead = follow(assembler_for(records), records, random.Random(other))
    before = assembler_for(records)
    _, dead_before = follow(before, records, random.Random(other + 1), stop)
    state = json.loads(json.dumps(before.state()))
    after = assembler_for(records)
    after.restore(state)
    resume = {Partition(p.topic, p.partition): p.resume_offset for p in before.position()}
    rest = {
        partition: [record for record in some if record.offset >= resume.get(partition, 0)]
        for partition, some in records.items()
    }
    windows_after, dead_after = follow(after, rest, random.Random(other + 2))
    assert windows_after == windows[stop:]
    assert dead_before + dead_after == dead


@given(st.integers(0, 2**32))
def test_every_fragment_is_released_refused_or_a_repetition(seed):
    """Without contradictions nothing is lost: what is not released is in a dead letter or had come before."""
    draw = random.Random(seed)
    tasks = [task_of(draw, number) for number in range(6)]
    events, expected = [], {}
    for task in tasks:
        pieces = fragments_of(draw, task["submission_time"])
        submitted = {
            "message_type": "task",
            "timestamp": task["submission_time"],
            "task": {**task, "complete": not pieces},
        }
        events.append((task["submission_time"], submitted))
        for index, (start, duration, cpu) in enumerate(pieces):
            expected[task["id"], index] = (duration, cpu)
            columns = {"id": [task["id"]], "first_fragment": [index], "duration": [duration], "cpu_usage": [cpu]}
            columns["complete"] = [index == len(pieces) - 1]
            end = start + duration
            events.append((end + 1, {"message_type": "parts", "timestamp": end, "parts": columns}))
    ordered = [json.dumps(event).encode() for _, event in sorted(events, key=lambda one: one[0])]
    records = [
        Record("dc.workload", 0, i, "", 0, value) for i, value in enumerate([*ordered, heartbeat(ORIGIN + 40_000)])
    ]
    assembler = WindowAssembler("datacenter", **SETTINGS)
    assembler.add(records)
    assembler.note_end(Partition("dc.power", 0))
    released = {}
    while (window := assembler.next()) is not None:
        columns = window.fragments
        assert (np.diff(columns.offset) > 0).all()
        for code, task_id in enumerate(columns.ids):
            for k, row in enumerate(range(columns.offset[code], columns.offset[code + 1])):
                place = (task_id, int(columns.first_index[code]) + k)
                assert place not in released
                released[place] = (int(columns.duration_ms[row]), float(columns.cpu_mhz[row]))
    assert released == expected
    assert assembler.take_dead() == []

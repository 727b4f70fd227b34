"""Replay: everything once, in order, at the asked speed, and on from where it was interrupted."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.model.errors import FormatError, InputError, ModelError
from opendt.telemetry.messages import Task, decode
from opendt.telemetry.recording import Plan, ReplayOptions, read_recording
from opendt.telemetry.replay import Progress, Replay
from opendt.telemetry.source import Partition
from opendt.telemetry.windows import WindowAssembler
from tests.small import fragments, tasks, topology, write_json, write_workload
from tests.unit.telemetry.streams import Memory

ORIGIN = 1_665_093_600_000


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@pytest.fixture
def folder(tmp_path):
    times = pa.array([ORIGIN, ORIGIN + 1_000, ORIGIN + 200_000], pa.int64())
    write_workload(tmp_path / "week", tasks(submission_time=times), fragments())
    write_json(tmp_path / "week/topology.json", topology())
    readings = {"timestamp": pa.array([30_000, 60_000, 90_000], pa.int64()), "power_draw": [100.0, 110.0, 120.0]}
    pq.write_table(pa.table(readings), tmp_path / "week/consumption.parquet")
    return tmp_path / "week"


def plan_of(folder, **options):
    return Plan(read_recording(folder), ReplayOptions(**{"window_ms": 60_000, "lateness_ms": 5_000, **options}))


def windows_of(memory, **settings):
    assembler = WindowAssembler(
        "datacenter", **{"window_ms": 60_000, "lateness_ms": 5_000, "power_patience_ms": 0, **settings}
    )
    for records in memory.topics.values():
        assembler.add(records)
    for topic in ("dc.topology", "dc.power"):
        assembler.note_end(Partition(topic, 0))
    found = []
    while (window := assembler.next()) is not None:
        found.append(window)
    assert assembler.take_dead() == []
    return found


def work(windows):
    """Fragments of each task, over all windows."""
    found = {}
    for window in windows:
        f = window.fragments
        for code, task_id in enumerate(f.ids):
            some = slice(f.offset[code], f.offset[code + 1])
            rows = zip(f.duration_ms[some].tolist(), f.cpu_mhz[some].tolist(), f.last[some].tolist(), strict=True)
            found.setdefault(task_id, []).extend(rows)
    return found


RECORDED = {
    1: [(30_000, 4000.0, False), (30_000, 8000.0, True)],
    2: [(60_000, 6000.0, True)],
    3: [(60_000, 2000.0, True)],
}


@pytest.mark.parametrize("form", ["parts", "whole", "pair"])
def test_every_form_gives_the_same_windows(folder, form):
    memory = Memory()
    sent = Replay(plan_of(folder, form=form), memory).run()
    assert sent == memory.count == memory.flushed
    found = windows_of(memory)
    assert work(found) == RECORDED
    assert [len(w.tasks) for w in found] == [2, 0, 0, 1, 0]
    assert found[0].topology.topology["clusters"][0]["name"] == "C01"
    readings = {int(t): float(p) for w in found for t, p in zip(w.power_ms, w.power_w, strict=True)}
    assert readings == {ORIGIN + 30_000: 100.0, ORIGIN + 60_000: 110.0, ORIGIN + 90_000: 120.0}


def test_messages_come_in_order_of_event_time_and_fragments_when_they_end(folder):
    messages = list(plan_of(folder).messages())
    assert [m.time_ms for m in messages] == sorted(m.time_ms for m in messages)
    assert messages[0].topic == "dc.topology"
    parts = [json.loads(m.value) for m in messages if b'"parts"' in m.value]
    assert [p["timestamp"] - ORIGIN for p in parts] == [30_000, 60_000, 61_000, 260_000]
    assert parts[0]["parts"] == {
        "id": [1],
        "first_fragment": [0],
        "duration": [30_000],
        "cpu_usage": [4000.0],
        "complete": [False],
    }
    readings = [json.loads(m.value) for m in messages if b"power_draw" in m.value]
    assert readings[1] == {"timestamp": ORIGIN + 60_000, "power_draw": 110.0, "energy_usage": 3300.0}
    assert {m.key for m in messages} == {"datacenter"}


def test_silent_windows_get_heartbeats_and_the_last_one_is_closed(folder):
    messages = list(plan_of(folder).messages())
    beats = [(m.topic, m.time_ms - ORIGIN) for m in messages if b"heartbeat" in m.value]
    assert ("dc.workload", 180_000) in beats  # nothing happens in the third minute
    assert [time for topic, time in beats if topic == "dc.power"] == [180_000, 240_000, 300_000, 305_000]
    assert beats[-2:] == [("dc.workload", 305_000), ("dc.power", 305_000)]


def test_gaps_are_kept_at_every_speed(folder):
    plan = plan_of(folder)
    for speed in (1.0, 10.0):
        clock, memory, flushed_s = Clock(), Memory(), []
        memory.flush = lambda flushed_s=flushed_s, clock=clock: flushed_s.append(clock.now_s - 100.0)
        Replay(plan, memory, speed=speed, clock=clock, sleep=clock.sleep).run()
        # After each moment at which something happens: nothing waits unflushed for what comes next.
        expected = [0, 1, 30, 60, 61, 90, 180, 200, 240, 260, 300, 305]
        assert flushed_s == pytest.approx([moment / speed for moment in expected])


def test_at_full_speed_nobody_sleeps(folder):
    def sleep(_seconds):
        raise AssertionError

    Replay(plan_of(folder), Memory(), sleep=sleep).run()


def test_an_interrupted_replay_goes_on_where_it_was(folder, tmp_path):
    plan, memory = plan_of(folder), Memory()
    progress = Progress(tmp_path / "state/progress.json")
    whole = [m.value for m in plan.messages()]
    for stop in (3, 7, 8):
        memory.fail_after = stop
        with pytest.raises(KeyboardInterrupt):
            Replay(plan, memory, progress=progress).run()
    memory.fail_after = None
    last = Replay(plan_of(folder), memory, progress=progress)
    assert last.sent == 8
    assert last.run() == len(whole) - 8
    sent = sorted(record.value for records in memory.topics.values() for record in records)
    assert sent == sorted(whole)
    assert Replay(plan, memory, progress=progress).run() == 0


def test_what_was_sent_after_the_last_flush_is_sent_again_and_known_as_such(folder, tmp_path):
    plan, memory, progress = plan_of(folder), Memory(), Progress(tmp_path / "progress.json")
    Replay(plan, memory).run()
    progress.write(plan.fingerprint, 4)
    Replay(plan, memory, progress=progress).run()
    assert memory.count == 2 * len(plan) - 4
    assembler = WindowAssembler("datacenter", window_ms=60_000, lateness_ms=5_000, power_patience_ms=0)
    for records in memory.topics.values():
        assembler.add(records)
    assembler.note_end(Partition("dc.topology", 0))
    found = []
    while (window := assembler.next()) is not None:
        found.append(window)
    assert work(found) == RECORDED


def test_progress_of_another_replay_is_refused(folder, tmp_path):
    file = tmp_path / "progress.json"
    Progress(file).write(plan_of(folder).fingerprint, 4)
    with pytest.raises(InputError, match="of what is to be sent now"):
        Replay(plan_of(folder, form="whole"), Memory(), progress=Progress(file))
    file.write_text("{")
    with pytest.raises(InputError, match="expected the progress of a replay"):
        Replay(plan_of(folder), Memory(), progress=Progress(file))


def test_a_plan_can_be_joined_at_any_message(folder):
    plan = plan_of(folder, repeat=2)
    whole = list(plan.messages())
    assert len(whole) == len(plan)
    for first in range(len(whole) + 1):
        assert list(plan.messages(first)) == whole[first:]


def test_a_part_begins_with_what_runs_then(folder):
    """From 45 s on: task 1 has 15 s of its second fragment left, task 2 has 16 s, task 3 comes later."""
    memory = Memory()
    Replay(plan_of(folder, from_ms=45_000, length_ms=200_000), memory).run()
    found = windows_of(memory)
    assert found[0].origin_ms == ORIGIN + 45_000
    assert [(t.id, t.submission_ms - ORIGIN) for w in found for t in w.tasks] == [
        (1, 45_000),
        (2, 45_000),
        (3, 200_000),
    ]
    assert work(found) == {1: [(15_000, 8000.0, True)], 2: [(16_000, 6000.0, True)]}  # task 3 ends after the part
    assert [t for w in found for t in (w.power_ms - ORIGIN).tolist()] == [60_000, 90_000]


def test_repetitions_follow_upon_one_another_as_other_tasks(folder):
    memory = Memory()
    Replay(plan_of(folder, repeat=3), memory).run()
    found = windows_of(memory)
    assert len(found) == 15
    assert [t.id for w in found for t in w.tasks] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [len(w.fragments) for w in found[:5]] == [len(w.fragments) for w in found[5:10]]
    assert np.array_equal(found[6].power_ms - found[1].power_ms, [300_000])


def test_tasks_without_fragments_are_left_out_and_counted(tmp_path):
    write_workload(tmp_path / "w", fragments_table=fragments(id=pa.array([1, 1, 2, 2], pa.int32())))
    recording = read_recording(tmp_path / "w")
    assert (len(recording.workload), recording.dropped) == (2, 1)
    ids = [
        m.task.id
        for o in Plan(recording, ReplayOptions()).messages()
        if isinstance(m := decode(o.topic, o.value), Task)
    ]
    assert ids == [1, 2]


def test_other_formats_are_replayed_too(tmp_path):
    lines = ["; UnixStartTime: 1000000", *(f"{i} {i * 10} 0 60 2 -1 -1 2 60 -1 1 1 1 1 1 1 -1 -1" for i in range(1, 4))]
    (tmp_path / "log.swf").write_text("\n".join(lines) + "\n")
    memory = Memory()
    Replay(Plan(read_recording(tmp_path / "log.swf"), ReplayOptions(window_ms=60_000)), memory).run()
    assert sorted(memory.topics) == ["dc.workload"]
    assert len(work(windows_of(memory))) == 3


def test_what_cannot_be_replayed_is_refused(folder, tmp_path):
    with pytest.raises(FormatError, match="expected a workload"):
        read_recording(folder / "topology.json")
    with pytest.raises(ModelError, match="from_ms: found 900000000"):
        plan_of(folder, from_ms=900_000_000)
    with pytest.raises(ModelError, match="repeat: found 0, expected at least 1"):
        ReplayOptions(repeat=0)

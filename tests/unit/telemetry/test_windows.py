"""What windows do with what is late, repeated, contradictory, ahead of its time or missing."""

from __future__ import annotations

import json

import pytest

from opendt.model.errors import ModelError
from opendt.telemetry.source import Partition
from opendt.telemetry.windows import WindowAssembler
from tests.unit.telemetry.streams import ORIGIN, doc, heartbeat, parts, power, stream, task

END = heartbeat(ORIGIN + 60_000)


def assembler(**settings):
    return WindowAssembler("d", **{"window_ms": 1_000, "lateness_ms": 300, "power_patience_ms": 5_000, **settings})


def windows(*streams, close=True, **settings):
    """All windows out of streams that are followed by a heartbeat, and the dead letters."""
    one = assembler(**settings)
    for records in streams:
        last = records[-1]
        end = [last._replace(offset=last.offset + 1, value=END)] if close else []
        one.add([*records, *end])
    if not any(records[0].topic == "dc.power" for records in streams):
        one.note_end(Partition("dc.power", 0))
    found = []
    while (window := one.next()) is not None:
        found.append(window)
    return found, one.take_dead()


def rows(window):
    f = window.fragments
    return [
        (f.ids[code], int(f.first_index[code]) + k - int(f.offset[code]), int(f.duration_ms[k]), bool(f.last[k]))
        for code in range(len(f.ids))
        for k in range(f.offset[code], f.offset[code + 1])
    ]


def reasons(dead):
    return [(one.topic, one.offset, one.reason.partition(":")[0]) for one in dead]


def test_a_border_belongs_to_the_window_before_it():
    values = [task(1, ORIGIN), task(2, ORIGIN + 1_000), task(3, ORIGIN + 1_001)]
    found, _ = windows(stream("dc.workload", *values))
    assert [[t.id for t in w.tasks] for w in found[:2]] == [[1, 2], [3]]
    assert (found[0].start_ms, found[0].end_ms, found[0].origin_ms) == (ORIGIN, ORIGIN + 1_000, ORIGIN)


def test_a_window_waits_for_allowed_lateness_and_not_longer():
    one = assembler()
    one.note_end(Partition("dc.power", 0))
    one.add(stream("dc.workload", task(1, ORIGIN), heartbeat(ORIGIN + 1_299 + 5_000)))
    assert [one.next() is not None for _ in range(2)] == [False, False]  # power might still come
    one = assembler()
    one.add(stream("dc.power", power(ORIGIN + 500, 1.0), heartbeat(ORIGIN + 1_300)))
    one.add(stream("dc.workload", task(1, ORIGIN), heartbeat(ORIGIN + 1_299)))
    assert one.next() is None
    one.add(stream("dc.workload", heartbeat(ORIGIN + 1_300), first=2))
    assert one.next() is not None


def test_fragments_sent_ahead_are_released_when_they_end():
    found, _ = windows(stream("dc.workload", task(1, ORIGIN, [(900, 1.0), (900, 2.0), (900, 3.0)])))
    assert [rows(w) for w in found[:3]] == [[(1, 0, 900, False)], [(1, 1, 900, False)], [(1, 2, 900, True)]]


def test_a_task_sent_whole_over_many_windows_is_released_piece_by_piece():
    found, _ = windows(stream("dc.workload", task(1, ORIGIN, [(100, float(i)) for i in range(500)])))
    assert [len(w.fragments) for w in found[:51]] == [10] * 50 + [0]
    assert found[49].fragments.cpu_mhz.tolist() == [float(i) for i in range(490, 500)]
    assert found[0].positions[-1].resume_offset == 0  # what is not released is read again
    assert found[49].positions[-1].resume_offset == found[49].positions[-1].next_offset


def test_parts_come_to_their_task_with_accelerators_and_without():
    with_gpu = {
        "id": [1],
        "first_fragment": [1],
        "duration": [100],
        "cpu_usage": [1],
        "gpu_usage": [5],
        "complete": [True],
    }
    values = [
        task(1, ORIGIN),
        parts(ORIGIN + 100, (1, 0, 100, 3.0, False)),
        doc(message_type="parts", timestamp=ORIGIN + 200, parts=with_gpu),
    ]
    found, dead = windows(stream("dc.workload", *values))
    assert rows(found[0]) == [(1, 0, 100, False), (1, 1, 100, True)]
    assert found[0].fragments.gpu_mhz.tolist() == [0.0, 5.0]
    assert dead == []


def test_a_late_record_is_merged_within_lateness_and_refused_beyond():
    values = [
        task(1, ORIGIN),
        heartbeat(ORIGIN + 1_200),
        task(2, ORIGIN + 900),
        heartbeat(ORIGIN + 1_300),
        task(3, ORIGIN + 950),
    ]
    found, dead = windows(stream("dc.workload", *values))
    assert [t.id for t in found[0].tasks] == [1, 2]
    assert found[0].counts["merged"] == 1
    assert reasons(dead) == [("dc.workload", 4, "late")]
    assert dead[0].value == values[4]
    assert "task 3 belongs to window 0, window 0 has been passed" in dead[0].reason
    assert sum(w.counts["late"] for w in found) == sum(w.counts["dead"] for w in found) == 1


def test_repetitions_are_counted_and_dropped():
    whole = task(2, ORIGIN + 10, [(50, 1.0), (60, 2.0)])
    part = parts(ORIGIN + 100, (1, 0, 100, 3.0, True))
    reading = power(ORIGIN + 500, 7.0)
    workload = stream("dc.workload", task(1, ORIGIN), task(1, ORIGIN), whole, whole, part, part)
    later = stream("dc.workload", heartbeat(ORIGIN + 9_000), task(1, ORIGIN), whole, part, first=6)
    found, dead = windows([*workload, *later], stream("dc.power", reading, reading))
    assert dead == []
    assert rows(found[0]) == [(1, 0, 100, True), (2, 0, 50, False), (2, 1, 60, True)]
    assert found[0].power_w.tolist() == [7.0]
    assert sum(w.counts["duplicate"] for w in found) == 7


def test_contradictions_are_refused_and_the_first_word_holds():
    workload = stream(
        "dc.workload",
        task(1, ORIGIN),
        task(1, ORIGIN, cpu_capacity=5.0),
        parts(ORIGIN + 100, (1, 0, 100, 3.0, False)),
        parts(ORIGIN + 100, (1, 0, 100, 4.0, False)),
        parts(ORIGIN + 200, (1, 1, 100, 3.0, True)),
        parts(ORIGIN + 300, (1, 2, 100, 3.0, True)),
    )
    found, dead = windows(workload, stream("dc.power", power(ORIGIN + 500, 7.0), power(ORIGIN + 500, 8.0)))
    assert [(topic, offset) for topic, offset, word in reasons(dead) if word == "conflict"] == [
        ("dc.power", 1),
        ("dc.workload", 1),
        ("dc.workload", 3),
        ("dc.workload", 5),
    ]
    assert len(dead) == 4
    assert found[0].fragments.cpu_mhz.tolist() == [3.0, 3.0]
    assert "cpu_capacity_mhz is 5.0 and was 0.0" in dead[1].reason


def test_a_fragment_of_nobody_waits_for_its_task_and_no_longer_than_its_window():
    values = [
        task(1, ORIGIN),
        parts(ORIGIN + 400, (2, 0, 100, 3.0, True), (3, 0, 100, 1.0, True)),
        task(2, ORIGIN + 300),
    ]
    found, dead = windows(stream("dc.workload", *values))
    assert rows(found[0]) == [(2, 0, 100, True)]
    assert reasons(dead) == [("dc.workload", 1, "unknown")]
    assert json.loads(dead[0].value)["parts"]["id"] == [3]  # only what was refused


def test_a_fragment_out_of_order_waits_for_the_one_before_it():
    values = [
        task(1, ORIGIN),
        parts(ORIGIN + 400, (1, 1, 200, 2.0, True)),
        parts(ORIGIN + 200, (1, 0, 200, 1.0, False)),
    ]
    found, dead = windows(stream("dc.workload", *values))
    assert rows(found[0]) == [(1, 0, 200, False), (1, 1, 200, True)]
    assert dead == []


def test_a_fragment_whose_predecessor_never_comes_is_released_with_its_window():
    values = [
        task(1, ORIGIN),
        parts(ORIGIN + 400, (1, 1, 200, 2.0, False)),
        parts(ORIGIN + 1_400, (1, 2, 200, 2.0, True)),
    ]
    found, _ = windows(stream("dc.workload", *values))
    assert [rows(w) for w in found[:2]] == [[(1, 1, 200, False)], [(1, 2, 200, True)]]


def test_a_poisoned_message_is_refused_and_the_rest_goes_on():
    values = [
        task(1, ORIGIN),
        b"\xff\x00",
        parts(ORIGIN + 100, (1, 0, 100, -1.0, False)),
        parts(ORIGIN + 100, (1, 0, 9, 1.0, True)),
    ]
    found, dead = windows(stream("dc.workload", *values))
    assert rows(found[0]) == [(1, 0, 9, True)]
    assert reasons(dead) == [("dc.workload", 1, "broken"), ("dc.workload", 2, "broken")]
    assert dead[0].value == b"\xff\x00"


def test_a_second_message_of_a_task_carries_on_where_the_first_ended():
    first = task(1, ORIGIN, [(100, 1.0)], complete=False)
    second = task(1, ORIGIN, [(200, 2.0)], timestamp=ORIGIN + 150, complete=True)
    third = task(2, ORIGIN + 10)
    closing = task(2, ORIGIN + 10, timestamp=ORIGIN + 2_500, complete=True)
    found, dead = windows(stream("dc.workload", first, second, third, closing))
    assert rows(found[0]) == [(1, 0, 100, False), (1, 1, 200, True)]
    assert [w.completed for w in found[:3]] == [(), (), (2,)]
    assert dead == []


def test_power_is_waited_for_until_it_is_at_its_end_and_patience_is_over():
    one = assembler()
    one.add(stream("dc.workload", task(1, ORIGIN), END))
    assert one.next() is None
    one.note_end(Partition("dc.power", 0))
    assert [one.next().index for _ in range(54)] == list(
        range(54)
    )  # 60 s less lateness, patience and the window itself
    assert one.next() is None
    one.add(stream("dc.power", power(ORIGIN + 100, 1.0), power(ORIGIN + 54_500, 2.0)))
    assert one.next() is None  # it has come back: it is waited for again
    one.note_end(Partition("dc.power", 0))
    one.add(stream("dc.workload", heartbeat(ORIGIN + 61_000), first=2))
    last = one.next()
    assert last.power_w.tolist() == [2.0]
    assert reasons(one.take_dead()) == [("dc.power", 0, "late")]  # its window has closed without it


def test_readings_before_the_first_submission_are_counted_and_no_more():
    found, dead = windows(
        stream("dc.workload", task(1, ORIGIN)), stream("dc.power", power(ORIGIN - 1, 5.0), power(ORIGIN, 6.0))
    )
    assert found[0].power_w.tolist() == [6.0]
    assert (found[0].counts["early"], dead) == (1, [])


def test_heartbeats_before_the_first_task_begin_nothing():
    found, _ = windows(stream("dc.workload", heartbeat(ORIGIN - 5_000), task(1, ORIGIN)))
    assert (found[0].origin_ms, found[0].start_ms) == (ORIGIN, ORIGIN)


def test_topologies_and_settings_take_effect_in_their_windows():
    control = stream(
        "dc.topology",
        doc(timestamp=ORIGIN + 100, topology={"clusters": [1]}, version=1),
        doc(timestamp=ORIGIN + 200, topology={"clusters": [2]}, version=2),
    )
    setting = stream("sys.config", doc(setting_key="mode", new_value="auto", timestamp=ORIGIN + 1_500, source="x"))
    one = assembler()
    one.add(
        [*control, *setting, *stream("dc.workload", task(1, ORIGIN), END), *stream("dc.power", power(ORIGIN, 1.0), END)]
    )
    assert one.next() is None  # more of them may come
    for topic in ("dc.topology", "sys.config"):
        one.note_end(Partition(topic, 0))
    first, second = one.next(), one.next()
    assert first.topology.topology == {"clusters": [2]}
    assert (first.settings, second.topology) == ((), None)
    assert [(s.key, s.value) for s in second.settings] == [("mode", "auto")]


def setting(time_ms, value):
    return doc(setting_key="mode", new_value=value, timestamp=time_ms, source="x")


def told_late():
    """Windows of streams that come in pieces: what people say comes late, and power when it has been given up; and all records."""
    pieces = [
        stream("dc.workload", task(1, ORIGIN, [(500, 1.0), (9_000, 2.0)]), heartbeat(ORIGIN + 8_000)),
        stream("dc.topology", doc(timestamp=ORIGIN + 100, topology={"clusters": [1]})),
        stream("sys.config", setting(ORIGIN + 50, "auto"), setting(ORIGIN + 9_500, "approve")),
        stream("dc.workload", heartbeat(ORIGIN + 12_000), first=2),
        stream("dc.power", power(ORIGIN + 100, 1.0), power(ORIGIN + 13_500, 2.0)),
        stream("dc.topology", doc(timestamp=ORIGIN + 200, topology={"clusters": [2]}), first=1),
        stream("dc.workload", heartbeat(ORIGIN + 20_000), first=3),
        stream("sys.config", setting(ORIGIN + 60, "observe"), first=2),
        stream("dc.workload", heartbeat(ORIGIN + 25_000), first=4),
    ]
    one, found, states = assembler(), [], [{}]
    for records in pieces:
        one.add(records)
        for topic in ("dc.topology", "sys.config", "dc.power"):
            one.note_end(Partition(topic, 0))
        while (window := one.next()) is not None:
            found.append(window)
            states.append(one.state())
    return found, states, [record for records in pieces for record in records], one.take_dead()


def test_windows_that_are_derived_again_take_as_much_of_each_stream_as_they_took():
    found, states, records, dead = told_late()
    assert [w.index for w in found if w.settings] == [2, 9, 14]  # not where their times are
    assert reasons(dead) == [("dc.power", 0, "late")]
    for first, state in enumerate(states[:-1]):
        again = assembler()
        again.restore(state)
        resume = {position.topic: position.resume_offset for position in again.position()}
        again.add([record for record in records if record.offset >= resume.get(record.topic, 0)])
        for window in found[first:]:
            same = again.next(window.positions)
            assert same is not None
            assert (same.input_hash, same.positions, same.counts) == (
                window.input_hash,
                window.positions,
                window.counts,
            )


def test_a_window_that_is_derived_again_waits_for_all_that_it_took():
    found, _, records, _ = told_late()
    one = assembler()
    config = [record for record in records if record.topic == "sys.config"]
    one.add([record for record in records if record.topic != "sys.config"])
    for window in found[:2]:
        assert one.next(window.positions).input_hash == window.input_hash
    assert one.next(found[2].positions) is None
    one.add(config[:1])
    assert one.next(found[2].positions) is None
    one.add(config[1:])
    assert one.next(found[2].positions).input_hash == found[2].input_hash


def test_what_is_gone_by_retention_is_not_waited_for_for_ever():
    found, _, records, _ = told_late()
    one = assembler()
    one.add([record for record in records if record.topic != "sys.config"])
    for window in found[:2]:
        one.next(window.positions)
    one.note_end(Partition("sys.config", 0))
    assert one.next(found[2].positions).input_hash != found[2].input_hash  # which the ledger will say


def test_a_declared_control_topic_is_waited_for_although_it_has_said_nothing():
    one = assembler()
    one.declare(Partition("sys.config", 0))
    one.add([*stream("dc.workload", task(1, ORIGIN), END), *stream("dc.power", power(ORIGIN, 1.0), END)])
    assert one.next() is None
    one.add(stream("sys.config", setting(ORIGIN + 1, "auto")))
    assert one.next() is None
    one.note_end(Partition("sys.config", 0))
    assert [change.value for change in one.next().settings] == ["auto"]


def older(task_id, start, duration, cpu=1.0):
    return {"id": task_id, "submission_time": start, "duration": duration, "cpu_usage": cpu}


def test_a_task_of_the_older_pair_is_done_when_it_falls_silent():
    tasks = stream(
        "tasks", doc(id=1, submission_time=ORIGIN, cpu_count=1), doc(id=2, submission_time=ORIGIN + 10, cpu_count=1)
    )
    batch = [older(1, ORIGIN, 600), older(1, ORIGIN + 600, 600), older(1, ORIGIN + 1_200, 300)]
    found, dead = windows(tasks, stream("fragments", json.dumps(batch).encode()))
    assert [rows(w) for w in found[:2]] == [[(1, 0, 600, False)], [(1, 1, 600, False), (1, 2, 300, True)]]
    assert found[0].completed == (2,)  # nothing of it began when it was submitted
    assert dead == []


def test_what_is_wrong_in_a_batch_is_refused_by_itself():
    tasks = stream("tasks", doc(id=1, submission_time=ORIGIN, cpu_count=1))
    batch = [
        older(1, ORIGIN, 500),
        older(9, ORIGIN, 5),
        older(1, ORIGIN, 500),
        older(1, ORIGIN, 500, 2.0),
        older(1, ORIGIN + 500, 100),
    ]
    found, dead = windows(tasks, stream("fragments", json.dumps(batch).encode(), key='{"id": 1}'))
    assert rows(found[0]) == [(1, 0, 500, False), (1, 1, 100, True)]
    assert found[0].counts["duplicate"] == 1
    assert sorted(one.reason.partition(":")[0] for one in dead) == ["conflict", "unknown"]
    assert {one.key for one in dead} == {'{"id": 1}'}
    assert sorted(json.loads(one.value)["id"][0] for one in dead) == [1, 9]


def test_finished_tasks_are_forgotten_in_time():
    one = assembler(memory_ms=5_000)
    one.note_end(Partition("dc.power", 0))
    values = [task(i, ORIGIN + i * 1_000, [(10, 1.0)]) for i in range(60)]
    one.add(stream("dc.workload", *values, heartbeat(ORIGIN + 90_000)))
    sizes = []
    while one.next() is not None:
        sizes.append(len(one.state()["tasks"]["finished"]))
    assert max(sizes) == 5
    assert sizes[-1] == 0


def test_a_partition_read_ahead_says_by_how_many_windows():
    one = assembler()
    one.add(stream("dc.workload", task(1, ORIGIN)))
    assert one.next() is None
    assert one.ahead(Partition("dc.workload", 0)) == 0
    one.add(stream("dc.workload", heartbeat(ORIGIN + 10_001), first=1))
    assert (one.ahead(Partition("dc.workload", 0)), one.ahead(Partition("dc.power", 0))) == (10, 0)


def test_the_hash_is_of_the_content_and_not_of_offsets():
    one, _ = windows(stream("dc.workload", task(1, ORIGIN, [(10, 1.0)])))
    moved, _ = windows(stream("dc.workload", task(1, ORIGIN, [(10, 1.0)]), first=50))
    other, _ = windows(stream("dc.workload", task(1, ORIGIN, [(10, 2.0)])))
    assert one[0].input_hash == moved[0].input_hash != other[0].input_hash
    assert one[1].input_hash != one[0].input_hash


def test_a_state_of_something_else_is_refused():
    one = assembler()
    one.add(stream("dc.workload", task(1, ORIGIN)))
    one.next()
    with pytest.raises(ModelError, match=r"state\.window_ms: found 1000, expected 2000"):
        assembler(window_ms=2_000).restore(one.state())
    with pytest.raises(ModelError, match=r"window_ms: found 0, expected at least 1 ms"):
        assembler(window_ms=0)

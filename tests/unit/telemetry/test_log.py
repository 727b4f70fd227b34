"""The embedded log: what is written is read, in order, by whoever follows."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from opendt.model.errors import TransportError
from opendt.telemetry.log import LogDirectory, LogSink, LogSource
from opendt.telemetry.source import Partition, Record
from tests.unit.telemetry.log_streams import Clock, open_sink, open_source, read_all, segment_files, write

T = Partition("t", 0)


def test_records_come_back_with_everything_they_had(tmp_path):
    directory = LogDirectory(tmp_path, clock=lambda: 1_700)
    sink = open_sink(directory)
    sink.send("t", b"first", key="delft")
    sink.send("t", b"", key="delft", timestamp_ms=-5)
    sink.send("t", b"third \x00\xff", key="Zürich", timestamp_ms=2**62)
    sink.send("t", b"fourth", key="")
    sink.close()
    assert read_all(tmp_path) == [
        Record("t", 0, 0, "delft", 1_700, b"first"),
        Record("t", 0, 1, "delft", -5, b""),
        Record("t", 0, 2, "Zürich", 2**62, b"third \x00\xff"),
        Record("t", 0, 3, "", 1_700, b"fourth"),
    ]
    assert all(type(record) is Record for record in read_all(tmp_path))


def test_a_message_is_readable_after_flush_and_not_before(tmp_path):
    sink = open_sink(tmp_path)
    sink.send("t", b"a", key="dc")
    assert read_all(tmp_path) == []
    sink.flush()
    assert [record.value for record in read_all(tmp_path)] == [b"a"]


def test_what_exceeds_the_buffer_is_written_out_unasked(tmp_path):
    sink = open_sink(tmp_path, write_bytes=100)
    for number in range(20):
        sink.send("t", b"%020d" % number, key="dc")
    written = read_all(tmp_path)
    assert 15 <= len(written) < 20
    assert [int(record.value) for record in written] == list(range(len(written)))


def test_a_record_larger_than_buffer_chunk_and_segment_passes(tmp_path):
    directory = LogDirectory(tmp_path, segment_bytes=1_000)
    sink = open_sink(directory, write_bytes=100)
    large = bytes(range(256)) * 4_000
    write(sink, b"a", large, b"b")
    write(sink, large)
    values = [record.value for record in read_all(tmp_path, chunk_bytes=64)]
    assert values == [b"a", large, b"b", large]


def test_offsets_go_on_through_segments_and_reopenings(tmp_path):
    directory = LogDirectory(tmp_path, segment_bytes=200)
    for start in range(0, 30, 3):
        sink = open_sink(directory)
        for number in range(start, start + 3):
            write(sink, b"%d" % number)
        sink.close()
    assert len(segment_files(tmp_path)) > 5
    assert [(record.offset, record.value) for record in read_all(tmp_path)] == [(n, b"%d" % n) for n in range(30)]
    assert directory.extent("t") == (0, 30)


@pytest.mark.parametrize("start", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("segment_bytes", [150, 10_000])
def test_reading_begins_at_the_offset_asked_for(tmp_path, start, segment_bytes):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=segment_bytes))
    for number in range(0, 20, 2):
        write(sink, b"%d" % number, b"%d" % (number + 1))
    assert [record.offset for record in read_all(tmp_path, start=start)] == list(range(start, 20))


def test_an_offset_that_the_log_has_not_reached_is_refused(tmp_path):
    write(open_sink(tmp_path), b"a", b"b")
    with pytest.raises(
        TransportError, match=r"end of the topic at offset 2, expected records up to offset 3.*new state"
    ):
        read_all(tmp_path, start=3)


@pytest.mark.parametrize("limit", [1, 3, 5, 100])
def test_a_poll_gives_at_most_what_was_asked_for(tmp_path, limit):
    sink = open_sink(tmp_path)
    for number in range(0, 20, 5):
        write(sink, *(b"%d" % n for n in range(number, number + 5)))
    source, _ = open_source(tmp_path)
    polls = []
    while batch := source.poll(limit):
        polls.append(batch)
    assert [len(batch) for batch in polls[:-1]] == [limit] * (len(polls) - 1)
    assert [record.offset for batch in polls for record in batch] == list(range(20))


def test_a_follower_sees_what_is_written_while_it_follows_from_segment_to_segment(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=120))
    source, _ = open_source(tmp_path)
    seen = []
    for number in range(12):
        write(sink, b"%d" % number)
        assert not source.is_at_end(T)
        seen += source.poll()
        assert source.is_at_end(T)
        assert source.poll() == []
    assert [record.value for record in seen] == [b"%d" % number for number in range(12)]
    assert len(segment_files(tmp_path)) > 3


def test_a_poll_waits_for_the_first_record_and_no_longer_than_told(tmp_path):
    clock = Clock()
    source, _ = open_source(tmp_path, clock=clock, wait=clock.wait, poll_interval_s=0.25)
    assert source.poll(timeout_s=1.1) == []
    assert clock.now == pytest.approx(1.1)
    assert clock.waits == pytest.approx([0.25] * 4 + [0.1])

    sink = open_sink(tmp_path)

    def wait_and_write(seconds):
        clock.wait(seconds)
        write(sink, b"now")

    source.close()
    source, _ = open_source(tmp_path, clock=clock, wait=wait_and_write, poll_interval_s=0.25)
    assert [record.value for record in source.poll(timeout_s=10.0)] == [b"now"]
    assert clock.now == pytest.approx(1.35)


def test_topics_are_assigned_when_they_exist(tmp_path):
    source, told = open_source(tmp_path, ["t", "u"])
    assert source.poll() == []
    assert told == []
    sink = open_sink(tmp_path)
    write(sink, b"a", topic="u")
    assert [record.value for record in source.poll()] == [b"a"]
    write(sink, b"b")
    assert [record.value for record in source.poll()] == [b"b"]
    source.close()
    assert told == [("assigned", ("u", 0)), ("assigned", ("t", 0)), ("revoked", ("t", 0), ("u", 0))]


def test_a_paused_partition_waits_and_loses_nothing(tmp_path):
    sink = open_sink(tmp_path)
    write(sink, b"t0", b"t1")
    write(sink, b"u0", b"u1", topic="u")
    source, _ = open_source(tmp_path, ["t", "u"])
    source.poll(0)
    source.pause([T])
    assert [record.value for record in source.poll()] == [b"u0", b"u1"]
    assert source.poll() == []
    assert not source.is_at_end(T)
    assert source.is_at_end(Partition("u", 0))
    source.resume([T])
    assert [record.value for record in source.poll()] == [b"t0", b"t1"]


def test_a_long_topic_does_not_starve_the_others(tmp_path):
    sink = open_sink(tmp_path)
    write(sink, *[b"t"] * 100)
    write(sink, *[b"u"] * 100, topic="u")
    source, _ = open_source(tmp_path, ["t", "u"])
    topics = {record.topic for _ in range(2) for record in source.poll(10)}
    assert topics == {"t", "u"}


def test_what_was_delivered_waits_for_the_disk_when_asked(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    write(open_sink(tmp_path), b"a")
    assert len(read_all(tmp_path)) == 1
    assert synced == []
    assert len(read_all(tmp_path, sync_before_delivery=True)) == 1
    assert len(synced) == 1


@pytest.mark.parametrize(("is_durable", "syncs"), [(True, 1), (False, 0)])
def test_flush_waits_for_the_disk_as_set(tmp_path, monkeypatch, is_durable, syncs):
    sink = LogSink(tmp_path, is_durable=is_durable)
    write(sink, b"the files exist from here on")
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    sink.send("t", b"a", key="dc")
    assert synced == []
    sink.flush()
    sink.flush()
    assert len(synced) == syncs


def test_after_a_failed_fsync_the_sink_refuses_to_call_anything_safe(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    sink = LogSink(tmp_path)
    write(sink, b"a")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        sink.send("t", b"b", key="dc")
        with pytest.raises(
            TransportError, match=r"0+\.log: cannot wait for the disk .*Input/output error.*may be lost"
        ):
            sink.flush()
    with pytest.raises(TransportError, match="may be lost"):
        sink.flush()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../t", "-t", "a b", "é", "x" * 201])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(TransportError, match="topic: found"):
        open_sink(tmp_path).send(name, b"a", key="dc")
    with pytest.raises(TransportError, match="group: found"):
        LogSource(tmp_path, name)
    with pytest.raises(TransportError, match="topic: found"):
        open_source(tmp_path, [name])


def test_a_key_that_is_no_text_is_refused_and_the_others_are_written(tmp_path):
    sink = open_sink(tmp_path)
    sink.send("t", b"a", key="dc")
    with pytest.raises(TransportError, match="UTF-8"):
        sink.send("t", b"b", key="\ud800")
    write(sink, b"c")
    assert [record.value for record in read_all(tmp_path)] == [b"a", b"c"]


@pytest.mark.parametrize("setting", ["segment_bytes", "retention_bytes", "retention_ms"])
def test_settings_out_of_bounds_are_refused(tmp_path, setting):
    with pytest.raises(TransportError, match=f"{setting}: found 0, expected a whole number >= 1"):
        LogDirectory(tmp_path, **{setting: 0})


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(TransportError, match="file"):
        open_sink(file).send("t", b"a", key="dc")
    with pytest.raises(TransportError, match="file"):
        LogSource(file, "g")


def test_an_empty_log_has_no_topics_and_no_records(tmp_path):
    directory = LogDirectory(tmp_path / "log")
    assert directory.topics() == []
    assert directory.extent("t") == (0, 0)
    assert not (tmp_path / "log").exists()
    write(open_sink(directory), b"a", topic="dc.power")
    assert directory.topics() == ["dc.power"]


def test_two_sinks_of_one_process_take_turns(tmp_path):
    directory = LogDirectory(tmp_path, segment_bytes=150)
    one, two = open_sink(directory), open_sink(directory)
    for number in range(10):
        write(one, b"1 %d" % number)
        write(two, b"2 %d" % number)
    values = [record.value for record in read_all(tmp_path)]
    assert values == [b"%d %d" % (sink, number) for number in range(10) for sink in (1, 2)]


def test_a_writer_that_never_lets_go_is_named(tmp_path):
    directory = LogDirectory(tmp_path, lock_timeout_s=0.5)
    clock = Clock()
    sink = open_sink(directory, wait=clock.wait)
    write(sink, b"a")
    with directory.writer_lock("t").held(0.0):
        sink.send("t", b"b", key="dc")
        with pytest.raises(TransportError, match=r"writer\.lock: found the lock held .* 0\.5 s"):
            sink.flush()
        assert clock.now == pytest.approx(0.5)
    sink.flush()
    assert [record.value for record in read_all(tmp_path)] == [b"a", b"b"]


WRITER = """
import sys
from opendt.telemetry.log import LogDirectory, LogSink
sink = LogSink(LogDirectory(sys.argv[1], segment_bytes=4_000), write_bytes=50)
for number in range(int(sys.argv[3])):
    sink.send("t", f"{sys.argv[2]} {number}".encode(), key=sys.argv[2])
    if number % 7 == 0:
        sink.flush()
    print(number, flush=True)
sink.close()
"""


def start_writer(path, name, count):
    return subprocess.Popen([sys.executable, "-c", WRITER, path, name, str(count)], stdout=subprocess.PIPE, text=True)


def test_processes_write_at_the_same_time_and_each_keeps_its_order(tmp_path):
    writers = [start_writer(tmp_path, name, 400) for name in ("a", "b", "c")]
    for writer in writers:
        writer.communicate(timeout=50)
        assert writer.returncode == 0
    records = read_all(tmp_path)
    assert [record.offset for record in records] == list(range(1_200))
    for name in ("a", "b", "c"):
        own = [record.value.decode() for record in records if record.key == name]
        assert own == [f"{name} {number}" for number in range(400)]


def test_a_follower_beside_writing_processes_sees_only_whole_frames(tmp_path):
    writers = [start_writer(tmp_path, name, 600) for name in ("a", "b")]
    source, _ = open_source(tmp_path, wait=time.sleep)
    deadline = time.monotonic() + 50
    records = []
    while len(records) < 1_200 and time.monotonic() < deadline:
        records += source.poll(50, timeout_s=0.1)
    for writer in writers:
        writer.communicate(timeout=50)
    assert [record.offset for record in records] == list(range(1_200))
    for name in ("a", "b"):
        own = [record.value.decode() for record in records if record.key == name]
        assert own == [f"{name} {number}" for number in range(600)]


@pytest.mark.parametrize("after", [0, 1, 50, 333])
def test_a_writer_killed_at_any_moment_loses_nothing_that_it_flushed(tmp_path, after):
    victim = start_writer(tmp_path, "v", 1_000_000)
    sent = -1
    for line in victim.stdout:
        sent = int(line)
        if sent >= after:
            break
    victim.kill()
    victim.communicate(timeout=50)
    write(open_sink(tmp_path), b"next")
    values = [record.value.decode() for record in read_all(tmp_path)]
    assert values[-1] == "next"
    assert values[:-1] == [f"v {number}" for number in range(len(values) - 1)]
    assert len(values) - 1 > sent // 7 * 7

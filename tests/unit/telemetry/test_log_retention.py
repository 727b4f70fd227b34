"""Old segments go by size and age, compacted topics keep the last record of each key, and readers are told of gaps."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from opendt.telemetry.log import LogDirectory
from opendt.telemetry.source import Partition
from tests.unit.telemetry.log_streams import Clock, open_sink, open_source, read_all, segment_files, write

T = Partition("t", 0)
TOPOLOGY = "dc.topology"


def test_size_takes_whole_segments_from_the_oldest(tmp_path):
    directory = LogDirectory(tmp_path, segment_bytes=200, retention_bytes=500)
    sink = open_sink(directory)
    for number in range(50):
        write(sink, b"%d" % number)
        sealed = segment_files(tmp_path)[:-1]
        assert sum(path.stat().st_size for path in sealed) <= 500
    records = read_all(tmp_path)
    oldest, end = directory.extent("t")
    assert end == 50
    assert 0 < oldest < 48
    assert [record.offset for record in records] == list(range(oldest, 50))


def test_age_takes_segments_whose_newest_record_is_too_old(tmp_path):
    clock = Clock(0)
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=180, retention_ms=1_000, clock=clock))
    for number in range(8):
        clock.now = 100 * number
        write(sink, b"%d" % number)
    assert [record.offset for record in read_all(tmp_path)] == list(range(8))
    clock.now = 1_250
    for _ in range(3):  # enough to begin a segment
        write(sink, b"new")
    kept = read_all(tmp_path)
    assert min(record.timestamp_ms for record in kept) >= 200
    assert 0 < kept[0].offset <= 3  # and no more than whole segments


def test_a_quiet_topic_loses_old_records_at_the_next_one(tmp_path):
    clock = Clock(0)
    sink = open_sink(LogDirectory(tmp_path, retention_ms=1_000, clock=clock))
    write(sink, b"old")
    clock.now = 900
    write(sink, b"newer")
    clock.now = 1_500
    write(sink, b"seals the segment, which is kept for its newest record")
    assert [record.offset for record in read_all(tmp_path)] == [0, 1, 2]
    clock.now = 2_600
    write(sink, b"now")
    assert [record.value for record in read_all(tmp_path)] == [b"now"]


def test_the_segment_being_written_never_goes(tmp_path):
    clock = Clock(0)
    sink = open_sink(LogDirectory(tmp_path, retention_ms=10, retention_bytes=1, clock=clock))
    write(sink, b"a", timestamp_ms=-(10**12))
    clock.now = 10**12
    assert [record.value for record in read_all(tmp_path)] == [b"a"]
    write(sink, b"b")
    assert [record.value for record in read_all(tmp_path)] == [b"b"]


def test_a_reader_that_comes_too_late_starts_at_the_oldest_and_is_told(tmp_path):
    directory = LogDirectory(tmp_path, segment_bytes=100, retention_bytes=100)
    sink = open_sink(directory)
    for number in range(10):
        write(sink, b"%d" % number)
    oldest = directory.extent("t")[0]
    gaps = []
    source, _ = open_source(tmp_path, starts={T: 3}, on_gap=lambda *told: gaps.append(told))
    assert source.poll()[0].offset == oldest > 3
    assert gaps == [(T, 3, oldest)]
    assert source.gap_count == 1


def test_a_reader_without_an_offset_has_no_gap(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=100, retention_bytes=100))
    for number in range(10):
        write(sink, b"%d" % number)
    source, _ = open_source(tmp_path)
    assert source.poll()
    assert source.gap_count == 0


def test_a_gap_is_logged_unless_told_otherwise(tmp_path, caplog):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=100, retention_bytes=100))
    for number in range(10):
        write(sink, b"%d" % number)
    read_all(tmp_path, start=2)
    assert "t/0: records 2 to " in caplog.text


def test_a_reader_in_a_segment_that_goes_reads_it_to_its_end_and_is_then_told(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=200, retention_bytes=200))
    write(sink, b"0")
    write(sink, b"1")
    gaps = []
    source, _ = open_source(tmp_path, on_gap=lambda *told: gaps.append(told))
    first = source.poll(1)
    for number in range(2, 30):
        write(sink, b"%d" % number)
    offsets = [record.offset for record in first + source.poll()]
    while batch := source.poll():
        offsets += [record.offset for record in batch]
    assert len(gaps) == 1
    _, wanted, oldest = gaps[0]
    assert offsets == [*range(wanted), *range(oldest, 30)]
    assert wanted >= 2


def write_topologies(sink, count, keys=("a", "b", "c")):
    for number in range(count):
        write(sink, b"%d" % number, topic=TOPOLOGY, key=keys[number % len(keys)])


def last_of_each(records):
    return {record.key: record for record in records}


def test_a_compacted_topic_keeps_the_last_record_of_each_key(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=300, retention_bytes=1))
    write(sink, b"only once", topic=TOPOLOGY, key="rare")
    write_topologies(sink, 60)
    records = read_all(tmp_path, TOPOLOGY)
    assert len(records) < 12
    assert {key: record.value for key, record in last_of_each(records).items()} == {
        "rare": b"only once", "a": b"57", "b": b"58", "c": b"59"
    }  # fmt: skip
    assert [record.offset for record in records] == sorted({record.offset for record in records})
    assert last_of_each(records)["c"].offset == 60
    assert len(segment_files(tmp_path, TOPOLOGY)) == 2


def test_a_tombstone_is_kept_as_the_last_word_on_its_key(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=300))
    write(sink, b"x", topic=TOPOLOGY, key="gone")
    write(sink, b"", topic=TOPOLOGY, key="gone")
    write_topologies(sink, 30)
    assert [record.value for record in read_all(tmp_path, TOPOLOGY) if record.key == "gone"] == [b""]


@pytest.mark.parametrize("start", [0, 1, 7, 31, 50, 59, 60])
def test_a_compacted_topic_is_read_from_any_offset_without_a_gap(tmp_path, start):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=300))
    write_topologies(sink, 60)
    every = read_all(tmp_path, TOPOLOGY)
    source, _ = open_source(tmp_path, [TOPOLOGY], {Partition(TOPOLOGY, 0): start})
    assert source.poll() == [record for record in every if record.offset >= start]
    assert source.gap_count == 0


@pytest.mark.parametrize("read_first", range(1, 12))
def test_a_reader_in_the_middle_of_a_compaction_misses_no_last_record(tmp_path, read_first):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=300))
    write_topologies(sink, 11)
    source, _ = open_source(tmp_path, [TOPOLOGY])
    records = source.poll(read_first)
    write_topologies(sink, 40)
    while batch := source.poll():
        records += batch
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))
    assert last_of_each(records) == last_of_each(read_all(tmp_path, TOPOLOGY))


def test_a_compaction_that_died_before_it_deleted_the_old_segments_is_finished_by_the_next(tmp_path):
    directory = LogDirectory(tmp_path, segment_bytes=300)
    plain = open_sink(LogDirectory(tmp_path, segment_bytes=300, compacted=frozenset()))
    write_topologies(plain, 20)
    old = segment_files(tmp_path, TOPOLOGY)[1:-1]
    assert len(old) >= 3
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in old:
        shutil.copy(path, copies)
    expected = last_of_each(read_all(tmp_path, TOPOLOGY))
    sink = open_sink(directory)
    while (copies / segment_files(tmp_path, TOPOLOGY)[1].name).exists():  # until it has been compacted
        write(sink, b"z", topic=TOPOLOGY, key="z")
    for path in old:
        shutil.copy(copies / path.name, path)
    found = last_of_each(read_all(tmp_path, TOPOLOGY))
    assert {key: found[key] for key in expected} == expected
    for _ in range(8):
        write(sink, b"z", topic=TOPOLOGY, key="z")
    assert len(segment_files(tmp_path, TOPOLOGY)) == 2
    found = last_of_each(read_all(tmp_path, TOPOLOGY))
    assert {key: found[key] for key in expected} == expected


def test_what_cannot_be_tidied_stays_is_logged_and_holds_up_nobody(tmp_path, monkeypatch, caplog):
    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".new":
            raise OSError(errno.ENOSPC, "No space left on device")

    sink = open_sink(LogDirectory(tmp_path, segment_bytes=300))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        write_topologies(sink, 20)
    assert "old segments stay" in caplog.text
    assert "No space left" in caplog.text
    assert list((tmp_path / "topics" / TOPOLOGY).glob("*.new")) == []
    assert [record.offset for record in read_all(tmp_path, TOPOLOGY)] == list(range(20))
    write_topologies(sink, 10)
    assert len(segment_files(tmp_path, TOPOLOGY)) == 2

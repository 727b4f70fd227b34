"""A torn end is cut off and reported; damage before it is refused; nothing that is whole is ever passed over."""

from __future__ import annotations

import errno
import os

import pytest

from opendt.model.errors import TransportError
from opendt.telemetry.log import LogDirectory, TornEnd
from opendt.telemetry.log_format import Body, encode_body, encode_frame, scan_frames
from opendt.telemetry.source import Partition
from tests.unit.telemetry.log_streams import open_sink, open_source, read_all, segment_files, write

T = Partition("t", 0)


def frame_ends(path, base=0):
    with path.open("rb") as file:
        return [frame.end for frame in scan_frames(file.fileno(), path, 0, base)]


def three_frames(path):
    """A topic with the frames (a), (b, c), (d), and where they end."""
    sink = open_sink(path)
    write(sink, b"a")
    write(sink, b"b", b"c")
    write(sink, b"d")
    sink.close()
    (file,) = segment_files(path)
    return file, frame_ends(file)


VALUES = [b"a", b"b", b"c", b"d"]
WHOLE = {0: 0, 1: 1, 2: 3, 3: 4}  # whole frames -> records


def test_an_end_torn_at_any_byte_is_cut_off_reported_and_written_over(tmp_path):
    file, ends = three_frames(tmp_path)
    content = file.read_bytes()
    for size in range(len(content) + 1):
        file.write_bytes(content[:size])
        kept = max([end for end in ends if end <= size], default=0)
        values = VALUES[: WHOLE[sum(end <= size for end in ends)]]
        assert [record.value for record in read_all(tmp_path)] == values  # a reader repairs nothing
        assert file.stat().st_size == size
        repairs = []
        with_sink = open_sink(tmp_path, on_torn=repairs.append)
        write(with_sink, b"next")
        cut = TornEnd("t", 0, len(values), size - kept, file, is_cut=True)
        assert repairs == ([cut] if size != kept else [])
        assert [record.value for record in read_all(tmp_path)] == [*values, b"next"]
        assert [record.offset for record in read_all(tmp_path)] == list(range(len(values) + 1))


@pytest.mark.parametrize(
    "tail", [b"\0" * 5_000, b"ODTL", b"garbage", b"ODTL" * 100], ids=["zeros", "magic", "text", "magics"]
)
def test_what_is_no_frame_at_the_end_is_torn(tmp_path, tail):
    file, _ = three_frames(tmp_path)
    with file.open("ab") as end:
        end.write(tail)
    repairs = []
    write(open_sink(tmp_path, on_torn=repairs.append), b"next")
    assert repairs == [TornEnd("t", 0, 4, len(tail), file, is_cut=True)]
    assert [record.value for record in read_all(tmp_path)] == [*VALUES, b"next"]


def test_a_torn_end_is_logged_unless_told_otherwise(tmp_path, caplog):
    file, ends = three_frames(tmp_path)
    os.truncate(file, ends[-1] - 1)
    read_all(tmp_path)
    assert f"{file}: passed over {ends[-1] - 1 - ends[-2]} bytes" in caplog.text
    write(open_sink(tmp_path), b"next")
    assert f"{file}: cut off {ends[-1] - 1 - ends[-2]} bytes" in caplog.text


def test_a_reader_tells_of_a_torn_end_once_and_again_when_it_is_another(tmp_path):
    file, ends = three_frames(tmp_path)
    torn = []
    source, _ = open_source(tmp_path, on_torn=torn.append)
    assert len(source.poll()) == 4
    assert torn == []
    for tail in (b"ODTL", b"ODTL and more"):
        os.truncate(file, ends[-1])
        with file.open("ab") as end:
            end.write(tail)
        for _ in range(3):
            assert source.poll() == []
            assert source.is_at_end(T)
        assert torn == [TornEnd("t", 0, 4, len(tail), file, is_cut=False)]
        torn.clear()
    write(open_sink(tmp_path, on_torn=torn.append), b"next")
    assert [record.value for record in source.poll()] == [b"next"]
    assert [one.is_cut for one in torn] == [True]


def test_a_writer_tells_of_a_torn_end_also_when_it_cannot_write_and_not_while_it_has_the_lock(tmp_path, monkeypatch):
    file, ends = three_frames(tmp_path)
    os.truncate(file, ends[-1] - 1)
    torn = []

    def told(one):
        lock = LogDirectory(tmp_path).writer_lock("t")
        torn.append((one.offset, lock.try_take()))
        lock.close()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = open_sink(tmp_path, on_torn=told)
    sink.send("t", b"next", key="k")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(TransportError, match="No space left"):
            sink.flush()
    assert torn == [(3, True)]
    sink.flush()
    assert torn == [(3, True)]
    assert [record.value for record in read_all(tmp_path)] == [b"a", b"b", b"c", b"next"]


def test_damage_of_any_byte_before_the_last_frame_is_refused_by_readers_and_writers(tmp_path):
    file, ends = three_frames(tmp_path)
    content = file.read_bytes()
    for position in range(ends[-2]):
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        file.write_bytes(damaged)
        begin = max([0, *(end for end in ends if end <= position)])
        found = rf"{file}: byte {begin}: found bytes that are no whole frame.*whole frames follow at byte \d+"
        with pytest.raises(TransportError, match=found):
            read_all(tmp_path)
        with pytest.raises(TransportError, match=found):
            write(open_sink(tmp_path), b"next")
        assert file.read_bytes() == damaged  # refused means untouched


def test_records_before_the_damage_are_delivered_first(tmp_path):
    file, ends = three_frames(tmp_path)
    content = bytearray(file.read_bytes())
    content[ends[0] + 50] ^= 1
    file.write_bytes(content)
    source, _ = open_source(tmp_path)
    assert [record.value for record in source.poll()] == [b"a"]
    with pytest.raises(TransportError, match=f"byte {ends[0]}: "):
        source.is_at_end(T)


def test_a_sealed_segment_that_ends_early_is_damage(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=100))
    for number in range(4):
        write(sink, b"%d" % number)
    file = segment_files(tmp_path)[1]
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(TransportError, match=rf"{file}: byte \d+: .* expected the frame that seals the segment"):
        read_all(tmp_path)


def test_a_segment_that_is_missing_between_others_is_refused(tmp_path):
    sink = open_sink(LogDirectory(tmp_path, segment_bytes=100))
    for number in range(5):
        write(sink, b"%d" % number)
    file = segment_files(tmp_path)[2]
    file.unlink()
    with pytest.raises(TransportError, match=f"{file}: found no such file.*later ones exist"):
        read_all(tmp_path)


def test_a_whole_frame_with_an_offset_that_does_not_follow_is_refused(tmp_path):
    file, _ = three_frames(tmp_path)
    with file.open("ab") as end:
        end.write(encode_frame(encode_body([b"x"], [0], [b"dc"], [0]), 7))
    with pytest.raises(TransportError, match="found the record with offset 7, expected 4"):
        read_all(tmp_path)


@pytest.mark.parametrize(("version", "flags"), [(2, 0), (1, 0x80)])
def test_a_frame_of_a_newer_version_is_refused_and_not_cut_off(tmp_path, monkeypatch, version, flags):
    file, _ = three_frames(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("opendt.telemetry.log_format.VERSION", version)
        frame = encode_frame(encode_body([b"x"], [0], [b"dc"], [0]), 4, flags)
    with file.open("ab") as end:
        end.write(frame)
    size = file.stat().st_size
    for use in (lambda: write(open_sink(tmp_path), b"next"), lambda: read_all(tmp_path)):
        with pytest.raises(TransportError, match=f"version {version} with flags {flags:#x}.*newer opendt"):
            use()
    assert file.stat().st_size == size


def test_a_writer_that_died_between_sealing_and_the_next_segment_is_continued(tmp_path):
    file, _ = three_frames(tmp_path)
    source, _ = open_source(tmp_path)
    assert len(source.poll()) == 4
    with file.open("ab") as end:
        end.write(encode_frame(Body(b"", 0, 0, 0, 0), 4, 2))
    assert source.poll() == []
    assert source.is_at_end(T)
    write(open_sink(tmp_path), b"next")
    assert [path.name for path in segment_files(tmp_path)] == [f"{0:020d}.log", f"{4:020d}.log"]
    assert [(record.offset, record.value) for record in source.poll()] == [(4, b"next")]


def test_a_reader_that_saw_a_torn_end_goes_on_after_the_repair(tmp_path):
    file, ends = three_frames(tmp_path)
    os.truncate(file, ends[-1] - 1)
    source, _ = open_source(tmp_path)
    assert [record.value for record in source.poll()] == [b"a", b"b", b"c"]
    assert source.poll() == []
    assert source.is_at_end(T)
    write(open_sink(tmp_path), b"other")
    assert [record.value for record in source.poll()] == [b"other"]


def test_while_somebody_writes_an_unfinished_frame_is_neither_end_nor_damage(tmp_path):
    file, _ = three_frames(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    source, _ = open_source(tmp_path)
    with LogDirectory(tmp_path).writer_lock("t").held(0.0):
        assert len(source.poll()) == 3
        assert source.poll() == []
        assert not source.is_at_end(T)
        file.write_bytes(content)
        assert [record.value for record in source.poll()] == [b"d"]
        assert source.is_at_end(T)


def test_a_sink_notices_what_another_process_left_torn(tmp_path):
    first = open_sink(tmp_path)
    write(first, b"a")
    (file,) = segment_files(tmp_path)
    whole = file.stat().st_size
    with file.open("ab") as end:
        end.write(b"ODTL half a frame")
    write(first, b"b")
    assert frame_ends(file)[0] == whole
    assert [record.value for record in read_all(tmp_path)] == [b"a", b"b"]


def test_a_full_disk_leaves_nothing_torn_and_loses_nothing(tmp_path, monkeypatch):
    """The disk takes half of a frame, then nothing, then is emptied."""
    sink = open_sink(tmp_path, write_bytes=1)
    write(sink, b"a")
    (file,) = segment_files(tmp_path)
    whole = file.read_bytes()
    written = []

    def write_half(descriptor, data, position):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real_write(descriptor, data[: len(data) // 2], position))
        return written[0]

    real_write = os.pwrite
    sink.send("t", b"b" * 1_000, key="dc")
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", write_half)
        with pytest.raises(
            TransportError, match=r"topics/t: cannot write to the topic: No space left.*Free some space"
        ):
            sink.send("t", b"not taken", key="dc")
        assert written[0] > 500
        assert file.read_bytes() == whole
        with pytest.raises(TransportError, match="No space left"):
            sink.flush()
    sink.send("t", b"c", key="dc")
    sink.close()
    assert [record.value for record in read_all(tmp_path)] == [b"a", b"b" * 1_000, b"c"]


def test_closing_on_a_full_disk_says_how_much_is_lost(tmp_path, monkeypatch):
    def refuse(descriptor, data, position):
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = open_sink(tmp_path)
    sink.send("t", b"a", key="dc")
    sink.send("t", b"b", key="dc")
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", refuse)
        with pytest.raises(TransportError, match="closed with 2 messages not written"):
            sink.close()


def test_a_log_that_was_emptied_under_a_sink_is_begun_anew_behind_what_was_there(tmp_path):
    sink = open_sink(tmp_path)
    write(sink, b"a", b"b")
    source, _ = open_source(tmp_path)
    assert len(source.poll()) == 2
    for file in segment_files(tmp_path):
        file.unlink()
    write(sink, b"c")
    assert [record.offset for record in source.poll() + source.poll()] == [2]

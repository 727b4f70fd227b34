"""A log on a file system that is really full: a small tmpfs."""

from __future__ import annotations

import os
import subprocess

import pytest

from opendt.model.errors import TransportError
from opendt.telemetry.log import LogDirectory, LogSink
from opendt.telemetry.source import Partition
from tests.unit.telemetry.log_streams import open_source, read_all

T = Partition("t", 0)


@pytest.fixture
def small_disk(tmp_path):
    """A folder that holds 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def send_until_refused(sink, taken):
    while True:
        value = b"%d " % len(taken) * 200
        sink.send("t", value, key="dc")
        taken.append(value)


def fill_up(path):
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))


def test_a_full_disk_is_said_loses_nothing_and_writing_goes_on_when_there_is_space(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    sink = LogSink(LogDirectory(small_disk / "log", segment_bytes=100_000), write_bytes=20_000)
    taken = []
    with pytest.raises(TransportError, match=r"topics/t: cannot write .*: No space left on device\. Free some space"):
        send_until_refused(sink, taken)
    source, _ = open_source(small_disk / "log")
    before = []
    while batch := source.poll():
        before += [record.value for record in batch]
    assert before == taken[: len(before)]
    assert 0 < len(before) < len(taken)  # the others wait in the sink
    with pytest.raises(TransportError, match="No space left"):
        sink.flush()
    assert source.poll() == []
    ballast.unlink()
    sink.send("t", b"after", key="dc")
    sink.close()
    assert before + [record.value for record in source.poll()] == [*taken, b"after"]
    source.close()


def test_whoever_opens_the_log_of_a_process_that_ended_on_a_full_disk_finds_whole_frames(small_disk):
    sink = LogSink(small_disk / "log", write_bytes=30_000)
    taken = []
    with pytest.raises(TransportError, match="No space left"):
        send_until_refused(sink, taken)
    repairs = []
    records = read_all(small_disk / "log")
    assert [record.value for record in records] == taken[: len(records)] != []
    other = LogSink(small_disk / "log", on_torn=repairs.append)
    other.send("t", b"x" * 100_000, key="dc")
    with pytest.raises(TransportError, match="closed with 1 messages not written"):
        other.close()
    assert repairs == []


def test_offsets_that_do_not_fit_leave_the_old_ones(small_disk):
    directory = LogDirectory(small_disk / "log")
    directory.store_offsets("g", {T: 1})
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        fill_up(ballast)
    with pytest.raises(TransportError, match=r"g\.json: cannot store the offsets: No space left on device"):
        directory.store_offsets("g", {T: 2})
    assert directory.committed("g") == {T: 1}
    ballast.unlink()
    directory.store_offsets("g", {T: 3})
    assert directory.committed("g") == {T: 3}

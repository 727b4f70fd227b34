"""Writing to the embedded log: one frame at a time under the topic's lock, so that any number of processes may write.

A writer that is killed leaves at most one frame that is not whole, at the end of the topic's newest segment. The next writer
finds it, cuts it off and says so; readers never see it.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from opendt.model.errors import TransportError
from opendt.telemetry.log_directory import LogDirectory, sync_folder
from opendt.telemetry.log_format import (
    HEADER_BYTES,
    LARGEST_RECORD_BYTES,
    SEALED,
    Body,
    TornEnd,
    encode_body,
    encode_frame,
    explained,
    refuse_damage,
    report_torn_end,
    scan_frames,
    segment_name,
    segments,
)
from opendt.telemetry.log_retention import tidy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["LogSink"]

_LOG = logging.getLogger(__name__)
_RECORD_OVERHEAD_BYTES = 20
_COMPACTED_SEGMENT_BYTES = 1 << 20


class LogSink:
    """Writes to the topics of a log; the port `Sink`.

    Records are gathered and written out as one frame when there are `write_bytes` of them, and by `flush`. For one thread;
    each thread or process makes its own.

    Parameters
    ----------
    directory : LogDirectory or path
        The log; made when it does not exist.
    write_bytes : int
        How much is gathered for a topic before it is written out, unasked: the most that a killed process loses of what it
        had not flushed. 512 KiB: larger frames are not faster.
    is_durable : bool
        Whether `flush` waits for the disk (fsync). Without, what was flushed survives the end of the process, however it
        ends, but not a loss of power.
    on_torn : callable
        Told when the torn end of a topic was cut off, before anything else is written; logs a warning unless given.
    wait : callable
        Waits so many seconds, while another process writes to the same topic.

    Raises
    ------
    TransportError
        From every method, when the disk refuses, is full, or holds damage. What `send` had accepted stays in the sink then
        and goes with the next `flush`; a message for which `send` itself raised was not accepted.
    """

    def __init__(
        self,
        directory: LogDirectory | Path | str,
        *,
        write_bytes: int = 512 << 10,
        is_durable: bool = True,
        on_torn: Callable[[TornEnd], None] = report_torn_end,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 1 <= write_bytes <= LARGEST_RECORD_BYTES:
            raise TransportError(f"write_bytes: found {write_bytes}, expected 1 to {LARGEST_RECORD_BYTES}")
        self._directory = LogDirectory.at(directory)
        self._write_bytes = write_bytes
        self._is_durable = is_durable
        self._on_torn = on_torn
        self._wait = wait
        self._clock = self._directory.clock
        self._batches: dict[str, _Batch] = {}

    def send(self, topic: str, value: bytes, *, key: str, timestamp_ms: int | None = None) -> None:
        """Hand over a message; see `Sink`."""
        batch = self._batches.get(topic)
        if batch is None:
            batch = self._open(topic)
        # Before the message is taken, so that one that is refused for want of space has not been taken.
        if batch.size_bytes >= self._write_bytes:
            batch.write_out()
        key_id = batch.key_ids_of.get(key)
        if key_id is None:
            key_id = batch.add_key(topic, key)
        size_bytes = len(value)
        if size_bytes > LARGEST_RECORD_BYTES:
            raise TransportError(f"{topic}: found a message of {size_bytes} bytes, expected <= {LARGEST_RECORD_BYTES}")
        # One step, so that an exception from a signal handler leaves whole messages.
        batch.messages.append((value, self._clock() if timestamp_ms is None else timestamp_ms, key_id))
        batch.size_bytes += size_bytes + _RECORD_OVERHEAD_BYTES

    def flush(self) -> None:
        """Write out everything and wait until it is on the disk (`is_durable`)."""
        for batch in self._batches.values():
            batch.write_out()
        for batch in self._batches.values():
            batch.writer.sync()

    def close(self) -> None:
        """Flush, and free what is held, even when flushing fails: then the error says how many messages are lost."""
        try:
            self.flush()
        except TransportError as error:
            unwritten = sum(len(batch.messages) for batch in self._batches.values())
            raise TransportError(f"{error}. The sink was closed with {unwritten} messages not written") from error
        finally:
            for batch in self._batches.values():
                batch.writer.close()
            self._batches.clear()

    def _open(self, topic: str) -> _Batch:
        writer = _TopicWriter(
            self._directory, topic, is_durable=self._is_durable, on_torn=self._on_torn, wait=self._wait
        )
        self._batches[topic] = batch = _Batch(writer)
        return batch


class _Batch:
    """Messages of a topic that are gathered for the next frame."""

    __slots__ = ("key_ids_of", "keys", "messages", "size_bytes", "writer")

    def __init__(self, writer: _TopicWriter) -> None:
        self.writer = writer
        self._clear()

    def add_key(self, topic: str, key: str) -> int:
        try:
            name = key.encode()
        except UnicodeEncodeError as error:
            raise TransportError(f"{topic}: found the key {key!r}, expected text that UTF-8 can carry") from error
        if len(name) > LARGEST_RECORD_BYTES:
            raise TransportError(f"{topic}: found a key of {len(name)} bytes, expected <= {LARGEST_RECORD_BYTES}")
        self.keys.append(name)
        self.size_bytes += len(name)
        return self.key_ids_of.setdefault(key, len(self.key_ids_of))

    def write_out(self) -> None:
        """Write what there is; it stays here when that fails."""
        if self.messages:
            values, timestamps_ms, key_ids = zip(*self.messages, strict=True)
            self.writer.append(encode_body(values, timestamps_ms, self.keys, key_ids))
            self._clear()

    def _clear(self) -> None:
        self.messages: list[tuple[bytes, int, int]] = []  # value, timestamp, key's number
        self.keys: list[bytes] = []
        self.key_ids_of: dict[str, int] = {}
        self.size_bytes = 0


class _TopicWriter:
    """Appends frames to the newest segment of a topic.

    What it knows of the segment (its end, its next offset) holds while it has the lock, and is brought up to date whenever
    it takes it, from the file itself: another process may have written, sealed the segment, or died while writing.
    """

    def __init__(
        self,
        directory: LogDirectory,
        topic: str,
        *,
        is_durable: bool,
        on_torn: Callable[[TornEnd], None],
        wait: Callable[[float], None],
    ) -> None:
        self._directory = directory
        self._topic = topic
        self._folder = directory.topic_path(topic)
        self._is_durable = is_durable
        self._on_torn = on_torn
        self._wait = wait
        self._lock = directory.writer_lock(topic)
        if is_durable:
            with explained(self._folder, "make the topic durable"):
                sync_folder(self._folder.parent)
                sync_folder(directory.path)
        self._segment_bytes = directory.segment_bytes
        if topic in directory.compacted:
            self._segment_bytes = min(self._segment_bytes, _COMPACTED_SEGMENT_BYTES)
        self._failure = ""
        self._is_synced = True
        self._descriptor = -1
        self._next_offset = 0
        self._torn: TornEnd | None = None  # cut off, and not told of

    def append(self, body: Body) -> None:
        """Write a frame, all of it or nothing."""
        self._refuse_after_failure()
        try:
            with (
                self._lock.held(self._directory.lock_timeout_s, self._wait),
                explained(self._folder, "write to the topic"),
            ):
                self._catch_up()
                if self._is_full(len(body.data)):
                    self._roll()
                self._write(encode_frame(body, self._next_offset))
                self._next_offset += body.record_count
                self._note_times(body.newest_timestamp_ms)
        finally:
            torn, self._torn = self._torn, None
            if torn is not None:
                self._on_torn(torn)  # not while others wait for the lock

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        self._refuse_after_failure()
        if self._is_synced or not self._is_durable:
            return
        try:
            with explained(self._path, "wait for the disk (fsync)"):
                os.fsync(self._descriptor)
        except TransportError as error:
            # The system may have thrown away what it could not write, and would call the next attempt a success.
            self._failure = f"{error}. What was written last may be lost: look at the disk, then open the log anew"
            raise TransportError(self._failure) from error
        self._is_synced = True

    def close(self) -> None:
        """Free what is held; nothing is written."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._lock.close()

    def _refuse_after_failure(self) -> None:
        if self._failure:
            raise TransportError(self._failure)

    def _catch_up(self) -> None:
        while True:
            if self._descriptor < 0:
                self._open_newest()
            status = os.fstat(self._descriptor)
            if status.st_nlink and status.st_size > self._end:
                self._scan()
            # Deleted by retention or compaction, or cut off by hand: start from what is there.
            is_gone = not status.st_nlink or status.st_size < self._end
            if not is_gone and not self._is_sealed:
                return
            self._leave()

    def _open_newest(self) -> None:
        bases = segments(self._folder)
        # A sealed segment whose successor does not exist: its writer died between the two.
        base = max([*bases, self._next_offset])
        self._path = self._folder / segment_name(base)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if base not in bases and self._is_durable:
            sync_folder(self._folder)
        self._end = 0
        self._next_offset = base
        self._is_sealed = False
        self._first_ms: int | None = None
        self._newest_ms = 0

    def _scan(self) -> None:
        for frame in scan_frames(self._descriptor, self._path, self._end, self._next_offset):
            self._end, self._next_offset = frame.end, frame.next_offset
            self._is_sealed = bool(frame.flags & SEALED)
            if not self._is_sealed:
                self._note_times(frame.newest_timestamp_ms)
        dropped_bytes = os.fstat(self._descriptor).st_size - self._end
        if dropped_bytes:
            refuse_damage(self._descriptor, self._path, self._end, self._next_offset)
            os.ftruncate(self._descriptor, self._end)
            self._is_synced = False
            self._torn = TornEnd(self._topic, 0, self._next_offset, dropped_bytes, self._path, is_cut=True)

    def _is_full(self, more_bytes: int) -> bool:
        if self._first_ms is None:
            return False
        retention_ms = self._directory.retention_ms
        is_old = retention_ms is not None and self._first_ms < self._directory.clock() - retention_ms
        # With the header of the frame, and of the one that seals the segment.
        return is_old or self._end + more_bytes + 2 * HEADER_BYTES > self._segment_bytes

    def _roll(self) -> None:
        """Seal the segment, begin the next, and do what is due with the old ones."""
        self._write(encode_frame(Body(b"", 0, 0, 0, self._newest_ms), self._next_offset, SEALED))
        self._leave()
        self._open_newest()
        try:
            tidy(self._directory, self._topic, self._next_offset)
        except TransportError as error:
            # Nothing is lost by it, and the message at hand should not wait for it.
            _LOG.warning("%s: old segments stay until the next is full: %s", self._folder, error)

    def _leave(self) -> None:
        if not self._is_synced:
            self.sync()
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        self._is_synced = False
        try:
            at = 0
            while at < len(data):
                at += os.pwrite(self._descriptor, view[at:], self._end + at)
        except BaseException:
            # If this fails as well, the next writer does it: the frame is not whole.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(data)

    def _note_times(self, newest_ms: int) -> None:
        self._newest_ms = newest_ms if self._first_ms is None else max(self._newest_ms, newest_ms)
        if self._first_ms is None:
            self._first_ms = newest_ms

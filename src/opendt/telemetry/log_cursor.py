"""A place in a topic of the embedded log, moving on from frame to frame and from segment to segment.

No lock that writers need is taken: a frame counts when all of it is there and its checksum is right. Only when a topic ends
with something else is it asked whether anybody is writing, to tell a torn end from damage.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opendt.model.errors import TransportError
from opendt.telemetry.log_format import (
    SEALED,
    Chunk,
    Frame,
    TornEnd,
    decode_frame,
    explained,
    read_chunk,
    refuse_damage,
    segment_name,
    segments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opendt.telemetry.log_directory import LogDirectory
    from opendt.telemetry.source import Partition, Record

__all__ = ["OLDEST", "Cursor"]

OLDEST = -1
"""Start of a cursor that begins at the oldest record kept, whichever that is."""


class Cursor:
    """Gives the records of a partition in order.

    Parameters
    ----------
    directory : LogDirectory
        The log.
    partition : Partition
        What to read.
    start : int
        Offset of the first record wanted, or `OLDEST`.
    chunk_bytes, sync_before_delivery, on_gap, on_torn
        As for `LogSource`.

    Raises
    ------
    TransportError
        From `take` and `is_at_end`; the place stays where it is, so that the next call finds the same.
    """

    def __init__(
        self,
        directory: LogDirectory,
        partition: Partition,
        start: int,
        *,
        chunk_bytes: int,
        sync_before_delivery: bool,
        on_gap: Callable[[Partition, int, int], None],
        on_torn: Callable[[TornEnd], None],
    ) -> None:
        self._directory = directory
        self._partition = partition
        self._folder = directory.topic_path(partition.topic)
        self._chunk_bytes = chunk_bytes
        self._sync = sync_before_delivery
        self._on_gap = on_gap
        self._on_torn = on_torn
        self._next = start  # offset of the record to deliver next
        self._ready: list[Record] = []  # a decoded frame, delivered up to `_at`
        self._at = 0
        self._data = b""
        self._frames: Iterator[Frame] = iter(())  # whole frames of `_data` not yet decoded
        self._path = self._folder
        self._descriptor = -1
        self._position = 0  # behind the frame decoded last, bytes
        self._expected = 0  # offset behind it
        self._is_sealed = False  # the segment has been read to its end
        self._is_uncertain = False  # somebody was writing when we looked
        self._torn = (-1, -1)  # position and size of the file at which a torn end was found

    def take(self, records: list[Record], limit: int) -> None:
        """Append what comes next, until there are so many."""
        while len(records) < limit and self._fill():
            part = self._ready[self._at : self._at + limit - len(records)]
            records += part
            self._at += len(part)
            self._next = part[-1].offset + 1

    def is_at_end(self) -> bool:
        """Whether everything that is there has been taken."""
        return not self._fill() and not self._is_uncertain

    def close(self) -> None:
        """Free what is held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _fill(self) -> bool:
        """Have a decoded record ready; False when there is none to be had now."""
        while self._at >= len(self._ready):
            frame = next(self._frames, None)
            if frame is None:
                if not self._read():
                    return False
                continue
            self._position, self._expected = frame.end, frame.next_offset
            self._is_sealed = bool(frame.flags & SEALED)
            if frame.next_offset > self._next:
                self._ready = decode_frame(self._data, frame, self._partition.topic)
                self._at = max(self._next - frame.base_offset, 0)
        return True

    def _read(self) -> bool:
        self._is_uncertain = False
        with explained(self._folder, "read the topic"):
            if (self._descriptor < 0 or self._is_sealed) and not self._open():
                return False
            chunk = self._chunk()
            if chunk.is_torn:
                chunk = self._judge()
            if chunk.frames and self._sync:
                os.fdatasync(self._descriptor)
        self._data, self._frames = chunk.data, iter(chunk.frames)
        if chunk.frames:
            return True
        if self._next > self._expected and not self._is_uncertain:
            self._refuse_start(self._path, self._expected)
        if not os.fstat(self._descriptor).st_nlink:
            # Not sealed and yet deleted: somebody emptied the log.
            self.close()
        return False

    def _chunk(self) -> Chunk:
        return read_chunk(self._descriptor, self._path, self._position, self._expected, self._chunk_bytes)

    def _judge(self) -> Chunk:
        """Look again at what is no whole frame, while nobody writes: a torn end is the end for now, damage is refused."""
        nothing = Chunk(b"", [], is_torn=False)
        found = (self._position, os.fstat(self._descriptor).st_size)
        if found == self._torn:
            return nothing
        lock = self._directory.writer_lock(self._partition.topic)
        try:
            if not lock.try_take():
                self._is_uncertain = True
                return nothing
            chunk = self._chunk()
            if not chunk.is_torn:
                return chunk
            refuse_damage(self._descriptor, self._path, self._position, self._expected)
            found = (self._position, os.fstat(self._descriptor).st_size)
        finally:
            lock.close()
        self._torn = found
        dropped_bytes = found[1] - self._position
        self._on_torn(TornEnd(*self._partition, self._expected, dropped_bytes, self._path, is_cut=False))
        return nothing

    def _open(self) -> bool:
        """Open the segment with the next record; False while there is none behind the one that was read to its end."""
        while True:
            bases = segments(self._folder)
            base = max((base for base in bases if base <= self._next), default=OLDEST)
            if base == OLDEST and bases:
                if self._next != OLDEST:
                    self._on_gap(self._partition, self._next, bases[0])
                self._next = bases[0]
                continue
            if base == OLDEST:
                if self._next > 0:
                    self._refuse_start(self._folder, 0)
                return False
            path = self._folder / segment_name(base)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # retention was faster
            if self._is_sealed and os.path.sameopenfile(descriptor, self._descriptor):
                os.close(descriptor)
                return self._await_successor(bases[-1] > base)
            self.close()
            self._descriptor, self._path = descriptor, path
            self._position, self._expected = 0, base
            self._is_sealed = False
            self._torn = (-1, -1)
            return True

    def _await_successor(self, has_later: bool) -> bool:
        # A listing made while files come and go may miss one: look again before calling it missing.
        if has_later and self._expected not in segments(self._folder):
            raise TransportError(
                f"{self._folder / segment_name(self._expected)}: found no such file, expected the segment that follows "
                f"{self._path.name}, because later ones exist. Put it back from a copy; to go on without it, stop what uses "
                "the log and move the older segments away"
            )
        return False

    def _refuse_start(self, path: Path, end: int) -> None:
        raise TransportError(
            f"{path}: found the end of the topic at offset {end}, expected records up to offset {self._next}, where reading "
            "is to go on: the end of the log is lost, or this is another log. Bring the log back that belongs to the state, "
            "or begin with a new state"
        )

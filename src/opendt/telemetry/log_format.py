"""The bytes of the embedded log: frames in segment files, and how damage is told from a torn tail.

A segment is a sequence of frames; a frame is a header and the columns of its records (docs/reference/log-format.md). Nothing
here opens, locks or changes files. Offsets are those of records; positions are bytes in a file.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from contextlib import contextmanager
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from opendt.model.errors import TransportError
from opendt.telemetry.source import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "COMPACTED",
    "HEADER_BYTES",
    "LARGEST_RECORD_BYTES",
    "SEALED",
    "Body",
    "Chunk",
    "Frame",
    "TornEnd",
    "decode_frame",
    "encode_body",
    "encode_frame",
    "explained",
    "read_chunk",
    "refuse_damage",
    "report_torn_end",
    "scan_frames",
    "segment_name",
    "segments",
]

_LOG = logging.getLogger(__name__)

MAGIC = b"ODTL"
VERSION = 1
COMPACTED = 1
"""Flag: offsets may be missing before this frame, because later records of the same keys took their place."""
SEALED = 2
"""Flag: the last frame of its segment; it has no records, and its base offset names the next segment."""

# Magic, version, flags, bytes of the body, records, keys, base offset, newest timestamp; the checksum stands behind them.
_FIELDS = struct.Struct("<4sHHIIIQq")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size
LARGEST_RECORD_BYTES = 1 << 30
"""Key and value of a record together; a frame, which holds at least one record, counts its bytes in 32 bits."""

_CHUNK_BYTES = 4 << 20
_SUFFIX = ".log"
_DIGITS = 20


class Body(NamedTuple):
    """Records as they are written, before it is known at which offset.

    Attributes
    ----------
    data : bytes
        The columns.
    checksum : int
        CRC-32 of them.
    record_count, key_count : int
        Records, and different keys among them.
    newest_timestamp_ms : int
        The largest timestamp.
    """

    data: bytes
    checksum: int
    record_count: int
    key_count: int
    newest_timestamp_ms: int


class Frame(NamedTuple):
    """A whole frame in a chunk.

    Attributes
    ----------
    body : int
        Where its columns begin, as an index into the chunk's data.
    start, end : int
        Where it begins and ends in the file, bytes.
    flags : int
        `COMPACTED`, `SEALED`.
    record_count, key_count : int
        Records, and different keys among them.
    base_offset : int
        Offset of its first record.
    newest_timestamp_ms : int
        The largest timestamp of its records; of a sealing frame that of the whole segment.
    """

    body: int
    start: int
    end: int
    flags: int
    record_count: int
    key_count: int
    base_offset: int
    newest_timestamp_ms: int

    @property
    def next_offset(self) -> int:
        """Offset after its last record."""
        return self.base_offset + self.record_count


class Chunk(NamedTuple):
    """What one read of a segment gives.

    Attributes
    ----------
    data : bytes
        As read.
    frames : list of Frame
        The whole frames at its beginning, in order.
    is_torn : bool
        True when there are no whole frames although there are bytes: the file ends within a frame, or its checksum is wrong.
    """

    data: bytes
    frames: list[Frame]
    is_torn: bool


class TornEnd(NamedTuple):
    """The end of a topic that a killed writer, or a loss of power, left within a frame.

    Attributes
    ----------
    topic : str
        Topic.
    partition : int
        Number of the partition.
    offset : int
        Offset after the last whole record: the one that the next record gets.
    dropped_bytes : int
        Length of what is no whole frame.
    path : Path
        The segment.
    is_cut : bool
        Whether it is gone from the file, as writers see to. Readers leave it there and out.
    """

    topic: str
    partition: int
    offset: int
    dropped_bytes: int
    path: Path
    is_cut: bool


def report_torn_end(torn: TornEnd) -> None:
    """Log that the end of a topic is torn."""
    _LOG.warning(
        "%s: %s %d bytes of a frame that a killed writer left unfinished; what is before it is whole, up to offset %d",
        torn.path,
        "cut off" if torn.is_cut else "passed over",
        torn.dropped_bytes,
        torn.offset,
    )


def segment_name(base_offset: int) -> str:
    """File name of the segment whose first record has, or will have, this offset."""
    return f"{base_offset:0{_DIGITS}d}{_SUFFIX}"


def segments(topic_path: Path) -> list[int]:
    """Base offsets of the segments of a topic, rising; empty when the topic does not exist."""
    try:
        names = os.listdir(topic_path)  # noqa: PTH208, called at every end of a segment: no Path for each file
    except FileNotFoundError:
        return []
    stems = (name[:-4] for name in names if name.endswith(_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == _DIGITS and stem.isdecimal())


def encode_body(
    values: Sequence[bytes], timestamps_ms: Sequence[int], keys: Sequence[bytes], key_ids: Sequence[int]
) -> Body:
    """Lay records out in columns.

    Parameters
    ----------
    values : sequence of bytes
        At least one.
    timestamps_ms : sequence of int
        As long as `values`.
    keys : sequence of bytes
        The different keys, in UTF-8.
    key_ids : sequence of int
        Index into `keys` for each value.
    """
    count = len(values)
    parts = [
        struct.pack(f"<{count}I", *map(len, values)),
        struct.pack(f"<{count}q", *timestamps_ms),
        struct.pack(f"<{len(keys)}I", *map(len, keys)),
    ]
    if len(keys) > 1:
        parts.append(struct.pack(f"<{count}I", *key_ids))
    data = b"".join([*parts, *keys, *values])
    return Body(data, crc32(data), count, len(keys), max(timestamps_ms))


def encode_frame(body: Body, base_offset: int, flags: int = 0) -> bytes:
    """Put the header before the columns.

    The checksum runs over the columns first, so that the long part of it is done before the offset is known.
    """
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        flags,
        len(body.data),
        body.record_count,
        body.key_count,
        base_offset,
        body.newest_timestamp_ms,
    )
    return b"".join((fields, _CHECKSUM.pack(crc32(fields, body.checksum)), body.data))


def decode_frame(data: bytes, frame: Frame, topic: str) -> list[Record]:
    """Records of a frame, in order.

    Everything runs over columns: per record there is a slice of the chunk and a tuple, and no Python code.
    """
    count, key_count = frame.record_count, frame.key_count
    at = frame.body
    lengths = struct.unpack_from(f"<{count}I", data, at)
    at += 4 * count
    timestamps_ms = struct.unpack_from(f"<{count}q", data, at)
    at += 8 * count
    key_lengths = struct.unpack_from(f"<{key_count}I", data, at)
    at += 4 * key_count
    key_ids: Sequence[int] = ()
    if key_count > 1:
        key_ids = struct.unpack_from(f"<{count}I", data, at)
        at += 4 * count
    keys = [data[a:b].decode() for a, b in pairwise(accumulate(key_lengths, initial=at))]
    at += sum(key_lengths)
    values = [data[a:b] for a, b in pairwise(accumulate(lengths, initial=at))]
    columns = zip(
        repeat(topic),
        repeat(0),
        range(frame.base_offset, frame.next_offset),
        map(keys.__getitem__, key_ids) if key_ids else repeat(keys[0] if keys else ""),
        timestamps_ms,
        values,
        strict=False,  # the constants never end
    )
    return list(map(tuple.__new__, repeat(Record), columns))


def read_chunk(
    descriptor: int, path: Path, position: int, expected_offset: int, chunk_bytes: int = _CHUNK_BYTES
) -> Chunk:
    """Read whole frames.

    Parameters
    ----------
    descriptor : int
        The open segment.
    path : Path
        Its name, for messages.
    position : int
        Where a frame begins, or would begin, bytes.
    expected_offset : int
        Offset that comes next there.
    chunk_bytes : int
        How much to read at once; a longer frame is read whole.

    Raises
    ------
    TransportError
        When a whole frame is of another version, or has another offset than it must.
    """
    data = os.pread(descriptor, chunk_bytes, position)
    if 0 < _end_of_frame(data, 0) - len(data) <= os.fstat(descriptor).st_size - position - len(data):
        data = os.pread(descriptor, _end_of_frame(data, 0), position)
    frames = []
    at = 0
    while (frame := _whole_frame(data, at, position, path)) is not None:
        if frame.base_offset != expected_offset and not (
            frame.flags & COMPACTED and frame.base_offset > expected_offset
        ):
            raise TransportError(
                f"{path}: byte {frame.start}: found the record with offset {frame.base_offset}, expected "
                f"{expected_offset}: records are missing, or the file belongs elsewhere. {_REMEDY}"
            )
        frames.append(frame)
        expected_offset = frame.next_offset
        at = frame.end - position
    return Chunk(data, frames, is_torn=bool(data) and not frames)


def scan_frames(descriptor: int, path: Path, position: int, expected_offset: int) -> Iterator[Frame]:
    """Whole frames from here to the end of the file, or to the first that is not whole."""
    while frames := read_chunk(descriptor, path, position, expected_offset).frames:
        yield from frames
        position, expected_offset = frames[-1].end, frames[-1].next_offset


def refuse_damage(descriptor: int, path: Path, position: int, expected_offset: int) -> None:
    """Tell a torn tail, which a killed writer leaves and which may be cut off, from damage, which nobody may pass over.

    To be called while nobody writes. What is no whole frame is torn when it is the end of the topic; it is damaged when a
    whole frame stands somewhere behind it, or a later segment does.

    Raises
    ------
    TransportError
        When it is damage.
    """
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size - position, position)
    at = data.find(MAGIC, 1)
    while at >= 0:
        found = _whole_frame(data, at, position, path)
        if found is not None and found.base_offset >= expected_offset:
            raise TransportError(
                f"{path}: byte {position}: found bytes that are no whole frame (its checksum or length is wrong), expected "
                f"offset {expected_offset}; whole frames follow at byte {found.start}, so this is damage and no torn end. "
                f"{_REMEDY}"
            )
        at = data.find(MAGIC, at + 1)
    if path.name != segment_name(segments(path.parent)[-1]):
        raise TransportError(
            f"{path}: byte {position}: found the end of whole frames at offset {expected_offset}, expected the frame that "
            f"seals the segment, because later segments exist. {_REMEDY}"
        )


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn what the system refuses into a `TransportError` that says what to do."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise TransportError(f"{path}: cannot {action}: {error.strerror or error}{hint and '. '}{hint}") from error


_REMEDY = (
    "Put the file back from a copy. To go on without it: stop what uses the log, then move this file and the older ones of "
    "its topic away, or cut the file at this byte if it is the topic's newest"
)
_FULL = "Free some space: what was not written waits in the sink and goes with the next flush"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: "Give this user the right to read and write the log's folder",
    errno.EROFS: "Put the log on a file system that can be written",
    errno.ENOTDIR: "Give a folder",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
}


def _end_of_frame(data: bytes, at: int) -> int:
    """Where the frame that begins here claims to end; 0 when that is not known."""
    if len(data) - at < HEADER_BYTES or not data.startswith(MAGIC, at):
        return 0
    return at + HEADER_BYTES + int(_FIELDS.unpack_from(data, at)[3])


def _whole_frame(data: bytes, at: int, position: int, path: Path) -> Frame | None:
    """The frame that begins at an index of data read at a position of a file, if all of it is there and undamaged."""
    end = _end_of_frame(data, at)
    if not at < end <= len(data):
        return None
    body = at + HEADER_BYTES
    view = memoryview(data)
    checksum = crc32(view[at : at + _FIELDS.size], crc32(view[body:end]))
    if checksum != _CHECKSUM.unpack_from(data, at + _FIELDS.size)[0]:
        return None
    _, version, flags, _, record_count, key_count, base_offset, newest_ms = _FIELDS.unpack_from(data, at)
    if version != VERSION or flags & ~(COMPACTED | SEALED):
        raise TransportError(
            f"{path}: byte {position + at}: found a frame of version {version} with flags {flags:#x}, expected version "
            f"{VERSION}. A newer opendt wrote it: read it with that one"
        )
    return Frame(body, position + at, position + end, flags, record_count, key_count, base_offset, newest_ms)

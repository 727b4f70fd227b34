"""What happens to the sealed segments of a topic when a new one begins: old ones go, compacted ones are merged.

Both are done by the writer that began the segment, under the topic's lock. A reader that is in the middle of a file that goes
reads it to its end, because it has it open.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from opendt.model.errors import TransportError
from opendt.telemetry.log_format import (
    COMPACTED,
    HEADER_BYTES,
    SEALED,
    Body,
    decode_frame,
    encode_body,
    encode_frame,
    explained,
    read_chunk,
    refuse_damage,
    segment_name,
    segments,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opendt.telemetry.log_directory import LogDirectory
    from opendt.telemetry.source import Record

__all__ = ["tidy"]


def tidy(directory: LogDirectory, topic: str, active_base: int) -> None:
    """Apply retention, or compaction, to the segments before the active one.

    Raises
    ------
    TransportError
        When that is not possible; all records are still there then.
    """
    folder = directory.topic_path(topic)
    sealed = [base for base in segments(folder) if base < active_base]
    with explained(folder, "tidy up old segments"):
        if topic in directory.compacted:
            _compact(folder, topic, sealed, active_base)
        else:
            _expire(directory, folder, sealed, active_base)


def _expire(directory: LogDirectory, folder: Path, sealed: list[int], active_base: int) -> None:
    sizes = {base: (folder / segment_name(base)).stat().st_size for base in sealed}
    total_bytes = sum(sizes.values())
    oldest_ms = None if directory.retention_ms is None else directory.clock() - directory.retention_ms
    for base, next_base in pairwise([*sealed, active_base]):
        path = folder / segment_name(base)
        is_too_much = directory.retention_bytes is not None and total_bytes > directory.retention_bytes
        if not is_too_much and (oldest_ms is None or _newest_timestamp_ms(path, sizes[base], next_base) >= oldest_ms):
            return
        path.unlink()
        total_bytes -= sizes[base]


def _newest_timestamp_ms(path: Path, size_bytes: int, next_base: int) -> int:
    """Timestamp of a segment's newest record, from the frame that seals it."""
    with path.open("rb") as file:
        position = max(size_bytes - HEADER_BYTES, 0)
        frames = read_chunk(file.fileno(), path, position, next_base).frames
    if not frames:
        raise TransportError(f"{path}: byte {position}: found no whole frame, expected the one that seals the segment")
    return frames[0].newest_timestamp_ms


def _records(path: Path, topic: str, base: int) -> Iterator[Record]:
    """All records of a sealed segment."""
    position, expected_offset = 0, base
    with path.open("rb") as file:
        while frames := (chunk := read_chunk(file.fileno(), path, position, expected_offset)).frames:
            for frame in frames:
                yield from decode_frame(chunk.data, frame, topic)
            if frames[-1].flags & SEALED:
                return
            position, expected_offset = frames[-1].end, frames[-1].next_offset
        refuse_damage(file.fileno(), path, position, expected_offset)


def _compact(folder: Path, topic: str, sealed: list[int], active_base: int) -> None:
    """Merge the sealed segments into one that keeps the last record of each key, tombstones too.

    The merged segment takes the name of the first. If the process dies before the others are deleted, they repeat what the
    merged one covers: readers pass over that by offset, and the next compaction takes them in again.
    """
    last: dict[str, Record] = {}
    newest_ms = 0
    for base in sealed:
        for record in _records(folder / segment_name(base), topic, base):
            # Segments that an earlier compaction could not delete come after what they were merged into.
            if record.key not in last or last[record.key].offset < record.offset:
                last[record.key] = record
            newest_ms = max(newest_ms, record.timestamp_ms)
    if not last:
        return
    merged = folder / segment_name(sealed[0])
    temporary = merged.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            for record in sorted(last.values(), key=lambda record: record.offset):
                body = encode_body([record.value], [record.timestamp_ms], [record.key.encode()], [0])
                file.write(encode_frame(body, record.offset, COMPACTED))
            file.write(encode_frame(Body(b"", 0, 0, 0, newest_ms), active_base, SEALED | COMPACTED))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(merged)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    for base in sealed[1:]:
        (folder / segment_name(base)).unlink()

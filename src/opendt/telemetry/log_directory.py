"""The folder of an embedded log: its layout, its settings, its locks, and the offsets of its consumer groups."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opendt.model.errors import TransportError
from opendt.telemetry.log_format import explained, scan_frames, segment_name, segments
from opendt.telemetry.source import Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["LogDirectory", "LogLock", "sync_folder", "wall_clock_ms"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_LOCK_STEP_S = 0.001


def wall_clock_ms() -> int:
    """Now, ms since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """A folder with topics.

    Opening it creates nothing. The settings matter to writers only, and hold for what they write from now on.

    Parameters
    ----------
    path : Path
        The folder. It must be on a file system of this machine, because processes exclude each other by locks on its files.
    segment_bytes : int
        A segment that would grow beyond this is sealed and the next one begun. 64 MiB: few files, and quickly checked when
        it is opened. Segments of compacted topics end at 1 MiB if that is less.
    retention_bytes : int, optional
        Whole segments go, oldest first, while a topic is larger than this. The segment being written never goes.
    retention_ms : int, optional
        Whole segments go when their newest record is older than this. A segment is also sealed when its first records are
        older than this, so that quiet topics lose old records too, at the next record.
    compacted : collection of str
        Topics that keep the last record of each key instead, whatever its size or age.
    clock : callable
        Wall clock, ms since the epoch: for timestamps and for retention.
    lock_timeout_s : float
        How long to wait for another writer of the same topic before giving up, s. Writers hold the lock for milliseconds.

    Raises
    ------
    TransportError
        When a setting is out of bounds.
    """

    path: Path
    segment_bytes: int = field(default=64 << 20, kw_only=True)
    retention_bytes: int | None = field(default=None, kw_only=True)
    retention_ms: int | None = field(default=None, kw_only=True)
    compacted: frozenset[str] = field(default=frozenset({"dc.topology", "sim.topology"}), kw_only=True)
    clock: Callable[[], int] = field(default=wall_clock_ms, kw_only=True)
    lock_timeout_s: float = field(default=30.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        for name in ("segment_bytes", "retention_bytes", "retention_ms"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TransportError(
                    f"{name}: found {value}, expected a whole number >= 1. Leave it out for the default"
                )

    @staticmethod
    def at(directory: LogDirectory | Path | str) -> LogDirectory:
        """The directory itself, or the one with this path and default settings."""
        return directory if isinstance(directory, LogDirectory) else LogDirectory(Path(directory))

    def topic_path(self, topic: str) -> Path:
        """Folder of a topic, whether it exists or not."""
        return self.path / "topics" / _checked_name("topic", topic)

    def topics(self) -> list[str]:
        """Names of the topics there are, sorted."""
        with explained(self.path, "list the topics"):
            try:
                return sorted(path.name for path in (self.path / "topics").iterdir() if path.is_dir())
            except FileNotFoundError:
                return []

    def writer_lock(self, topic: str) -> LogLock:
        """The lock that whoever changes a topic's files holds meanwhile."""
        return LogLock(self.topic_path(topic) / "writer.lock")

    def group_lock(self, group: str) -> LogLock:
        """The lock of the one consumer of a group that gets records."""
        return LogLock(self.path / "groups" / f"{_checked_name('group', group)}.lock")

    def extent(self, topic: str) -> tuple[int, int]:
        """Offset of the oldest record kept, and the offset that the next one gets; both 0 for a topic without records.

        Raises
        ------
        TransportError
            When the newest segment is damaged.
        """
        bases = segments(self.topic_path(topic))
        if not bases:
            return 0, 0
        end = bases[-1]
        path = self.topic_path(topic) / segment_name(end)
        with explained(path, "read the segment"), path.open("rb") as file:
            for frame in scan_frames(file.fileno(), path, 0, end):
                end = frame.next_offset
        return bases[0], end

    def committed(self, group: str) -> dict[Partition, int]:
        """Next offset of each partition, as the group last committed it.

        Raises
        ------
        TransportError
            When the file with them cannot be read.
        """
        path = self._offsets_path(group)
        with explained(path, "read the offsets"):
            try:
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                return {}
        try:
            entries = json.loads(text)["offsets"]
            return {Partition(str(topic), int(number)): int(offset) for topic, number, offset in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise TransportError(
                f'{path}: found {text[:80]!r}, expected {{"offsets": [[topic, partition, next offset], …]}}. Delete the '
                "file: what was consumed is in the ledger"
            ) from error

    def store_offsets(self, group: str, offsets: Mapping[Partition, int]) -> None:
        """Put the offsets of a group in place of what was there, all of them or none.

        Only the holder of the group's lock may do so.
        """
        path = self._offsets_path(group)
        entries = sorted([partition.topic, partition.number, offset] for partition, offset in offsets.items())
        temporary = path.with_suffix(".new")
        with explained(path, "store the offsets"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("w", encoding="utf-8") as file:
                    json.dump({"offsets": entries}, file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except OSError:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)

    def _offsets_path(self, group: str) -> Path:
        return self.path / "groups" / f"{_checked_name('group', group)}.json"


class LogLock:
    """An advisory lock on a file, freed by the system when its holder dies, however it dies.

    Each object excludes each other one, in the same process as well (flock, not lockf).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path, "open the lock"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def try_take(self) -> bool:
        """Take it unless someone else holds it."""
        try:
            with explained(self._path, "lock the file"):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except TransportError as error:
            if isinstance(error.__cause__, BlockingIOError):
                return False
            raise
        return True

    def release(self) -> None:
        """Let others have it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @contextmanager
    def held(self, timeout_s: float, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold it within the block.

        Raises
        ------
        TransportError
            When someone else holds it for longer than `timeout_s`.
        """
        steps = 0
        while not self.try_take():
            if steps * _LOCK_STEP_S >= timeout_s:
                raise TransportError(
                    f"{self._path}: found the lock held by another process for {timeout_s:g} s, expected milliseconds. "
                    "Look for a stopped process that has this file open (fuser, lsof), and continue or end it"
                )
            wait(_LOCK_STEP_S)
            steps += 1
        try:
            yield
        finally:
            self.release()

    def close(self) -> None:
        """Let others have it, for good."""
        os.close(self._descriptor)


def sync_folder(path: Path) -> None:
    """Make names that were given or taken in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked_name(kind: str, name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise TransportError(
            f"{kind}: found {name!r}, expected 1 to 200 of the characters A-Z a-z 0-9 . _ -, not beginning with . or -"
        )
    return name

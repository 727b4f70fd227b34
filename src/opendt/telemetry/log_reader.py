"""Following the embedded log, as one consumer of a group."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from opendt.model.errors import TransportError
from opendt.telemetry.log_cursor import OLDEST, Cursor
from opendt.telemetry.log_directory import LogDirectory
from opendt.telemetry.log_format import TornEnd, explained, report_torn_end, segments
from opendt.telemetry.source import Partition, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

__all__ = ["LogSource", "report_gap"]

_LOG = logging.getLogger(__name__)


def report_gap(partition: Partition, wanted: int, oldest: int) -> None:
    """Log that records which were asked for are no longer kept."""
    _LOG.warning(
        "%s/%d: records %d to %d are no longer kept (retention); going on at the oldest, %d",
        partition.topic,
        partition.number,
        wanted,
        oldest - 1,
        oldest,
    )


class LogSource:
    """Reads topics of a log; the port `Source`.

    Every topic has one partition, number 0. Of all consumers of a group one has all partitions; the others have none until
    it closes or dies, and then one of them gets them all. For one thread.

    Parameters
    ----------
    directory : LogDirectory or path
        The log; made when it does not exist.
    group : str
        Name of the consumer group.
    chunk_bytes : int
        How much of a topic is read at once; this and a frame decoded is what a topic takes in memory. 4 MiB.
    poll_interval_s : float
        How often `poll` looks for new records while it waits, s. It adds so much to the time from a record written to a
        record delivered; a look takes microseconds a topic.
    commit_interval_s : float
        Offsets are stored at most so often, and by `close`, s: storing them waits for the disk, and the ledger's count.
    sync_before_delivery : bool
        Whether records wait for the disk (fsync) before they are delivered, so that a loss of power cannot take back what was
        delivered. Needless where producers flush what matters, or send again what they had not flushed.
    on_gap : callable
        Told partition, offset wanted and oldest offset kept, when retention has deleted records that were to be read;
        logs a warning unless given.
    on_torn : callable
        Told when a topic ends within a frame that nobody is writing any more, once each time that is found; logs a warning
        unless given.
    clock : callable
        Seconds, never running back.
    wait : callable
        Waits so many seconds.

    Attributes
    ----------
    gap_count : int
        How often `on_gap` was told.

    Raises
    ------
    TransportError
        From every method, when a file cannot be read or is damaged, or an offset is asked for that the log has not reached.
    """

    def __init__(
        self,
        directory: LogDirectory | Path | str,
        group: str,
        *,
        chunk_bytes: int = 4 << 20,
        poll_interval_s: float = 0.002,
        commit_interval_s: float = 1.0,
        sync_before_delivery: bool = False,
        on_gap: Callable[[Partition, int, int], None] = report_gap,
        on_torn: Callable[[TornEnd], None] = report_torn_end,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.gap_count = 0
        self._directory = LogDirectory.at(directory)
        self._group = group
        self._chunk_bytes = chunk_bytes
        self._poll_interval_s = poll_interval_s
        self._commit_interval_s = commit_interval_s
        self._sync = sync_before_delivery
        self._on_gap = on_gap
        self._on_torn = on_torn
        self._clock = clock
        self._wait = wait
        self._lock = self._directory.group_lock(group)
        self._is_owner = False
        self._waiting: list[str] = []
        self._cursors: dict[Partition, Cursor] = {}
        self._paused: set[Partition] = set()
        self._turn = 0
        self._offsets: dict[Partition, int] = {}
        self._stored_offsets: dict[Partition, int] = {}
        self._stored_s = -float("inf")

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assigned: Callable[[Collection[Partition]], Mapping[Partition, int]],
        on_revoked: Callable[[Collection[Partition]], None],
    ) -> None:
        """Ask for topics, instead of those asked for before; see `Source`."""
        for topic in topics:
            self._directory.topic_path(topic)  # refuses what is no name
        self._leave()
        self._waiting = list(dict.fromkeys(topics))
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked

    def poll(self, max_records: int = 10_000, timeout_s: float = 0.0) -> list[Record]:
        """Records in order within each partition; waits for the first of them at most so long."""
        deadline_s = self._clock() + timeout_s
        while True:
            self._join()
            records = self._collect(max_records)
            now_s = self._clock()
            if now_s - self._stored_s >= self._commit_interval_s:
                self._store_offsets()
            if records or now_s >= deadline_s:
                return records
            self._wait(min(self._poll_interval_s, deadline_s - now_s))

    def pause(self, partitions: Collection[Partition]) -> None:
        """Deliver nothing of these until they are resumed."""
        self._paused.update(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        """Deliver these again."""
        self._paused.difference_update(partitions)

    def is_at_end(self, partition: Partition) -> bool:
        """Whether everything that the partition holds now has been delivered; False for one that is not ours."""
        cursor = self._cursors.get(partition)
        return cursor is not None and cursor.is_at_end()

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Note the next offset of each partition for `LogDirectory.committed`, which may lag by `commit_interval_s`."""
        foreign = [partition for partition in offsets if partition not in self._cursors]
        if foreign:
            raise TransportError(
                f"{self._directory.path}: found offsets of {foreign[0].topic}/{foreign[0].number} committed by group "
                f"{self._group!r}, expected partitions that it was assigned. Commit before they are revoked"
            )
        self._offsets.update(offsets)

    def close(self) -> None:
        """Leave the group and free what is held."""
        try:
            self._leave()
        finally:
            self._lock.close()

    def _join(self) -> None:
        """Become the group's owner if nobody is, and take the topics that have come to exist."""
        if not self._waiting:
            return
        if not self._is_owner:
            if not self._lock.try_take():
                return
            self._is_owner = True
            self._stored_offsets = self._directory.committed(self._group)
            self._offsets = dict(self._stored_offsets)
        with explained(self._directory.path, "list the segments"):
            found = [topic for topic in self._waiting if segments(self._directory.topic_path(topic))]
        if not found:
            return
        partitions = [Partition(topic, 0) for topic in found]
        starts = self._on_assigned(partitions)
        self._waiting = [topic for topic in self._waiting if topic not in found]
        for partition in partitions:
            self._cursors[partition] = Cursor(
                self._directory,
                partition,
                starts.get(partition, OLDEST),
                chunk_bytes=self._chunk_bytes,
                sync_before_delivery=self._sync,
                on_gap=self._count_gap,
                on_torn=self._on_torn,
            )

    def _leave(self) -> None:
        if not self._is_owner:
            return
        try:
            if self._cursors:
                self._on_revoked(tuple(self._cursors))
            self._store_offsets()
        finally:
            for cursor in self._cursors.values():
                cursor.close()
            self._cursors.clear()
            self._paused.clear()
            self._lock.release()
            self._is_owner = False

    def _collect(self, max_records: int) -> list[Record]:
        """Records of the partitions in turn; which is first changes, so that a long one does not starve the others."""
        cursors = [cursor for partition, cursor in self._cursors.items() if partition not in self._paused]
        if not cursors:
            return []
        self._turn = (self._turn + 1) % len(cursors)
        records: list[Record] = []
        for cursor in cursors[self._turn :] + cursors[: self._turn]:
            try:
                cursor.take(records, max_records)
            except TransportError:
                if not records:
                    raise
                break  # what was taken is delivered first; the next poll finds the same
        return records

    def _store_offsets(self) -> None:
        if self._offsets == self._stored_offsets:
            return
        self._stored_s = self._clock()
        try:
            self._directory.store_offsets(self._group, self._offsets)
        except TransportError as error:
            # They are for tools: no records wait for them, and above all none that were taken already are dropped.
            _LOG.warning("%s; tried again later", error)
            return
        self._stored_offsets = dict(self._offsets)

    def _count_gap(self, partition: Partition, wanted: int, oldest: int) -> None:
        self.gap_count += 1
        self._on_gap(partition, wanted, oldest)

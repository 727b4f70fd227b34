"""The port to streams: what every transport offers, whatever carries the messages.

A topic has partitions; a partition is a sequence of records with rising offsets that never changes but for its oldest records
going away. Within a partition order is kept; between partitions there is none, so nothing above may depend on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["Partition", "Record", "Sink", "Source"]


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


class Record(NamedTuple):
    """A message where it lies.

    Attributes
    ----------
    topic : str
        Topic.
    partition : int
        Number of the partition.
    offset : int
        Place in the partition.
    key : str
        Name of the datacenter; of the older topics whatever their producers wrote. Empty when there is none.
    timestamp_ms : int
        When the transport took it, ms since the epoch (UTC). A wall clock: never the time of an event.
    value : bytes
        The message. Empty for a tombstone of a compacted topic.
    """

    topic: str
    partition: int
    offset: int
    key: str
    timestamp_ms: int
    value: bytes


class Source(Protocol):
    """Delivers records of topics.

    Every method raises `TransportError` when the transport is away for longer than the adapter bridges by itself.
    """

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assigned: Callable[[Collection[Partition]], Mapping[Partition, int]],
        on_revoked: Callable[[Collection[Partition]], None],
    ) -> None:
        """Ask for topics.

        Parameters
        ----------
        topics : sequence of str
            Topics; those that do not exist yet come when they do.
        on_assigned : callable
            Told which partitions are ours from now on, within `poll`; gives the offset at which to begin for those it knows.
            The others begin at their oldest record.
        on_revoked : callable
            Told which partitions are no longer ours, within `poll`, before anyone else gets them.
        """

    def poll(self, max_records: int = 10_000, timeout_s: float = 0.0) -> list[Record]:
        """Records in order within each partition; waits for the first of them at most so long."""

    def pause(self, partitions: Collection[Partition]) -> None:
        """Deliver nothing of these until they are resumed: whoever cannot keep up does not pile up memory."""

    def resume(self, partitions: Collection[Partition]) -> None:
        """Deliver these again."""

    def is_at_end(self, partition: Partition) -> bool:
        """Whether everything that the partition holds now has been delivered."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell the transport the next offset of each partition, for its own tools; the ledger's are the ones that count."""

    def close(self) -> None:
        """Leave the group and free what is held."""


class Sink(Protocol):
    """Takes records."""

    def send(self, topic: str, value: bytes, *, key: str, timestamp_ms: int | None = None) -> None:
        """Hand over a message; it is safe after the next `flush`.

        Parameters
        ----------
        topic : str
            Topic; made when it does not exist.
        value : bytes
            The message.
        key : str
            Name of the datacenter: decides the partition.
        timestamp_ms : int, optional
            Time that the transport notes, ms since the epoch; its own clock unless given.
        """

    def flush(self) -> None:
        """Wait until everything handed over is safe.

        Raises
        ------
        TransportError
            When something could not be delivered; nothing is lost silently.
        """

    def close(self) -> None:
        """Flush, and free what is held."""

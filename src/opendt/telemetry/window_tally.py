"""What windows count and refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from opendt.telemetry.deadletter import DeadLetter

if TYPE_CHECKING:
    from opendt.telemetry.source import Partition

__all__ = ["COUNTS", "Tally", "Where"]

COUNTS: Final = ("tasks", "fragments", "readings", "late", "duplicate", "merged", "early", "dead")


class Where(NamedTuple):
    """Where a record lies, and whether it was judged before a restart: then it is neither counted nor refused again."""

    partition: Partition
    offset: int
    key: str
    is_old: bool


class Tally:
    """Counts of a window and what it refused."""

    def __init__(self, datacenter: str) -> None:
        self.datacenter = datacenter
        self.counts = dict.fromkeys(COUNTS, 0)
        self.letters: list[DeadLetter] = []

    def count(self, what: str, where: Where, number: int = 1) -> None:
        """Count something."""
        if not where.is_old:
            self.counts[what] += number

    def refuse(self, where: Where, word: str, why: str, value: bytes, end_ms: int, number: int = 1) -> None:
        """Make a dead letter; `word` is the kind of reason, `number` the things that are refused with it."""
        if where.is_old:
            return
        self.counts["dead"] += number
        if word == "late":
            self.counts["late"] += number
        self.letters.append(
            DeadLetter(
                end_ms,
                self.datacenter,
                where.partition.topic,
                where.partition.number,
                where.offset,
                f"{word}: {why}",
                value,
                where.key,
            )
        )

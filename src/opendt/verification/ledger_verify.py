"""Does the ledger still say what was recorded: every hash again, and all that must fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from opendt.model.errors import LedgerError
from opendt.verification.ledger_chain import (
    BEFORE_THE_FIRST,
    differing_sections,
    document_hash,
    seal,
    version_content,
    version_hash,
)
from opendt.verification.ledger_codec import DOCUMENT_TABLES, decode_document, decode_window
from opendt.verification.ledger_export import HashesOfVersions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opendt.verification.ledger_codec import RawWindow
    from opendt.verification.ledger_rows import PositionRow, RecordedDocument, RecordedVersion, WindowEntry

__all__ = ["Problem", "verify"]

_SHOWN_OF_HASH: Final = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not match.

    Attributes
    ----------
    datacenter : str
        Where.
    place : str
        Window, version or document.
    text : str
        What was found and what was expected.
    """

    datacenter: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"datacenter {self.datacenter}: {self.place}: {self.text}"


class _Recorded(Protocol):
    """What is read of a ledger."""

    def topology_versions(self, datacenter: str) -> tuple[RecordedVersion, ...]: ...
    def slo_versions(self, datacenter: str) -> tuple[RecordedVersion, ...]: ...
    def raw_windows(self, datacenter: str, first: int, last: int) -> Iterator[RawWindow]: ...
    def documents(self, kind: str, datacenter: str) -> tuple[RecordedDocument, ...]: ...
    def progress(self, datacenter: str) -> tuple[int, tuple[PositionRow, ...]]: ...
    def orphans(self, datacenter: str) -> dict[str, int]: ...


def verify(ledger: _Recorded, datacenters: Sequence[str]) -> list[Problem]:
    """Check datacenters."""
    return [problem for name in datacenters for problem in _Check(ledger, name).run()]


class _Check:
    """The check of one datacenter, window by window."""

    def __init__(self, ledger: _Recorded, datacenter: str) -> None:
        self._ledger = ledger
        self._datacenter = datacenter
        self._problems: list[Problem] = []
        self._predicted: set[tuple[str, int]] = set()
        self._before: WindowEntry | None = None
        self._index = -1
        self._hash = BEFORE_THE_FIRST

    def _found(self, place: str, text: str) -> None:
        self._problems.append(Problem(self._datacenter, place, text))

    def run(self) -> list[Problem]:
        """Check everything; what does not match, in the order of the tables."""
        # First: whatever these windows name is there when it is read after this, also while the twin goes on.
        last, positions = self._ledger.progress(self._datacenter)
        hashes = HashesOfVersions(
            self._versions("topology", self._ledger.topology_versions), self._versions("slo", self._ledger.slo_versions)
        )
        for raw in self._ledger.raw_windows(self._datacenter, 0, last):
            self._window(raw, hashes)
        self._offsets(positions)
        for kind in DOCUMENT_TABLES:
            self._documents(kind)
        for name, rows in self._ledger.orphans(self._datacenter).items():
            self._found(name, f"{rows} rows of windows that are not there")
        return self._problems

    def _versions(self, kind: str, read: Callable[[str], tuple[RecordedVersion, ...]]) -> tuple[RecordedVersion, ...]:
        try:
            versions = read(self._datacenter)
        except LedgerError as error:
            self._found(f"{kind} versions", str(error))
            return ()
        previous = BEFORE_THE_FIRST
        for number, version in enumerate(versions, start=1):
            place = f"{kind} version {version.row.version}"
            if version.row.version != number:
                self._found(place, f"expected version {number}: one is missing")
            if version.previous_hash != previous:
                self._found(place, _unequal("the hash of the one before", version.previous_hash, previous))
            digest = version_hash(version_content(kind, self._datacenter, version.row), version.previous_hash)
            if version.hash != digest:
                self._found(place, _unequal("its hash", version.hash, digest))
            previous = version.hash
        return versions

    def _window(self, raw: RawWindow, hashes: HashesOfVersions) -> None:
        index = raw.window["window_index"]
        place = f"window {index}"
        if index != self._index + 1:
            self._found(place, f"expected window {self._index + 1}: windows are missing")
        if raw.window["previous_hash"] != self._hash:
            self._found(place, _unequal("the hash of the window before", raw.window["previous_hash"], self._hash))
        self._index, self._hash = index, raw.window["hash"]
        try:
            entry = decode_window(raw.window, raw.children).entry
        except LedgerError as error:
            self._found(place, str(error))
            return
        sealed = seal(entry, hashes.of(entry), raw.window["previous_hash"])
        changed = differing_sections(sealed.digests, raw.window["digests"])
        if changed:
            self._found(place, f"not what was recorded: {', '.join(changed)}")
        if sealed.hash != raw.window["hash"]:
            self._found(place, _unequal("its hash", raw.window["hash"], sealed.hash))
        self._documents_of(raw, place)
        self._follows(entry, place)
        self._verdicts(entry, place)
        self._before = entry

    def _documents_of(self, raw: RawWindow, place: str) -> None:
        """The same document's hash stands in its row, for whoever reads that alone."""
        for kind, rows in raw.children.items():
            for row in rows if kind in DOCUMENT_TABLES else ():
                digest = document_hash(kind, self._datacenter, decode_document(row).document)
                if row["hash"] != digest:
                    self._found(f"{place}, {kind} {row['id']}", _unequal("its hash", row["hash"], digest))

    def _follows(self, entry: WindowEntry, place: str) -> None:
        """Time goes on where it was, and no stream goes back."""
        before = self._before
        if before is None or before.index != entry.index - 1:
            return
        if entry.start_ms != before.end_ms:
            self._found(place, f"starts at {entry.start_ms} ms, expected {before.end_ms} ms, where the one before ends")
        earlier = {(row.topic, row.partition): row for row in before.positions}
        for row in entry.positions:
            old = earlier.get((row.topic, row.partition))
            for name in ("resume_offset", "next_offset", "watermark_ms"):
                if old is not None and getattr(row, name) < getattr(old, name):
                    text = f"{getattr(row, name)} after {getattr(old, name)}, expected it not to go back"
                    self._found(place, f"{row.topic}[{row.partition}]: {name} is {text}")

    def _verdicts(self, entry: WindowEntry, place: str) -> None:
        self._predicted.update((row.kind, row.issued_ms) for row in entry.predictions)
        for verdict in entry.verdicts:
            if (verdict.kind, verdict.issued_ms) not in self._predicted:
                self._found(
                    place, f"a verdict on {verdict.kind} of {verdict.issued_ms} ms, expected that prediction up to here"
                )

    def _offsets(self, found: tuple[PositionRow, ...]) -> None:
        """The offsets to go on from are those of the last window."""
        expected = () if self._before is None else self._before.positions
        if self._before is not None and self._before.index != self._index:
            return  # the last window could not be read, which is told already
        for row in sorted(set(found) ^ set(expected)):
            text = "not those of the last window" if row in found else "of the last window are not there"
            self._found("source offsets", f"{row.topic}[{row.partition}]: {row.next_offset} {text}")

    def _documents(self, kind: str) -> None:
        try:
            documents = self._ledger.documents(kind, self._datacenter)
        except LedgerError as error:
            self._found(kind, str(error))
            return
        for row in documents:
            digest = document_hash(kind, self._datacenter, row.document)
            if row.window_index is None and row.hash != digest:
                self._found(f"{kind} {row.document.id}", _unequal("its hash", row.hash, digest))


def _unequal(what: str, found: str, expected: str) -> str:
    return f"{what} is {found[:_SHOWN_OF_HASH]}…, expected {expected[:_SHOWN_OF_HASH]}…"

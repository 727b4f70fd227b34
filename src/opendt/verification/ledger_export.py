"""The ledger as canonical JSON lines: everything that is a function of the inputs, and nothing else.

The first line names the format. Then, for each datacenter by name: versions of topology and SLOs, windows in their order, and
documents recorded between windows, by kind and id. A window's line holds the very bytes that its hash is over, so whoever has
the file can check the chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from opendt.verification.ledger_chain import canonical_json, document_content, seal, version_content
from opendt.verification.ledger_codec import DOCUMENT_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from opendt.verification.ledger_chain import VersionHashes
    from opendt.verification.ledger_rows import (
        PositionRow,
        RecordedDocument,
        RecordedVersion,
        RecordedWindow,
        WindowEntry,
    )

__all__ = ["FORMAT", "HashesOfVersions", "write"]

FORMAT: Final = "opendt-ledger-1"


class _Recorded(Protocol):
    """What is read of a ledger."""

    def progress(self, datacenter: str) -> tuple[int, tuple[PositionRow, ...]]: ...
    def topology_versions(self, datacenter: str) -> tuple[RecordedVersion, ...]: ...
    def slo_versions(self, datacenter: str) -> tuple[RecordedVersion, ...]: ...
    def entries(self, datacenter: str, first: int, last: int) -> Iterator[RecordedWindow]: ...
    def documents(self, kind: str, datacenter: str) -> tuple[RecordedDocument, ...]: ...


class HashesOfVersions:
    """Hashes of the versions that windows name, by number."""

    def __init__(self, topology: Sequence[RecordedVersion], slo: Sequence[RecordedVersion]) -> None:
        self._topology = {version.row.version: version.hash for version in topology}
        self._slo = {version.row.version: version.hash for version in slo}

    def of(self, entry: WindowEntry) -> VersionHashes:
        """Hashes of the versions that a window names; None where it names none, or one that is not there."""
        topology, slo = entry.topology_version, entry.slo_version
        return (
            None if topology is None else self._topology.get(topology),
            None if slo is None else self._slo.get(slo),
        )


def write(ledger: _Recorded, stream: BinaryIO, datacenters: Sequence[str]) -> int:
    """Write the lines; gives their number."""
    stream.write(canonical_json({"format": FORMAT}) + b"\n")
    count = 1
    for datacenter in datacenters:
        for line in _lines(ledger, datacenter):
            stream.write(line + b"\n")
            count += 1
    return count


def _lines(ledger: _Recorded, datacenter: str) -> Iterator[bytes]:
    last, _ = ledger.progress(datacenter)  # first: whatever these windows name is there when it is read after this
    topology, slo = ledger.topology_versions(datacenter), ledger.slo_versions(datacenter)
    for kind, versions in (("topology", topology), ("slo", slo)):
        for version in versions:
            yield _line(
                version_content(kind, datacenter, version.row), version.hash, f"{kind}_version", version.previous_hash
            )
    hashes = HashesOfVersions(topology, slo)
    for window in ledger.entries(datacenter, 0, last):
        sealed = seal(window.entry, hashes.of(window.entry), window.previous_hash)
        yield _line(sealed.content, window.hash, "window", window.previous_hash)
    for kind in DOCUMENT_TABLES:
        for document in ledger.documents(kind, datacenter):
            if document.window_index is None:
                yield _line(document_content(kind, datacenter, document.document), document.hash, "document", None)


def _line(content: bytes, digest: str, line: str, previous: str | None) -> bytes:
    """A line with keys in their order; the content is canonical already."""
    rest: dict[str, Any] = {"hash": digest, "line": line}
    if previous is not None:
        rest["previous_hash"] = previous
    return b'{"content":' + content + b"," + canonical_json(rest)[1:]

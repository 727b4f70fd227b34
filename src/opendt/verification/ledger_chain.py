"""Canonical JSON, and the chain of hashes over it.

Canonical JSON is UTF-8 without blanks, keys sorted by code point, numbers in their shortest form that reads back the same,
NaN and infinities as null. Reading it and writing it again gives the same bytes.

A window's hash is SHA-256 over the hash of the window before (64 hexadecimal digits; zeros before the first) followed by the
canonical JSON of its content, which `opendt ledger export` writes word by word: a chain can be checked from an export alone.
Versions of topology and SLOs have chains of their own, to which the windows' contents refer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from opendt.model.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.verification.ledger_rows import (
        DocumentRow,
        EventRow,
        PositionRow,
        PredictionRow,
        VerdictRow,
        VersionRow,
        WindowEntry,
    )

__all__ = [
    "BEFORE_THE_FIRST",
    "SECTIONS",
    "Sealed",
    "VersionHashes",
    "as_json",
    "canonical_json",
    "differing_sections",
    "document_content",
    "document_hash",
    "event_content",
    "event_key",
    "first_difference",
    "seal",
    "version_content",
    "version_hash",
]

BEFORE_THE_FIRST: Final = "0" * 64
"""What stands where the hash of the window before the first would."""

SECTIONS: Final = (
    "certificates",
    "decisions",
    "events",
    "metrics",
    "observation",
    "positions",
    "predictions",
    "proposals",
    "slo",
    "slo_version",
    "topology_version",
    "verdicts",
    "window",
)
"""Parts of a window's content, sorted as canonical JSON has them."""

_DIGEST_BYTES: Final = 8
_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY

VersionHashes = tuple[str | None, str | None]
"""Hashes of the versions of topology and SLOs that a window names."""


def canonical_json(value: object, place: str = "") -> bytes:
    """Canonical JSON of a value.

    Parameters
    ----------
    value : object
        Made of mappings with text as keys, sequences, text, numbers (whole ones of 64 bits), booleans and None.
    place : str
        Where it comes from, for the message.

    Raises
    ------
    LedgerError
        When JSON cannot say it.
    """
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise LedgerError(f"{place or 'value'}: found {error}, expected what JSON can say") from None


def as_json(value: object) -> object:
    """The value as it is when it comes back from canonical JSON; bytes are taken for such JSON."""
    decoded: object = orjson.loads(value if isinstance(value, bytes) else canonical_json(value))
    return decoded


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A window's content with its hashes.

    Attributes
    ----------
    sections : dict of str to bytes
        Canonical JSON of each of `SECTIONS`.
    previous_hash, hash : str
        Of the window before, and its own.
    digests : bytes
        The first 8 bytes of the digest of each section. They prove nothing; they tell which part differs.
    """

    sections: dict[str, bytes]
    previous_hash: str
    hash: str
    digests: bytes

    @property
    def content(self) -> bytes:
        """Canonical JSON of the whole content."""
        return _join(self.sections)


def seal(entry: WindowEntry, versions: VersionHashes, previous_hash: str) -> Sealed:
    """Write a window's content and hash it onto the window before."""
    place = f"datacenter {entry.datacenter}, window {entry.index}"
    topology_hash, slo_hash = versions
    parts: dict[str, object] = {
        "certificates": [_document(row) for row in entry.certificates],
        "decisions": [_document(row) for row in entry.decisions],
        "events": [event_content(row) for row in entry.events],
        "metrics": entry.metrics,
        "observation": {"power_w": entry.observation.power_w, "time_ms": entry.observation.time_ms},
        "positions": [_fields(row) for row in entry.positions],
        "predictions": [_prediction(row) for row in entry.predictions],
        "proposals": [_document(row) for row in entry.proposals],
        "slo": entry.slo,
        "slo_version": _version(entry.slo_version, slo_hash),
        "topology_version": _version(entry.topology_version, topology_hash),
        "verdicts": [_fields(row) for row in entry.verdicts],
        "window": {
            "datacenter": entry.datacenter,
            "end_ms": entry.end_ms,
            "index": entry.index,
            "input_hash": entry.input_hash,
            "score": entry.score,
            "start_ms": entry.start_ms,
        },
    }
    sections = {name: canonical_json(parts[name], f"{place}, {name}") for name in SECTIONS}
    digest = hashlib.sha256(previous_hash.encode() + _join(sections)).hexdigest()
    heads = b"".join(hashlib.sha256(section).digest()[:_DIGEST_BYTES] for section in sections.values())
    return Sealed(sections, previous_hash, digest, heads)


def _join(sections: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), section) for name, section in sections.items()) + b"}"


def _fields(row: PositionRow | VerdictRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__slots__}


def _version(version: int | None, digest: str | None) -> dict[str, object] | None:
    return None if version is None else {"hash": digest, "version": version}


def _document(row: DocumentRow) -> dict[str, object]:
    return {"content": row.content, "id": row.id, "proposal_id": row.proposal_id}


def event_content(row: EventRow) -> dict[str, object]:
    """What an event says, with names for JSON."""
    return {"content": row.content, "kind": row.kind, "level": row.level, "time_ms": row.time_ms}


def _prediction(row: PredictionRow) -> dict[str, object]:
    return {
        "first_target_ms": row.first_target_ms,
        "input_hash": row.input_hash,
        "issued_ms": row.issued_ms,
        "kind": row.kind,
        "tick_ms": row.tick_ms,
        "values": row.values,
        "version": row.version,
    }


def differing_sections(one: bytes, other: bytes) -> list[str]:
    """Names of the sections whose digests are not the same."""
    size = _DIGEST_BYTES
    return [
        name
        for number, name in enumerate(SECTIONS)
        if one[number * size : (number + 1) * size] != other[number * size : (number + 1) * size]
    ]


def version_content(kind: str, datacenter: str, row: VersionRow) -> bytes:
    """Canonical JSON of a version; `kind` is ``topology`` or ``slo``."""
    content = {
        "content": row.content,
        "datacenter": datacenter,
        "from_index": row.from_index,
        "kind": kind,
        "source": row.source,
        "version": row.version,
    }
    return canonical_json(content, f"datacenter {datacenter}, {kind} version {row.version}")


def version_hash(content: bytes, previous_hash: str) -> str:
    """Hash a version onto the one before."""
    return hashlib.sha256(previous_hash.encode() + content).hexdigest()


def document_content(kind: str, datacenter: str, row: DocumentRow) -> bytes:
    """Canonical JSON of a document; `kind` is the name of its table."""
    content = {"datacenter": datacenter, "kind": kind, **_document(row)}
    return canonical_json(content, f"datacenter {datacenter}, {kind} {row.id}")


def document_hash(kind: str, datacenter: str, row: DocumentRow) -> str:
    """Hash of a document by itself."""
    return hashlib.sha256(document_content(kind, datacenter, row)).hexdigest()


def event_key(row: EventRow) -> str:
    """Hash of an event by itself: what tells one recorded between windows from another."""
    return hashlib.sha256(canonical_json(event_content(row), f"event {row.kind}")).hexdigest()


def first_difference(there: object, given: object, place: str) -> str | None:
    """Where two JSON values first differ, in words; None when they do not.

    Examples
    --------
    >>> first_difference({"energy_kwh": 3.5}, {"energy_kwh": 3.25}, "metrics")
    'metrics.energy_kwh: 3.5 there, 3.25 given'
    """
    if isinstance(there, dict) and isinstance(given, dict):
        for name in sorted(there.keys() | given.keys()):
            found = first_difference(there.get(name), given.get(name), f"{place}.{name}")
            if found is not None:
                return found
        if there.keys() == given.keys():
            return None
    elif isinstance(there, list) and isinstance(given, list):
        return _first_difference_in_lists(there, given, place)
    elif type(there) is type(given) and there == given:
        return None
    return f"{place}: {_short(there)} there, {_short(given)} given"


def _first_difference_in_lists(there: Sequence[object], given: Sequence[object], place: str) -> str | None:
    for number, (one, other) in enumerate(zip(there, given, strict=False)):
        found = first_difference(one, other, f"{place}[{number}]")
        if found is not None:
            return found
    return None if len(there) == len(given) else f"{place}: {len(there)} rows there, {len(given)} given"


def _short(value: object, longest: int = 60) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"

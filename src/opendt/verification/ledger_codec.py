"""Windows to rows of tables and back: names of columns, bytes of columns of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
import orjson

from opendt.model.errors import LedgerError, ModelError
from opendt.verification.ledger_chain import canonical_json, document_hash
from opendt.verification.ledger_rows import (
    DocumentRow,
    EventRow,
    ObservationRow,
    PositionRow,
    PredictionRow,
    RecordedDocument,
    RecordedEvent,
    RecordedVersion,
    RecordedWindow,
    VerdictRow,
    VersionRow,
    WindowEntry,
    WindowRow,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opendt.verification.ledger_chain import Sealed

__all__ = [
    "CHILDREN",
    "DOCUMENT_TABLES",
    "Columns",
    "RawWindow",
    "decode_document",
    "decode_event",
    "decode_prediction",
    "decode_verdict",
    "decode_version",
    "decode_window",
    "decode_window_row",
    "decoded",
    "encode_document",
    "encode_event",
    "encode_window",
]

T = TypeVar("T")

Columns = dict[str, Any]
"""A row: name of the column -> value."""

DOCUMENT_TABLES: Final = ("proposals", "certificates", "decisions", "plans")
"""Tables of documents."""

_DOCUMENTS_OF_WINDOWS: Final = DOCUMENT_TABLES[:3]  # plans come between windows only

CHILDREN: Final = ("predictions", "observations", "verdicts", *_DOCUMENTS_OF_WINDOWS, "events")
"""Tables whose rows hang on a window, in an order in which they can be written."""


class RawWindow(NamedTuple):
    """A window's row, and the rows that hang on it by table, as they stand."""

    window: Mapping[str, Any]
    children: dict[str, list[Mapping[str, Any]]]


_VERDICT: Final = (
    "kind",
    "issued_ms",
    "points",
    "error_ratio",
    "bias_ratio",
    "coverage_ratio",
    "persistence_error_ratio",
    "skill_ratio",
)
_POSITION: Final = ("topic", "partition", "resume_offset", "next_offset", "watermark_ms")


def encode_window(entry: WindowEntry, sealed: Sealed, recorded_ms: int) -> dict[str, list[Columns]]:
    """Rows of a window, by table; source_offsets are those of `entry`'s positions."""
    key = {"datacenter": entry.datacenter, "window_index": entry.index}
    window = key | {
        "start_ms": entry.start_ms,
        "end_ms": entry.end_ms,
        "input_hash": entry.input_hash,
        "metrics": sealed.sections["metrics"].decode(),
        "slo": sealed.sections["slo"].decode(),
        "score": entry.score,
        "positions": sealed.sections["positions"].decode(),
        "topology_version": entry.topology_version,
        "slo_version": entry.slo_version,
        "previous_hash": sealed.previous_hash,
        "hash": sealed.hash,
        "digests": sealed.digests,
        "recorded_ms": recorded_ms,
    }
    observation = {
        "time_ms": np.asarray(entry.observation.time_ms, "<i8").tobytes(),
        "power_w": np.asarray(entry.observation.power_w, "<f8").tobytes(),
    }
    rows: dict[str, list[Columns]] = {
        "windows": [window],
        "predictions": [key | _encode_prediction(row) for row in entry.predictions],
        "observations": [key | observation],
        "verdicts": [key | {name: getattr(row, name) for name in _VERDICT} for row in entry.verdicts],
        "events": [
            key | encode_event(row, f"{entry.index}:{number}", recorded_ms) for number, row in enumerate(entry.events)
        ],
        "source_offsets": [
            {"datacenter": entry.datacenter} | {name: getattr(row, name) for name in _POSITION}
            for row in entry.positions
        ],
    }
    for kind, documents in zip(
        _DOCUMENTS_OF_WINDOWS, (entry.proposals, entry.certificates, entry.decisions), strict=True
    ):
        rows[kind] = [key | encode_document(kind, entry.datacenter, row, recorded_ms) for row in documents]
    return rows


def encode_document(kind: str, datacenter: str, row: DocumentRow, recorded_ms: int) -> Columns:
    """Columns of a document beside those that say where it belongs."""
    return {
        "id": row.id,
        "proposal_id": row.proposal_id,
        "content": canonical_json(row.content, f"{kind} {row.id}").decode(),
        "hash": document_hash(kind, datacenter, row),
        "recorded_ms": recorded_ms,
    }


def _encode_prediction(row: PredictionRow) -> Columns:
    return {
        "kind": row.kind,
        "issued_ms": row.issued_ms,
        "first_target_ms": row.first_target_ms,
        "tick_ms": row.tick_ms,
        "columns": canonical_json(list(row.values)).decode(),
        "data": b"".join(np.asarray(column, "<f8").tobytes() for column in row.values.values()),
        "input_hash": row.input_hash,
        "version": row.version,
    }


def encode_event(row: EventRow, key: str, recorded_ms: int) -> Columns:
    """Columns of an event beside those that say where it belongs."""
    return {
        "key": key,
        "time_ms": row.time_ms,
        "kind": row.kind,
        "level": row.level,
        "content": canonical_json(row.content, f"event {row.kind}").decode(),
        "recorded_ms": recorded_ms,
    }


def decode_window(window: Mapping[str, Any], children: Mapping[str, Sequence[Mapping[str, Any]]]) -> RecordedWindow:
    """Put a window together from its rows.

    Raises
    ------
    LedgerError
        When a row holds what was never written there.
    """
    entry = decoded(lambda row: _decode_entry(row, children), window)
    return RecordedWindow(entry, window["previous_hash"], window["hash"], window["digests"], window["recorded_ms"])


def decoded(decode: Callable[[Mapping[str, Any]], T], row: Mapping[str, Any]) -> T:
    """Decode a row.

    Raises
    ------
    LedgerError
        When it holds what was never written there.
    """
    try:
        return decode(row)
    except (ModelError, ValueError, TypeError, LookupError) as error:
        names = ("datacenter", "window_index", "version", "id", "kind", "issued_ms")
        place = ", ".join(f"{name} {row[name]}" for name in names if row.get(name) is not None)
        raise LedgerError(f"{place}: cannot be read: {error}") from None


def _decode_entry(window: Mapping[str, Any], children: Mapping[str, Sequence[Mapping[str, Any]]]) -> WindowEntry:
    observations = children["observations"]
    if len(observations) != 1:
        raise ValueError(f"{len(observations)} rows of observations, expected 1")
    return WindowEntry(
        datacenter=window["datacenter"],
        index=window["window_index"],
        start_ms=window["start_ms"],
        end_ms=window["end_ms"],
        input_hash=window["input_hash"],
        metrics=orjson.loads(window["metrics"]),
        slo=orjson.loads(window["slo"]),
        score=window["score"],
        predictions=[decode_prediction(row) for row in children["predictions"]],
        observation=ObservationRow(
            time_ms=np.frombuffer(observations[0]["time_ms"], "<i8").tolist(),
            power_w=np.frombuffer(observations[0]["power_w"], "<f8").tolist(),
        ),
        verdicts=[decode_verdict(row) for row in children["verdicts"]],
        proposals=[decode_document(row).document for row in children["proposals"]],
        certificates=[decode_document(row).document for row in children["certificates"]],
        decisions=[decode_document(row).document for row in children["decisions"]],
        events=[decode_event(row).event for row in children["events"]],
        positions=_positions(window["positions"]),
        topology_version=window["topology_version"],
        slo_version=window["slo_version"],
    )


def decode_window_row(window: Mapping[str, Any]) -> WindowRow:
    """A window without what hangs on it."""
    return WindowRow(
        datacenter=window["datacenter"],
        index=window["window_index"],
        start_ms=window["start_ms"],
        end_ms=window["end_ms"],
        input_hash=window["input_hash"],
        metrics=orjson.loads(window["metrics"]),
        slo=tuple(orjson.loads(window["slo"])),
        score=window["score"],
        positions=_positions(window["positions"]),
        topology_version=window["topology_version"],
        slo_version=window["slo_version"],
        previous_hash=window["previous_hash"],
        hash=window["hash"],
        recorded_ms=window["recorded_ms"],
    )


def _positions(text: str) -> tuple[PositionRow, ...]:
    return tuple(PositionRow(**position) for position in orjson.loads(text))


def decode_prediction(row: Mapping[str, Any]) -> PredictionRow:
    """A prediction from its row."""
    names = orjson.loads(row["columns"])
    data = np.frombuffer(row["data"], "<f8").reshape(len(names), -1)
    return PredictionRow(
        kind=row["kind"],
        issued_ms=row["issued_ms"],
        first_target_ms=row["first_target_ms"],
        tick_ms=row["tick_ms"],
        values=dict(zip(names, data, strict=True)),
        input_hash=row["input_hash"],
        version=row["version"],
    )


def decode_verdict(row: Mapping[str, Any]) -> VerdictRow:
    """A verdict from its row."""
    return VerdictRow(**{name: row[name] for name in _VERDICT})


def decode_document(row: Mapping[str, Any]) -> RecordedDocument:
    """A document from its row."""
    document = DocumentRow(row["id"], orjson.loads(row["content"]), row["proposal_id"])
    return RecordedDocument(document, row["window_index"], row["hash"], row["recorded_ms"])


def decode_event(row: Mapping[str, Any]) -> RecordedEvent:
    """An event from its row."""
    event = EventRow(row["kind"], row["time_ms"], orjson.loads(row["content"]), row["level"])
    return RecordedEvent(row["id"], row["datacenter"], row["window_index"], event, row["recorded_ms"])


def decode_version(row: Mapping[str, Any]) -> RecordedVersion:
    """A version of the topology or of the SLOs from its row."""
    version = VersionRow(row["version"], row["from_index"], orjson.loads(row["content"]), row["source"])
    return RecordedVersion(version, row["previous_hash"], row["hash"], row["recorded_ms"])

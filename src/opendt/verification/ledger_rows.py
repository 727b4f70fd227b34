"""What the ledger keeps, as plain values: a window and everything that was said, measured and decided in it.

A value is brought into one shape when it is made (Python's own numbers, no NaN where a number may be missing), so that what
comes back from a database equals what went in, and hashes the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "DocumentRow",
    "EventRow",
    "ObservationRow",
    "PositionRow",
    "PredictionRow",
    "RecordedDocument",
    "RecordedEvent",
    "RecordedVersion",
    "RecordedWindow",
    "VerdictRow",
    "VersionRow",
    "WindowEntry",
    "WindowRow",
]


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """What was said of times to come.

    Attributes
    ----------
    kind : str
        Name of the kind, such as ``blind_hour``. A kind issues once at a moment.
    issued_ms : int
        Moment after which nothing was used, ms since the epoch.
    first_target_ms, tick_ms : int
        First time it speaks of, and the distance to the next, ms.
    values : mapping of str to sequence of float
        Columns of equal length, one value a tick, units in their names; NaN is kept and written as null.
    input_hash : str
        Hash of what it was made from.
    version : str
        Version of what made it.
    """

    kind: str
    issued_ms: int
    first_target_ms: int
    tick_ms: int
    values: Mapping[str, Sequence[float]]
    input_hash: str
    version: str

    def __post_init__(self) -> None:
        _words(self, "kind", "input_hash", "version")
        _whole(self, "issued_ms", "first_target_ms", "tick_ms")
        columns = {word(f"prediction {self.kind}: column", name): _floats(self.values[name]) for name in self.values}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ModelError(f"prediction {self.kind}: values", str(lengths), "columns of one length")
        object.__setattr__(self, "values", columns)


@dataclass(frozen=True, slots=True)
class ObservationRow:
    """What was measured in a window.

    Attributes
    ----------
    time_ms : sequence of int
        Times of the readings, ms since the epoch.
    power_w : sequence of float
        Readings, W; NaN is kept and written as null.
    """

    time_ms: Sequence[int] = ()
    power_w: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_ms", tuple(np.asarray(self.time_ms, np.int64).tolist()))
        object.__setattr__(self, "power_w", _floats(self.power_w))
        if len(self.time_ms) != len(self.power_w):
            raise ModelError("observation: power_w", f"{len(self.power_w)} values", f"{len(self.time_ms)}, one a time")


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """How a prediction did against what was then measured.

    Attributes
    ----------
    kind, issued_ms
        Of the prediction, which is in this window or an earlier one.
    points : int
        Ticks that were judged.
    error_ratio, bias_ratio, coverage_ratio : float or None
        Mean absolute and mean signed error relative to what was measured, share of ticks inside the band; None where there
        is nothing to say.
    persistence_error_ratio, skill_ratio : float or None
        The naive rival's error on the same ticks, and 1 - error / that.
    """

    kind: str
    issued_ms: int
    points: int
    error_ratio: float | None
    bias_ratio: float | None
    coverage_ratio: float | None
    persistence_error_ratio: float | None
    skill_ratio: float | None

    def __post_init__(self) -> None:
        _words(self, "kind")
        _whole(self, "issued_ms", "points")
        for name in ("error_ratio", "bias_ratio", "coverage_ratio", "persistence_error_ratio", "skill_ratio"):
            object.__setattr__(self, name, _finite(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A proposal, certificate, decision or plan.

    Attributes
    ----------
    id : str
        Its own name; the same name with the same content is the same document.
    content : mapping
        Anything JSON can say, without wall-clock times: it goes into the export.
    proposal_id : str
        The proposal that it is about; empty for none.
    """

    id: str
    content: Mapping[str, Any]
    proposal_id: str = ""

    def __post_init__(self) -> None:
        _words(self, "id", "proposal_id")
        if not self.id:
            raise ModelError("document: id", "nothing", "a name")


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened.

    Attributes
    ----------
    kind : str
        What.
    time_ms : int
        When, ms since the epoch: of the stream for what belongs to a window, else of the wall clock.
    content : mapping
        Anything JSON can say.
    level : str
        ``info``, ``warning`` or ``error``.
    """

    kind: str
    time_ms: int
    content: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"

    def __post_init__(self) -> None:
        _words(self, "kind", "level")
        _whole(self, "time_ms")


@dataclass(frozen=True, slots=True, order=True)
class PositionRow:
    """Where a partition has been read to when a window closed.

    Attributes
    ----------
    topic : str
        Topic.
    partition : int
        Number of the partition.
    resume_offset : int
        Where reading begins again after a restart: the first record of a later window, or `next_offset`.
    next_offset : int
        After the record that closed the window.
    watermark_ms : int
        Greatest event time seen before it, ms since the epoch.
    """

    topic: str
    partition: int
    resume_offset: int
    next_offset: int
    watermark_ms: int

    def __post_init__(self) -> None:
        _words(self, "topic")
        _whole(self, "partition", "resume_offset", "next_offset", "watermark_ms")


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version of the topology or of the SLOs.

    Attributes
    ----------
    version : int
        Number, from 1 without gaps.
    from_index : int
        First window that it was meant for.
    content : mapping
        The whole of it, as JSON can say it.
    source : str
        Where it came from, such as ``file`` or ``dc.topology``.
    """

    version: int
    from_index: int
    content: Mapping[str, Any]
    source: str = ""

    def __post_init__(self) -> None:
        _words(self, "source")
        _whole(self, "version", "from_index")


@dataclass(frozen=True, slots=True)
class WindowEntry:
    """A window with everything that is recorded with it: all a function of the inputs, nothing of the wall clock.

    Attributes
    ----------
    datacenter : str
        Name.
    index : int
        Number, from 0 without gaps.
    start_ms, end_ms : int
        Bounds, ms since the epoch: after the one, up to and including the other.
    input_hash : str
        Hash of the messages that made it.
    metrics : mapping
        What was simulated and counted, units in the names; NaN is written as null.
    slo : sequence of mapping
        State of each objective.
    score : float or None
        Lower is better.
    predictions, verdicts, proposals, certificates, decisions, events
        What was said, judged, proposed, certified, decided, and what happened. Events keep their order, the others are put
        in that of their keys.
    observation : ObservationRow
        What was measured.
    positions : sequence of PositionRow
        Where every partition of the datacenter has been read to.
    topology_version, slo_version : int or None
        Those in force; recorded before.
    """

    datacenter: str
    index: int
    start_ms: int
    end_ms: int
    input_hash: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    slo: Sequence[Mapping[str, Any]] = ()
    score: float | None = None
    predictions: Sequence[PredictionRow] = ()
    observation: ObservationRow = field(default_factory=ObservationRow)
    verdicts: Sequence[VerdictRow] = ()
    proposals: Sequence[DocumentRow] = ()
    certificates: Sequence[DocumentRow] = ()
    decisions: Sequence[DocumentRow] = ()
    events: Sequence[EventRow] = ()
    positions: Sequence[PositionRow] = ()
    topology_version: int | None = None
    slo_version: int | None = None

    def __post_init__(self) -> None:
        datacenter_name(self.datacenter)
        _words(self, "input_hash")
        _whole(self, "index", "start_ms", "end_ms")
        for name in ("topology_version", "slo_version"):
            if getattr(self, name) is not None:
                _whole(self, name)
        object.__setattr__(self, "score", _finite(self.score))
        for name in ("predictions", "verdicts"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name), key=_by_kind)))
        for name in ("proposals", "certificates", "decisions"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name), key=_by_id)))
        object.__setattr__(self, "slo", tuple(self.slo))
        object.__setattr__(self, "events", tuple(self.events))
        object.__setattr__(self, "positions", tuple(sorted(self.positions)))


@dataclass(frozen=True, slots=True)
class RecordedWindow:
    """A window as the ledger has it.

    Attributes
    ----------
    entry : WindowEntry
        What was recorded.
    previous_hash, hash : str
        Of the window before, and its own.
    digests : bytes
        Heads of the digests of its sections.
    recorded_ms : int
        Wall clock, ms since the epoch.
    """

    entry: WindowEntry
    previous_hash: str
    hash: str
    digests: bytes
    recorded_ms: int


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A window without what hangs on it: for lists, and to go on from.

    Attributes
    ----------
    datacenter, index, start_ms, end_ms, input_hash, metrics, slo, score, positions, topology_version, slo_version
        As in `WindowEntry`.
    previous_hash, hash, recorded_ms
        As in `RecordedWindow`.
    """

    datacenter: str
    index: int
    start_ms: int
    end_ms: int
    input_hash: str
    metrics: dict[str, Any]
    slo: tuple[dict[str, Any], ...]
    score: float | None
    positions: tuple[PositionRow, ...]
    topology_version: int | None
    slo_version: int | None
    previous_hash: str
    hash: str
    recorded_ms: int


@dataclass(frozen=True, slots=True)
class RecordedVersion:
    """A version as the ledger has it: with the hash of the one before, its own, and the wall clock."""

    row: VersionRow
    previous_hash: str
    hash: str
    recorded_ms: int


@dataclass(frozen=True, slots=True)
class RecordedDocument:
    """A document as the ledger has it: with its window (None: recorded between windows), its hash, and the wall clock."""

    document: DocumentRow
    window_index: int | None
    hash: str
    recorded_ms: int


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as the ledger has it: with the number to follow from, its window (None: between windows), the wall clock."""

    id: int
    datacenter: str
    window_index: int | None
    event: EventRow
    recorded_ms: int


def datacenter_name(name: str) -> str:
    """Check the name of a datacenter.

    Raises
    ------
    ModelError
        When it is empty or cannot be kept.
    """
    if not name:
        raise ModelError("datacenter", "nothing", "a name")
    return word("datacenter", name)


def word(place: str, value: str) -> str:
    """Check text that goes into a column of its own: every database must be able to keep it.

    Raises
    ------
    ModelError
        When it holds NUL, which PostgreSQL does not take, or half a surrogate pair.
    """
    if "\0" in value:
        raise ModelError(place, value, "text without NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ModelError(place, value, "text that UTF-8 can say") from None
    return value


def _words(row: object, *names: str) -> None:
    for name in names:
        word(f"{type(row).__name__}.{name}", getattr(row, name))


def _whole(row: object, *names: str) -> None:
    """Make numbers of NumPy Python's own: drivers would write them as bytes or refuse them."""
    for name in names:
        value = getattr(row, name)
        number = int(value)
        if number != value or not -(2**63) <= number < 2**63:
            raise ModelError(f"{type(row).__name__}.{name}", value, "a whole number of 64 bits")
        object.__setattr__(row, name, number)


def _finite(value: float | None) -> float | None:
    """A number for a column of numbers: no NaN, which SQLite drops, and no negative zero, of which it drops the sign."""
    return None if value is None or not math.isfinite(value) else float(value) + 0.0


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).tolist())


def _by_kind(row: PredictionRow | VerdictRow) -> tuple[str, int]:
    return row.kind, row.issued_ms


def _by_id(row: DocumentRow) -> str:
    return row.id

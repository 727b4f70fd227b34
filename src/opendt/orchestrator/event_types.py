"""What can happen while a datacenter is followed: one frozen record a kind.

``time_ms`` is event time, ms since the epoch (UTC), where the event has one: when something happened in the datacenter's own time,
not when it was noticed. Records hold no wall clock, so those that are a function of the inputs (`Event.is_deterministic`) are
equal in every run. The bus (`events`) adds what is not: number and time of the notice.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

from opendt.model.errors import InputError, shown
from opendt.orchestrator.settings_model import SECRET_NAME

__all__ = [
    "EVENT_TYPES",
    "ActuatorTrouble",
    "CertificateIssued",
    "ChangeJudged",
    "DeadLetter",
    "Decision",
    "Drift",
    "Event",
    "EventsDropped",
    "ForecastIssued",
    "LateRecord",
    "LeaseLost",
    "LeaseRefused",
    "LedgerRecovered",
    "LedgerTrouble",
    "Level",
    "PartitionAssigned",
    "PartitionRevoked",
    "PredictionVerified",
    "ProposalMade",
    "ResultsDamaged",
    "ResultsDropped",
    "ResultsTrouble",
    "Rollback",
    "SettingChanged",
    "SettingRefused",
    "SloChanged",
    "SloLoaded",
    "SloRefused",
    "SnapshotRebuilt",
    "SnapshotRestored",
    "SnapshotWritten",
    "SourceGap",
    "Started",
    "Stopped",
    "SubscriberFailed",
    "TopologyChanged",
    "TopologyLoaded",
    "TopologyRefused",
    "TornEnd",
    "TransportRecovered",
    "TransportTrouble",
    "TrustChanged",
    "WindowClosed",
    "event_from_dict",
]

Level = Literal["debug", "info", "warning", "error"]

EVENT_TYPES: Final[dict[str, type[Event]]] = {}
"""Kind -> record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Parameters
    ----------
    datacenter : str
        Name of the datacenter; empty when it concerns the whole process.
    time_ms : int, optional
        Event time, ms since the epoch (UTC).
    """

    kind: ClassVar[str] = "event"
    level: ClassVar[Level] = "info"
    is_deterministic: ClassVar[bool] = False
    sentence: ClassVar[str] = ""

    datacenter: str = ""
    time_ms: int | None = None

    def __init_subclass__(cls) -> None:
        """Name the kind after the class and remember it."""
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        if not cls.kind.startswith("_"):  # a form that several kinds share
            EVENT_TYPES[cls.kind] = cls

    def as_dict(self) -> dict[str, Any]:
        """The event as plain data: ``kind`` and its fields."""
        return {"kind": self.kind, **asdict(self)}

    @property
    def said(self) -> str:
        """What happened, in one line for people."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return " ".join(self.sentence.format(**values).split())

    def words(self) -> str:
        """When, where and what, in one line for people: event time and datacenter where it has them."""
        when = "" if self.time_ms is None else f"{_moment(self.time_ms)} "
        return f"{when}{self.datacenter}{': ' if self.datacenter else ''}{self.said}"


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def event_from_dict(values: dict[str, Any]) -> Event:
    """Make the event again of what `Event.as_dict` gave.

    Raises
    ------
    InputError
        When the kind is unknown, or a field is missing or not one of it.
    """
    kind = values.get("kind")
    event_type = EVENT_TYPES.get(kind) if isinstance(kind, str) else None
    if event_type is None:
        raise InputError("kind", shown(kind), f"one of {', '.join(sorted(EVENT_TYPES))}")
    known = {field.name: field for field in fields(event_type)}
    given = {name: value for name, value in values.items() if name != "kind"}
    needed = {name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING}
    wrong = sorted((given.keys() - known.keys()) | (needed - given.keys()))
    if wrong:
        raise InputError(wrong[0], "it missing or unknown", f"the fields {', '.join(known)} of {kind}")
    return event_type(**given)


# Functions of the inputs: equal in every run over the same streams.


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowClosed(Event):
    """A window of event time has closed with these records in it; `time_ms` is its end."""

    is_deterministic = True
    sentence = "window {index} closed: {tasks} tasks, {fragments} fragments, {readings} readings, {late} late, {duplicates} twice"

    index: int
    start_ms: int
    end_ms: int
    tasks: int = 0
    fragments: int = 0
    readings: int = 0
    late: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastIssued(Event):
    """A forecast of power: mean power and the mean of its band, W; a hindcast was computed when its workload had come."""

    is_deterministic = True
    level = "debug"
    sentence = "forecast {forecast}: {power_w:,.0f} W ({lower_w:,.0f} to {upper_w:,.0f})"

    forecast: str
    until_ms: int
    power_w: float
    lower_w: float
    upper_w: float
    is_hindcast: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionVerified(Event):
    """A forecast met what was measured: mean absolute error and bias relative to measured power, share inside the band.

    `persistence_error_ratio` is the error of the last value on the same points, None where that is not known.
    """

    is_deterministic = True
    level = "debug"
    sentence = "{forecast}: error {error_ratio:.1%}, bias {bias_ratio:+.1%}, {coverage_ratio:.0%} inside the band"

    forecast: str
    issued_ms: int
    error_ratio: float
    bias_ratio: float
    coverage_ratio: float
    persistence_error_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift(Event):
    """Measured power has left what was learned: suddenly (step) or slowly (drift)."""

    is_deterministic = True
    level = "warning"
    sentence = "{change} of {size_ratio:+.1%} against the calibration of {forecast}"

    forecast: str
    change: Literal["step", "drift"]
    since_ms: int
    size_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback(Event):
    """A calibration went back to an earlier one that explains the measurements better."""

    is_deterministic = True
    level = "warning"
    sentence = "calibration of {forecast} rolled back: {reason}"

    forecast: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalMade(Event):
    """Somebody proposed changes."""

    is_deterministic = True
    sentence = "{source} proposes {proposal}: {reason}"

    proposal: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateIssued(Event):
    """A proposal was simulated against its absence, and passed or not."""

    is_deterministic = True
    sentence = "{proposal} {verdict}: {reason}"

    proposal: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Event):
    """The gate, or a person, decided on a proposal."""

    sentence = "{proposal} {verdict} by {by}: {reason}"

    proposal: str
    verdict: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeJudged(Event):
    """What an applied change has brought was held against what was predicted of it; savings of mean power, W."""

    is_deterministic = True
    sentence = "{proposal} {verdict}: {reason}"

    proposal: str
    start_ms: int
    end_ms: int
    verdict: str
    reason: str
    predicted_w: float | None = None
    predicted_low_w: float | None = None
    predicted_high_w: float | None = None
    realised_w: float | None = None
    error_w: float | None = None
    counterfactual_w: float | None = None
    measured_w: float | None = None
    counterfactual_peak_w: float | None = None
    measured_peak_w: float | None = None
    readings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustChanged(Event):
    """What the process may do by itself went up or down with the accuracy of its forecasts."""

    is_deterministic = True
    level = "warning"
    sentence = "trust from {before} to {after}: {reason}"

    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Event):
    """A record could not be used and was put aside."""

    level = "warning"
    sentence = "{topic}/{partition} record {offset} put aside: {reason}"

    topic: str
    partition: int
    offset: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRecord(Event):
    """A record came after its window had closed; `time_ms` is its own time."""

    level = "warning"
    sentence = "{topic}/{partition} record {offset} is {late_ms} ms late"

    topic: str
    partition: int
    offset: int
    late_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChanged(Event):
    """A setting was changed on ``sys.config``; the value of a secret one is not in the event."""

    sentence = "{key} is now {value}"

    key: str
    value: str

    def __post_init__(self) -> None:
        """Hide what is secret: events are logged, kept and published."""
        if SECRET_NAME.search(self.key):
            object.__setattr__(self, "value", "(hidden)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRefused(Event):
    """A setting that came on ``sys.config`` was not taken; what was set stays."""

    is_deterministic = True
    level = "warning"
    sentence = "setting {key} refused: {reason}"

    key: str
    reason: str


# What befalls files.


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileLoaded(Event):
    sentence = "version {version} ({content_hash:.12}) of {file}"

    version: int
    content_hash: str
    file: str


class TopologyLoaded(_FileLoaded):
    """The topology with which following begins."""

    __slots__ = ()
    sentence = f"begins with topology {_FileLoaded.sentence}"


class SloLoaded(_FileLoaded):
    """The objectives with which following begins."""

    __slots__ = ()
    sentence = f"begins with objectives {_FileLoaded.sentence}"


class TopologyChanged(_FileLoaded):
    """Another topology is in force from the next window on."""

    __slots__ = ()
    sentence = f"takes topology {_FileLoaded.sentence}"


class SloChanged(_FileLoaded):
    """Other objectives are in force from the next window on."""

    __slots__ = ()
    sentence = f"takes objectives {_FileLoaded.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileRefused(Event):
    level = "error"
    sentence = "{reason} (version {version} stays)"

    file: str
    reason: str
    version: int | None


class TopologyRefused(_FileRefused):
    """An edit of the topology does not validate; the last good one stays."""

    __slots__ = ()
    sentence = f"topology refused: {_FileRefused.sentence}"


class SloRefused(_FileRefused):
    """An edit of the objectives does not validate; the last good ones stay."""

    __slots__ = ()
    sentence = f"objectives refused: {_FileRefused.sentence}"


# What befalls the process.


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The process follows a datacenter, from this window on."""

    sentence = "started ({environment}, {mode}) at window {window}"

    environment: str
    mode: str
    window: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """The process no longer follows a datacenter."""

    sentence = "stopped after window {window}: {reason}"

    reason: str
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGap(Event):
    """Records that should be there are not: retention took them, or a producer left them out."""

    level = "error"
    sentence = "{topic}/{partition}: {reason}"

    topic: str
    partition: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TornEnd(Event):
    """The embedded log ends within a record that a killed writer left unfinished; `offset` is behind the last whole one."""

    level = "warning"
    sentence = "{topic}/{partition}: {dropped_bytes} bytes behind record {offset} dropped, which a killed writer left unfinished"

    topic: str
    partition: int
    offset: int
    dropped_bytes: int
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionAssigned(Event):
    """A partition is ours to read, from this offset on."""

    sentence = "reads {topic}/{partition} from {offset}"

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRevoked(Event):
    """A partition is another's to read."""

    sentence = "gives {topic}/{partition} away"

    topic: str
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble(Event):
    level = "error"
    reason: str


class TransportTrouble(_Trouble):
    """A stream cannot be reached; nothing is lost, windows wait."""

    __slots__ = ()
    sentence = "streams out of reach: {reason}"


class LedgerTrouble(_Trouble):
    """The ledger cannot be reached; nothing is lost, windows wait."""

    __slots__ = ()
    sentence = "ledger out of reach: {reason}"


class ActuatorTrouble(_Trouble):
    """What was decided is not in the topology file."""

    __slots__ = ()
    sentence = "not carried out: {reason}"


class ResultsTrouble(_Trouble):
    """Series cannot be written to files; they stay in memory as long as there is room."""

    __slots__ = ()
    sentence = "results cannot be written: {reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recovered(Event):
    after_s: float


class TransportRecovered(_Recovered):
    """Streams are within reach again."""

    __slots__ = ()
    sentence = "streams within reach again after {after_s:.1f} s"


class LedgerRecovered(_Recovered):
    """The ledger is within reach again."""

    __slots__ = ()
    sentence = "ledger within reach again after {after_s:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotWritten(Event):
    """The twin as it was after a window is in a file."""

    level = "debug"
    sentence = "snapshot after window {window} ({size_bytes} bytes)"

    window: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRestored(Event):
    """The twin goes on from a file."""

    sentence = "goes on from the snapshot after window {window}"

    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRebuilt(Event):
    """No usable snapshot: the twin is rebuilt from the streams."""

    level = "warning"
    sentence = "no usable snapshot ({reason}): read again from the streams"

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRefused(Event):
    """Another process follows this datacenter."""

    level = "error"
    sentence = "is followed by {holder}"

    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(Event):
    """Another process took this datacenter over while the ledger was out of reach; this process records nothing more of it."""

    level = "error"
    sentence = "was taken over by {holder} while the ledger was out of reach"

    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsDropped(Event):
    """Series of windows are gone, by the retention that was set or for want of room."""

    sentence = "series of windows {first_window} to {last_window} dropped: {reason}"

    first_window: int
    last_window: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsDamaged(Event):
    """A file of series cannot be read and was put aside."""

    level = "error"
    sentence = "{file} put aside: {reason}"

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberFailed(Event):
    """Somebody who listens raised an error while told of an event; the others were told all the same."""

    level = "error"
    sentence = "{subscriber} failed on {event_kind}: {reason}"

    subscriber: str
    event_kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsDropped(Event):
    """More events came at once than the bus holds."""

    level = "error"
    sentence = "{count} events were not told: more than {limit} at once"

    count: int
    limit: int

"""The payload of every topic as a typed model: what is checked at the border, and what docs/reference/topics.md shows.

Keys are named as on the wire. Times are ms since the epoch (UTC); an ISO 8601 text is taken as well, without a zone as UTC, since
existing producers send it. Keys that a model does not have are ignored in what others send (tasks, readings, topologies, settings)
and refused in what only OpenDT writes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from opendt.model.base import MAX_I64, MAX_U32

__all__ = [
    "LATEST_MS",
    "DeadLetterMessage",
    "ForecastMessage",
    "FragmentBatchMessage",
    "FragmentMessage",
    "HeartbeatMessage",
    "OlderFragmentMessage",
    "OlderTaskMessage",
    "PartsMessage",
    "PowerMessage",
    "ProposalMessage",
    "ResultMessage",
    "RetriedMessage",
    "ScoreMessage",
    "SettingMessage",
    "TaskBody",
    "TaskId",
    "TaskMessage",
    "TopologyMessage",
    "epoch_ms",
]

LATEST_MS: Final = 253_402_300_799_999  # the end of the year 9999: later ones are seconds or ns taken for ms


def epoch_ms(value: Any) -> Any:
    """Turn an ISO 8601 text into ms since the epoch; leave all else to the check of whole numbers."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _whole(value: Any) -> Any:
    """Take 16.0 for 16: producers whose tables hold floats send it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Moment = Annotated[
    int,
    BeforeValidator(epoch_ms, json_schema_input_type=int | str),
    Field(strict=True, ge=0, le=LATEST_MS, description="ms since the epoch, UTC; or ISO 8601."),
]
TaskId = Annotated[int, Field(strict=True, ge=-MAX_I64, le=MAX_I64)] | Annotated[str, Field(strict=True, min_length=1)]
Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, le=MAX_I64)]
SmallWhole = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, le=MAX_U32)]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Flag = Annotated[bool, Field(strict=True)]


class _Theirs(BaseModel):
    """What others send: unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class _Ours(BaseModel):
    """What only OpenDT sends: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class HeartbeatMessage(_Theirs):
    """Nothing happened up to this time: closes idle windows. May be sent on every topic that windows wait for."""

    message_type: Literal["heartbeat"]
    timestamp: Moment


class FragmentMessage(_Theirs):
    """A stretch of constant demand of a task."""

    duration: Annotated[SmallWhole, Field(description="Length, ms.")]
    cpu_usage: Annotated[Amount, Field(description="Demand over all cores, MHz.")]
    gpu_usage: Annotated[Amount | None, Field(description="Demand of all accelerators, MHz.")] = None


class TaskBody(_Theirs):
    """A task; its fragments may be here, or follow in `parts`."""

    id: TaskId
    submission_time: Moment
    duration: Annotated[Whole | None, Field(description="Length that the task states, ms; null when unknown.")] = None
    cpu_count: Annotated[SmallWhole, Field(description="Cores asked for.")]
    cpu_capacity: Annotated[Amount, Field(description="MHz; read by the capacity filters only.")] = 0.0
    mem_capacity: Annotated[Whole, Field(description="MiB asked for.")] = 0
    gpu_count: SmallWhole = 0
    gpu_capacity: Amount = 0.0
    gpu_mem: Annotated[Whole, Field(description="MiB.")] = 0
    deadline: Annotated[Moment | None, Field(description="When it should be done.")] = None
    parents: Annotated[tuple[TaskId, ...], Field(description="Tasks that must be done before.")] = ()
    fragments: Annotated[
        tuple[FragmentMessage, ...],
        Field(description="In order. Those that end later than now are known to the twin only when they have ended."),
    ] = ()
    first_fragment: Annotated[
        SmallWhole | None,
        Field(description="Index of the first of these fragments; they follow the known ones unless given."),
    ] = None
    complete: Annotated[
        Flag | None,
        Field(description="Whether no fragment follows; true by default when there are fragments here, else false."),
    ] = None


class TaskMessage(_Theirs):
    """A task was submitted; or, with an id known already, further fragments of it."""

    message_type: Literal["task"]
    timestamp: Moment
    task: TaskBody


class PartColumns(_Ours):
    """Fragments of tasks sent before, as columns of equal length, one entry a fragment."""

    id: tuple[TaskId, ...]
    first_fragment: Annotated[tuple[SmallWhole, ...], Field(description="Index of the fragment in its task, from 0.")]
    duration: Annotated[tuple[SmallWhole, ...], Field(description="ms.")]
    cpu_usage: Annotated[tuple[Amount, ...], Field(description="MHz over all cores.")]
    gpu_usage: Annotated[tuple[Amount, ...] | None, Field(description="MHz; left out when there is none.")] = None
    complete: Annotated[tuple[Flag, ...], Field(description="Whether the fragment is the last of its task.")]


class PartsMessage(_Ours):
    """Fragments that have ended by this time."""

    message_type: Literal["parts"]
    timestamp: Moment
    parts: PartColumns


class PowerMessage(_Theirs):
    """A reading of the power of all hosts together."""

    timestamp: Moment
    power_draw: Annotated[Amount, Field(description="W.")]
    energy_usage: Annotated[Amount | None, Field(description="J since the reading before.")] = None


class TopologyMessage(_Theirs):
    """A topology; on `dc.topology` that of the real system, on `sim.topology` the one in force in the twin."""

    timestamp: Moment
    topology: Annotated[dict[str, JsonValue], Field(description="OpenDC topology.json.")]
    version: Annotated[Whole | None, Field(description="Number of the version.")] = None
    source: Annotated[Text, Field(description="Who made it.")] = ""


class SettingMessage(_Theirs):
    """A setting to be changed from the next window on."""

    setting_key: Name
    new_value: JsonValue
    timestamp: Moment
    source: Annotated[Text, Field(description="Who asks for it.")] = ""


class OlderTaskMessage(_Theirs):
    """A task of the older pair; the key of the record is `{"id": n}`."""

    id: TaskId
    submission_time: Moment
    duration: Whole | None = None
    cpu_count: SmallWhole
    cpu_capacity: Amount = 0.0
    mem_capacity: Annotated[Whole, Field(description="MiB.")] = 0
    gpu_count: SmallWhole = 0
    gpu_capacity: Amount = 0.0
    gpu_mem: Annotated[Whole, Field(description="MiB.")] = 0
    deadline: Moment | None = None
    parents: tuple[TaskId, ...] = ()


class OlderFragmentMessage(_Theirs):
    """A fragment of the older pair; a message is one of them, or a list of them."""

    id: Annotated[TaskId, Field(description="Of the task.")]
    submission_time: Annotated[
        Moment, Field(description="When it began: the task's submission plus the durations of its earlier fragments.")
    ]
    duration: SmallWhole
    cpu_usage: Amount
    gpu_usage: Amount | None = None


class FragmentBatchMessage(_Theirs):
    """Fragments of the older pair as columns of equal length; the quick form."""

    id: tuple[TaskId, ...]
    submission_time: tuple[Moment, ...]
    duration: tuple[SmallWhole, ...]
    cpu_usage: tuple[Amount, ...]
    gpu_usage: tuple[Amount, ...] | None = None


class ForecastMessage(_Ours):
    """Power that was forecast, with its 90 % band."""

    kind: Annotated[Name, Field(description="`blind_hour`; as hindcasts `hour` and `window`.")]
    issued: Annotated[Moment, Field(description="Nothing later than this was used.")]
    hindcast: Annotated[
        Flag, Field(description="Made when the workload had come, with the calibration of `issued`.")
    ] = False
    target: Annotated[tuple[Moment, ...], Field(description="Times that it speaks of.")]
    power_draw: Annotated[tuple[Number, ...], Field(description="W.")]
    lower: Annotated[tuple[Number, ...], Field(description="Lower end of the band, W.")]
    upper: Annotated[tuple[Number, ...], Field(description="Upper end of the band, W.")]


class ScoreMessage(_Ours):
    """How right forecasts of one kind were in the window."""

    kind: Name
    points: Annotated[Whole, Field(description="Readings compared.")]
    mape_ratio: Annotated[Amount | None, Field(description="Mean absolute percentage error as a ratio.")] = None
    persistence_mape_ratio: Annotated[Amount | None, Field(description="The same of the last value before issue.")] = (
        None
    )
    coverage_ratio: Annotated[Amount | None, Field(description="Share of readings inside the band.")] = None


class ResultMessage(_Ours):
    """What a window brought."""

    timestamp: Annotated[Moment, Field(description="End of the window.")]
    datacenter: Name
    window: Annotated[Whole, Field(description="Number, from 0.")]
    start: Moment
    end: Moment
    input_hash: Annotated[Text, Field(description="SHA-256 of what the window was given.")]
    metrics: Annotated[dict[str, JsonValue], Field(description="Name with unit -> value.")]
    forecasts: tuple[ForecastMessage, ...] = ()
    errors: tuple[ScoreMessage, ...] = ()
    slo: Annotated[
        tuple[JsonValue, ...], Field(description="Each objective with its value and whether it is met.")
    ] = ()
    counts: Annotated[
        dict[str, Whole], Field(description="Tasks, fragments, readings, late, duplicate, merged, dead.")
    ] = {}


class ProposalMessage(_Ours):
    """A proposal and what became of it; a later message with the same id says more."""

    timestamp: Moment
    datacenter: Name
    window: Whole
    id: Annotated[Name, Field(description="Of the proposal.")]
    proposal: dict[str, JsonValue]
    certificate: dict[str, JsonValue] | None = None
    decision: dict[str, JsonValue] | None = None
    outcome: dict[str, JsonValue] | None = None


class DeadLetterMessage(_Ours):
    """A message that could not be used, as it was, with the reason."""

    timestamp: Annotated[Moment, Field(description="Event time of the stream when it was refused.")]
    datacenter: Text
    topic: Name
    partition: Whole
    offset: Whole
    reason: Name
    value: Annotated[Text, Field(description="The message, or the rows of it that were refused; base64.")]
    key: Annotated[Text, Field(description="Key of the record.")]


class RetriedMessage(_Ours):
    """A dead letter has been sent again; it is named by its place in `dc.deadletter`."""

    message_type: Literal["retried"]
    partition: Whole
    offset: Whole

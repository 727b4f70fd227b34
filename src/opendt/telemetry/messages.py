"""Messages of all topics: from bytes to checked values and back.

`decode` is the border: what it returns can be relied on, what it refuses goes to the dead letters with the one reason it gives.
Payloads are described by the models of `message_models`; fragments, of which there are millions, are checked by the column
(`message_columns`) to the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from opendt.model.errors import MessageError, shown, wanted
from opendt.telemetry import message_models as models
from opendt.telemetry.message_columns import FragmentRows, batch_rows, object_rows, parts_rows, task_fragments

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = [
    "COMPACTED",
    "CONFIG",
    "DEAD_LETTERS",
    "DEFAULT_DATACENTER",
    "FRAGMENTS",
    "POWER",
    "PROPOSALS",
    "RESULTS",
    "SIM_TOPOLOGY",
    "TASKS",
    "TOPICS",
    "TOPOLOGY",
    "WORKLOAD",
    "Fragments",
    "Heartbeat",
    "Message",
    "Parts",
    "Task",
    "TaskArrival",
    "TaskId",
    "decode",
    "encode",
    "encode_fragments",
    "encode_heartbeat",
    "encode_older_task",
    "encode_parts",
    "encode_power",
    "encode_task",
]

WORKLOAD: Final = "dc.workload"
POWER: Final = "dc.power"
TOPOLOGY: Final = "dc.topology"
SIM_TOPOLOGY: Final = "sim.topology"
RESULTS: Final = "sim.results"
PROPOSALS: Final = "sim.proposals"
CONFIG: Final = "sys.config"
TASKS: Final = "tasks"
FRAGMENTS: Final = "fragments"
DEAD_LETTERS: Final = "dc.deadletter"
TOPICS: Final = (
    WORKLOAD,
    POWER,
    TOPOLOGY,
    SIM_TOPOLOGY,
    RESULTS,
    PROPOSALS,
    CONFIG,
    TASKS,
    FRAGMENTS,
    DEAD_LETTERS,
)
COMPACTED: Final = frozenset((TOPOLOGY, SIM_TOPOLOGY))
"""Topics of which only the newest record of each key has to be kept."""
DEFAULT_DATACENTER: Final = "datacenter"
"""Key of records unless somebody names the datacenter."""

TaskId = int | str

_OLDER_KEYS: Final = ("id", "submission_time", "duration", "cpu_usage")
_MODELS: Final[dict[str, type[BaseModel]]] = {
    POWER: models.PowerMessage,
    TOPOLOGY: models.TopologyMessage,
    SIM_TOPOLOGY: models.TopologyMessage,
    RESULTS: models.ResultMessage,
    PROPOSALS: models.ProposalMessage,
    CONFIG: models.SettingMessage,
    DEAD_LETTERS: models.DeadLetterMessage,
}


@dataclass(frozen=True, slots=True)
class TaskArrival:
    """A task as it was submitted.

    Attributes
    ----------
    id : int or str
        Identifier.
    submission_ms : int
        ms since the epoch.
    duration_ms : int
        Length it states; -1 when unknown.
    cpu_count, cpu_capacity_mhz, memory_mib : int, float, int
        What it asks for.
    gpu_count, gpu_capacity_mhz, gpu_memory_mib : int, float, int
        What it asks of accelerators.
    deadline_ms : int
        ms since the epoch; -1 for none.
    parents : tuple of (int or str)
        Tasks that must be done before.
    """

    id: TaskId
    submission_ms: int
    duration_ms: int = -1
    cpu_count: int = 1
    cpu_capacity_mhz: float = 0.0
    memory_mib: int = 0
    gpu_count: int = 0
    gpu_capacity_mhz: float = 0.0
    gpu_memory_mib: int = 0
    deadline_ms: int = -1
    parents: tuple[TaskId, ...] = ()

    @property
    def fields(self) -> tuple[Any, ...]:
        """All values, in order."""
        return (
            self.id,
            self.submission_ms,
            self.duration_ms,
            self.cpu_count,
            self.cpu_capacity_mhz,
            self.memory_mib,
            self.gpu_count,
            self.gpu_capacity_mhz,
            self.gpu_memory_mib,
            self.deadline_ms,
            self.parents,
        )


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened up to this time, ms since the epoch."""

    timestamp_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A task message, with the fragments it carries.

    Attributes
    ----------
    timestamp_ms : int
        Event time of the message.
    task : TaskArrival
        The task.
    duration_ms, cpu_mhz, gpu_mhz : int64, float64, float64 or None
        Fragments, in order.
    first_fragment : int or None
        Index of the first of them in the task; None: they follow those known.
    complete : bool
        Whether no fragment follows.
    """

    timestamp_ms: int
    task: TaskArrival
    duration_ms: NDArray[np.int64]
    cpu_mhz: NDArray[np.float64]
    gpu_mhz: NDArray[np.float64] | None = None
    first_fragment: int | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Fragments of tasks sent before that have ended by `timestamp_ms`; the place of a row is its index in its task."""

    timestamp_ms: int
    rows: FragmentRows


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """Fragments of the older pair; the place of a row is the time at which it began."""

    rows: FragmentRows


Message = (
    Heartbeat
    | Task
    | Parts
    | Fragments
    | models.PowerMessage
    | models.TopologyMessage
    | models.SettingMessage
    | models.ResultMessage
    | models.ProposalMessage
    | models.DeadLetterMessage
    | models.RetriedMessage
)


def parse(topic: str, value: bytes) -> Any:
    """Parse JSON.

    Raises
    ------
    MessageError
        When it is none.
    """
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MessageError("", f"{len(value)} bytes that are no JSON ({error})", "a JSON object", file=topic) from None


def decode(topic: str, value: bytes) -> Message:
    """Parse and check a message.

    Parameters
    ----------
    topic : str
        Topic it came on.
    value : bytes
        The message.

    Returns
    -------
    Message
        What it says.

    Raises
    ------
    MessageError
        Naming the topic and the key, what was found and what is expected.
    """
    return decode_parsed(topic, parse(topic, value))


def decode_parsed(topic: str, document: Any) -> Message:
    """Check a parsed message; see `decode`."""
    if topic == FRAGMENTS and isinstance(document, list):
        return _older_fragments(document)
    if not isinstance(document, dict):
        raise MessageError("", document, "a JSON object", file=topic)
    kind = document.get("message_type")
    if kind == "heartbeat" and topic in (WORKLOAD, POWER, TASKS, FRAGMENTS):
        heartbeat: models.HeartbeatMessage = _checked(topic, models.HeartbeatMessage, document)
        return Heartbeat(heartbeat.timestamp)
    if topic == WORKLOAD:
        return _workload(document, kind)
    if topic == TASKS:
        older: models.OlderTaskMessage = _checked(topic, models.OlderTaskMessage, document)
        return Task(older.submission_time, _arrival(older), *_NO_FRAGMENTS)
    if topic == FRAGMENTS:
        return _older_fragments(document)
    if topic == DEAD_LETTERS and kind == "retried":
        retried: models.RetriedMessage = _checked(topic, models.RetriedMessage, document)
        return retried
    if topic in _MODELS:
        message: Message = _checked(topic, _MODELS[topic], document)
        return message
    raise MessageError("", f"the topic {topic}", f"one of {', '.join(TOPICS)}")


_NO_FRAGMENTS: Final = (np.zeros(0, np.int64), np.zeros(0, np.float64))


def _workload(document: dict[str, Any], kind: Any) -> Message:
    if kind == "task":
        body = document.get("task")
        fragments = body.get("fragments") if isinstance(body, dict) else None
        # Up to 14,401 of them: checked as columns, beside the model.
        bare = {**document, "task": {**body, "fragments": ()}} if isinstance(body, dict) else document
        message: models.TaskMessage = _checked(WORKLOAD, models.TaskMessage, bare)
        duration_ms, cpu_mhz, gpu_mhz = (*_NO_FRAGMENTS, None) if not fragments else task_fragments(WORKLOAD, fragments)
        task = message.task
        complete = bool(fragments) if task.complete is None else task.complete
        return Task(message.timestamp, _arrival(task), duration_ms, cpu_mhz, gpu_mhz, task.first_fragment, complete)
    if kind == "parts":
        timestamp_ms = _moment(WORKLOAD, document)
        if len(document) != 3:
            extra = sorted(set(document) - {"message_type", "timestamp", "parts"})
            if extra:
                raise MessageError(extra[0], "a key of this name", "only known keys", file=WORKLOAD)
        return Parts(timestamp_ms, parts_rows(WORKLOAD, [document.get("parts")])[0])  # type: ignore[list-item]
    raise MessageError(
        "message_type", "no such key" if kind is None else kind, "task, parts or heartbeat", file=WORKLOAD
    )


def _older_fragments(document: Any) -> Fragments:
    if isinstance(document, dict) and isinstance(document.get("id"), list):
        return Fragments(batch_rows(FRAGMENTS, [moments_to_ms(document)])[0])
    single = isinstance(document, dict)
    columns = object_rows(FRAGMENTS, "", [document] if single else document, _OLDER_KEYS)
    return Fragments(batch_rows(FRAGMENTS, [moments_to_ms(columns)])[0])


def moments_to_ms(columns: dict[str, Any]) -> dict[str, Any]:
    """Turn ISO 8601 texts among the times of a batch into ms since the epoch; anything else is left as it is."""
    moments = columns.get("submission_time")
    if isinstance(moments, list) and any(isinstance(moment, str) for moment in moments):
        return {**columns, "submission_time": [models.epoch_ms(moment) for moment in moments]}
    return columns


def _moment(topic: str, document: dict[str, Any]) -> int:
    value = models.epoch_ms(document.get("timestamp"))
    if type(value) is not int or not 0 <= value <= models.LATEST_MS:
        found = "no such key" if value is None else shown(value)
        raise MessageError("timestamp", found, "ms since the epoch, or ISO 8601", file=topic)
    return value


def _arrival(task: models.TaskBody | models.OlderTaskMessage) -> TaskArrival:
    return TaskArrival(
        task.id,
        task.submission_time,
        -1 if task.duration is None else task.duration,
        task.cpu_count,
        task.cpu_capacity,
        task.mem_capacity,
        task.gpu_count,
        task.gpu_capacity,
        task.gpu_mem,
        -1 if task.deadline is None else task.deadline,
        task.parents,
    )


def _checked(topic: str, model: type[BaseModel], document: dict[str, Any]) -> Any:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("constrained-int", "constrained-str"))
        place = place.removesuffix(".int").removesuffix(".str")
        found = "no such key" if first["type"] == "missing" else shown(first["input"])
        raise MessageError(place, found, wanted(first["msg"]), file=topic) from None


def encode(message: BaseModel) -> bytes:
    """Encode a message that has a model: a reading, topology, setting, result, proposal or dead letter."""
    return message.model_dump_json(exclude_none=True).encode()


def encode_heartbeat(timestamp_ms: int) -> bytes:
    """Encode a heartbeat; the time is ms since the epoch."""
    return b'{"message_type":"heartbeat","timestamp":%d}' % timestamp_ms


def encode_power(timestamp_ms: int, power_w: float, energy_j: float | None = None) -> bytes:
    """Encode a reading: ms since the epoch, W, J since the reading before."""
    energy = {} if energy_j is None else {"energy_usage": energy_j}
    return orjson.dumps({"timestamp": timestamp_ms, "power_draw": power_w, **energy})


def encode_task(task: Task) -> bytes:
    """Encode a task message of `dc.workload`."""
    body = _task_fields(task.task)
    if len(task.duration_ms):
        columns: list[tuple[str, list[Any]]] = [
            ("duration", task.duration_ms.tolist()),
            ("cpu_usage", task.cpu_mhz.tolist()),
        ]
        if task.gpu_mhz is not None:
            columns.append(("gpu_usage", task.gpu_mhz.tolist()))
        names = tuple(name for name, _ in columns)
        body["fragments"] = [dict(zip(names, row, strict=True)) for row in zip(*(c for _, c in columns), strict=True)]
    if task.first_fragment is not None:
        body["first_fragment"] = task.first_fragment
    body["complete"] = task.complete
    return orjson.dumps({"message_type": "task", "timestamp": task.timestamp_ms, "task": body})


def encode_older_task(task: TaskArrival) -> bytes:
    """Encode a message of `tasks`."""
    return orjson.dumps(_task_fields(task))


def encode_parts(timestamp_ms: int, rows: FragmentRows) -> bytes:
    """Encode fragments that ended by `timestamp_ms`, ms since the epoch."""
    columns = {
        "id": rows.ids,
        "first_fragment": rows.place.tolist(),
        "duration": rows.duration_ms.tolist(),
        "cpu_usage": rows.cpu_mhz.tolist(),
        **({} if rows.gpu_mhz is None else {"gpu_usage": rows.gpu_mhz.tolist()}),
        "complete": rows.last.tolist(),
    }
    return orjson.dumps({"message_type": "parts", "timestamp": timestamp_ms, "parts": columns})


def encode_fragments(rows: FragmentRows) -> bytes:
    """Encode a batch of `fragments`, as columns."""
    columns = {
        "id": rows.ids,
        "submission_time": rows.place.tolist(),
        "duration": rows.duration_ms.tolist(),
        "cpu_usage": rows.cpu_mhz.tolist(),
        **({} if rows.gpu_mhz is None else {"gpu_usage": rows.gpu_mhz.tolist()}),
    }
    return orjson.dumps(columns)


def _task_fields(task: TaskArrival) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": task.id,
        "submission_time": task.submission_ms,
        "duration": None if task.duration_ms < 0 else task.duration_ms,
        "cpu_count": task.cpu_count,
        "cpu_capacity": task.cpu_capacity_mhz,
        "mem_capacity": task.memory_mib,
    }
    if task.gpu_count or task.gpu_capacity_mhz or task.gpu_memory_mib:
        fields |= {
            "gpu_count": task.gpu_count,
            "gpu_capacity": task.gpu_capacity_mhz,
            "gpu_mem": task.gpu_memory_mib,
        }
    if task.deadline_ms >= 0:
        fields["deadline"] = task.deadline_ms
    if task.parents:
        fields["parents"] = list(task.parents)
    return fields

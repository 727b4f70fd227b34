"""Pods as they are seen: objects of an API server as `PodState`, and those of plans as observations.

Kubernetes says times in whole seconds; a worker's own report, in its termination message, says them in ms, and its CPU
seconds and memory peak exactly. It is believed where it is there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, cast, get_args

import orjson

from opendt.kubernetes.labels import gpu_count
from opendt.kubernetes.quantities import mib_up, millicores_up, parse_quantity
from opendt.model.fleet import PodPhase, PodRole, PodState
from opendt.model.job import ExecFormat
from opendt.model.plan import StageObservation

__all__ = [
    "EXEC_FORMAT",
    "GPU_COUNT",
    "GPU_MILLIS",
    "JOB",
    "ORIGIN",
    "PLAN_ID",
    "ROLE",
    "STAGE",
    "WRITTEN_MS",
    "decode_pod",
    "milliseconds",
    "pod_key",
    "stage_observation",
    "worker_problem",
]

PLAN_ID: Final = "opendt.io/plan-id"
JOB: Final = "opendt.io/job"
STAGE: Final = "opendt.io/stage"
EXEC_FORMAT: Final = "opendt.io/exec-format"
ROLE: Final = "opendt.io/role"
ORIGIN: Final = "opendt.io/origin-cluster"
GPU_COUNT: Final = "opendt.io/gpu"
GPU_MILLIS: Final = "opendt.io/gpu-millis"
WRITTEN_MS: Final = "opendt.io/written-ms"

_OURS: Final = frozenset((PLAN_ID, JOB, STAGE, EXEC_FORMAT, ROLE, ORIGIN))
_FORMATS: Final = frozenset(get_args(ExecFormat))
_PHASES: Final = frozenset(get_args(PodPhase))
_NOTHING: Final[Mapping[str, str]] = {}
_ENDED: Final = ("Succeeded", "Failed")


def pod_key(thing: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of an object."""
    metadata = thing["metadata"]
    return metadata["namespace"], metadata["name"]


@lru_cache(maxsize=4096)
def milliseconds(text: str) -> int:
    """Read a time such as ``2026-11-22T10:00:00Z``, as ms since the epoch.

    Examples
    --------
    >>> milliseconds("1970-01-01T00:00:01.250Z")
    1250
    """
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def decode_pod(cluster: str, thing: Mapping[str, Any]) -> PodState:
    """Make a pod of its object; labels that are fields are not kept twice.

    Raises
    ------
    KeyError, TypeError, ValueError
        When it is no pod, or its requests are no quantities.
    """
    metadata, spec, status = thing["metadata"], thing["spec"], thing.get("status") or {}
    labels: Mapping[str, str] = metadata.get("labels") or _NOTHING
    annotations: Mapping[str, str] = metadata.get("annotations") or _NOTHING
    asked = _requests(spec)
    container = _main_container(spec, status)
    phase = status.get("phase", "Pending")
    started_ms, finished_ms, exit_code, why = _run(phase, status, container)
    report = _report(container)
    exec_format = labels.get(EXEC_FORMAT, "native")
    return PodState(
        cluster=cluster,
        namespace=sys.intern(metadata["namespace"]),
        name=metadata["name"],
        uid=metadata["uid"],
        node=sys.intern(spec.get("nodeName", "")),
        phase=cast(PodPhase, phase) if phase in _PHASES else "Unknown",
        cpu_millicores=millicores_up(asked.get("cpu", "0")),
        memory_mib=mib_up(asked.get("memory", "0")),
        gpu=_whole(annotations.get(GPU_COUNT), gpu_count(asked)),
        gpu_millis=_whole(annotations.get(GPU_MILLIS), 1000),
        created_ms=milliseconds(metadata["creationTimestamp"]),
        scheduled_ms=_condition_ms(status, "PodScheduled"),
        started_ms=int(report.get("started_ms", started_ms)),
        finished_ms=int(report.get("finished_ms", finished_ms)),
        container_finished_ms=finished_ms,
        cpu_seconds=report.get("cpu_seconds"),
        memory_peak_mib=report.get("memory_peak_mib"),
        exit_code=exit_code,
        reason=why,
        is_deleting="deletionTimestamp" in metadata,
        plan_id=labels.get(PLAN_ID, ""),
        job_id=labels.get(JOB, ""),
        stage_id=labels.get(STAGE, ""),
        exec_format=sys.intern(exec_format) if exec_format in _FORMATS else "native",
        role=_role(labels.get(ROLE)),
        origin_cluster=sys.intern(labels.get(ORIGIN, "")),
        labels={sys.intern(key): sys.intern(value) for key, value in labels.items() if key not in _OURS} or _NOTHING,
        owner=_owner(metadata),
        stamp_ms=_whole(annotations.get(WRITTEN_MS), -1),
        resource_version=metadata["resourceVersion"],
    )


def worker_problem(thing: Mapping[str, Any]) -> str:
    """Say what is wrong with the report of a pod's worker; empty when nothing is, or when it is no pod of ours."""
    if PLAN_ID not in (thing["metadata"].get("labels") or _NOTHING):
        return ""
    container = _main_container(thing["spec"], thing.get("status") or {})
    text = _terminated(container).get("message", "")
    if not text or _report(container):
        return ""
    shown = text if len(text) <= 80 else f"{text[:79]}…"
    return f"termination message: found {shown!r}, expected JSON with started_ms, finished_ms, cpu_seconds, memory_peak_mib"


def stage_observation(pod: PodState, *, is_gone: bool = False) -> StageObservation:
    """Say what happened to a stage.

    Parameters
    ----------
    pod : PodState
        Its pod as last seen.
    is_gone : bool
        Whether it is no more; one that had not ended by then is lost.
    """
    phases: dict[str, Any] = {"Running": "running", "Succeeded": "succeeded", "Failed": "failed"}
    phase = phases.get(pod.phase, "pending")
    reason = pod.reason
    if is_gone and pod.phase not in _ENDED:
        phase, reason = "lost", reason or "the pod was deleted before it ended"
    return StageObservation(
        stage_id=pod.stage_id,
        node_name=pod.node,
        cluster=pod.cluster,
        exec_format=cast(ExecFormat, pod.exec_format),
        phase=phase,
        created_ms=_known(pod.created_ms),
        scheduled_ms=_known(pod.scheduled_ms),
        started_ms=_known(pod.started_ms),
        finished_ms=_known(pod.finished_ms),
        container_finished_ms=_known(pod.container_finished_ms),
        cpu_seconds=pod.cpu_seconds,
        memory_peak_mib=pod.memory_peak_mib,
        reason=reason,
    )


def _known(time_ms: int) -> int | None:
    return None if time_ms < 0 else time_ms


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else default


def _role(label: str | None) -> PodRole:
    return cast(PodRole, label) if label in ("replica", "shadow") else "stage"


def _owner(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or ()
    chosen = next((owner for owner in owners if owner.get("controller")), None)
    return "" if chosen is None else sys.intern(f"{chosen['kind']}/{chosen['name']}")


def _condition_ms(status: Mapping[str, Any], kind: str) -> int:
    for condition in status.get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True":
            return milliseconds(condition["lastTransitionTime"]) if condition.get("lastTransitionTime") else -1
    return -1


def _main_container(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the first container of the specification, which is the worker in pods of ours."""
    statuses: Sequence[Mapping[str, Any]] = status.get("containerStatuses") or ()
    if len(statuses) > 1:
        first = spec["containers"][0]["name"]
        return next((each for each in statuses if each["name"] == first), statuses[0])
    return statuses[0] if statuses else {}


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("state") or {}).get("terminated") or {}


def _run(phase: str, status: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[int, int, int | None, str]:
    """Start, finish, exit code and reason as Kubernetes says them."""
    state = container.get("state") or {}
    ended = state.get("terminated") or {}
    began = (ended or state.get("running") or {}).get("startedAt")
    finished = ended.get("finishedAt") if phase in _ENDED else None
    waiting = (state.get("waiting") or {}).get("reason", "")
    why = status.get("reason") or ended.get("reason") or waiting or _unschedulable(status)
    return (
        milliseconds(began) if began else -1,
        milliseconds(finished) if finished else -1,
        ended.get("exitCode"),
        why,
    )


def _unschedulable(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("reason", ""))
    return ""


_REPORTED: Final = ("started_ms", "finished_ms", "cpu_seconds", "memory_peak_mib")


def _report(container: Mapping[str, Any]) -> Mapping[str, float]:
    """What the worker said at its end, as far as it makes sense."""
    text = _terminated(container).get("message", "")
    if not text.startswith("{"):
        return {}
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return {
        key: said[key]
        for key in _REPORTED
        if isinstance(said.get(key), int | float) and not isinstance(said[key], bool) and said[key] >= 0
    }


def _requests(spec: Mapping[str, Any]) -> Mapping[str, str]:
    """What a pod asks of its node, as the scheduler counts it.

    The sum over containers and sidecars, or what the largest of the other init containers needs beside the sidecars started
    before it, whichever is more; plus the overhead of its runtime class; what is asked for the pod as a whole comes first.
    """
    containers = spec["containers"]
    if len(containers) == 1 and not spec.get("initContainers") and not spec.get("overhead") and "resources" not in spec:
        requests: Mapping[str, str] = (containers[0].get("resources") or {}).get("requests") or _NOTHING
        return requests
    return _summed_requests(spec)


def _summed_requests(spec: Mapping[str, Any]) -> Mapping[str, str]:
    def of(container: Mapping[str, Any]) -> dict[str, Any]:
        requests = (container.get("resources") or {}).get("requests") or {}
        return {name: parse_quantity(str(value)) for name, value in requests.items()}

    sidecars: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    for container in spec.get("initContainers") or ():
        asked = of(container)
        if container.get("restartPolicy") == "Always":
            sidecars = _added(sidecars, asked)
            asked = sidecars
        else:
            asked = _added(sidecars, asked)
        largest = {name: max(largest.get(name, 0), asked.get(name, 0)) for name in {*largest, *asked}}
    total = sidecars
    for container in spec["containers"]:
        total = _added(total, of(container))
    total = {name: max(total.get(name, 0), largest.get(name, 0)) for name in {*total, *largest}}
    total |= of(spec)
    overhead = {name: parse_quantity(str(value)) for name, value in (spec.get("overhead") or {}).items()}
    return {name: _text(value) for name, value in _added(total, overhead).items()}


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}


def _text(value: Any) -> str:
    """Write an exact number so that it is read again: whole, or in billionths, which is as fine as quantities get."""
    return str(value.numerator) if value.denominator == 1 else f"{-(-value.numerator * 10**9 // value.denominator)}n"

"""When will it start? Quantiles for what waits for room on a node.

What waits starts when enough of what runs has ended. Pods of accepted plans end when these were predicted to, with the spread that
was learned; of other pods only their age is known: that a pod which has run for a while a lasts at least r longer has the
probability a / (a + r), whatever it does (Gott, Nature 363, 1993). That is as wide as it is honest: half of such pods last as long
again. Who waits in front (bound or reserved earlier) takes room first. On top comes the start-up delay of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.model.fleet import PodState
    from opendt.twin.fleet_view import NodeKey, NodeLoad
    from opendt.twin.predict import PredictiveSimulator

__all__ = ["StartQuantiles", "start_of_pod", "start_of_request"]

_LEVELS: Final = (0.05, 0.5, 0.95)
_DRAWS: Final = 400
_LEAST_AGE_MS: Final = 1000.0
_LONGEST_MS: Final = 10 * 24 * 3.6e6
_RUNNING: Final = frozenset({"Running", "Unknown"})


@dataclass(frozen=True, slots=True)
class StartQuantiles:
    """When something that waits will start: level -> ms since the epoch, UTC, and what it waits for."""

    quantiles_ms: dict[float, int]
    reason: str


def start_of_pod(
    predictor: PredictiveSimulator, key: tuple[str, str, str], levels: Sequence[float] = _LEVELS
) -> StartQuantiles | None:
    """Say when a pod will start.

    Parameters
    ----------
    predictor : PredictiveSimulator
        The fleet, and what was learned.
    key : tuple of str
        Cluster, namespace and name.
    levels : sequence of float
        Which quantiles.

    Returns
    -------
    StartQuantiles or None
        None when it runs or has ended, or can never start where it may go.

    Raises
    ------
    ModelError
        When there is no such pod.
    """
    pod = predictor.view.snapshot.pods.get(key)
    if pod is None:
        raise ModelError("pod", "/".join(key), "a pod of the fleet as last seen")
    if pod.phase != "Pending":
        return None
    loads = predictor.view.loads
    nodes = [(pod.cluster, pod.node)] if pod.node else [node for node in loads if node[0] == pod.cluster]
    return start_of_request(
        predictor, nodes, pod.cpu_millicores, pod.memory_mib, pod.exec_format, waiting=pod, levels=levels
    )


def start_of_request(
    predictor: PredictiveSimulator,
    nodes: Iterable[NodeKey],
    cpu_millicores: int,
    memory_mib: int,
    exec_format: str = "native",
    *,
    waiting: PodState | None = None,
    levels: Sequence[float] = _LEVELS,
) -> StartQuantiles | None:
    """Say when a request would start on whichever of some nodes has room first; None when it fits none of them even empty.

    `waiting` is the pod that asks, where it is in the fleet already: those that came after it do not stand in front of it.
    """
    view = predictor.view
    rng = np.random.Generator(np.random.Philox(key=[len(view.loads), cpu_millicores]))
    first: NDArray[np.float64] | None = None
    startup_ms = 0.0
    for key in sorted(set(nodes)):
        load = view.loads.get(key)
        if load is None or not load.node.is_ready:
            continue
        if waiting is None and load.node.is_cordoned:
            continue
        room = _room_ms(predictor, load, (cpu_millicores, memory_mib), waiting, rng)
        if room is not None:
            start = predictor.calibration.startup(key[0], exec_format)
            startup_ms = start.ms(cpu_millicores, is_after_others=False)
            starts = room + startup_ms * np.exp(start.spread.total * rng.standard_normal(_DRAWS))
            first = starts if first is None else np.minimum(first, starts)
    if first is None:
        return None
    now_ms = view.snapshot.time_ms
    waits = float(np.median(first)) > 2.0 * startup_ms
    return StartQuantiles(
        {level: now_ms + int(np.quantile(first, level)) for level in levels},
        "waits for room on its node" if waits else "there is room; it is being started",
    )


def _room_ms(
    predictor: PredictiveSimulator,
    load: NodeLoad,
    asked: tuple[int, int],
    waiting: PodState | None,
    rng: np.random.Generator,
) -> NDArray[np.float64] | None:
    """When a node has room in each of many futures, ms from now; None when it never has."""
    node = load.node
    if asked[0] > node.cpu_millicores or asked[1] > node.memory_mib:
        return None
    running = [pod for pod in load.pods.values() if pod.phase in _RUNNING]
    ahead = [
        pod for pod in load.pods.values() if pod.phase not in _RUNNING and pod is not waiting and _before(pod, waiting)
    ]
    held_cpu = sum(hold.cpu_millicores for hold in load.holds.values())
    held_memory = sum(hold.memory_mib for hold in load.holds.values())
    need_cpu = asked[0] + sum(pod.cpu_millicores for pod in ahead) + held_cpu
    need_memory = asked[1] + sum(pod.memory_mib for pod in ahead) + held_memory
    free_cpu = node.cpu_millicores - sum(pod.cpu_millicores for pod in running)
    free_memory = node.memory_mib - sum(pod.memory_mib for pod in running)
    if free_cpu >= need_cpu and free_memory >= need_memory:
        return np.zeros(_DRAWS)
    if not running:
        return np.full(_DRAWS, _LONGEST_MS)  # others stand in front, of whom nobody knows how long they will be there
    left = np.stack([_left_ms(predictor, pod, rng) for pod in running])
    order = np.argsort(left, axis=0, kind="stable")
    cpu = free_cpu + np.cumsum(np.array([pod.cpu_millicores for pod in running])[order], axis=0)
    memory = free_memory + np.cumsum(np.array([pod.memory_mib for pod in running])[order], axis=0)
    enough = (cpu >= need_cpu) & (memory >= need_memory)
    ends = np.take_along_axis(left, order, axis=0)
    return np.where(enough.any(axis=0), ends[enough.argmax(axis=0), np.arange(_DRAWS)], _LONGEST_MS)


def _before(pod: PodState, waiting: PodState | None) -> bool:
    return waiting is None or (pod.created_ms, pod.name) < (waiting.created_ms, waiting.name)


def _left_ms(predictor: PredictiveSimulator, pod: PodState, rng: np.random.Generator) -> NDArray[np.float64]:
    """How long a pod still runs, in each future."""
    known = predictor.remaining_ms(pod)
    if known is not None:
        _, spread = predictor.calibration.stretch(pod.cluster)
        wide = hypot(spread.total, predictor.calibration.priors.cpu_spread)
        left: NDArray[np.float64] = known * np.exp(wide * rng.standard_normal(_DRAWS))
        return left
    begun_ms = pod.started_ms if pod.started_ms >= 0 else pod.scheduled_ms
    age_ms = max(predictor.view.snapshot.time_ms - begun_ms, _LEAST_AGE_MS) if begun_ms >= 0 else _LEAST_AGE_MS
    level = rng.random(_DRAWS)
    return np.minimum(age_ms * level / (1.0 - level), _LONGEST_MS)

"""kube-scheduler asks the twin: one extender for each cluster, scored by how well a node would run the pod.

A node's score for a pod is the CPU that the pod would get there, in cores of the reference CPU for each core it asks for::

    speed * min(1, (allocatable - in use) / request) * exp(-failure rate * 1 h)  -  a thousandth of how full it is

*speed* is its cores' clock against the fastest in the cluster, *in use* the greater of what its pods ask for and what the metrics say,
and the last term parts equals: the emptier one first. A node that is not ready, cordoned or has no room for its requests
cannot take it; taints and affinities are the scheduler's own to judge.
"""

from __future__ import annotations

import threading
from math import exp
from typing import TYPE_CHECKING, Final

import orjson

from opendt.kubernetes.extender import Extender, NodeScores
from opendt.model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.fleet import ClusterState, NodeState, PodState
    from opendt.orchestrator.fleet_ports import Planner
    from opendt.twin.fleet_view import NodeLoad
    from opendt.twin.state import FleetState

__all__ = ["FleetExtender", "node_scores"]

_AT_RISK_H: Final = 1.0
_FULL_WEIGHT: Final = 1e-3


class FleetExtender:
    """Answers the schedulers of all clusters; which one asks is told by the nodes that it names.

    Parameters
    ----------
    state : FleetState
        The fleet as last seen.
    planner : Planner
        Knows what each node holds, reservations included.
    """

    def __init__(self, state: FleetState, planner: Planner) -> None:
        self._state = state
        self._planner = planner
        self._lock = threading.Lock()
        self._extenders: dict[str, Extender] = {}

    def handle(self, verb: str, body: bytes) -> bytes:
        """Answer a request; see `opendt.kubernetes.extender.Extender.handle`.

        Raises
        ------
        InputError
            When the body is no such request.
        """
        return self._of(self._cluster(body)).handle(verb, body)

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            for extender in self._extenders.values():
                extender.close()
            self._extenders.clear()

    def _of(self, cluster: str) -> Extender:
        with self._lock:
            if cluster not in self._extenders:
                self._extenders[cluster] = Extender(cluster, self._score)
            return self._extenders[cluster]

    def _cluster(self, body: bytes) -> str:
        try:
            asked = orjson.loads(body)
            names = asked.get("NodeNames") or [one["metadata"]["name"] for one in (asked.get("Nodes") or {})["items"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError("body", str(error), "ExtenderArgs of kube-scheduler, with Pod and NodeNames") from error
        clusters = self._state.snapshot().clusters
        for name in names:
            for cluster in clusters:
                if self._state.node(cluster, name) is not None:
                    return cluster
        return ""

    def _score(self, pod: PodState, names: Sequence[str]) -> NodeScores:
        loads = self._planner.loads(pod.cluster, names)
        return node_scores(pod, names, loads, self._state.cluster(pod.cluster))


def node_scores(
    pod: PodState, names: Sequence[str], loads: dict[str, NodeLoad], cluster: ClusterState | None
) -> NodeScores:
    """Score nodes for a pod; see the head of this module.

    Parameters
    ----------
    pod : PodState
        What it asks for.
    names : sequence of str
        Nodes that are asked about.
    loads : dict of str to NodeLoad
        What each of them holds; nodes that are not in it are not known.
    cluster : ClusterState, optional
        Says how often nodes fail.
    """
    fastest_mhz = max((load.node.core_speed_mhz for load in loads.values()), default=1.0) or 1.0
    lasts = exp(-(0.0 if cluster is None else cluster.failure_rate_per_h) * _AT_RISK_H)
    scores: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in names:
        load = loads.get(name)
        reason = "the twin has not seen it yet" if load is None else _refusal(pod, load)
        if load is None or reason:
            reasons[name] = reason
            continue
        node = load.node
        free = node.cpu_millicores - _in_use(load)
        share = min(1.0, max(free, 0.0) / max(pod.cpu_millicores, 1))
        fullness = load.cpu_millicores / max(node.cpu_millicores, 1)
        scores[name] = node.core_speed_mhz / fastest_mhz * share * lasts - _FULL_WEIGHT * fullness
    return NodeScores(scores, reasons)


def _in_use(load: NodeLoad) -> float:
    usage = load.node.cpu_usage_millicores
    return max(load.cpu_millicores, 0.0 if usage is None else usage.value)


def _refusal(pod: PodState, load: NodeLoad) -> str:
    """Why a node cannot take a pod; empty when it can."""
    node: NodeState = load.node
    if not node.is_ready:
        return "it is not ready"
    if node.is_cordoned:
        return "it is cordoned"
    if load.count >= node.max_pods:
        return f"it has {load.count} pods, which is its most"
    if load.cpu_millicores + pod.cpu_millicores > node.cpu_millicores:
        return f"{node.cpu_millicores - load.cpu_millicores} millicores are free, {pod.cpu_millicores} are asked for"
    if load.memory_mib + pod.memory_mib > node.memory_mib:
        return f"{node.memory_mib - load.memory_mib} MiB are free, {pod.memory_mib} are asked for"
    if pod.gpu > node.gpu:
        return f"it has {node.gpu} GPUs, {pod.gpu} are asked for"
    return ""

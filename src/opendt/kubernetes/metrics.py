"""What nodes and pods use: from the Metrics API, from kubelets through the API server's proxy, from Prometheus.

Each reading carries the time at which it was measured, not at which it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opendt.kubernetes.client import ApiError, ClusterClient, path_of
from opendt.kubernetes.exposition import Sample, read_exposition
from opendt.kubernetes.pods import milliseconds
from opendt.kubernetes.quantities import parse_quantity
from opendt.model.fleet import Reading
from opendt.twin.state import Readings

__all__ = ["CounterRates", "Measured", "from_samples", "read_metrics_api", "read_node", "read_prometheus"]

_MIB: Final = 2**20
_METRICS: Final = "/apis/metrics.k8s.io/v1beta1"

_POD_CPU: Final = "pod_cpu_usage_seconds_total"
_POD_MEMORY: Final = "pod_memory_working_set_bytes"
_NODE_CPU: Final = "node_cpu_usage_seconds_total"
_NODE_MEMORY: Final = "node_memory_working_set_bytes"
_CONTAINER_CPU: Final = "container_cpu_usage_seconds_total"
_CONTAINER_MEMORY: Final = "container_memory_working_set_bytes"
_POD_JOULES: Final = ("kepler_container_joules_total", "kepler_pod_cpu_joules_total", "kepler_pod_joules_total")
"""Kepler up to 0.9 counts containers, by mode; from 0.10 on it counts pods."""
_NODE_JOULES: Final = ("kepler_node_platform_joules_total", "kepler_node_cpu_joules_total")
NAMES: Final = frozenset(
    (_POD_CPU, _POD_MEMORY, _NODE_CPU, _NODE_MEMORY, _CONTAINER_CPU, _CONTAINER_MEMORY, *_POD_JOULES, *_NODE_JOULES)
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Readings by node, and by pod as (namespace, name)."""

    nodes: dict[str, Readings] = field(default_factory=dict)
    pods: dict[tuple[str, str], Readings] = field(default_factory=dict)

    def add(self, other: Measured) -> None:
        """Take readings over; of what both have, the other's are kept where they say something."""
        for name, readings in other.nodes.items():
            self.nodes[name] = _both(self.nodes.get(name), readings)
        for key, readings in other.pods.items():
            self.pods[key] = _both(self.pods.get(key), readings)


class CounterRates:
    """Turns counters of seconds into use in millicores: the difference to the reading before, over the time between."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}
        self._newest_ms = 0

    def forget(self, older_ms: int = 600_000) -> None:
        """Drop counters that were not seen for so long before the newest, whose pods are no more."""
        self._last = {key: last for key, last in self._last.items() if last[0] >= self._newest_ms - older_ms}

    def millicores(self, key: str, time_ms: int, seconds: float) -> float | None:
        """Give the use since the last call for this key; None for the first, or where a counter began anew.

        Examples
        --------
        >>> rates = CounterRates()
        >>> rates.millicores("n", 1000, 10.0), rates.millicores("n", 3000, 11.0), rates.millicores("n", 4000, 0.0)
        (None, 500.0, None)
        """
        before = self._last.get(key)
        if before is not None and time_ms <= before[0]:
            return None
        self._last[key] = (time_ms, seconds)
        self._newest_ms = max(self._newest_ms, time_ms)
        if before is None or seconds < before[1]:
            return None
        return (seconds - before[1]) / (time_ms - before[0]) * 1e6


def read_metrics_api(client: ClusterClient, *, deadline_s: float) -> Measured:
    """Read all nodes and pods from the Metrics API.

    Raises
    ------
    ApiError
        404 where no metrics-server is registered, 503 where it is away.
    ClusterAwayError
        When the cluster is.
    """
    measured = Measured()
    for item in client.get(f"{_METRICS}/nodes", read_s=deadline_s)["items"]:
        measured.nodes[item["metadata"]["name"]] = _usage(item, [item["usage"]])
    for item in client.get(f"{_METRICS}/pods", read_s=deadline_s)["items"]:
        key = (item["metadata"]["namespace"], item["metadata"]["name"])
        measured.pods[key] = _usage(item, [each["usage"] for each in item["containers"]])
    return measured


def read_node(
    client: ClusterClient, node: str, path: str, rates: CounterRates, *, now_ms: int, deadline_s: float
) -> Measured:
    """Read one path of one node through the API server's proxy: ``/metrics/resource``, ``/metrics/cadvisor``.

    Parameters
    ----------
    path : str
        ``{node}`` in it stands for the node's name.
    rates : CounterRates
        What this cluster's counters said before.
    now_ms : int
        Time of lines that do not say one.

    Raises
    ------
    ApiError, ClusterAwayError
        When the node or the cluster does not answer.
    """
    text = client.get(path_of("api", "v1", "nodes", node, "proxy") + path.replace("{node}", node), read_s=deadline_s)
    return from_samples(read_exposition(str(text), NAMES), rates, node=node, now_ms=now_ms)


def read_prometheus(client: ClusterClient, path: str, *, deadline_s: float) -> Measured:
    """Ask a Prometheus behind the API server's proxy for Kepler's counters.

    Parameters
    ----------
    path : str
        Of the service, such as ``/api/v1/namespaces/monitoring/services/prometheus:9090/proxy``.

    Raises
    ------
    ApiError, ClusterAwayError
        When it does not answer.
    """
    wanted = "|".join((*_POD_JOULES, *_NODE_JOULES))
    query = {"query": '{__name__=~"' + wanted + '"}'}
    answer = client.get(f"{path}/api/v1/query", query, read_s=deadline_s)
    if answer.get("status") != "success":
        raise ApiError(f"{path}", 200, str(answer.get("errorType")), str(answer.get("error")))
    return from_samples(_vector(answer["data"]["result"]), CounterRates(), node="", now_ms=0)


def from_samples(samples: Iterable[Sample], rates: CounterRates, *, node: str, now_ms: int) -> Measured:
    """Sort samples by pod and node, whichever of the sources they are from.

    Parameters
    ----------
    node : str
        The node that was asked; empty where samples name theirs (`node_name`, `instance`).
    """
    tally = _Tally(node, now_ms)
    for sample in samples:
        tally.take(sample)
    return tally.measured(rates)


class _Tally:
    """Sums of samples; a pod's own counters come before the sums of its containers'."""

    def __init__(self, node: str, now_ms: int) -> None:
        self._node = node
        self._now_ms = now_ms
        self._pods: dict[str, dict[tuple[str, str], tuple[float, int]]] = {}
        self._nodes: dict[str, dict[str, tuple[float, int]]] = {}

    def take(self, sample: Sample) -> None:
        """Count one sample."""
        time_ms = self._now_ms if sample.time_ms is None else sample.time_ms
        labels = sample.labels
        if sample.name.startswith("node_") or sample.name in _NODE_JOULES:
            name = self._node or labels.get("node_name") or labels.get("instance", "").partition(":")[0]
            per_node = self._nodes.setdefault(sample.name, {})
            before = per_node.get(name, (0.0, 0))
            per_node[name] = (before[0] + sample.value, time_ms)
            return
        key = (
            labels.get("namespace") or labels.get("container_namespace") or labels.get("pod_namespace", ""),
            labels.get("pod") or labels.get("pod_name", ""),
        )
        name = sample.name
        if name in (_CONTAINER_CPU, _CONTAINER_MEMORY):
            container = labels.get("container", "")
            if container == "POD":
                return
            # cAdvisor: a line without a container is the pod's control group as a whole.
            name = name if container else f"{name} of pod"
        if all(key):
            per_pod = self._pods.setdefault(name, {})
            before = per_pod.get(key, (0.0, 0))
            per_pod[key] = (before[0] + sample.value, time_ms)

    def measured(self, rates: CounterRates) -> Measured:
        """What it comes to."""
        measured = Measured()
        for name in {name for values in self._nodes.values() for name in values}:
            cpu, memory = self._of_node(_NODE_CPU, name), self._of_node(_NODE_MEMORY, name)
            used = None if cpu is None else rates.millicores(name, cpu[1], cpu[0])
            measured.nodes[name] = Readings(
                cpu_usage_millicores=None if used is None or cpu is None else Reading(used, cpu[1]),
                memory_usage_mib=None if memory is None else Reading(memory[0] / _MIB, memory[1]),
                energy_j=_reading(next(filter(None, (self._of_node(each, name) for each in _NODE_JOULES)), None)),
            )
        for key in {key for values in self._pods.values() for key in values}:
            measured.pods[key] = self._pod(key, rates)
        return measured

    def _pod(self, key: tuple[str, str], rates: CounterRates) -> Readings:
        cpu = self._first(key, _POD_CPU, f"{_CONTAINER_CPU} of pod", _CONTAINER_CPU)
        memory = self._first(key, _POD_MEMORY, f"{_CONTAINER_MEMORY} of pod", _CONTAINER_MEMORY)
        used = None if cpu is None else rates.millicores("/".join(key), cpu[1], cpu[0])
        return Readings(
            cpu_usage_millicores=None if used is None or cpu is None else Reading(used, cpu[1]),
            memory_usage_mib=None if memory is None else Reading(memory[0] / _MIB, memory[1]),
            energy_j=_reading(self._first(key, *_POD_JOULES)),
            cpu_seconds=None if cpu is None else cpu[0],
        )

    def _first(self, key: tuple[str, str], *names: str) -> tuple[float, int] | None:
        return next((found for name in names if (found := self._pods.get(name, {}).get(key)) is not None), None)

    def _of_node(self, sample: str, name: str) -> tuple[float, int] | None:
        return self._nodes.get(sample, {}).get(name)


def _reading(found: tuple[float, int] | None) -> Reading | None:
    return None if found is None else Reading(*found)


def _usage(item: Mapping[str, Any], used: Iterable[Mapping[str, str]]) -> Readings:
    time_ms = milliseconds(item["timestamp"])
    parts = list(used)
    cpu = sum(parse_quantity(part["cpu"]) for part in parts)
    memory = sum(parse_quantity(part["memory"]) for part in parts)
    return Readings(
        cpu_usage_millicores=Reading(float(cpu * 1000), time_ms),
        memory_usage_mib=Reading(float(memory / _MIB), time_ms),
    )


def _vector(results: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
    for result in results:
        labels = dict(result["metric"])
        seconds, value = result["value"]
        number = float(value)
        if not math.isnan(number):
            yield Sample(labels.pop("__name__"), labels, number, round(seconds * 1000))


def _both(one: Readings | None, other: Readings) -> Readings:
    if one is None:
        return other
    return replace(
        one,
        cpu_usage_millicores=other.cpu_usage_millicores or one.cpu_usage_millicores,
        memory_usage_mib=other.memory_usage_mib or one.memory_usage_mib,
        energy_j=other.energy_j or one.energy_j,
        cpu_seconds=one.cpu_seconds if other.cpu_seconds is None else other.cpu_seconds,
    )

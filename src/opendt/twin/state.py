"""The fleet as last seen: one writer at a time, readers that never wait.

The writer changes copies and then publishes them by setting one reference, so a reader takes that reference and has a whole,
unchanging state. Nodes and pods lie in one dictionary a cluster, and a batch copies only those that it changes: 0.03 ms for
3,000 pods. The one dictionary of a snapshot is put together when somebody first asks for it, by the reader who asks.

Whoever keeps an index of their own asks `FleetState.changes_since` and looks at what changed, not at 20,000 pods.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from opendt.model.fleet import ClusterState, FleetSnapshot, LatencyMatrix, NodeState, PodState, Reading

__all__ = ["FleetChanges", "FleetState", "FleetUpdate", "Readings"]

NodeKey = tuple[str, str]
PodKey = tuple[str, str, str]
Key = TypeVar("Key")
Thing = TypeVar("Thing")
_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Readings:
    """What metrics and meters say of a node or a pod; None leaves what is known as it is."""

    cpu_usage_millicores: Reading | None = None
    memory_usage_mib: Reading | None = None
    energy_j: Reading | None = None
    cpu_seconds: float | None = None
    """CPU time of a pod so far; what its worker reported itself is kept."""


@dataclass(frozen=True, slots=True)
class FleetUpdate:
    """What was seen of one cluster at one moment.

    Parameters
    ----------
    cluster : str
        Its name.
    nodes, pods : tuple
        New or changed. Readings that they do not carry are taken over from what was known.
    gone_nodes : tuple of str
        Names of nodes that are no more.
    gone_pods : tuple of (str, str)
        Namespace and name of pods that are no more.
    has_all_nodes, has_all_pods : bool
        Whether `nodes` or `pods` is all there is, so that what is missing in it is no more.
    node_readings : mapping of str to Readings
        By name; of nodes that are not known it is dropped.
    pod_readings : mapping of (str, str) to Readings
        By namespace and name; of pods that are not known it is dropped.
    state : ClusterState, optional
        How the cluster itself is.
    """

    cluster: str
    nodes: tuple[NodeState, ...] = ()
    gone_nodes: tuple[str, ...] = ()
    has_all_nodes: bool = False
    pods: tuple[PodState, ...] = ()
    gone_pods: tuple[tuple[str, str], ...] = ()
    has_all_pods: bool = False
    node_readings: Mapping[str, Readings] = field(default_factory=dict)
    pod_readings: Mapping[tuple[str, str], Readings] = field(default_factory=dict)
    state: ClusterState | None = None


@dataclass(frozen=True, slots=True)
class FleetChanges:
    """What changed between two versions, in order: pairs of before and after, None where it was not or is no more.

    Where `is_complete` is false the past is forgotten: take `FleetState.snapshot` and begin anew. A snapshot taken after these
    changes may be newer than they are; take the changes since *its* version then.
    """

    version: int
    is_complete: bool
    nodes: tuple[tuple[NodeState | None, NodeState | None], ...] = ()
    pods: tuple[tuple[PodState | None, PodState | None], ...] = ()
    clusters: tuple[tuple[ClusterState | None, ClusterState | None], ...] = ()


class _Sharded(Generic[Key, Thing]):
    """One dictionary a cluster, none of which is ever changed; the whole is put together when it is first asked for."""

    __slots__ = ("_whole", "by_cluster")

    def __init__(self, by_cluster: Mapping[str, dict[Key, Thing]]) -> None:
        self.by_cluster = by_cluster
        self._whole: Mapping[Key, Thing] | None = None

    def whole(self) -> Mapping[Key, Thing]:
        """Everything; two readers that ask at once both make it, and either result is right."""
        if self._whole is None:
            merged: dict[Key, Thing] = {}
            for part in self.by_cluster.values():
                merged.update(part)
            self._whole = MappingProxyType(merged)
        return self._whole


@dataclass(frozen=True, slots=True)
class _Published:
    """All that readers see, behind the one reference that the writer sets."""

    version: int
    time_ms: int
    clusters: Mapping[str, ClusterState]
    nodes: _Sharded[NodeKey, NodeState]
    pods: _Sharded[PodKey, PodState]
    latency: LatencyMatrix
    job_origins: Mapping[str, str]


class FleetState:
    """Clusters, nodes, pods, links and origins of jobs, in versions.

    Parameters
    ----------
    latency : LatencyMatrix, optional
        What lies between the clusters.
    clock_ms : callable, optional
        Wall clock, ms since the epoch.
    remembered : int
        How many changes `changes_since` can go back.
    """

    def __init__(
        self,
        latency: LatencyMatrix | None = None,
        *,
        clock_ms: Callable[[], int] | None = None,
        remembered: int = _REMEMBERED,
    ) -> None:
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._writing = threading.Lock()
        self._limit = remembered
        self._oldest = 1
        self._kept = 0
        # version -> what that version changed; whole entries come and go, so readers look into it without a lock.
        self._past: dict[int, FleetChanges] = {}
        self._published = _Published(
            version=0,
            time_ms=self._clock_ms(),
            clusters=MappingProxyType({}),
            nodes=_Sharded({}),
            pods=_Sharded({}),
            latency=latency or LatencyMatrix({}),
            job_origins=MappingProxyType({}),
        )

    @property
    def version(self) -> int:
        """Rises by 1 with every batch that changed something."""
        return self._published.version

    def snapshot(self) -> FleetSnapshot:
        """Give everything at one moment; never waits for the writer."""
        seen = self._published
        return FleetSnapshot(
            version=seen.version,
            time_ms=seen.time_ms,
            clusters=seen.clusters,
            nodes=seen.nodes.whole(),
            pods=seen.pods.whole(),
            latency=seen.latency,
            job_origins=seen.job_origins,
        )

    def node(self, cluster: str, name: str) -> NodeState | None:
        """Look one node up, without a snapshot."""
        return self._published.nodes.by_cluster.get(cluster, {}).get((cluster, name))

    def pod(self, cluster: str, namespace: str, name: str) -> PodState | None:
        """Look one pod up, without a snapshot."""
        return self._published.pods.by_cluster.get(cluster, {}).get((cluster, namespace, name))

    def pods_of(self, cluster: str) -> Mapping[PodKey, PodState]:
        """Give the pods of one cluster, without putting the whole together."""
        return MappingProxyType(self._published.pods.by_cluster.get(cluster, {}))

    @property
    def latency(self) -> LatencyMatrix:
        """What lies between the clusters, without a snapshot."""
        return self._published.latency

    def cluster(self, name: str) -> ClusterState | None:
        """Look one cluster up, without a snapshot."""
        return self._published.clusters.get(name)

    def changes_since(self, version: int) -> FleetChanges:
        """Give what changed after a version, up to now; never waits for the writer.

        Parameters
        ----------
        version : int
            That of a snapshot, or of the changes last taken.

        Raises
        ------
        ValueError
            When there was no such version yet.
        """
        last = self._published.version
        if version > last:
            raise ValueError(f"version: found {version}, expected at most {last}, which is the newest")
        steps = [self._past.get(number) for number in range(version + 1, last + 1)]
        known = [step for step in steps if step is not None]
        if len(known) < len(steps):
            return FleetChanges(last, is_complete=False)
        return FleetChanges(
            last,
            is_complete=True,
            nodes=tuple(pair for step in known for pair in step.nodes),
            pods=tuple(pair for step in known for pair in step.pods),
            clusters=tuple(pair for step in known for pair in step.clusters),
        )

    def apply(self, *updates: FleetUpdate) -> int:
        """Take a batch in, as one version.

        Any thread may call it; one at a time is let in. What repeats what is known changes nothing.

        Returns
        -------
        int
            The version afterwards.
        """
        with self._writing:
            batch = _Batch(self._published)
            for update in updates:
                batch.take(update)
            return self._publish(batch)

    def set_job_origins(self, origins: Mapping[str, str]) -> int:
        """Add where jobs come from: job to cluster."""
        with self._writing:
            batch = _Batch(self._published)
            batch.job_origins = MappingProxyType({**self._published.job_origins, **origins})
            return self._publish(batch)

    def forget_jobs(self, jobs: Iterable[str]) -> int:
        """Drop the origins of jobs that are over."""
        with self._writing:
            batch = _Batch(self._published)
            over = set(jobs)
            kept = {job: origin for job, origin in self._published.job_origins.items() if job not in over}
            batch.job_origins = MappingProxyType(kept)
            return self._publish(batch)

    def set_latency(self, latency: LatencyMatrix) -> int:
        """Replace what lies between the clusters."""
        with self._writing:
            batch = _Batch(self._published)
            batch.latency = latency
            return self._publish(batch)

    def _publish(self, batch: _Batch) -> int:
        if not batch.is_changed:
            return self._published.version
        version = self._published.version + 1
        changes = batch.changes(version)
        self._past[version] = changes
        self._kept += _size(changes)
        while self._kept > self._limit and self._oldest < version:
            self._kept -= _size(self._past.pop(self._oldest))
            self._oldest += 1
        self._published = batch.published(version, self._clock_ms())
        return version


class _Batch:
    """A version in the making: what it changes is copied when it is first touched, the rest is shared."""

    def __init__(self, before: _Published) -> None:
        self._before = before
        self.latency = before.latency
        self.job_origins = before.job_origins
        self._clusters: dict[str, ClusterState] = {}
        self._nodes: dict[str, dict[NodeKey, NodeState]] = {}
        self._pods: dict[str, dict[PodKey, PodState]] = {}
        self._node_changes: list[tuple[NodeState | None, NodeState | None]] = []
        self._pod_changes: list[tuple[PodState | None, PodState | None]] = []
        self._cluster_changes: list[tuple[ClusterState | None, ClusterState | None]] = []

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to publish."""
        return bool(
            self._node_changes
            or self._pod_changes
            or self._cluster_changes
            or self.latency is not self._before.latency
            or self.job_origins != self._before.job_origins
        )

    def take(self, update: FleetUpdate) -> None:
        """Take in what was seen of one cluster."""
        cluster = update.cluster
        for node in update.nodes:
            self._set_node(_with_known_readings(node, self._node((cluster, node.name))))
        for pod in update.pods:
            self._set_pod(_with_known_usage(pod, self._pod((cluster, pod.namespace, pod.name))))
        for name in update.gone_nodes:
            self._drop_node((cluster, name))
        for namespace, name in update.gone_pods:
            self._drop_pod((cluster, namespace, name))
        if update.has_all_nodes:
            here = {node.name for node in update.nodes}
            for key in [key for key in self._nodes_of(cluster) if key[1] not in here]:
                self._drop_node(key)
        if update.has_all_pods:
            there = {(pod.namespace, pod.name) for pod in update.pods}
            for pod_key in [key for key in self._pods_of(cluster) if key[1:] not in there]:
                self._drop_pod(pod_key)
        self._take_readings(update)
        if update.state is not None:
            self._set_cluster(update.state)

    def changes(self, version: int) -> FleetChanges:
        """What was changed so far."""
        return FleetChanges(
            version,
            is_complete=True,
            nodes=tuple(self._node_changes),
            pods=tuple(self._pod_changes),
            clusters=tuple(self._cluster_changes),
        )

    def published(self, version: int, time_ms: int) -> _Published:
        """Put it together for readers."""
        before = self._before
        return _Published(
            version=version,
            time_ms=time_ms,
            clusters=MappingProxyType({**before.clusters, **self._clusters}) if self._clusters else before.clusters,
            nodes=_Sharded({**before.nodes.by_cluster, **self._nodes}) if self._nodes else before.nodes,
            pods=_Sharded({**before.pods.by_cluster, **self._pods}) if self._pods else before.pods,
            latency=self.latency,
            job_origins=self.job_origins,
        )

    def _take_readings(self, update: FleetUpdate) -> None:
        for name, readings in update.node_readings.items():
            node = self._node((update.cluster, name))
            if node is not None:
                self._set_node(_node_with(node, readings))
        for (namespace, pod_name), readings in update.pod_readings.items():
            pod = self._pod((update.cluster, namespace, pod_name))
            if pod is not None:
                self._set_pod(_pod_with(pod, readings))

    def _nodes_of(self, cluster: str) -> Mapping[NodeKey, NodeState]:
        own = self._nodes.get(cluster)
        return self._before.nodes.by_cluster.get(cluster, {}) if own is None else own

    def _pods_of(self, cluster: str) -> Mapping[PodKey, PodState]:
        own = self._pods.get(cluster)
        return self._before.pods.by_cluster.get(cluster, {}) if own is None else own

    def _node(self, key: NodeKey) -> NodeState | None:
        return self._nodes_of(key[0]).get(key)

    def _pod(self, key: PodKey) -> PodState | None:
        return self._pods_of(key[0]).get(key)

    def _own_nodes(self, cluster: str) -> dict[NodeKey, NodeState]:
        if cluster not in self._nodes:
            self._nodes[cluster] = dict(self._before.nodes.by_cluster.get(cluster, {}))
        return self._nodes[cluster]

    def _own_pods(self, cluster: str) -> dict[PodKey, PodState]:
        if cluster not in self._pods:
            self._pods[cluster] = dict(self._before.pods.by_cluster.get(cluster, {}))
        return self._pods[cluster]

    def _set_node(self, node: NodeState) -> None:
        key = (node.cluster, node.name)
        known = self._node(key)
        if known != node:
            self._own_nodes(node.cluster)[key] = node
            self._node_changes.append((known, node))

    def _set_pod(self, pod: PodState) -> None:
        key = (pod.cluster, pod.namespace, pod.name)
        known = self._pod(key)
        if known != pod:
            self._own_pods(pod.cluster)[key] = pod
            self._pod_changes.append((known, pod))

    def _drop_node(self, key: NodeKey) -> None:
        known = self._node(key)
        if known is not None:
            del self._own_nodes(key[0])[key]
            self._node_changes.append((known, None))

    def _drop_pod(self, key: PodKey) -> None:
        known = self._pod(key)
        if known is not None:
            del self._own_pods(key[0])[key]
            self._pod_changes.append((known, None))

    def _set_cluster(self, state: ClusterState) -> None:
        known = self._clusters.get(state.name, self._before.clusters.get(state.name))
        if known != state:
            self._clusters[state.name] = state
            self._cluster_changes.append((known, state))


def _size(changes: FleetChanges) -> int:
    """What remembering it costs; an entry without nodes and pods still takes a place."""
    return 1 + len(changes.nodes) + len(changes.pods)


def _with_known_readings(node: NodeState, known: NodeState | None) -> NodeState:
    """Keep what metrics said of a node when its object changes, since the object does not carry it."""
    if known is None or (known.cpu_usage_millicores or known.memory_usage_mib or known.energy_j) is None:
        return node
    return replace(
        node,
        cpu_usage_millicores=node.cpu_usage_millicores or known.cpu_usage_millicores,
        memory_usage_mib=node.memory_usage_mib or known.memory_usage_mib,
        energy_j=node.energy_j or known.energy_j,
    )


def _with_known_usage(pod: PodState, known: PodState | None) -> PodState:
    """Keep what metrics said of a pod when its object changes; a pod of the same name but another uid begins anew."""
    if known is None or known.uid != pod.uid:
        return pod
    readings = known.cpu_usage_millicores or known.memory_usage_mib or known.energy_j
    if readings is None and known.cpu_seconds is None:
        return pod
    return replace(
        pod,
        cpu_usage_millicores=pod.cpu_usage_millicores or known.cpu_usage_millicores,
        memory_usage_mib=pod.memory_usage_mib or known.memory_usage_mib,
        energy_j=pod.energy_j or known.energy_j,
        cpu_seconds=known.cpu_seconds if pod.cpu_seconds is None else pod.cpu_seconds,
        memory_peak_mib=known.memory_peak_mib if pod.memory_peak_mib is None else pod.memory_peak_mib,
    )


def _node_with(node: NodeState, readings: Readings) -> NodeState:
    return replace(
        node,
        cpu_usage_millicores=_newer(node.cpu_usage_millicores, readings.cpu_usage_millicores),
        memory_usage_mib=_newer(node.memory_usage_mib, readings.memory_usage_mib),
        energy_j=_newer(node.energy_j, readings.energy_j),
    )


def _pod_with(pod: PodState, readings: Readings) -> PodState:
    """Add readings; the memory's peak and the CPU seconds of a pod that has ended stay what its worker said."""
    memory = _newer(pod.memory_usage_mib, readings.memory_usage_mib)
    cpu_seconds, memory_peak_mib = pod.cpu_seconds, pod.memory_peak_mib
    if pod.finished_ms < 0:
        if memory is not None:
            memory_peak_mib = max(memory.value, memory_peak_mib or 0.0)
        if readings.cpu_seconds is not None:
            cpu_seconds = max(readings.cpu_seconds, cpu_seconds or 0.0)
    return replace(
        pod,
        cpu_usage_millicores=_newer(pod.cpu_usage_millicores, readings.cpu_usage_millicores),
        memory_usage_mib=memory,
        energy_j=_newer(pod.energy_j, readings.energy_j),
        cpu_seconds=cpu_seconds,
        memory_peak_mib=memory_peak_mib,
    )


def _newer(known: Reading | None, found: Reading | None) -> Reading | None:
    if known is None or found is None:
        return known if found is None else found
    return found if found.time_ms >= known.time_ms else known

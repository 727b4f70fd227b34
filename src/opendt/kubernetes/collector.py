"""Senses a fleet: follows nodes and pods of all clusters, reads what they use, and keeps `FleetState` in step with it.

Each cluster has its own threads: one follows nodes, one pods, one reads metrics; none waits for another cluster. They hand
what they decoded to the one thread that writes, which takes all that has come by then as one version: under load batches
grow by themselves, and an idle fleet is told of at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opendt.kubernetes.client import ApiError, ClusterAwayError
from opendt.kubernetes.labels import ClusterLabels, NodeDefaults, cluster_labels, decode_node
from opendt.kubernetes.metrics import CounterRates, Measured, read_metrics_api, read_node, read_prometheus
from opendt.kubernetes.pods import decode_pod, pod_key, stage_observation, worker_problem
from opendt.kubernetes.reflector import Change, Reflector, ReflectorSettings, Sink
from opendt.kubernetes.sense_events import SenseEvent, SenseEventKind
from opendt.model.fleet import NodeState, PodState
from opendt.model.plan import StageObservation
from opendt.twin.state import FleetChanges, FleetState, FleetUpdate

if TYPE_CHECKING:
    from opendt.kubernetes.cluster_manager import ClusterManager, ManagedCluster

__all__ = ["Collector", "MetricsSettings", "ObservePlan"]

_STOP: Final = None
ObservePlan = Callable[[PodState, StageObservation], None]
"""Takes the pod of a plan's stage and what happened to it; called from the writing thread, which it holds up. What it raises is told
of as ``listener_failed``."""
ChangesListener = Callable[[FleetChanges], None]


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where use is read.

    Parameters
    ----------
    interval_s : float
        Time between readings of one cluster.
    deadline_s : float
        What one question may take.
    has_metrics_api : bool
        Whether to ask ``metrics.k8s.io``; one that is not there is told of once and asked again.
    node_paths : tuple of str
        Paths of the kubelet to read through the API server's proxy, such as ``/metrics/resource`` and ``/metrics/cadvisor``;
        ``{node}`` stands for the node's name. Needs the right to proxy to nodes. Only nodes that run pods of plans are asked.
    prometheus_path : str
        Path of a Prometheus behind the API server's proxy that has Kepler's counters; empty for none.
    """

    interval_s: float = 5.0
    deadline_s: float = 4.0
    has_metrics_api: bool = True
    node_paths: tuple[str, ...] = ()
    prometheus_path: str = ""


class Collector:
    """Keeps a fleet's state in step with its clusters.

    Parameters
    ----------
    manager : ClusterManager
        The clusters; its `start` and `stop` are the caller's.
    state : FleetState
        What is written.
    metrics : MetricsSettings, optional
        Where use is read.
    reflector : ReflectorSettings, optional
        How nodes and pods are followed.
    node_defaults : mapping of str to NodeDefaults, optional
        Cluster -> what a node without labels is taken for.
    described : frozenset of str
        Clusters whose type and resiliency are known from elsewhere, so that labels of nodes do not change them.
    observe : callable, optional
        Told of each change in what happened to a stage of a plan.
    """

    def __init__(
        self,
        manager: ClusterManager,
        state: FleetState,
        *,
        metrics: MetricsSettings | None = None,
        reflector: ReflectorSettings | None = None,
        node_defaults: Mapping[str, NodeDefaults] | None = None,
        described: frozenset[str] = frozenset(),
        observe: ObservePlan | None = None,
    ) -> None:
        self._manager = manager
        self._state = state
        self._metrics = metrics or MetricsSettings()
        self._observe = observe
        self._updates: queue.SimpleQueue[FleetUpdate | threading.Event | None] = queue.SimpleQueue()
        self._followers = {
            cluster.name: _ClusterFollower(
                cluster,
                self._updates.put,
                self._tell,
                (node_defaults or {}).get(cluster.name),
                reflector,
                is_described=cluster.name in described,
            )
            for cluster in manager
        }
        self._rates: dict[tuple[str, str], CounterRates] = {}
        self._without_metrics: set[tuple[str, str]] = set()
        self._listeners: tuple[ChangesListener, ...] = ()
        self._seen = state.version
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._writer: threading.Thread | None = None
        manager.on_probe(self._probed)

    def subscribe(self, listener: ChangesListener) -> None:
        """Be told of changes right after they were published, in order, from the writing thread."""
        self._listeners = (*self._listeners, listener)

    def start(self) -> None:
        """Begin to follow all clusters, until `stop`; once."""
        if self._threads or self._stopping.is_set():
            raise RuntimeError("the fleet is followed already, or was: make another collector")
        self._writer = threading.Thread(target=self._write, name="fleet-writer", daemon=True)
        self._writer.start()
        for name, follower in self._followers.items():
            self._updates.put(FleetUpdate(name, state=self._manager[name].state))
            loops: dict[str, Callable[[], None]] = {
                "nodes": follower.nodes.run,
                "pods": follower.pods.run,
                "metrics": partial(self._poll, name),
            }
            self._threads += [
                threading.Thread(target=loop, name=f"{kind}-{name}", daemon=True) for kind, loop in loops.items()
            ]
        for thread in self._threads:
            thread.start()

    def wait_synced(self, timeout_s: float) -> bool:
        """Wait until nodes and pods of all clusters were listed once, and what was listed is published.

        False when that took longer, as it does while a cluster is away; the others are followed all the same.
        """
        until_s = time.monotonic() + timeout_s
        reflectors = [each for follower in self._followers.values() for each in (follower.nodes, follower.pods)]
        synced = [each.is_synced.wait(max(until_s - time.monotonic(), 0.0)) for each in reflectors]
        published = threading.Event()
        self._updates.put(published)
        return published.wait(max(until_s - time.monotonic(), 1.0)) and all(synced)

    def stop(self) -> None:
        """Stop following; what was taken in by then is published."""
        self._stopping.set()
        for follower in self._followers.values():
            follower.nodes.stop()
            follower.pods.stop()
        for thread in self._threads:
            thread.join()
        self._threads = []
        if self._writer is not None:
            self._updates.put(_STOP)
            self._writer.join()
            self._writer = None

    def lists(self) -> dict[str, int]:
        """How often nodes and pods of each cluster were listed: 2 until a watch expired."""
        return {name: each.nodes.lists + each.pods.lists for name, each in self._followers.items()}

    def read_metrics(self, name: str) -> Measured:
        """Read all that one cluster says of use now, and hand it to the writer; sources that are away are told of."""
        measured = Measured()
        now_ms = self._manager.clock_ms()
        client, settings = self._manager[name].client, self._metrics
        if settings.has_metrics_api:
            self._try(
                name, "metrics.k8s.io", lambda: measured.add(read_metrics_api(client, deadline_s=settings.deadline_s))
            )
        for path in settings.node_paths:
            rates = self._rates.setdefault((name, path), CounterRates())
            for node in self._nodes_with_plans(name):

                def read(node: str = node, path: str = path, rates: CounterRates = rates) -> None:
                    measured.add(read_node(client, node, path, rates, now_ms=now_ms, deadline_s=settings.deadline_s))

                self._try(name, f"node {node}: {path}", read)
            rates.forget()
        if settings.prometheus_path:
            self._try(
                name,
                "Prometheus",
                lambda: measured.add(read_prometheus(client, settings.prometheus_path, deadline_s=settings.deadline_s)),
            )
        if measured.nodes or measured.pods:
            self._updates.put(FleetUpdate(name, node_readings=measured.nodes, pod_readings=measured.pods))
        return measured

    # threads

    def _poll(self, name: str) -> None:
        while not self._stopping.is_set():
            if self._manager[name].is_reachable:
                self.read_metrics(name)
            self._stopping.wait(self._metrics.interval_s)

    def _write(self) -> None:
        """Publish all that has come as one version, again and again."""
        while True:
            batch = [self._updates.get()]
            while len(batch) < 10_000:
                try:
                    batch.append(self._updates.get_nowait())
                except queue.Empty:
                    break
            self.take(*(update for update in batch if isinstance(update, FleetUpdate)))
            for waiting in batch:
                if isinstance(waiting, threading.Event):
                    waiting.set()
            if _STOP in batch:
                return

    def take(self, *updates: FleetUpdate) -> None:
        """Publish updates as one version and tell who wants to know; for the writing thread, and for tests without one."""
        self._state.apply(*updates)
        if self._state.version != self._seen:
            changes = self._state.changes_since(self._seen)
            self._seen = changes.version
            for listener in (self._tell_stages, *self._listeners):
                try:
                    listener(changes)
                except Exception as error:  # noqa: BLE001 - whatever it raises, the fleet has to be followed
                    self._tell(
                        "listener_failed", "", "", f"{type(error).__name__}: {error}. It missed what changed then"
                    )

    def _tell_stages(self, changes: FleetChanges) -> None:
        if self._observe is None:
            return
        for before, after in changes.pods:
            pod = after or before
            if pod is None or not pod.plan_id:
                continue
            observed = stage_observation(pod, is_gone=after is None)
            is_same_pod = before is not None and before.uid == pod.uid
            if after is None or not is_same_pod or before is None or stage_observation(before) != observed:
                self._observe(pod, observed)

    def _probed(self, cluster: ManagedCluster, changed: bool) -> None:
        self._updates.put(FleetUpdate(cluster.name, state=cluster.state))
        if changed and not cluster.is_reachable:
            # A peer that vanished without a word leaves watches that wait forever.
            self._followers[cluster.name].nodes.interrupt()
            self._followers[cluster.name].pods.interrupt()

    def _nodes_with_plans(self, cluster: str) -> list[str]:
        pods = self._state.pods_of(cluster).values()
        return sorted({pod.node for pod in pods if pod.plan_id and pod.node and pod.phase == "Running"})

    def _try(self, cluster: str, source: str, read: Callable[[], None]) -> None:
        place = (cluster, source)
        try:
            read()
        except (ApiError, ClusterAwayError, KeyError, TypeError, ValueError) as error:
            if place not in self._without_metrics:
                self._without_metrics.add(place)
                why = (
                    str(error) if isinstance(error, ApiError | ClusterAwayError) else f"{type(error).__name__}: {error}"
                )
                self._tell("metrics_away", cluster, source, f"{why}. It is asked again; what it said before grows old")
            return
        if place in self._without_metrics:
            self._without_metrics.discard(place)
            self._tell("metrics_back", cluster, source, "it answers again")

    def _tell(self, kind: SenseEventKind, cluster: str, subject: str, message: str) -> None:
        self._manager.tell(SenseEvent(kind, cluster, subject, message, self._manager.clock_ms()))


TellKind = Callable[[SenseEventKind, str, str, str], None]


class _ClusterFollower:
    """Nodes and pods of one cluster as updates."""

    def __init__(
        self,
        cluster: ManagedCluster,
        put: Callable[[FleetUpdate], None],
        tell: TellKind,
        defaults: NodeDefaults | None,
        settings: ReflectorSettings | None,
        *,
        is_described: bool,
    ) -> None:
        self._cluster = cluster
        self._name = cluster.name
        self._put = put
        self._tell = tell
        self._defaults = defaults
        self._is_described = is_described
        self._problems: dict[str, tuple[str, ...]] = {}  # node -> what was told of its labels
        nodes: Sink[NodeState] = Sink(
            decode=self._node,
            listed=lambda found: put(FleetUpdate(self._name, nodes=tuple(found), has_all_nodes=True)),
            changed=self._node_changed,
            expired=lambda why: tell("watch_expired", self._name, "nodes", f"{why}: all are listed anew"),
            broken=lambda why: tell("watch_broken", self._name, "nodes", f"{why}. It is tried again"),
            invalid=self._invalid,
        )
        pods: Sink[PodState] = Sink(
            decode=self._pod,
            listed=lambda found: put(FleetUpdate(self._name, pods=tuple(found), has_all_pods=True)),
            changed=self._pod_changed,
            expired=lambda why: tell("watch_expired", self._name, "pods", f"{why}: all are listed anew"),
            broken=lambda why: tell("watch_broken", self._name, "pods", f"{why}. It is tried again"),
            invalid=self._invalid,
        )
        self.nodes = Reflector(lambda: cluster.client, "/api/v1/nodes", nodes, settings)
        self.pods = Reflector(lambda: cluster.client, "/api/v1/pods", pods, settings)

    def _node(self, thing: Mapping[str, Any]) -> NodeState:
        node, problems = decode_node(self._name, thing, self._defaults)
        said, more = cluster_labels(node)
        self._describe(said)
        self._tell_labels(node.name, (*problems, *more))
        return node

    def _describe(self, said: ClusterLabels) -> None:
        if not self._is_described and self._cluster.describe(said.type, said.resiliency_ratio):
            self._put(FleetUpdate(self._name, state=self._cluster.state))

    def _tell_labels(self, node: str, problems: tuple[str, ...]) -> None:
        """Tell what is wrong with labels, once for as long as it is the same."""
        if self._problems.get(node, ()) != problems:
            for problem in problems:
                self._tell("label_invalid", self._name, node, problem)
            self._problems[node] = problems

    def _pod(self, thing: Mapping[str, Any]) -> PodState:
        problem = worker_problem(thing)
        if problem:
            self._tell("report_invalid", self._name, "/".join(pod_key(thing)), problem)
        return decode_pod(self._name, thing)

    def _node_changed(self, change: Change, node: NodeState) -> None:
        if change == "DELETED":
            self._problems.pop(node.name, None)
            self._put(FleetUpdate(self._name, gone_nodes=(node.name,)))
        else:
            self._put(FleetUpdate(self._name, nodes=(node,)))

    def _pod_changed(self, change: Change, pod: PodState) -> None:
        if change == "DELETED":
            # Its last state may be news: a pod can end and go in one event.
            self._put(FleetUpdate(self._name, pods=(pod,)))
            self._put(FleetUpdate(self._name, gone_pods=((pod.namespace, pod.name),)))
        else:
            self._put(FleetUpdate(self._name, pods=(pod,)))

    def _invalid(self, thing: Mapping[str, Any], error: Exception) -> None:
        metadata = thing.get("metadata") or {}
        subject = "/".join(filter(None, (metadata.get("namespace"), metadata.get("name"))))
        self._tell("object_invalid", self._name, subject, f"{type(error).__name__}: {error}. It is passed over")

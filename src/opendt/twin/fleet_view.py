"""What each node of a fleet holds: its pods, and what accepted plans have reserved on it; kept in step change by change.

`FleetView.sync` asks the fleet's state what changed since it last looked and touches only those nodes, so that planning never
scans 20,000 pods. One owner at a time changes a view; `opendt.policy.index` listens to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.model.fleet import ClusterState, FleetSnapshot, NodeState, PodState, Reading
    from opendt.twin.state import FleetState

__all__ = ["DEVICE_MILLIS", "FRESH_MS", "FleetView", "Hold", "NodeKey", "NodeLoad", "give_devices"]

NodeKey = tuple[str, str]
"""Cluster and name."""
PodKey = tuple[str, str, str]

DEVICE_MILLIS: Final = 1000
FRESH_MS: Final = 60_000
"""Readings that are older say nothing of now."""
_READ_OVER_MS: Final = 60_000
"""Readings are means over some time before them, of which nobody says how long: over no more than this."""
_OVER: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Hold:
    """What an accepted plan has reserved for one stage until its pod is seen."""

    plan_id: str
    stage_id: str
    cluster: str
    node: str
    cpu_millicores: int
    memory_mib: int
    gpu: int = 0
    gpu_millis: int = DEVICE_MILLIS


@dataclass(slots=True)
class NodeLoad:
    """A node with what is on it; `cpu_millicores` and `memory_mib` are what is asked for in all, `count` how many pods.

    `left` are millicores of pods that have gone, with when they came and went (ms since the epoch), as long as a reading may tell
    of them.
    """

    node: NodeState
    pods: dict[PodKey, PodState] = field(default_factory=dict)
    holds: dict[tuple[str, str], Hold] = field(default_factory=dict)
    cpu_millicores: int = 0
    memory_mib: int = 0
    left: dict[PodKey, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Pods that are there or are to come."""
        return len(self.pods) + len(self.holds)

    def add(self, cpu_millicores: int, memory_mib: int) -> None:
        """Count requests in, or out where they are negative."""
        self.cpu_millicores += cpu_millicores
        self.memory_mib += memory_mib

    def leave(self, pod: PodState, at_ms: int, now_ms: int) -> None:
        """Take note that a pod has gone."""
        self.left[pod.cluster, pod.namespace, pod.name] = pod.cpu_millicores, pod.scheduled_ms, at_ms
        since_ms = now_ms - FRESH_MS - _READ_OVER_MS  # older readings are not believed
        self.left = {key: one for key, one in self.left.items() if one[2] > since_ms}

    def unasked_millicores(self, reading: Reading) -> float:
        """What a reading tells of beyond all that asked: the system itself, pods without requests, pods that exceed theirs.

        Whoever was there at any time that the reading may speak of is taken to have used what they asked for: a mean over the
        last minute knows nothing of who has just gone. The system is taken to have used what is reserved for it.
        """
        asked = sum(pod.cpu_millicores for pod in self.pods.values() if pod.scheduled_ms <= reading.time_ms)
        gone = sum(
            millicores
            for millicores, came_ms, went_ms in self.left.values()
            if came_ms <= reading.time_ms and went_ms > reading.time_ms - _READ_OVER_MS
        )
        return max(reading.value - asked - gone - self.node.reserved_millicores, 0.0)

    def device_free_millis(self) -> list[int]:
        """What each GPU has free, in thousandths.

        Nobody tells which device a pod got. It is taken to be what a packing device plugin gives: whole devices from the first
        on, and for a part the fullest device that still has it; in order of scheduling. Where not all find room in that order,
        which need not be the one they came in, the largest come first; where not even then, nothing is free.
        """
        pods = [(pod.scheduled_ms, key, pod) for key, pod in self.pods.items() if pod.gpu]
        asked = [(pod.gpu, pod.gpu_millis) for _, _, pod in sorted(pods, key=lambda one: one[:2])]
        asked += [
            (hold.gpu, hold.gpu_millis) for _, hold in sorted(self.holds.items(), key=lambda one: one[0]) if hold.gpu
        ]
        for order in (asked, sorted(asked, key=lambda one: (-one[1], -one[0]))):
            free = [DEVICE_MILLIS] * self.node.gpu
            if all(give_devices(free, count, millis) for count, millis in order):
                return free
        return [0] * self.node.gpu


def give_devices(free: list[int], count: int, millis: int) -> bool:
    """Take `millis` of `count` devices out of what is free, the fullest that fit first; false, and nothing taken, if none fit."""
    if count == 0:
        return True
    fitting = sorted((room, place) for place, room in enumerate(free) if room >= millis)
    if len(fitting) < count:
        return False
    for _, place in fitting[:count]:
        free[place] -= millis
    return True


class FleetView:
    """What each node holds.

    Parameters
    ----------
    snapshot : FleetSnapshot
        The fleet to begin with.

    Attributes
    ----------
    snapshot : FleetSnapshot
        As last seen; of its nodes and pods `loads` is the one that is kept in step.
    loads : dict
        (cluster, name) -> what is on it.
    """

    def __init__(self, snapshot: FleetSnapshot) -> None:
        self._listeners: list[Callable[[NodeKey | None], None]] = []
        self.loads: dict[NodeKey, NodeLoad] = {}
        self._holds: dict[tuple[str, str], Hold] = {}
        self._of_plan: dict[str, dict[str, None]] = {}
        self._orphans: dict[NodeKey, dict[PodKey, PodState]] = {}
        self.snapshot = snapshot
        self._version = snapshot.version
        self.reset(snapshot)

    def listen(self, told: Callable[[NodeKey | None], None]) -> None:
        """Have `told` called with each node that changed, and with None when everything may have."""
        self._listeners.append(told)

    def reset(self, snapshot: FleetSnapshot) -> None:
        """Begin anew with a snapshot; what is reserved stays reserved, but for stages whose pods it shows."""
        self.snapshot = snapshot
        self._version = snapshot.version
        self._orphans = {}
        self.loads = {key: NodeLoad(node) for key, node in snapshot.nodes.items()}
        holds, self._holds, self._of_plan = self._holds, {}, {}
        for hold in holds.values():
            self._hold(hold)
        for pod in snapshot.pods.values():
            self._put(pod)
        self._tell(None)

    def sync(self, state: FleetState) -> None:
        """Take in what changed since the last time."""
        if state.version == self._version:
            return
        changes = state.changes_since(self._version)
        snapshot = state.snapshot()
        if not changes.is_complete:
            self.reset(snapshot)
            return
        # The snapshot may be newer than the changes; what came between is among the next ones.
        self.apply(snapshot, changes.nodes, changes.pods)
        self._version = changes.version
        if any(_standing(before) != _standing(after) for before, after in changes.clusters):
            self._tell(None)

    def apply(
        self,
        snapshot: FleetSnapshot,
        nodes: Iterable[tuple[NodeState | None, NodeState | None]] = (),
        pods: Iterable[tuple[PodState | None, PodState | None]] = (),
    ) -> None:
        """Take in a newer snapshot that differs in these nodes and pods: pairs of before and after, in order.

        Listeners hear of nodes whose offer or whose requests changed. New readings, which come for all nodes and pods every few
        seconds, are no news to them.
        """
        touched: dict[NodeKey, None] = {}
        self.snapshot = snapshot
        self._version = snapshot.version
        for before_node, after_node in nodes:
            key = self._change_node(before_node, after_node)
            if before_node is None or after_node is None or _offer(before_node) != _offer(after_node):
                touched[key] = None
        for before, after in pods:
            if before is not None and after is not None and _claim(before) == _claim(after):
                load = self.loads.get((after.cluster, after.node))
                pod_key = (after.cluster, after.namespace, after.name)
                if load is not None and pod_key in load.pods:
                    load.pods[pod_key] = after
                continue
            for pod in (before, after):
                if pod is not None and pod.node:
                    touched[pod.cluster, pod.node] = None
            if before is not None:
                self._take_out(before, is_gone=_is_gone_now(before, after))
            if after is not None:
                hold = self._put(after)
                if hold is not None:
                    touched[hold.cluster, hold.node] = None
        for key in touched:
            self._tell(key)

    def reserve(self, holds: Iterable[Hold]) -> None:
        """Count what a plan asks for as used; a stage that is reserved already moves.

        A node that is not there any more keeps nothing.
        """
        for hold in holds:
            self.release(hold.plan_id, hold.stage_id)
            self._hold(hold)
            self._tell((hold.cluster, hold.node))

    def release(self, plan_id: str, stage_id: str | None = None) -> None:
        """Give back what is reserved for a plan or for one of its stages; nothing where there is nothing."""
        for name in list(self._of_plan.get(plan_id, ())) if stage_id is None else [stage_id]:
            hold = self._holds.get((plan_id, name))
            if hold is not None:
                self._let_go(hold)
                self._tell((hold.cluster, hold.node))

    @property
    def holds(self) -> Sequence[Hold]:
        """Everything that is reserved, in the order in which it was."""
        return tuple(self._holds.values())

    def _tell(self, key: NodeKey | None) -> None:
        for listener in self._listeners:
            listener(key)

    def _change_node(self, before: NodeState | None, after: NodeState | None) -> NodeKey:
        node = after if after is not None else before
        assert node is not None  # a pair of nothing and nothing is no change
        key = (node.cluster, node.name)
        if after is None:
            load = self.loads.pop(key, None)
            if load is not None and load.pods:
                self._orphans[key] = load.pods
        elif key in self.loads:
            self.loads[key].node = after
        else:
            self.loads[key] = NodeLoad(after)
            for pod in self._orphans.pop(key, {}).values():
                self._put(pod)
            for hold in self._holds.values():
                if (hold.cluster, hold.node) == key:
                    self._count(hold)
        return key

    def _put(self, pod: PodState) -> Hold | None:
        """Count a pod in where it lives; gives the reservation that it replaces."""
        hold = self._holds.get((pod.plan_id, pod.stage_id)) if pod.plan_id else None
        if hold is not None and hold.cluster == pod.cluster and pod.node in ("", hold.node):
            self._let_go(hold)
        else:
            hold = None  # it is of a pod of the stage that is to be elsewhere
        load = self.loads.get((pod.cluster, pod.node))
        key = (pod.cluster, pod.namespace, pod.name)
        if pod.phase in _OVER:
            if load is not None and _ended_ms(pod) >= 0:
                load.leave(pod, _ended_ms(pod), self.snapshot.time_ms)
        elif pod.node:
            if load is None:  # its node is told of later, or is gone
                self._orphans.setdefault((pod.cluster, pod.node), {})[key] = pod
            else:
                load.pods[key] = pod
                load.add(pod.cpu_millicores, pod.memory_mib)
        return hold

    def _take_out(self, pod: PodState, *, is_gone: bool) -> None:
        key = (pod.cluster, pod.namespace, pod.name)
        load = self.loads.get((pod.cluster, pod.node))
        if load is None:
            self._orphans.get((pod.cluster, pod.node), {}).pop(key, None)
        else:
            known = load.pods.pop(key, None)
            if known is not None:
                load.add(-known.cpu_millicores, -known.memory_mib)
                if is_gone:
                    load.leave(known, self.snapshot.time_ms, self.snapshot.time_ms)

    def _hold(self, hold: Hold) -> None:
        self._holds[hold.plan_id, hold.stage_id] = hold
        self._of_plan.setdefault(hold.plan_id, {})[hold.stage_id] = None
        self._count(hold)

    def _count(self, hold: Hold) -> None:
        load = self.loads.get((hold.cluster, hold.node))
        if load is not None:
            load.holds[hold.plan_id, hold.stage_id] = hold
            load.add(hold.cpu_millicores, hold.memory_mib)

    def _let_go(self, hold: Hold) -> None:
        del self._holds[hold.plan_id, hold.stage_id]
        others = self._of_plan[hold.plan_id]
        del others[hold.stage_id]
        if not others:
            del self._of_plan[hold.plan_id]
        load = self.loads.get((hold.cluster, hold.node))
        if load is not None and load.holds.pop((hold.plan_id, hold.stage_id), None) is not None:
            load.add(-hold.cpu_millicores, -hold.memory_mib)


def _ended_ms(pod: PodState) -> int:
    """When a pod ended; -1 where nobody says."""
    return max(pod.finished_ms, pod.container_finished_ms)


def _is_gone_now(before: PodState, after: PodState | None) -> bool:
    """Whether a pod has left its node, and nobody says since when but that it is seen now."""
    if after is None or after.node != before.node:
        return True
    return after.phase in _OVER and _ended_ms(after) < 0


def _offer(node: NodeState) -> tuple[object, ...]:
    """What of a node decides who may come to it; readings are not part of it."""
    return (
        node.cpu_millicores,
        node.memory_mib,
        node.gpu,
        node.max_pods,
        node.is_ready,
        node.is_cordoned,
        node.labels,
        node.taints,
        node.arch,
        node.exec_formats,
        node.core_speed_mhz,
        node.idle_w,
        node.max_w,
        node.gpu_model,
        node.gpu_memory_mib,
    )


def _standing(cluster: ClusterState | None) -> tuple[object, ...] | None:
    """What of a cluster decides what goes there; when it was last seen, every few seconds, is not part of it."""
    if cluster is None:
        return None
    return (
        cluster.is_reachable,
        cluster.resiliency_ratio,
        cluster.failure_rate_per_h,
        cluster.failure_domain,
        cluster.carbon_g_per_kwh,
        cluster.cost_per_core_h,
    )


def _claim(pod: PodState) -> tuple[object, ...]:
    """What of a pod decides what it takes of its node."""
    return (
        pod.node,
        pod.phase,
        pod.cpu_millicores,
        pod.memory_mib,
        pod.gpu,
        pod.gpu_millis,
        pod.scheduled_ms,
        pod.plan_id,
        pod.stage_id,
    )

"""What of a fleet can run a stage: nodes in groups of equals, and in each group the node with most room first.

Nodes that nothing but their load tells apart make a group (cluster, architecture, forms, size, speed, accelerators, labels, taints).
A stage is held against a few dozen groups instead of thousands of nodes: which may run it in which form is worked out once for all
stages of its shape (`Options`), how long it takes there in a few operations on arrays. In a group, nodes are kept by free
CPU; a change of the fleet moves one entry.

Ties are broken in one total order, everywhere: groups without accelerators before those with (they are for whoever needs them), then
by the group's name, which begins with its cluster; then the forms in the order in which the stage names them; then the node with
most free CPU; then the node's name.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import hypot
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.model.job import EMULATED
from opendt.policy.refusals import OWN_LABELS, exec_formats_on, refusals
from opendt.twin.fleet_learn import LEAST_RUN_RATIO, Spread, WorkCost
from opendt.twin.fleet_view import give_devices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.model.fleet import NodeState
    from opendt.model.job import ExecFormat, Job, Stage
    from opendt.twin.fleet_view import FleetView, NodeKey
    from opendt.twin.predict import PredictiveSimulator
    from opendt.twin.scaling import ScaledJob, ScaledStage

__all__ = ["FleetIndex", "NodeGroup", "Options", "Slot"]


@dataclass(slots=True)
class Slot:
    """A node and what it has free; `devices` is what each GPU has free, in thousandths."""

    node: NodeState
    is_open: bool
    free_cpu: int
    free_memory: int
    free_pods: int
    devices: list[int]

    def fits(self, one: ScaledStage) -> bool:
        """Whether a stage's requests fit now."""
        stage = one.stage
        if self.free_cpu < one.cpu_millicores or self.free_memory < one.memory_mib or self.free_pods < 1:
            return False
        return stage.gpu == 0 or sum(room >= stage.gpu_millis for room in self.devices) >= stage.gpu


@dataclass(slots=True)
class NodeGroup:
    """Nodes that only their load tells apart.

    `order` holds (minus free CPU, name) of those that pods may come to.
    """

    name: str
    sample: NodeState
    cluster_number: int = 0
    slots: dict[str, Slot] = field(default_factory=dict)
    order: list[tuple[int, str]] = field(default_factory=list)

    def put(self, name: str, slot: Slot) -> None:
        """Add or replace a node."""
        self.drop(name)
        self.slots[name] = slot
        if slot.is_open:
            insort(self.order, (-slot.free_cpu, name))

    def drop(self, name: str) -> None:
        """Forget a node."""
        known = self.slots.pop(name, None)
        if known is not None and known.is_open:
            del self.order[bisect_left(self.order, (-known.free_cpu, name))]

    def take(self, name: str, cpu: int, memory: int, pods: int) -> None:
        """Count requests in, or out where they are negative."""
        slot = self.slots[name]
        if slot.is_open:
            del self.order[bisect_left(self.order, (-slot.free_cpu, name))]
            insort(self.order, (cpu - slot.free_cpu, name))
        slot.free_cpu -= cpu
        slot.free_memory -= memory
        slot.free_pods -= pods


_NO_WORK: Final = WorkCost(overhead_seconds=0.0, lead_seconds=0.0, factor=1.0, refill_ms=0.0, spread=Spread(1.0, 0.0))
"""Of a stage that does not say what it does."""


_MOST_LIMITS: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class _AtLimit:
    """Start-up delays of stages with a limit, first ones and others, and CPU seconds per reference CPU second."""

    startup_ms: NDArray[np.float64]
    startup_after_ms: NDArray[np.float64]
    factor: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """Everything that may run stages of one shape: an entry a group and form, in the total order of ties.

    What is named as in `opendt.twin.fleet_learn.StartUp` and `WorkCost` is that; `rest_w` and `busy_j` make energy of CPU time: W held
    per millicore, and J per CPU second; spreads are deviations of logarithms.
    """

    groups: tuple[NodeGroup, ...]
    formats: tuple[ExecFormat, ...]
    cluster: NDArray[np.intp]
    is_native: NDArray[np.bool_]
    begin_ms: NDArray[np.float64]
    startup_cpu_seconds: NDArray[np.float64]
    notice_ms: NDArray[np.float64]
    startup_spread: NDArray[np.float64]
    overhead_seconds: NDArray[np.float64]
    lead_seconds: NDArray[np.float64]
    cpu_factor: NDArray[np.float64]
    refill_ms: NDArray[np.float64]
    stretch: NDArray[np.float64]
    run_spread: NDArray[np.float64]
    failures_per_h: NDArray[np.float64]
    resiliency: NDArray[np.float64]
    rest_w: NDArray[np.float64]
    busy_j: NDArray[np.float64]
    carbon_g_per_kwh: NDArray[np.float64]
    cost_per_core_h: NDArray[np.float64]
    _limits: dict[int, _AtLimit] = field(default_factory=dict)
    """Jobs ask for few different limits, and each is asked about again and again."""

    def __len__(self) -> int:
        return len(self.groups)

    def startup_ms(self, one: ScaledStage) -> NDArray[np.float64]:
        """Start-up delay of a stage in each; as `opendt.twin.fleet_learn.StartUp.ms`."""
        at = self._at(one.cpu_millicores)
        return at.startup_after_ms if one.stage.needs else at.startup_ms

    def cpu_seconds(self, one: ScaledStage, default_run_s: float) -> NDArray[np.float64]:
        """CPU seconds that a stage takes in each; as `opendt.twin.fleet_learn.WorkCost.cpu_seconds`."""
        if one.cpu_seconds is None:
            return np.full(len(self.groups), default_run_s * one.cpu_millicores / 1000.0)
        return self.overhead_seconds + one.cpu_seconds * self._at(one.cpu_millicores).factor

    def run_ms(self, one: ScaledStage, cpu_seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """How long a stage runs in each; as `opendt.twin.fleet_costs.quota_run_ms` of what is not its lead."""
        work_ms = np.maximum(cpu_seconds - self.lead_seconds, LEAST_RUN_RATIO * cpu_seconds) * 1000.0
        millicores = one.cpu_millicores
        if millicores >= 1000:
            return work_ms * (1000.0 / millicores) * self.stretch
        slice_ms = 0.1 * millicores
        full = np.maximum(np.ceil(work_ms / slice_ms - 1e-9) - 1.0, 0.0)
        return (work_ms + full * (100.0 - slice_ms)) * self.stretch

    def _at(self, millicores: int) -> _AtLimit:
        """What depends on a stage's limit alone."""
        known = self._limits.get(millicores)
        if known is None:
            startup_ms = self.begin_ms + self.startup_cpu_seconds * (1e6 / min(max(millicores, 1), 1000))
            factor = self.cpu_factor
            if millicores < 1000:
                factor = factor * (1.0 + self.refill_ms / (0.1 * max(millicores, 1)))
            if len(self._limits) >= _MOST_LIMITS:
                self._limits.clear()
            known = self._limits[millicores] = _AtLimit(startup_ms, startup_ms + self.notice_ms, factor)
        return known


class FleetIndex:
    """The fleet as policies see it; follows its view.

    Parameters
    ----------
    predictor : PredictiveSimulator
        Whose view is followed, and by whose calibration times are worked out.
    """

    def __init__(self, predictor: PredictiveSimulator) -> None:
        self.predictor = predictor
        self.view: FleetView = predictor.view
        self.groups: tuple[NodeGroup, ...] = ()
        self.clusters: tuple[str, ...] = ()
        self._of_node: dict[NodeKey, NodeGroup] = {}
        self._dirty: dict[NodeKey, None] | None = None
        self._options: dict[tuple[object, ...], Options] = {}
        self._options_of = -1
        self._arrivals: dict[tuple[object, ...], NDArray[np.float64]] = {}
        self._half_ms: NDArray[np.float64] = np.zeros((0, 0))
        self._apart: NDArray[np.float64] = np.zeros((0, 0))
        self._latency: object = None
        self.view.listen(self._changed)

    def scaled(self, job: Job, scale: float | None = None) -> ScaledJob:
        """Scale a job as the predictor does."""
        return self.predictor.scaled(job, scale)

    def refresh(self) -> None:
        """Take in what changed; whoever asks the index calls it first (`lay` does)."""
        if self._dirty is None:
            self._build()
        elif self._dirty:
            dirty, self._dirty = self._dirty, {}
            if not all(self._renew(key) for key in dirty):
                self._build()
        if self._latency is not self.view.snapshot.latency:
            self._measure()
        if self._options_of != self.predictor.calibration.version:
            self._options_of = self.predictor.calibration.version
            self._options = {}

    def slot(self, cluster: str, node: str) -> Slot | None:
        """One node; None when it is not there."""
        group = self._of_node.get((cluster, node))
        return None if group is None else group.slots.get(node)

    def group_of(self, cluster: str, node: str) -> NodeGroup:
        """Give the group of a node that is there."""
        return self._of_node[cluster, node]

    def options(self, one: ScaledStage) -> Options:
        """What may run a stage, whatever room there is: right architecture and forms, labels, taints, accelerators, clusters."""
        stage = one.stage
        constraints = stage.constraints
        # A stage that says nothing of constraints shares its options with all like it; JSON tells the others apart.
        said = constraints.model_dump_json() if constraints.model_fields_set else ""
        kind = None if stage.work is None else stage.work.kind
        key = (stage.formats, kind, stage.gpu, said)
        known = self._options.get(key)
        if known is None:
            known = self._options[key] = self._work_out(stage, kind)
        return known

    def find(self, group: NodeGroup, one: ScaledStage, barred: Iterable[NodeKey] = ()) -> str | None:
        """Give the node of a group that has most free CPU of those that a stage fits on; None when it fits on none."""
        constraints = one.stage.constraints
        own = [(key, value) for key, value in constraints.labels.items() if key in OWN_LABELS]
        slots, cpu, memory = group.slots, one.cpu_millicores, one.memory_mib
        has_gpu = one.stage.gpu > 0
        for minus_free, name in group.order:
            if -minus_free < cpu:
                return None
            slot = slots[name]
            if slot.free_memory < memory or slot.free_pods < 1 or (has_gpu and not slot.fits(one)):
                continue
            if constraints.node is not None and name != constraints.node:
                continue
            if own and any(slot.node.labels.get(key) != value for key, value in own):
                continue
            if barred and (group.sample.cluster, name) in barred:
                continue
            return name
        return None

    def candidates(self, group: NodeGroup, one: ScaledStage) -> Iterator[str]:
        """Nodes of a group that a stage fits on, one for each load, in the order of `find`."""
        seen: set[tuple[object, ...]] = set()
        for _, name in list(group.order):
            slot = group.slots[name]
            load = (slot.free_cpu, slot.free_memory, slot.free_pods, tuple(sorted(slot.devices)))
            if load not in seen and self._allows(slot, one):
                seen.add(load)
                yield name

    def take(self, group: NodeGroup, name: str, one: ScaledStage) -> list[int]:
        """Count a stage in for the length of a trial; gives the devices as they were, for `give_back`."""
        group.take(name, one.cpu_millicores, one.memory_mib, 1)
        slot = group.slots[name]
        before = slot.devices
        if one.stage.gpu:
            slot.devices = list(before)
            give_devices(slot.devices, one.stage.gpu, one.stage.gpu_millis)
        return before

    def give_back(self, group: NodeGroup, name: str, one: ScaledStage, devices: list[int]) -> None:
        """Undo `take`; the last one first."""
        group.take(name, -one.cpu_millicores, -one.memory_mib, -1)
        group.slots[name].devices = devices

    def arrival_ms(self, job: Job, stage: Stage) -> NDArray[np.float64]:
        """How long what does not come from parents takes to each cluster: the job's input, data that lies elsewhere."""
        origin = None if stage.needs or job.origin is None else job.origin.cluster
        data = stage.constraints.data
        key = (origin, job.input_mb, data)
        known = self._arrivals.get(key)
        if known is None:
            latency = self.view.snapshot.latency
            sources = [(one.cluster, one.size_mb) for one in data]
            if origin is not None:
                sources.append((origin, job.input_mb))
            known = np.zeros(len(self.clusters))
            for source, size_mb in sources:
                ways = [latency.transfer_ms(source, cluster, size_mb) for cluster in self.clusters]
                known = np.maximum(known, np.array(ways))
            if len(self._arrivals) >= 10_000:
                self._arrivals = {}
            self._arrivals[key] = known
        return known

    def travel_ms(self, cluster_number: int, size_mb: float) -> NDArray[np.float64]:
        """How long data takes from a cluster to each."""
        way: NDArray[np.float64] = self._half_ms[cluster_number]
        if size_mb:
            bandwidth = self.view.snapshot.latency.bandwidth_mb_per_s
            way = way + self._apart[cluster_number] * (size_mb / bandwidth * 1000.0)
        return way

    def round_trip_ms(self, cluster: str) -> NDArray[np.float64]:
        """Round trip from a cluster, known here or not, to each."""
        latency = self.view.snapshot.latency
        return np.array([latency.between(cluster, other) for other in self.clusters])

    def _allows(self, slot: Slot, one: ScaledStage) -> bool:
        constraints = one.stage.constraints
        if constraints.node is not None and slot.node.name != constraints.node:
            return False
        if any(slot.node.labels.get(key) != value for key, value in constraints.labels.items() if key in OWN_LABELS):
            return False
        return slot.fits(one)

    def _changed(self, key: NodeKey | None) -> None:
        if key is None:
            self._dirty = None
        elif self._dirty is not None:
            self._dirty[key] = None

    def _build(self) -> None:
        """Put all nodes into groups anew."""
        made: dict[tuple[object, ...], NodeGroup] = {}
        self._of_node = {}
        for key, load in self.view.loads.items():
            group_key = _group_key(load.node)
            group = made.get(group_key)
            if group is None:
                group = made[group_key] = NodeGroup("", load.node)
            self._of_node[key] = group
            group.slots[key[1]] = self._slot(key)
        self.clusters = tuple(sorted({group.sample.cluster for group in made.values()}))
        number = {name: place for place, name in enumerate(self.clusters)}
        # repr orders what does not compare; it holds all that tells groups apart.
        ordered = sorted(made.items(), key=lambda item: (item[1].sample.gpu > 0, repr(item[0])))
        for _, group in ordered:
            group.name = _group_name(group)
            group.cluster_number = number[group.sample.cluster]
            group.order = sorted((-slot.free_cpu, name) for name, slot in group.slots.items() if slot.is_open)
        self.groups = tuple(group for _, group in ordered)
        self._dirty = {}
        self._options = {}
        self._measure()

    def _measure(self) -> None:
        latency = self.view.snapshot.latency
        self._latency = latency
        ways = [[latency.between(one, other) / 2 for other in self.clusters] for one in self.clusters]
        self._half_ms = np.array(ways).reshape(len(self.clusters), len(self.clusters))
        self._apart = 1.0 - np.eye(len(self.clusters))
        self._arrivals = {}

    def _renew(self, key: NodeKey) -> bool:
        """Bring one node up to date; false when it came, or changed what it is."""
        group, load = self._of_node.get(key), self.view.loads.get(key)
        if group is None:
            return load is None
        if load is None:
            group.drop(key[1])
            del self._of_node[key]
            return bool(group.slots)
        known = group.slots[key[1]].node
        if known is not load.node and _group_key(known) != _group_key(load.node):
            return False
        group.put(key[1], self._slot(key))
        return True

    def _slot(self, key: NodeKey) -> Slot:
        load = self.view.loads[key]
        node = load.node
        cluster = self.view.snapshot.clusters.get(node.cluster)
        return Slot(
            node=node,
            is_open=node.is_ready and not node.is_cordoned and (cluster is None or cluster.is_reachable),
            free_cpu=node.cpu_millicores - load.cpu_millicores,
            free_memory=node.memory_mib - load.memory_mib,
            free_pods=node.max_pods - load.count,
            devices=load.device_free_millis() if node.gpu else [],
        )

    def _work_out(self, stage: Stage, kind: str | None) -> Options:
        calibration = self.predictor.calibration
        clusters = self.view.snapshot.clusters
        pairs = [
            (group, form)
            for group in self.groups
            if next(refusals(stage, group.sample, clusters.get(group.sample.cluster), group.slots), None) is None
            for form in exec_formats_on(stage, group.sample.arch, group.sample.exec_formats)
        ]
        rows = []
        for group, form in pairs:
            node, cluster = group.sample, clusters.get(group.sample.cluster)
            start = calibration.startup(node.cluster, form)
            price = _NO_WORK if kind is None else calibration.work_cost(node, form, kind)
            stretch, stretch_spread = calibration.stretch(node.cluster)
            described = 0.0 if cluster is None else cluster.failure_rate_per_h
            size = max(node.cpu_millicores, 1)
            rows.append(
                (
                    start.begin_ms,
                    start.cpu_seconds,
                    start.notice_ms,
                    start.spread.total,
                    price.overhead_seconds,
                    price.lead_seconds,
                    price.factor,
                    price.refill_ms,
                    stretch,
                    hypot(price.spread.total, stretch_spread.total),
                    calibration.failure_rate_per_h(node.cluster, described),
                    1.0 if cluster is None else cluster.resiliency_ratio,
                    node.idle_w / size,
                    (node.max_w - node.idle_w) * 1000.0 / size,
                    0.0 if cluster is None else cluster.carbon_g_per_kwh,
                    0.0 if cluster is None else cluster.cost_per_core_h,
                )
            )
        columns = np.array(rows, dtype=np.float64).reshape(len(rows), 16).T.copy()
        return Options(
            tuple(group for group, _ in pairs),
            tuple(form for _, form in pairs),
            np.array([group.cluster_number for group, _ in pairs], dtype=np.intp),
            np.array([form not in EMULATED for _, form in pairs], dtype=np.bool_),
            *columns,
        )


def _group_key(node: NodeState) -> tuple[object, ...]:
    """All that tells nodes apart but their load and whether they are ready."""
    return (
        node.cluster,
        node.arch,
        node.exec_formats,
        node.cpu_millicores,
        node.memory_mib,
        node.gpu,
        node.gpu_memory_mib,
        node.gpu_model,
        node.core_speed_mhz,
        node.idle_w,
        node.max_w,
        tuple(sorted((key, value) for key, value in node.labels.items() if key not in OWN_LABELS)),
        tuple(sorted((taint.key, taint.value, taint.effect) for taint in node.taints)),
    )


def _group_name(group: NodeGroup) -> str:
    node = group.sample
    gpus = f", {node.gpu} x {node.gpu_model or 'GPU'}" if node.gpu else ""
    kind = node.labels.get("dt.node.class")
    return (
        f"{node.cluster}{'/' + kind if kind else ''} ({node.arch}, {node.cpu_millicores / 1000:g} cores, "
        f"{node.memory_mib} MiB{gpus})"
    )

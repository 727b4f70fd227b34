"""The fleet as a simulation: a node is a host, a pod a task that holds its demand, a stage a task pinned to its node.

A thousandth of a core is a core of 1 MHz to the engine, as pods ask for thousandths. How fast a node is stands in the length of a
stage, not in the host. A stage is one task of two pieces: starting (it holds its request and needs no CPU), then running at its
limit; its parents' outputs travel over links; what comes from elsewhere (the origin, data) is a delay before it. Work is
conserved: what gets less CPU takes longer. Where demands exceed a node, each gets an equal part at most (max-min), while the
kernel shares in proportion to requests; the two differ only on nodes whose pods exceed their requests.

What a plan needs of the fleet is what is on the nodes that it touches: no host's CPU is another's, and links do not tire. So
`SubTwin` holds those nodes alone, and gives the times that the whole fleet would (tests hold one against the other).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt._engine import Simulation as Engine
from opendt._engine import Workload as EngineWorkload
from opendt.model.errors import ModelError
from opendt.model.options import ComputeFilter, FilterAllocation, Options, RamFilter, VCpuFilter
from opendt.twin.fleet_view import FRESH_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.model.fleet import LatencyMatrix, PodState
    from opendt.twin.fleet_view import FleetView, NodeKey, NodeLoad

__all__ = ["FOREVER_MS", "SimulatedStage", "StageTimes", "SubTwin"]

FOREVER_MS: Final = 10 * 24 * 3_600_000
"""How long a pod stays of which nobody knows when it ends."""
_ACCEPTED_MS: Final = 2
"""When plans are accepted in a twin's time: after its pods are there, and after its base has come to rest at 1 ms."""
_MIB_PER_MB: Final = 1e6 / 2**20
_WAITING: Final = "waiting room"
_RUNNING: Final = frozenset({"Running", "Unknown"})

_CONSERVE_WORK: Final = b'[{"type":"conserve_work"}]'
_LINEAR: Final = '{"type":"linear","idle_w":0.0,"max_w":0.0}'


@dataclass(frozen=True, slots=True)
class SimulatedStage:
    """A stage as the engine takes it; times in ms from the acceptance of the plan.

    Attributes
    ----------
    node : tuple of str
        Cluster and name.
    cpu_millicores, memory_mib : int
        What it holds.
    startup_ms, run_ms : float
        How long it starts, and runs at its limit with nothing in its way.
    delay_ms : float
        What comes from elsewhere (origin, data) takes so long, from when its parents have finished.
    needs : tuple of int
        Places of its parents in the list.
    sends_mb : tuple of float
        What each of them sends.
    """

    node: NodeKey
    cpu_millicores: int
    memory_mib: int
    startup_ms: float
    run_ms: float
    delay_ms: float = 0.0
    needs: tuple[int, ...] = ()
    sends_mb: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StageTimes:
    """When a stage is let in by its node, and when it finishes, ms from the acceptance of the plan."""

    admitted_ms: int
    finish_ms: int


@lru_cache(maxsize=1)
def _options() -> bytes:
    allocation = FilterAllocation(filters=(ComputeFilter(), VCpuFilter(), RamFilter()))
    options = Options(scheduling_quantum_ms=1, allocation=allocation, reference_task_times=False)
    return options.model_dump_json().encode()


class SubTwin:
    """Some nodes of a fleet as they are now, ready to be forked.

    Parameters
    ----------
    view : FleetView
        What is on the nodes.
    nodes : iterable of (str, str)
        Those that matter; order does not.
    remaining_ms : callable, optional
        How long a pod will still run; forever unless told.

    Raises
    ------
    ModelError
        When a node is not known.
    """

    def __init__(
        self,
        view: FleetView,
        nodes: Iterable[NodeKey],
        remaining_ms: Callable[[PodState], float | None] | None = None,
    ) -> None:
        keys = sorted(set(nodes))
        for key in keys:
            if key not in view.loads:
                raise ModelError("node", "/".join(key), "a node of the fleet as last seen")
        self._places = {key: f"n{place}" for place, key in enumerate(keys)}
        loads = [view.loads[key] for key in keys]
        self._largest = {
            key: (load.node.cpu_millicores, load.node.memory_mib) for key, load in zip(keys, loads, strict=True)
        }
        self._engine = Engine(_topology(keys, loads, view.snapshot.latency), _options())
        self._engine.apply(_CONSERVE_WORK)
        held = _Columns()
        now_ms = view.snapshot.time_ms
        for key, load in zip(keys, loads, strict=True):
            _hold_pods(held, self._places[key], load, now_ms, remaining_ms)
        if len(held):
            self._engine.submit(EngineWorkload.from_columns(held.columns()))
        # The pods are there before anything is planned: a millisecond of their own.
        self._engine.advance(1)

    @property
    def engine(self) -> Engine:
        """The nodes as they are, at 1 ms; fork it."""
        return self._engine

    def workload(self, stages: Sequence[SimulatedStage]) -> EngineWorkload:
        """Make tasks of a plan's stages, to be submitted to a fork.

        Raises
        ------
        ModelError
            When a stage asks for more than its node has.
        """
        pieces = [((round(stage.startup_ms), 0.0), (max(round(stage.run_ms), 1), 1.0)) for stage in stages]
        return EngineWorkload.from_columns(self._columns(stages, pieces).columns())

    def _columns(self, stages: Sequence[SimulatedStage], pieces: Sequence[Sequence[tuple[int, float]]]) -> _Columns:
        columns = _Columns()
        waits: dict[int, int] = {}
        for place, stage in enumerate(stages):
            cpu, memory = self._largest[stage.node]
            if stage.cpu_millicores > cpu or stage.memory_mib > memory:
                found = f"{stage.cpu_millicores} millicores and {stage.memory_mib} MiB"
                raise ModelError(f"stage on {'/'.join(stage.node)}", found, f"at most its {cpu} and {memory}")
            if stage.needs and stage.delay_ms >= 0.5:
                waits[place] = len(stages) + len(waits)
        for place, stage in enumerate(stages):
            parents = [(parent, mb * _MIB_PER_MB) for parent, mb in zip(stage.needs, stage.sends_mb, strict=True)]
            if place in waits:
                parents.append((waits[place], 0.0))
            columns.add(
                self._places[stage.node],
                stage.cpu_millicores,
                stage.memory_mib,
                [(length_ms, use * stage.cpu_millicores) for length_ms, use in pieces[place]],
                submission_ms=_ACCEPTED_MS + (0 if stage.needs else round(stage.delay_ms)),
                parents=parents,
            )
        for place in waits:
            stage = stages[place]
            # Who waits for data waits as long as the last of its parents did: the parents' edges carry nothing here.
            columns.add(
                "w",
                1,
                0,
                ((round(stage.delay_ms), 0.0),),
                submission_ms=_ACCEPTED_MS,
                parents=[(parent, 0.0) for parent in stage.needs],
            )
        return columns

    def workloads(
        self,
        stages: Sequence[SimulatedStage],
        pieces: Sequence[Sequence[tuple[NDArray[np.float64], float]]],
        count: int,
    ) -> tuple[list[EngineWorkload], int]:
        """Make tasks of a plan's stages in `count` futures, which differ in the lengths of pieces alone; raises as `workload`.

        Parameters
        ----------
        stages : sequence of SimulatedStage
            The plan.
        pieces : sequence
            Of each stage its pieces: lengths in each future, ms, and the share of its request that it then uses.
        count : int
            Futures.

        Returns
        -------
        list of EngineWorkload, int
            A workload a future, and when its first stage is submitted, ms from acceptance.
        """
        columns = self._columns(stages, [[(0, use) for _, use in own] for own in pieces]).columns()
        lengths = np.tile(columns["fragment_duration_ms"], (count, 1))
        place_of = {number: place for place, number in enumerate(columns["ids"].tolist())}
        for number, own in enumerate(pieces):
            first = int(columns["fragment_offset"][place_of[number]])
            for turn, (length_ms, _) in enumerate(own):
                lengths[:, first + turn] = np.rint(length_ms)
        made = [EngineWorkload.from_columns({**columns, "fragment_duration_ms": row}) for row in lengths]
        return made, int(columns["submission_ms"][0]) - _ACCEPTED_MS

    def run(self, stages: Sequence[SimulatedStage]) -> list[StageTimes]:
        """Simulate a plan on a fork; raises as `workload`."""
        fork = self._engine.fork()
        fork.submit(self.workload(stages))
        fork.run()
        return _times(fork.take_results(), len(stages))


_Row = tuple[int, str, int, int, Sequence[tuple[int, float]], Sequence[tuple[int, float]]]
"""Submission, host, millicores, MiB, pieces (length, demand) and parents (number, MiB)."""


class _Columns:
    """Columns of tasks in the making."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        host: str,
        cpu_millicores: int,
        memory_mib: int,
        pieces: Sequence[tuple[int, float]],
        *,
        submission_ms: int = 0,
        parents: Sequence[tuple[int, float]] = (),
    ) -> None:
        """Add a task; its number is how many there were before."""
        self._rows.append((submission_ms, host, cpu_millicores, memory_mib, pieces, parents))

    def columns(self) -> dict[str, Any]:
        """Give them as the engine takes them, sorted by submission (its order), in the order given among equals."""
        rows = self._rows
        order = sorted(range(len(rows)), key=lambda number: rows[number][0])
        place_of = {number: place for place, number in enumerate(order)}
        lengths: list[int] = []
        demands: list[float] = []
        offset, parent_offset = [0], [0]
        parents: list[int] = []
        sizes: list[float] = []
        for number in order:
            for length_ms, demand in rows[number][4]:
                lengths.append(length_ms)
                demands.append(demand)
            offset.append(len(lengths))
            for parent, mib in rows[number][5]:
                parents.append(place_of[parent])
                sizes.append(mib)
            parent_offset.append(len(parents))
        submission, hosts, cpu, memory = zip(*(rows[number][:4] for number in order), strict=True)
        columns: dict[str, Any] = {
            "ids": np.array(order, dtype=np.int64),
            "submission_ms": np.array(submission, dtype=np.int64),
            "duration_ms": np.zeros(len(order), dtype=np.int64),
            "cpu_count": np.array(cpu, dtype=np.uint32),
            "cpu_capacity_mhz": np.zeros(len(order)),
            "memory_mib": np.array(memory, dtype=np.int64),
            "fragment_offset": np.array(offset, dtype=np.uint32),
            "fragment_duration_ms": np.array(lengths, dtype=np.uint32),
            # Whole millicores are exact in 32 bits, and what the engine takes without a second look.
            "fragment_cpu_mhz": np.array(demands, dtype=np.float32),
            "pinned": list(hosts),
        }
        if parents:
            columns |= {
                "parent_offset": np.array(parent_offset, dtype=np.uint32),
                "parents": np.array(parents, dtype=np.uint32),
                "edge_mib": np.array(sizes),
            }
        return columns


def _times(results: dict[str, Any], count: int) -> list[StageTimes]:
    """Times of the stages among all that ended: the pods, whose ids are the same numbers, were submitted at 0."""
    found: dict[int, StageTimes] = {}
    columns = (results[name].tolist() for name in ("id", "submitted_ms", "started_ms", "finished_ms"))
    for task, submitted_ms, started_ms, finished_ms in zip(*columns, strict=True):
        if submitted_ms > 0 and task < count:
            found[task] = StageTimes(started_ms - _ACCEPTED_MS, finished_ms - _ACCEPTED_MS)
    return [found[place] for place in range(count)]


def _hold_pods(
    held: _Columns,
    host: str,
    load: NodeLoad,
    now_ms: int,
    remaining_ms: Callable[[PodState], float | None] | None,
) -> None:
    """Put what is on a node on its host: running pods first, then those that were bound, then what is reserved."""
    node = load.node
    if not load.pods and not load.holds and node.cpu_usage_millicores is None:
        return
    ratio, surplus = _use(load, now_ms)
    # Where demands cannot exceed the node nobody takes from anybody: what stays for good is one task then.
    is_calm = surplus <= 0 and load.cpu_millicores <= node.cpu_millicores and load.memory_mib <= node.memory_mib
    pods = sorted(load.pods.items(), key=lambda item: (item[1].phase not in _RUNNING, item[1].scheduled_ms, item[0]))
    room_cpu, room_memory = node.cpu_millicores, node.memory_mib
    stays_cpu = stays_memory = 0
    for _, pod in pods:
        left = None if remaining_ms is None else remaining_ms(pod)
        if left is None and is_calm:
            stays_cpu, stays_memory = stays_cpu + pod.cpu_millicores, stays_memory + pod.memory_mib
            continue
        length_ms = FOREVER_MS if left is None else min(max(round(left), 1), FOREVER_MS)
        # What is there is there, even when it asks for more than its node has left.
        cpu, memory = min(pod.cpu_millicores, room_cpu), min(pod.memory_mib, room_memory)
        room_cpu, room_memory = room_cpu - cpu, room_memory - memory
        held.add(host, cpu, memory, ((length_ms, pod.cpu_millicores * ratio),))
    if surplus > 0:  # what nobody asked for: the system itself, pods without requests
        held.add(host, 0, 0, ((FOREVER_MS, surplus),))
    if is_calm:
        cpu = stays_cpu + sum(hold.cpu_millicores for hold in load.holds.values())
        memory = stays_memory + sum(hold.memory_mib for hold in load.holds.values())
        if cpu or memory:
            held.add(host, cpu, memory, ((FOREVER_MS, float(cpu)),))
        return
    for _, hold in sorted(load.holds.items()):
        cpu, memory = min(hold.cpu_millicores, room_cpu), min(hold.memory_mib, room_memory)
        room_cpu, room_memory = room_cpu - cpu, room_memory - memory
        held.add(host, cpu, memory, ((FOREVER_MS, float(cpu)),))


def _use(load: NodeLoad, now_ms: int) -> tuple[float, float]:
    """Share of their requests that running pods use, and what is used besides, in millicores.

    Without a fresh reading pods are taken to use what they asked for, and so they are when one has started since.
    """
    reading = load.node.cpu_usage_millicores
    if reading is None or now_ms - reading.time_ms > FRESH_MS:
        return 1.0, 0.0
    surplus = load.unasked_millicores(reading)
    if any(pod.started_ms > reading.time_ms or pod.started_ms < 0 for pod in load.pods.values()):
        return 1.0, surplus
    asked = sum(pod.cpu_millicores for pod in load.pods.values())
    return (min(reading.value / asked, 1.0) if asked > 0 else 1.0), surplus


def _topology(keys: Sequence[NodeKey], loads: Sequence[NodeLoad], latency: LatencyMatrix) -> bytes:
    """Nodes as hosts, written straight as the JSON that the engine reads: a plan is scored in a tenth of a millisecond."""
    clusters: dict[str, list[str]] = {}
    for place, (key, load) in enumerate(zip(keys, loads, strict=True)):
        clusters.setdefault(key[0], []).append(
            f'{{"name":"n{place}","count":1,"core_count":{max(load.node.cpu_millicores, 1)},"core_speed_mhz":1.0,'
            f'"memory_mib":{load.node.memory_mib},"power_model":{_LINEAR}}}'
        )
    names = list(clusters)
    parts = [f'{{"name":"c{place}","hosts":[{",".join(clusters[name])}]}}' for place, name in enumerate(names)]
    waiting = (
        f'{{"name":"w","count":1,"core_count":1000000,"core_speed_mhz":1.0,"memory_mib":0,"power_model":{_LINEAR}}}'
    )
    parts.append(f'{{"name":"{_WAITING}","hosts":[{waiting}]}}')
    bandwidth = latency.bandwidth_mb_per_s * _MIB_PER_MB
    links = [
        f'{{"from":"c{i}","to":"c{j}","latency_ms":{latency.between(one, other) / 2!r},"bandwidth_mib_per_s":{bandwidth!r}}}'
        for i, one in enumerate(names)
        for j, other in enumerate(names[i + 1 :], start=i + 1)
    ]
    return f'{{"clusters":[{",".join(parts)}],"links":[{",".join(links)}]}}'.encode()

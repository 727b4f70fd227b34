"""Packing shared GPUs so that what is left over stays useful: fragmentation gradient descent.

Weng, Yang, Yu, Wang, Tang, Yang, Zhang, "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient
Descent", USENIX ATC 2023. A node's *fragmentation* is how much of its idle GPUs the workload cannot use, in expectation over the typical
pods (the shapes of the workload with their shares). For one pod that is all of the idle GPUs where the pod does not fit or asks for no
GPU, else the rests of those GPUs that have less left than it asks of each. A pod goes to the node (and GPU) where fragmentation
grows least; of equals, to the one with least CPU left, then by name.

Nodes that are loaded alike are looked at once, and growth is remembered by load and shape: 8,152 pods on 1,523 nodes take
seconds. Memory must fit too; the paper's metric, and so ours, looks at CPU and GPUs only.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.formats.openb import OpenbMachine, OpenbRequest

__all__ = ["Packed", "Packer", "PackingReport", "Shape", "simulate_packing", "typical_shapes"]

_WHOLE: Final = 1000


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a pod asks for; `gpu_models` will do, any when empty."""

    cpu_millicores: int
    memory_mib: int
    gpu: int
    gpu_millis: int
    gpu_models: tuple[str, ...] = ()

    @classmethod
    def of(cls, pod: OpenbRequest) -> Shape:
        """Shape of a pod of the list; a share of more than one GPU is a whole one of each."""
        millis = pod.gpu_millis if pod.gpu == 1 else _WHOLE if pod.gpu else 0
        return cls(pod.cpu_millicores, pod.memory_mib, pod.gpu, millis, pod.gpu_models)


@dataclass(frozen=True, slots=True)
class Packed:
    """Where a pod went: node and the numbers of its GPUs."""

    node: str
    devices: tuple[int, ...]


_Load = tuple[int, int, tuple[int, ...], str]
"""Free millicores, free MiB, what each GPU has free (in order of size), model."""


@dataclass(slots=True)
class _Node:
    name: str
    model: str
    cpu: int
    memory: int
    free_cpu: int
    free_memory: int
    devices: list[int]

    @property
    def load(self) -> _Load:
        return self.free_cpu, self.free_memory, tuple(sorted(self.devices)), self.model


def typical_shapes(pods: Iterable[OpenbRequest], share: float = 0.95) -> dict[Shape, float]:
    """Give the most frequent shapes that make up a share of the pods, with their own shares (which sum to 1).

    Memory is not part of a typical shape, nor are models, as in the paper's metric.
    """
    counts = Counter(Shape(shape.cpu_millicores, 0, shape.gpu, shape.gpu_millis) for shape in map(Shape.of, pods))
    total = sum(counts.values())
    chosen: dict[Shape, int] = {}
    for shape, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if sum(chosen.values()) >= share * total:
            break
        chosen[shape] = count
    covered = sum(chosen.values())
    return {shape: count / covered for shape, count in chosen.items()}


class Packer:
    """Nodes with shared GPUs, and pods on them.

    Parameters
    ----------
    machines : sequence of OpenbMachine
        The nodes.
    typical : dict of Shape to float
        What the workload is made of, by share.
    """

    def __init__(self, machines: Sequence[OpenbMachine], typical: dict[Shape, float]) -> None:
        self._typical = tuple(typical.items())
        self._nodes = {
            one.name: _Node(
                one.name,
                one.gpu_model,
                one.cpu_millicores,
                one.memory_mib,
                one.cpu_millicores,
                one.memory_mib,
                [_WHOLE] * one.gpu,
            )
            for one in machines
        }
        self._gpu_millis = sum(one.gpu for one in machines) * _WHOLE
        self.idle_gpu_millis = self._gpu_millis
        """What all GPUs have free, in thousandths."""
        self._alike: dict[_Load, list[str]] = {}
        for name in sorted(self._nodes):
            self._alike.setdefault(self._nodes[name].load, []).append(name)
        self._fragments: dict[tuple[int, tuple[int, ...]], float] = {}
        self._grows: dict[tuple[int, tuple[int, ...], int, int, int], tuple[float, int, int] | None] = {}
        self._pods: dict[str, tuple[Packed, Shape]] = {}

    def can_ever(self, shape: Shape) -> bool:
        """Whether some node could take such a pod if it were empty."""
        return any(
            _fits((node.cpu, node.memory, (_WHOLE,) * len(node.devices), node.model), shape)
            for node in self._nodes.values()
        )

    def place(self, name: str, shape: Shape) -> Packed | None:
        """Put a pod where fragmentation grows least; None when it fits nowhere now.

        Raises
        ------
        ValueError
            When a pod of this name is there already.
        """
        if name in self._pods:
            raise ValueError(f"pod {name} is placed already")
        best: tuple[float, int, str, int] | None = None
        for load, names in self._alike.items():
            if load[0] < shape.cpu_millicores or load[1] < shape.memory_mib:
                continue
            if shape.gpu and shape.gpu_models and load[3] not in shape.gpu_models:
                continue
            grows = self._growth(load[0], load[2], shape)
            if grows is not None:
                found = (grows[0], grows[1], names[0], grows[2])
                if best is None or found < best:
                    best = found
        if best is None:
            return None
        node = self._nodes[best[2]]
        devices = _devices(node.devices, shape, best[3])
        packed = Packed(node.name, devices)
        self._change(node, shape, devices, sign=1)
        self._pods[name] = packed, shape
        return packed

    def remove(self, name: str) -> None:
        """Take a pod away.

        Raises
        ------
        KeyError
            When there is none of this name.
        """
        packed, shape = self._pods.pop(name)
        self._change(self._nodes[packed.node], shape, packed.devices, sign=-1)

    @property
    def allocation_ratio(self) -> float:
        """Share of all GPUs that is given to pods."""
        return 1.0 - self.idle_gpu_millis / self._gpu_millis if self._gpu_millis else 0.0

    @property
    def cpu_allocation_ratio(self) -> float:
        """Share of all CPU that is given to pods."""
        return 1.0 - sum(node.free_cpu for node in self._nodes.values()) / sum(
            node.cpu for node in self._nodes.values()
        )

    @property
    def fragment_millis(self) -> float:
        """How much of the idle GPUs the workload cannot use, in expectation."""
        return sum(self._fragment(node.free_cpu, node.load[2]) for node in self._nodes.values())

    def check(self) -> None:
        """Add everything up anew and compare.

        Raises
        ------
        AssertionError
            When a node holds more than it has.
        """
        for name, node in self._nodes.items():
            here = [(packed, shape) for packed, shape in self._pods.values() if packed.node == name]
            cpu = sum(shape.cpu_millicores for _, shape in here)
            memory = sum(shape.memory_mib for _, shape in here)
            used = Counter[int]()
            for packed, shape in here:
                used.update(dict.fromkeys(packed.devices, shape.gpu_millis))
            if cpu > node.cpu or memory > node.memory or max(used.values(), default=0) > _WHOLE:
                raise AssertionError(f"node {name} holds more than it has")
            if (cpu, memory) != (node.cpu - node.free_cpu, node.memory - node.free_memory):
                raise AssertionError(f"node {name}: the books do not agree with its pods")
        if self.idle_gpu_millis != sum(sum(node.devices) for node in self._nodes.values()):
            raise AssertionError("idle GPUs: the books do not agree with the nodes")

    def _change(self, node: _Node, shape: Shape, devices: tuple[int, ...], *, sign: int) -> None:
        alike = self._alike[node.load]
        alike.remove(node.name)
        if not alike:
            del self._alike[node.load]
        node.free_cpu -= sign * shape.cpu_millicores
        node.free_memory -= sign * shape.memory_mib
        for device in devices:
            node.devices[device] -= sign * shape.gpu_millis
            self.idle_gpu_millis -= sign * shape.gpu_millis
        insort(self._alike.setdefault(node.load, []), node.name)

    def _growth(self, free_cpu: int, devices: tuple[int, ...], shape: Shape) -> tuple[float, int, int] | None:
        """How much fragmentation grows, CPU left, and what the GPU that is shared has free (0 when none is)."""
        key = (free_cpu, devices, shape.cpu_millicores, shape.gpu, shape.gpu_millis)
        if key not in self._grows:
            self._grows[key] = self._grown(free_cpu, devices, shape)
        return self._grows[key]

    def _grown(self, free_cpu: int, devices: tuple[int, ...], shape: Shape) -> tuple[float, int, int] | None:
        if sum(room >= shape.gpu_millis for room in devices) < shape.gpu:
            return None
        before, left = self._fragment(free_cpu, devices), free_cpu - shape.cpu_millicores
        if shape.gpu == 1:
            rooms = sorted({room for room in devices if room >= shape.gpu_millis})
        else:
            rooms = [_WHOLE if shape.gpu else 0]
        best: tuple[float, int, int] | None = None
        for room in rooms:
            after = list(devices)
            for place in _devices(after, shape, room):
                after[place] -= shape.gpu_millis
            found = (round(self._fragment(left, tuple(sorted(after))) - before, 6), left, room)
            best = found if best is None or found < best else best
        return best

    def _fragment(self, free_cpu: int, devices: tuple[int, ...]) -> float:
        """Fragmentation of a node, in thousandths of a GPU."""
        idle = sum(devices)
        if idle == 0:
            return 0.0
        key = (free_cpu, devices)
        known = self._fragments.get(key)
        if known is None:
            known = 0.0
            for shape, share in self._typical:
                fitting = sum(room >= shape.gpu_millis for room in devices)
                if shape.gpu == 0 or shape.cpu_millicores > free_cpu or fitting < shape.gpu:
                    known += share * idle
                else:
                    known += share * sum(room for room in devices if room < shape.gpu_millis)
            self._fragments[key] = known
        return known


def _fits(load: _Load, shape: Shape) -> bool:
    free_cpu, free_memory, devices, model = load
    if free_cpu < shape.cpu_millicores or free_memory < shape.memory_mib:
        return False
    if shape.gpu == 0:
        return True
    if shape.gpu_models and model not in shape.gpu_models:
        return False
    return sum(room >= shape.gpu_millis for room in devices) >= shape.gpu


def _devices(devices: Sequence[int], shape: Shape, room: int) -> tuple[int, ...]:
    """GPUs for a pod: of one that is shared the first with just `room` free, else the first that are whole."""
    wanted = room if shape.gpu == 1 else _WHOLE
    return tuple(place for place, free in enumerate(devices) if free == wanted)[: shape.gpu]


@dataclass(slots=True)
class PackingReport:
    """What came of a list of pods: counts, waits in s, and the state at the moment of the greatest GPU allocation."""

    placed: int = 0
    infeasible: list[str] = field(default_factory=list)
    waited: int = 0
    longest_wait_s: int = 0
    peak_allocation_ratio: float = 0.0
    peak_cpu_allocation_ratio: float = 0.0
    peak_fragment_gpus: float = 0.0
    peak_idle_gpus: float = 0.0
    placements: dict[str, Packed] = field(default_factory=dict)


def simulate_packing(
    packer: Packer, pods: Sequence[OpenbRequest], *, check_every: int = 1000, departures: bool = True
) -> PackingReport:
    """Let pods come when they were created, and go after they ran as long as they did; who finds no room waits in order.

    Parameters
    ----------
    packer : Packer
        The nodes, empty.
    pods : sequence of OpenbRequest
        In any order. One of which the list does not say how long it ran stays.
    check_every : int
        After how many placements all books are added up anew.
    departures : bool
        Whether pods go at all.
    """
    replay = _Replay(packer, check_every, departures=departures)
    for pod in sorted(pods, key=lambda one: (one.created_s, one.name)):
        replay.leave_until(pod.created_s)
        replay.come(pod)
    while replay.ends and replay.waiting:
        replay.leave_until(replay.ends[0][0])
    replay.look()
    packer.check()
    return replay.report


class _Replay:
    """Pods that come and go."""

    def __init__(self, packer: Packer, check_every: int, *, departures: bool) -> None:
        self.report = PackingReport()
        self.waiting: deque[tuple[OpenbRequest, Shape]] = deque()
        self.ends: list[tuple[int, str]] = []
        self._packer, self._check_every, self._departures = packer, check_every, departures

    def come(self, pod: OpenbRequest) -> None:
        """Let a pod come; it waits where there is no room for it."""
        shape = Shape.of(pod)
        if not self._packer.can_ever(shape):
            self.report.infeasible.append(pod.name)
        elif not self._put(pod.created_s, pod, shape):
            self.waiting.append((pod, shape))

    def look(self) -> None:
        """Keep the state when more GPUs are given than ever; it is enough to look before a pod goes, and at the end."""
        packer, report = self._packer, self.report
        if packer.allocation_ratio > report.peak_allocation_ratio:
            report.peak_allocation_ratio = packer.allocation_ratio
            report.peak_cpu_allocation_ratio = packer.cpu_allocation_ratio
            report.peak_fragment_gpus = packer.fragment_millis / _WHOLE
            report.peak_idle_gpus = packer.idle_gpu_millis / _WHOLE

    def leave_until(self, now_s: int) -> None:
        """Let pods go that have ended; who waits comes in order, and does not keep back those behind."""
        while self.ends and self.ends[0][0] <= now_s:
            end_s, name = heappop(self.ends)
            self.look()
            self._packer.remove(name)
            for _ in range(len(self.waiting)):
                pod, shape = self.waiting.popleft()
                if not self._put(end_s, pod, shape):
                    self.waiting.append((pod, shape))

    def _put(self, now_s: int, pod: OpenbRequest, shape: Shape) -> bool:
        packer, report = self._packer, self.report
        packed = packer.place(pod.name, shape)
        if packed is None:
            return False
        report.placed += 1
        report.placements[pod.name] = packed
        if now_s > pod.created_s:
            report.waited += 1
            report.longest_wait_s = max(report.longest_wait_s, now_s - pod.created_s)
        if self._departures and pod.run_s is not None:
            heappush(self.ends, (now_s + pod.run_s, pod.name))
        if self._check_every and report.placed % self._check_every == 0:
            packer.check()
        return True

"""A fleet as last seen: clusters, nodes, pods and what lies between them.

These are plain frozen dataclasses with slots, not validated models: a fleet has tens of thousands of them, they are made
at the border (``opendt.kubernetes``, ``POST /observe``), which checks what it is told, and shared without copies between
the one writer and all readers (``opendt.twin.state``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "ClusterState",
    "FleetSnapshot",
    "LatencyMatrix",
    "NodeState",
    "PodPhase",
    "PodRole",
    "PodState",
    "Reading",
    "Taint",
]

PodRole = Literal["stage", "replica", "shadow"]
"""What a pod is to its stage: its own, a second one beside it, or the one that stands in for a lost one."""
PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
_NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value and when it was true (ms since the epoch, UTC), so that its age is known."""

    value: float
    time_ms: int

    def age_ms(self, now_ms: int) -> int:
        """Give how long ago it was true, in ms."""
        return now_ms - self.time_ms


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods off a node unless they tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node: what it is, what it can give, how it is.

    Parameters
    ----------
    cluster, name : str
        Together unique.
    arch : str
        As in ``kubernetes.io/arch``: amd64, arm64, riscv64.
    exec_formats : tuple of str
        `native` and those that it can emulate.
    cpu_millicores, memory_mib, gpu, gpu_memory_mib : int
        What it can give (allocatable), `gpu` in devices.
    reserved_millicores : int
        What the machine has beyond that: kept for the system, which does not take it from pods.
    core_speed_ratio : float
        Speed of a core against the reference CPU, from ``dt.hardware.mhz``.
    core_speed_mhz, idle_w, max_w : float
        Hardware: speed of a core, power at rest and at full load.
    is_ready, is_cordoned : bool
        Whether pods may come.
    cpu_usage_millicores, memory_usage_mib : Reading, optional
        What the metrics say, with its age.
    energy_j : Reading, optional
        Counter of a meter, where there is one (Kepler): energy since the meter began, in J.
    """

    cluster: str
    name: str
    arch: str
    exec_formats: tuple[str, ...]
    cpu_millicores: int
    memory_mib: int
    gpu: int
    gpu_memory_mib: int
    gpu_model: str
    core_speed_mhz: float
    idle_w: float
    max_w: float
    max_pods: int = 110
    is_ready: bool = True
    is_cordoned: bool = False
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    taints: tuple[Taint, ...] = ()
    reserved_millicores: int = 0
    cpu_usage_millicores: Reading | None = None
    memory_usage_mib: Reading | None = None
    energy_j: Reading | None = None
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod: what it asks, where it is, and to which plan it belongs (empty when to none).

    Times are ms since the epoch, UTC, and -1 where they have not come yet; `started_ms` and `finished_ms` are the worker's own
    where it reports them, `container_finished_ms` is what the node says.
    """

    cluster: str
    namespace: str
    name: str
    uid: str
    node: str
    phase: PodPhase
    cpu_millicores: int
    memory_mib: int
    gpu: int = 0
    gpu_millis: int = 1000
    created_ms: int = -1
    scheduled_ms: int = -1
    started_ms: int = -1
    finished_ms: int = -1
    container_finished_ms: int = -1
    cpu_seconds: float | None = None
    memory_peak_mib: float | None = None
    exit_code: int | None = None
    reason: str = ""
    is_deleting: bool = False
    plan_id: str = ""
    job_id: str = ""
    stage_id: str = ""
    exec_format: str = "native"
    role: PodRole = "stage"
    origin_cluster: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    owner: str = ""
    """Kind/name of the controller that owns it."""
    stamp_ms: int = -1
    """What a writer put into the annotation ``opendt.io/written-ms``, to measure lag."""
    cpu_usage_millicores: Reading | None = None
    memory_usage_mib: Reading | None = None
    energy_j: Reading | None = None
    """Counter of a meter, where there is one (Kepler): energy that the pod took so far, in J."""
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One cluster: its kind, its failures, its price, and whether it answers.

    `failure_rate_per_h` is that of a node; `failure_domain` names what fails together (clusters of one domain do).
    """

    name: str
    type: str = "datacenter"
    resiliency_ratio: float = 1.0
    failure_rate_per_h: float = 0.0
    failure_domain: str = ""
    carbon_g_per_kwh: float = 0.0
    cost_per_core_h: float = 0.0
    is_reachable: bool = True
    last_seen_ms: int = -1
    message: str = ""


@dataclass(frozen=True, slots=True)
class LatencyMatrix:
    """Round trips between clusters in ms, and how fast data travels.

    A pair that is not there has `default_ms`; a cluster reaches itself in 0 ms.
    """

    round_trip_ms: Mapping[tuple[str, str], float]
    default_ms: float = 50.0
    bandwidth_mb_per_s: float = 125.0

    def between(self, one: str, other: str) -> float:
        """Give the round trip between two clusters in ms."""
        if one == other:
            return 0.0
        found = self.round_trip_ms.get((one, other))
        return self.default_ms if found is None else found

    def transfer_ms(self, one: str, other: str, size_mb: float) -> float:
        """Give the time that data takes from one cluster to the other: half a round trip and the size over the bandwidth."""
        if one == other:
            return 0.0
        return self.between(one, other) / 2 + size_mb / self.bandwidth_mb_per_s * 1000


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """Everything at one moment; never changed after it was made.

    Keys of `nodes` are (cluster, name), of `pods` (cluster, namespace, name). `version` rises with every change.
    """

    version: int
    time_ms: int
    clusters: Mapping[str, ClusterState]
    nodes: Mapping[tuple[str, str], NodeState]
    pods: Mapping[tuple[str, str, str], PodState]
    latency: LatencyMatrix
    job_origins: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

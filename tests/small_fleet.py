"""A small fleet: three clusters a few ms apart, in two failure domains, with nodes of two architectures and one with GPUs."""

from __future__ import annotations

from typing import Any

from opendt.model.fleet import ClusterState, FleetSnapshot, LatencyMatrix, NodeState, PodState
from opendt.model.job import Job, Origin, Stage, StageWork
from opendt.policy.index import FleetIndex
from opendt.twin.fleet_view import FleetView
from opendt.twin.predict import PredictiveSimulator

NOW_MS = 1_000_000


def cluster(name: str, **values: Any) -> ClusterState:
    """Give a cluster; `values` replaces what it is described as."""
    described: dict[str, Any] = {
        "resiliency_ratio": 0.99,
        "failure_rate_per_h": 0.001,
        "failure_domain": name,
        "carbon_g_per_kwh": 100.0,
        "cost_per_core_h": 0.04,
    }
    return ClusterState(name, **described | values)


def node(cluster_name: str, name: str, **values: Any) -> NodeState:
    """Give a node of 4 cores at the reference speed; `values` replaces what it is."""
    described: dict[str, Any] = {
        "arch": "amd64",
        "exec_formats": ("native", "qemu-arm64", "wasm"),
        "cpu_millicores": 4000,
        "memory_mib": 8192,
        "gpu": 0,
        "gpu_memory_mib": 0,
        "gpu_model": "",
        "core_speed_mhz": 2400.0,
        "idle_w": 40.0,
        "max_w": 120.0,
        "labels": {"kubernetes.io/hostname": name},
    }
    return NodeState(cluster_name, name, **described | values)


def pod(cluster_name: str, on: str, name: str = "p", **values: Any) -> PodState:
    """Give a running pod of half a core."""
    described: dict[str, Any] = {
        "namespace": "opendt",
        "uid": f"{cluster_name}-{name}",
        "node": on,
        "phase": "Running",
        "cpu_millicores": 500,
        "memory_mib": 256,
        "created_ms": NOW_MS - 10_000,
        "scheduled_ms": NOW_MS - 10_000,
        "started_ms": NOW_MS - 9_000,
    }
    return PodState(cluster_name, name=name, **described | values)


CLUSTERS = (
    cluster("core", failure_domain="north", failure_rate_per_h=0.0001, carbon_g_per_kwh=45.0),
    cluster("edge", failure_domain="west/one", resiliency_ratio=0.9, carbon_g_per_kwh=280.0, cost_per_core_h=0.02),
    cluster("home", failure_domain="west/two", resiliency_ratio=0.8, failure_rate_per_h=0.1, cost_per_core_h=0.01),
)
NODES = (
    node("core", "core-1", core_speed_mhz=3000.0),
    node("core", "core-2", core_speed_mhz=3000.0),
    node("core", "core-gpu", gpu=2, gpu_memory_mib=16_384, gpu_model="A", cpu_millicores=8000),
    node("edge", "edge-1"),
    node("edge", "edge-arm", arch="arm64", exec_formats=("native", "wasm"), core_speed_mhz=1200.0),
    node("home", "home-1", core_speed_mhz=3600.0, cpu_millicores=2000),
)
ROUND_TRIPS = {("core", "edge"): 30.0, ("core", "home"): 24.0, ("edge", "home"): 16.0}


def snapshot(
    nodes: tuple[NodeState, ...] = NODES,
    pods: tuple[PodState, ...] = (),
    clusters: tuple[ClusterState, ...] = CLUSTERS,
    *,
    version: int = 1,
) -> FleetSnapshot:
    """Give a snapshot."""
    both = ROUND_TRIPS | {(b, a): ms for (a, b), ms in ROUND_TRIPS.items()}
    return FleetSnapshot(
        version=version,
        time_ms=NOW_MS,
        clusters={one.name: one for one in clusters},
        nodes={(one.cluster, one.name): one for one in nodes},
        pods={(one.cluster, one.namespace, one.name): one for one in pods},
        latency=LatencyMatrix(both, bandwidth_mb_per_s=100.0),
    )


def predictor(*args: Any, **values: Any) -> PredictiveSimulator:
    """Give a predictor on a snapshot of these parts."""
    return PredictiveSimulator(FleetView(snapshot(*args, **values)))


def fleet(*args: Any, **values: Any) -> FleetIndex:
    """Give the index that policies see."""
    return FleetIndex(predictor(*args, **values))


def stage(name: str = "a", **values: Any) -> Stage:
    """Give a stage of one core for ten seconds of the reference CPU."""
    described: dict[str, Any] = {
        "cpu_millicores": 1000,
        "memory_mib": 512,
        "work": StageWork(cpu_seconds=10.0),
    }
    return Stage(id=name, **described | values)


def job(*stages: Stage, **values: Any) -> Job:
    """Give a job at scale 1 from the edge."""
    described: dict[str, Any] = {"id": "job", "scale": 1.0, "origin": Origin(cluster="edge")}
    return Job(stages=stages or (stage(),), **described | values)

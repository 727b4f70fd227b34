"""The fleet as deploy/fleet.yaml and deploy/latency-matrix.yaml describe it.

Their form is checked by the JSON Schemas beside them (in the tests); here they are read, and what no schema can say is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DEPLOY", "MOST_REAL_CORES", "Cluster", "Fleet", "NodeClass", "RealNode", "Route", "read_fleet", "shares"]

PLAYS_ARCH = "opendt.io/plays-arch"
"""Label of a real node: the architecture that deploy/node-arch-policy.yaml keeps in ``kubernetes.io/arch``."""
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
MOST_REAL_CORES = 1.2
"""Quotas of all real nodes together, in cores: a machine of two keeps the rest for the control planes."""


@dataclass(frozen=True)
class NodeClass:
    """Nodes of one kind that KWOK plays; power in W, memory in MiB."""

    name: str
    count: int
    arch: str
    cores: int
    mhz: float
    memory_mib: int
    idle_w: float
    max_w: float
    gpus: int = 0
    gpu_model: str = ""
    gpu_memory_mib: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    def allocatable(self) -> dict[str, str]:
        """Return what a node of this class offers, as Kubernetes writes it."""
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        return {"cpu": str(self.cores), "memory": f"{self.memory_mib}Mi", "pods": "110", **gpus}


@dataclass(frozen=True)
class RealNode:
    """A node that runs pods for real; `cores` is the hard quota of all its pods together."""

    name: str
    arch: str
    cores: float
    mhz: float
    memory_mib: int
    idle_w: float
    max_w: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """One cluster; `failure_rate_per_h` is that of one of its nodes."""

    name: str
    type: str
    region: str
    zone: str
    resiliency_ratio: float
    failure_rate_per_h: float
    failure_domain: str
    node_classes: tuple[NodeClass, ...]
    real_nodes: tuple[RealNode, ...] = ()
    carbon_g_per_kwh: float = 0.0
    cost_per_core_h: float = 0.0

    def labels(self, node: NodeClass | RealNode) -> dict[str, str]:
        """Return the labels of a node of this cluster, KWOK's or real."""
        of_gpu = {}
        if isinstance(node, NodeClass) and node.gpus:
            of_gpu = {"dt.hardware.gpu_model": node.gpu_model, "dt.hardware.gpu_memory_mib": str(node.gpu_memory_mib)}
        return {
            "kubernetes.io/arch": node.arch,
            "topology.kubernetes.io/region": self.region,
            "topology.kubernetes.io/zone": self.zone,
            "dt.cluster.name": self.name,
            "dt.cluster.type": self.type,
            "dt.cluster.resiliency": f"{self.resiliency_ratio:g}",
            "dt.hardware.mhz": f"{node.mhz:g}",
            "dt.hardware.idle_w": f"{node.idle_w:g}",
            "dt.hardware.max_w": f"{node.max_w:g}",
            "dt.exec.formats": "native.qemu-arm64.qemu-riscv64.wasm" if node.arch == "amd64" else "native.wasm",
            **({"dt.node.class": node.name} if isinstance(node, NodeClass) else {PLAYS_ARCH: node.arch}),
            **of_gpu,
            **node.labels,
        }


@dataclass(frozen=True)
class Route:
    """What packets meet between two clusters: a round trip, and jitter and loss each way."""

    round_trip_ms: float
    jitter_ms: float = 0.0
    loss_ratio: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """Clusters, and the routes between them by (from, to)."""

    clusters: tuple[Cluster, ...]
    routes: Mapping[tuple[str, str], Route]

    def first(self, count: int) -> Fleet:
        """Return the fleet of the first clusters only.

        Raises
        ------
        ValueError
            When there are not as many.
        """
        if not 1 <= count <= len(self.clusters):
            raise ValueError(f"CLUSTERS={count}: the fleet has 1 to {len(self.clusters)} clusters")
        return Fleet(self.clusters[:count], self.routes)


def read_fleet(path: Path = DEPLOY / "fleet.yaml") -> Fleet:
    """Read a description and the matrix that it names.

    Raises
    ------
    ValueError
        Naming file and cluster, where something in it contradicts itself.
    """
    raw = _read_yaml(path)
    clusters = tuple(_cluster(each) for each in raw["clusters"])
    names = [cluster.name for cluster in clusters]
    _refuse_twins(path, "cluster", names)
    _refuse_twins(path, "real node", [node.name for cluster in clusters for node in cluster.real_nodes])
    for cluster in clusters:
        nodes: list[NodeClass | RealNode] = [*cluster.node_classes, *cluster.real_nodes]
        for node in nodes:
            if node.idle_w > node.max_w:
                raise ValueError(
                    f"{path}: {cluster.name}, {node.name}: idle_w is {node.idle_w:g}, expected at most max_w, {node.max_w:g}"
                )
    matrix = path.parent / raw.get("latency_matrix", "latency-matrix.yaml")
    return Fleet(clusters, _paths(matrix, names))


def shares(count: int, weights: Sequence[int]) -> list[int]:
    """Share a number out in proportion to weights, exactly: by largest remainder, the first of equal ones first.

    Examples
    --------
    >>> shares(10, [12, 4, 4])
    [6, 2, 2]
    """
    total = sum(weights)
    if total == 0:
        raise ValueError("weights that are all zero: nothing says how to share")
    given = [count * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: (-(count * weights[place] % total), place))
    for place in by_remainder[: count - sum(given)]:
        given[place] += 1
    return given


def _cluster(raw: Mapping[str, Any]) -> Cluster:
    classes = tuple(NodeClass(**each) for each in raw["node_classes"])
    real = tuple(RealNode(**each) for each in raw.get("real_nodes", ()))
    return Cluster(**{**raw, "node_classes": classes, "real_nodes": real})


def _paths(file: Path, names: Sequence[str]) -> dict[tuple[str, str], Route]:
    given: dict[tuple[str, str], Route] = {}
    for row in _read_yaml(file)["latencies"]:
        pair = (row["from"], row["to"])
        if pair in given:
            raise ValueError(f"{file}: {pair[0]} to {pair[1]} is there twice: leave one")
        given[pair] = Route(float(row["latency_ms"]), row.get("jitter_ms", 0.0), row.get("loss_ratio", 0.0))
    missing = [(a, b) for a in names for b in names if a < b and (a, b) not in given and (b, a) not in given]
    if missing:
        raise ValueError(f"{file}: no latency between {missing[0][0]} and {missing[0][1]}: add an entry")
    return {**{(b, a): path for (a, b), path in given.items()}, **given}


def _read_yaml(path: Path) -> Any:
    import yaml  # not at the top: building the programs needs no YAML, and may run where there is none

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _refuse_twins(path: Path, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path}: two of {what} are called {name}: give each a name of its own")
        seen.add(name)

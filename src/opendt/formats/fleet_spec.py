"""The description of a fleet: clusters with their kinds, failures and prices, and their nodes (deploy/fleet.yaml).

What failures, prices and domains are stands here until something was observed. The nodes are those of a fleet that is described and
not followed; of one that is followed they come from its API servers. A node class of `count` nodes makes CLUSTER-CLASS-1 and on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from opendt.formats.latency import read_latency_matrix
from opendt.formats.yamlfile import read_model
from opendt.model.base import Model, NonNegative, NonNegativeInt, Positive, Ratio
from opendt.model.errors import FormatError
from opendt.model.fleet import ClusterState, FleetSnapshot, LatencyMatrix, NodeState
from opendt.model.job import ExecFormat

__all__ = ["ClusterSpec", "DescribedFleet", "FleetSpec", "NodeClassSpec", "RealNodeSpec", "read_fleet_spec"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
_EMULATORS: dict[str, tuple[ExecFormat, ...]] = {"amd64": ("qemu-arm64", "qemu-riscv64")}


class _Hardware(Model):
    """What nodes of all kinds have; power in W, memory in MiB."""

    name: Name
    arch: Literal["amd64", "arm64", "riscv64"]
    cores: Positive
    mhz: Positive
    memory_mib: Annotated[int, Field(strict=True, ge=1)]
    idle_w: NonNegative
    max_w: NonNegative
    labels: dict[str, str] = Field(default_factory=dict)
    formats: tuple[ExecFormat, ...] | None = None
    """What it can run besides its own; by its architecture unless given."""

    @model_validator(mode="after")
    def _idle_below_max(self) -> _Hardware:
        if self.idle_w > self.max_w:
            raise ValueError(f"{self.name}: idle_w ({self.idle_w:g}) must not exceed max_w ({self.max_w:g})")
        return self

    @property
    def exec_formats(self) -> tuple[ExecFormat, ...]:
        """`native` first, then what it emulates."""
        more = (*_EMULATORS.get(self.arch, ()), "wasm") if self.formats is None else self.formats
        return tuple(dict.fromkeys(("native", *more)))


class NodeClassSpec(_Hardware):
    """`count` equal nodes."""

    count: Annotated[int, Field(strict=True, ge=0, le=100_000)]
    gpus: NonNegativeInt = 0
    gpu_model: str = ""
    gpu_memory_mib: NonNegativeInt = 0


class RealNodeSpec(_Hardware):
    """One node that runs pods; `cores` is its quota."""


class ClusterSpec(Model):
    """One cluster; `failure_rate_per_h` is that of one of its nodes."""

    name: Name
    type: str
    region: str = ""
    zone: str = ""
    resiliency_ratio: Ratio = 1.0
    failure_rate_per_h: NonNegative = 0.0
    failure_domain: str = ""
    carbon_g_per_kwh: NonNegative = 0.0
    cost_per_core_h: NonNegative = 0.0
    node_classes: tuple[NodeClassSpec, ...] = ()
    real_nodes: tuple[RealNodeSpec, ...] = ()

    def state(self) -> ClusterState:
        """What the fleet's state begins with; clusters without a failure domain are one each."""
        return ClusterState(
            name=self.name,
            type=self.type,
            resiliency_ratio=self.resiliency_ratio,
            failure_rate_per_h=self.failure_rate_per_h,
            failure_domain=self.failure_domain or self.name,
            carbon_g_per_kwh=self.carbon_g_per_kwh,
            cost_per_core_h=self.cost_per_core_h,
        )

    def nodes(self) -> tuple[NodeState, ...]:
        """All its nodes, empty and ready."""
        made = [
            self._node(kind, f"{self.name}-{kind.name}-{number + 1}")
            for kind in self.node_classes
            for number in range(kind.count)
        ]
        return (*made, *(self._node(real, real.name) for real in self.real_nodes))

    def _node(self, spec: NodeClassSpec | RealNodeSpec, name: str) -> NodeState:
        labels = {
            "kubernetes.io/arch": spec.arch,
            "kubernetes.io/hostname": name,
            "dt.cluster.name": self.name,
            "dt.cluster.type": self.type,
            "dt.cluster.resiliency": f"{self.resiliency_ratio:g}",
        }
        for key, value in (("region", self.region), ("zone", self.zone)):
            if value:
                labels[f"topology.kubernetes.io/{key}"] = value
        if isinstance(spec, NodeClassSpec):
            labels["dt.node.class"] = spec.name

        return NodeState(
            cluster=self.name,
            name=name,
            arch=spec.arch,
            exec_formats=spec.exec_formats,
            cpu_millicores=round(spec.cores * 1000),
            memory_mib=spec.memory_mib,
            gpu=spec.gpus if isinstance(spec, NodeClassSpec) else 0,
            gpu_memory_mib=spec.gpu_memory_mib if isinstance(spec, NodeClassSpec) else 0,
            gpu_model=spec.gpu_model if isinstance(spec, NodeClassSpec) else "",
            core_speed_mhz=spec.mhz,
            idle_w=spec.idle_w,
            max_w=spec.max_w,
            labels=labels | spec.labels,
        )


class FleetSpec(Model):
    """A fleet; `latency_matrix` is a file beside it."""

    clusters: Annotated[tuple[ClusterSpec, ...], Field(min_length=1)]
    latency_matrix: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> FleetSpec:
        for what, names in (
            ("clusters", [cluster.name for cluster in self.clusters]),
            ("nodes", [node.name for cluster in self.clusters for node in cluster.real_nodes]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what}: the name {twice[0]!r} is used twice; each needs its own")
        return self


@dataclass(frozen=True, slots=True)
class DescribedFleet:
    """A description with the matrix that it names."""

    spec: FleetSpec
    latency: LatencyMatrix

    @property
    def clusters(self) -> dict[str, ClusterState]:
        """What the clusters are described as, by name."""
        return {cluster.name: cluster.state() for cluster in self.spec.clusters}

    def snapshot(self, time_ms: int = 0) -> FleetSnapshot:
        """Give the fleet as described: all nodes ready, no pods."""
        nodes = {(node.cluster, node.name): node for cluster in self.spec.clusters for node in cluster.nodes()}
        return FleetSnapshot(0, time_ms, self.clusters, nodes, {}, self.latency)


def read_fleet_spec(path: Path | str, latency: Path | str | None = None) -> DescribedFleet:
    """Read a description and its matrix.

    Parameters
    ----------
    path : path
        YAML or JSON.
    latency : path, optional
        Another matrix than the one that it names; without any, all pairs have the default.

    Raises
    ------
    FormatError
        Naming file and key; also when the matrix lacks a pair of the clusters.
    """
    spec = read_model(path, FleetSpec)
    if latency is None and spec.latency_matrix is not None:
        latency = Path(path).parent / spec.latency_matrix
    if latency is None:
        return DescribedFleet(spec, LatencyMatrix({}))
    matrix = read_latency_matrix(latency)
    names = [cluster.name for cluster in spec.clusters]
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            if (one, other) not in matrix.round_trip_ms:
                raise FormatError(latency, "latencies", f"nothing from {one} to {other}", "an entry of each pair")
    return DescribedFleet(spec, matrix)

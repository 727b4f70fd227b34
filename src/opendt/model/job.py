"""Jobs of a fleet: stages in a graph, with an origin and a deadline.

A job is what ``POST /plan`` and ``opendt plan`` take; a stage becomes one pod, one task of the twin. Quantities of a
stage are those it was *designed* for; what it asks of a cluster is scaled (``opendt.twin.scaling``).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from opendt.model.base import Count, Flag, Model, NonNegative, NonNegativeInt, Positive, Ratio

__all__ = [
    "EMULATED",
    "Constraints",
    "ExecFormat",
    "Format",
    "Job",
    "Locality",
    "Origin",
    "Stage",
    "StageWork",
    "Toleration",
    "WorkKind",
]

Identifier = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""What may stand in the name of a pod: lower-case letters, digits and hyphens, at most 63."""
NodeName = Annotated[str, Field(min_length=1, max_length=253)]

WorkKind = Literal["integer", "floating_point", "sorting", "memory"]
"""What a stage does with a CPU; emulation slows each of them by another factor."""

ExecFormat = Literal["native", "qemu-arm64", "qemu-riscv64", "qemu-amd64", "wasm"]
"""How a stage is executed on a node."""
EMULATED: Final[frozenset[str]] = frozenset({"qemu-arm64", "qemu-riscv64", "qemu-amd64", "wasm"})

Format = Literal["native", "amd64", "arm64", "riscv64", "qemu-amd64", "qemu-arm64", "qemu-riscv64", "wasm"]
"""What a stage comes as: ``native`` has a binary for every architecture; ``arm64`` one for arm64 nodes, which others may
emulate; ``qemu-arm64`` the same; ``wasm`` a module for any node that has a runtime."""


class Origin(Model):
    """Where a job comes from and its answer goes to."""

    cluster: Annotated[str, Field(min_length=1)]
    node: NodeName | None = None


class StageWork(Model):
    """An amount of work: seconds that it takes on one core of the reference CPU, whatever runs it."""

    kind: WorkKind = "integer"
    cpu_seconds: Positive


class Toleration(Model):
    """A taint that a stage puts up with; None matches any value or effect."""

    key: Annotated[str, Field(min_length=1)]
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Locality(Model):
    """Data that a stage reads, and where it lies."""

    cluster: Annotated[str, Field(min_length=1)]
    size_mb: NonNegative
    required: Flag = False


class Constraints(Model):
    """What a node must be for a stage; an absent one does not restrict.

    Parameters
    ----------
    arch : tuple of str
        Architectures as in ``kubernetes.io/arch``; any when empty.
    labels : dict of str to str
        Labels that the node must have.
    tolerations : tuple of Toleration
        Taints that do not keep the stage away.
    clusters, excluded_clusters : tuple of str
        Clusters that are allowed (all when empty) and that are not.
    node : str, optional
        The one node that is allowed.
    gpu_memory_mib : int
        Memory that each of the GPUs must have.
    max_latency_ms : float, optional
        Longest round trip to the clusters of the stages it needs (to the origin for a first stage).
    data : tuple of Locality
        Data it reads: transferred, or with `required` only where it lies.
    min_resiliency_ratio : float
        Least resiliency score of the cluster.
    """

    arch: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    clusters: tuple[str, ...] = ()
    excluded_clusters: tuple[str, ...] = ()
    node: NodeName | None = None
    gpu_memory_mib: NonNegativeInt = 0
    max_latency_ms: NonNegative | None = None
    data: tuple[Locality, ...] = ()
    min_resiliency_ratio: Ratio = 0.0


class Stage(Model):
    """One stage: what it needs, does and leaves behind.

    Parameters
    ----------
    id : str
        Unique within its job.
    needs : tuple of str
        Stages that must have finished, and whose output is transferred to it.
    cpu_millicores, memory_mib, gpu : int
        What it asks of a node.
    gpu_millis : int
        Thousandths of each GPU, as shared GPUs are counted.
    work : StageWork, optional
        What it does; a stage without it is known by its request only.
    formats : tuple of Format
        What it comes as, the preferred first.
    output_mb : float
        What it leaves for each stage that needs it, in MB (10^6 bytes).
    """

    id: Identifier
    needs: tuple[Identifier, ...] = ()
    cpu_millicores: Annotated[int, Field(strict=True, ge=1, le=10**9)]
    memory_mib: Annotated[int, Field(strict=True, ge=1, le=2**40)]
    gpu: Count = 0
    gpu_millis: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1000
    work: StageWork | None = None
    formats: Annotated[tuple[Format, ...], Field(min_length=1)] = ("native",)
    output_mb: NonNegative = 0.0
    constraints: Constraints = Constraints()


class Job(Model):
    """Stages that belong together.

    Parameters
    ----------
    id : str
        Unique; a plan of the same id and content is the same plan.
    origin : Origin, optional
        Where it comes from; without one nothing travels to its first or from its last stages.
    deadline_ms : int, optional
        Longest time from acceptance to the last stage's finish.
    input_mb : float
        What travels from the origin to each first stage, in MB.
    stages : tuple of Stage
        In any order; `order` sorts them.
    scale : float, optional
        By how much requests and work are divided when pods are made; a setting unless given.
    gang : bool
        Whether stages are placed all or none.
    """

    id: Identifier
    origin: Origin | None = None
    deadline_ms: Annotated[int, Field(strict=True, gt=0)] | None = None
    input_mb: NonNegative = 0.0
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=1000)]
    scale: Positive | None = None
    gang: Flag = True

    @model_validator(mode="after")
    def _stages_form_a_graph(self) -> Job:
        known = [stage.id for stage in self.stages]
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(f"stages: id {twice[0]!r} is used twice; each stage needs its own")
        for stage in self.stages:
            unknown = [name for name in stage.needs if name not in known]
            if unknown:
                raise ValueError(f"stages.{stage.id}.needs: no stage {unknown[0]!r}; the stages are {', '.join(known)}")
        if len(self._sorted()) < len(known):
            circle = sorted(set(known) - {stage.id for stage in self._sorted()})
            raise ValueError(f"stages: {', '.join(circle)} need each other in a circle")
        return self

    def order(self) -> tuple[Stage, ...]:
        """Give the stages so that each comes after those it needs; in the order given where that leaves a choice."""
        return tuple(self._sorted())

    def _sorted(self) -> list[Stage]:
        done: dict[str, Stage] = {}
        waiting = list(self.stages)
        while True:
            ready = [stage for stage in waiting if all(need in done for need in stage.needs)]
            if not ready:
                return list(done.values())
            done |= {stage.id: stage for stage in ready}
            waiting = [stage for stage in waiting if stage.id not in done]

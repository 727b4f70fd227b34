"""Jobs made small enough for the machine at hand: requests and work are divided by a scale, durations are not.

A stage designed for 50,000 millicores and W CPU seconds asks, at 1:100, for 500 millicores and does W / 100 CPU seconds: it takes
as long. What is divided, and how (all of it exact rational arithmetic, rounded once):

- *CPU*: millicores divided by the scale, rounded to the nearest whole millicore (halves up), as Kubernetes knows no finer
  ones; never up to a core. At least `least_cpu_millicores`.
- *work*: CPU seconds divided by what the CPU request was in fact divided by, so that rounding and the floor never change the
  duration. Where a request divides evenly, that is the scale itself.
- *memory*: MiB divided by the scale, rounded up, so that a limit made of it never kills what fitted. At least `least_memory_mib`.
- *not scaled*: GPUs (devices do not divide), data that is transferred, deadlines, latencies.

Limits equal requests. The floor of CPU is the kernel's: it refuses quotas below 1 ms per period of 100 ms, which is 10
millicores, and the kubelet raises smaller ones to that without saying so. The floor of memory is what a container runtime and the
worker need before they do anything, natively; as WebAssembly it needs 60 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Final

from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from opendt.model.job import Job, Stage

__all__ = ["DEFAULT_SCALE", "ScaleFloors", "ScaledJob", "ScaledStage", "scale_job", "scale_stage"]

DEFAULT_SCALE: Final = 100.0
"""100 simulated CPUs are one real core."""


@dataclass(frozen=True, slots=True)
class ScaleFloors:
    """The least that a pod asks for, whatever the scale; a scale of 1 leaves even smaller requests as they are."""

    least_cpu_millicores: int = 10
    least_memory_mib: int = 32


@dataclass(frozen=True, slots=True)
class ScaledStage:
    """A stage as it is run.

    Attributes
    ----------
    stage : Stage
        As designed.
    cpu_millicores, memory_mib : int
        What its pod asks for, and is limited to.
    cpu_seconds : float or None
        Work that it is given, in seconds of the reference CPU; None when the job does not say.
    cpu_ratio : float
        What its CPU request and its work were divided by: the scale, but for rounding and the floor.
    notes : tuple of str
        Where a floor was reached or a request was rounded; empty for an exact division.
    """

    stage: Stage
    cpu_millicores: int
    memory_mib: int
    cpu_seconds: float | None
    cpu_ratio: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScaledJob:
    """A job as it is run; `stages` are in the order of `Job.order`."""

    job: Job
    scale: float
    stages: tuple[ScaledStage, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan reports of its scaling."""
        return tuple(f"{one.stage.id}: {note}" for one in self.stages for note in one.notes)


def scale_job(job: Job, default_scale: float = DEFAULT_SCALE, floors: ScaleFloors | None = None) -> ScaledJob:
    """Scale a job by its own scale, or by the default where it has none.

    Raises
    ------
    ModelError
        When the scale is below 1 or not finite.
    """
    scale = default_scale if job.scale is None else job.scale
    return ScaledJob(job, scale, tuple(scale_stage(stage, scale, floors) for stage in job.order()))


_FLOORS: Final = ScaleFloors()


def scale_stage(stage: Stage, scale: float, floors: ScaleFloors | None = None) -> ScaledStage:
    """Scale one stage; raises as `scale_job`.

    Examples
    --------
    >>> from opendt.model.job import Stage, StageWork
    >>> stage = Stage(id="a", cpu_millicores=50_000, memory_mib=4096, work=StageWork(cpu_seconds=1200.0))
    >>> small = scale_stage(stage, 100.0)
    >>> small.cpu_millicores, small.memory_mib, small.cpu_seconds
    (500, 41, 12.0)
    """
    if not 1.0 <= scale < float("inf"):
        raise ModelError(f"scale of stage {stage.id}", scale, "a number from 1 up, such as 100 for 1:100")
    least = floors or _FLOORS
    if float(scale).is_integer():  # nearly always; the same as below, without fractions
        whole = int(scale)
        cpu, memory = (2 * stage.cpu_millicores + whole) // (2 * whole), -(-stage.memory_mib // whole)
        is_exact = stage.cpu_millicores % whole == 0
    else:
        ratio = Fraction(scale)
        exact = Fraction(stage.cpu_millicores) / ratio
        cpu, memory = floor(exact + Fraction(1, 2)), ceil(Fraction(stage.memory_mib) / ratio)
        is_exact = exact.denominator == 1
    notes = []
    if cpu < min(least.least_cpu_millicores, stage.cpu_millicores):
        cpu = min(least.least_cpu_millicores, stage.cpu_millicores)
        notes.append(f"CPU is at its floor of {cpu} millicores, 1:{stage.cpu_millicores / cpu:g}")
    elif not is_exact:
        notes.append(f"CPU is rounded to {cpu} millicores, 1:{stage.cpu_millicores / cpu:g}")
    if memory < min(least.least_memory_mib, stage.memory_mib):
        memory = min(least.least_memory_mib, stage.memory_mib)
        notes.append(f"memory is at its floor of {memory} MiB, 1:{stage.memory_mib / memory:g}")
    seconds = None
    if stage.work is not None:
        # One division of exact numbers, rounded once.
        seconds = stage.work.cpu_seconds * cpu / stage.cpu_millicores
    return ScaledStage(stage, cpu, memory, seconds, stage.cpu_millicores / cpu, tuple(notes))

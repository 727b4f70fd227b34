"""Plans of jobs: where each stage goes, what is predicted, what then happened."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opendt.model.base import Flag, Milliseconds, Model, NonNegative, Ratio, Real
from opendt.model.job import ExecFormat

__all__ = [
    "Infeasible",
    "Interval",
    "Misfit",
    "Placement",
    "Plan",
    "PlanObservation",
    "PlanPrediction",
    "PlanStatus",
    "PlanVerdict",
    "Quantity",
    "StageObservation",
    "StagePrediction",
    "TimeShare",
]

PlanStatus = Literal["planned", "acting", "running", "succeeded", "failed", "infeasible", "dry_run"]


class Placement(Model):
    """One stage on one node, in one form."""

    stage_id: str
    node_name: str
    cluster: str
    exec_format: ExecFormat = "native"


class Interval(Model):
    """What a quantity will lie in with the probability `level`."""

    lower: Real
    upper: Real
    level: Ratio = 0.9


class TimeShare(Model):
    """Where a stage's time goes, in ms; `total_ms` is from the moment its inputs were ready."""

    transfer_ms: NonNegative = 0.0
    queue_ms: NonNegative = 0.0
    startup_ms: NonNegative = 0.0
    run_ms: NonNegative = 0.0

    @property
    def total_ms(self) -> float:
        """Sum of the parts."""
        return self.transfer_ms + self.queue_ms + self.startup_ms + self.run_ms


class StagePrediction(Model):
    """What is predicted of one stage; times are ms from the acceptance of the plan."""

    stage_id: str
    start_ms: NonNegative
    finish_ms: NonNegative
    cpu_seconds: NonNegative
    memory_peak_mib: NonNegative
    energy_j: NonNegative
    failure_probability: Ratio
    time: TimeShare


class PlanPrediction(Model):
    """What is predicted of a plan.

    `latency_ms` is from the acceptance of the plan to the last stage's finish, as the worker reports it;
    `risk_score` the probability that a stage fails or the deadline is missed.
    """

    latency_p50_ms: NonNegative
    latency_p95_ms: NonNegative
    latency_interval_ms: Interval
    cpu_seconds: NonNegative
    cpu_seconds_interval: Interval
    memory_peak_mib: NonNegative
    memory_peak_interval_mib: Interval
    energy_kwh: NonNegative
    energy_interval_kwh: Interval
    carbon_g: NonNegative
    cost: NonNegative
    risk_score: Ratio
    deadline_miss_probability: Ratio
    stages: tuple[StagePrediction, ...]
    closed_form_latency_ms: NonNegative
    """The rival: what a closed formula says, without a simulation and without what was learned."""


class Misfit(Model):
    """Why the nodes of one group (cluster and class) cannot take a stage, and what would have to change for it."""

    stage_id: str
    group: str
    nodes: Annotated[int, Field(ge=0)]
    reason: str
    remedy: str


class Infeasible(Model):
    """Why a job cannot be placed; `remedy` is the smallest change that would make it feasible."""

    misfits: tuple[Misfit, ...]
    remedy: str


class Plan(Model):
    """Placements for a job with their prediction."""

    plan_id: str
    job_id: str
    job_hash: str
    strategy: str
    snapshot_version: int
    accepted_ms: Milliseconds
    """ms since the epoch, UTC."""
    scale: NonNegative
    dry_run: Flag = False
    placements: dict[str, Placement]
    shadow_placements: dict[str, Placement] = Field(default_factory=dict)
    prediction: PlanPrediction | None
    infeasible: Infeasible | None = None
    explanation: str


class StageObservation(Model):
    """What happened to one stage; absent where nobody said it. Times are ms since the epoch, UTC.

    `started_ms` and `finished_ms` are the worker's own where it reports them, else the container's; `container_finished_ms`
    is what the node says, in whole seconds.
    """

    stage_id: str
    node_name: str
    cluster: str
    exec_format: ExecFormat
    phase: Literal["pending", "running", "succeeded", "failed", "lost"]
    created_ms: Milliseconds | None = None
    scheduled_ms: Milliseconds | None = None
    started_ms: Milliseconds | None = None
    finished_ms: Milliseconds | None = None
    container_finished_ms: Milliseconds | None = None
    cpu_seconds: NonNegative | None = None
    memory_peak_mib: NonNegative | None = None
    reason: str = ""


class PlanObservation(Model):
    """What happened to a plan."""

    plan_id: str
    status: PlanStatus
    stages: tuple[StageObservation, ...]


class Quantity(Model):
    """One predicted quantity against the observed one."""

    predicted: Real
    observed: Real | None
    error_ratio: Real | None
    """(predicted - observed) / observed."""
    within_tolerance: Flag | None
    in_interval: Flag | None
    is_modelled: Flag = False
    """Whether "observed" comes from a model, as energy does where no meter exists."""


class PlanVerdict(Model):
    """How far what was predicted is from what happened."""

    plan_id: str
    is_complete: Flag
    """Whether every stage has ended."""
    latency_ms: Quantity
    energy_kwh: Quantity
    cpu_seconds: Quantity
    memory_peak_mib: Quantity
    within_tolerance: Flag | None

"""Bodies of requests and answers of the fleet's REST interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from opendt.model.base import Flag, Model, NonNegative, NonNegativeInt, Ratio
from opendt.model.fleet import ClusterState, NodeState, PodState
from opendt.model.fleet_action import FleetActionRequest
from opendt.model.job import Job
from opendt.model.plan import Infeasible, Interval, Placement, PlanObservation, PlanPrediction, PlanStatus, PlanVerdict

if TYPE_CHECKING:
    from opendt.model.plan import Plan
    from opendt.orchestrator.fleet import PlanRecord

__all__ = [
    "ActionAnswer",
    "ActionRequest",
    "Intervals",
    "PlanAnswer",
    "PlanRequest",
    "PlansAnswer",
    "PlansRequest",
    "RecordAnswer",
    "SnapshotAnswer",
    "StartAnswer",
]


class Body(Model):
    """Built at once: FastAPI looks into bodies when it makes routes, and this module is only imported to serve."""

    model_config = ConfigDict(defer_build=False)


class PlanRequest(Body):
    """Body of ``POST /plan``: a job, the policy that is to place it, and whether it is only asked what would happen."""

    job: Job
    strategy: str | None = None
    dry_run: Flag = False


class PlansRequest(Body):
    """Body of ``POST /plans``: jobs, placed in their order; all or none, unless those that can be will do (`partial`)."""

    jobs: Annotated[tuple[Job, ...], Field(min_length=1, max_length=10_000)]
    strategy: str | None = None
    dry_run: Flag = False
    partial: Flag = False


class ActionRequest(Body):
    """Body of ``POST /actions``: what is to be done, or only asked of the API server."""

    request: FleetActionRequest
    dry_run: Flag = False


class ActionAnswer(Body):
    """What came of an action; `action_id` is its name in the ledger, empty for a dry run."""

    action_id: str
    action: str
    cluster: str
    target: str
    outcome: Literal["done", "unchanged", "failed", "would_be_done"]
    message: str = ""


class Intervals(Body):
    """Bands of a plan's four quantities."""

    latency_ms: Interval
    energy_kwh: Interval
    cpu_seconds: Interval
    memory_peak_mib: Interval


class PlanAnswer(Body):
    """A plan: where each stage goes, and what is predicted."""

    plan_id: str
    job_id: str
    strategy: str
    dry_run: Flag
    scale: NonNegative
    snapshot_version: NonNegativeInt
    accepted_ms: NonNegativeInt
    placements: dict[str, Placement]
    predicted_latency_ms: NonNegative
    predicted_latency_p95_ms: NonNegative
    predicted_energy_kwh: NonNegative
    predicted_cpu_seconds: NonNegative
    predicted_memory_peak_mib: NonNegative
    predicted_carbon_g: NonNegative
    predicted_cost: NonNegative
    risk_score: Ratio
    deadline_miss_probability: Ratio
    shadow_plan: dict[str, Placement]
    intervals: Intervals
    explanation: str

    @classmethod
    def of(cls, plan: Plan) -> PlanAnswer:
        """Make the answer of a feasible plan."""
        said = plan.prediction
        assert said is not None, "a plan that is answered was feasible"
        return cls(
            plan_id=plan.plan_id,
            job_id=plan.job_id,
            strategy=plan.strategy,
            dry_run=plan.dry_run,
            scale=plan.scale,
            snapshot_version=plan.snapshot_version,
            accepted_ms=plan.accepted_ms,
            placements=plan.placements,
            predicted_latency_ms=said.latency_p50_ms,
            predicted_latency_p95_ms=said.latency_p95_ms,
            predicted_energy_kwh=said.energy_kwh,
            predicted_cpu_seconds=said.cpu_seconds,
            predicted_memory_peak_mib=said.memory_peak_mib,
            predicted_carbon_g=said.carbon_g,
            predicted_cost=said.cost,
            risk_score=said.risk_score,
            deadline_miss_probability=said.deadline_miss_probability,
            shadow_plan=plan.shadow_placements,
            intervals=Intervals(
                latency_ms=said.latency_interval_ms,
                energy_kwh=said.energy_interval_kwh,
                cpu_seconds=said.cpu_seconds_interval,
                memory_peak_mib=said.memory_peak_interval_mib,
            ),
            explanation=plan.explanation,
        )


class PlansAnswer(Body):
    """Plans, in the order of the jobs; why others have none, by job."""

    plans: tuple[PlanAnswer, ...]
    infeasible: dict[str, Infeasible] = Field(default_factory=dict)


class RecordAnswer(Body):
    """A plan with all that is known of it now."""

    plan: PlanAnswer
    status: PlanStatus
    prediction: PlanPrediction | None
    observation: PlanObservation | None
    verdict: PlanVerdict | None

    @classmethod
    def of(cls, record: PlanRecord) -> RecordAnswer:
        """Make the answer."""
        return cls(
            plan=PlanAnswer.of(record.plan),
            status=record.status,
            prediction=record.plan.prediction,
            observation=record.observation,
            verdict=record.verdict,
        )


class StartAnswer(Body):
    """When a stage that waits will start: quantile -> ms since the epoch (UTC), and what it waits for."""

    quantiles_ms: dict[str, int]
    reason: str


class Latency(Body):
    """Round trip between two clusters."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    latency_ms: NonNegative


class SnapshotAnswer(Body):
    """The fleet as last seen: clusters, nodes, pods, what lies between, and where jobs come from."""

    version: NonNegativeInt
    time_ms: NonNegativeInt
    clusters: tuple[ClusterState, ...]
    nodes: tuple[NodeState, ...]
    pods: tuple[PodState, ...]
    latency: tuple[Latency, ...]
    job_origins: dict[str, str]


def body(model: Model) -> bytes:
    """JSON of an answer."""
    return model.model_dump_json().encode()


def schema(model: Any) -> dict[str, Any]:
    """JSON Schema of a body."""
    from pydantic import TypeAdapter

    return TypeAdapter(model).json_schema()

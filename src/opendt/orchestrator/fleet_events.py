"""What can happen to a fleet and its plans: one frozen record a kind, as in `opendt.orchestrator.event_types`.

``datacenter`` is the fleet's name; ``time_ms`` is when it happened by the clock of the clusters, ms since the epoch (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass

from opendt.orchestrator.event_types import Event

__all__ = [
    "ChaosObserved",
    "ClusterLost",
    "ClusterReached",
    "FleetAction",
    "FleetActionFailed",
    "LeaderChanged",
    "NodeDown",
    "NodeUp",
    "PlanAccepted",
    "PlanFinished",
    "PlanRefused",
    "PlanResumed",
    "PlanVerified",
    "SenseNote",
    "SenseTrouble",
    "StageFailedOver",
    "StageFinished",
    "StageLost",
    "StageStarted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAccepted(Event):
    """A plan was stored, before anything was done about it."""

    sentence = "plan {plan} of job {job} by {strategy}: {stages} stages, {latency_ms:,.0f} ms predicted"

    plan: str
    job: str
    strategy: str
    stages: int
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRefused(Event):
    """A job could not be placed."""

    level = "warning"
    sentence = "job {job} cannot be placed: {reason}"

    job: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResumed(Event):
    """A plan that an earlier process had stored is followed again."""

    sentence = "plan {plan} is followed again: {done} of {stages} stages have ended"

    plan: str
    done: int
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAction(Event):
    """The gate let something be done to a cluster, and it was done."""

    action: str
    cluster: str
    target: str
    plan: str = ""
    outcome: str = "done"

    @property
    def said(self) -> str:
        """What happened, in one line for people."""
        plan = f" for {self.plan}" if self.plan else ""
        outcome = "" if self.outcome == "done" else f" ({self.outcome})"
        return f"{self.action} {self.target} in {self.cluster}{plan}{outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetActionFailed(Event):
    """Something was to be done to a cluster and was not; it is tried again where `is_final` is false."""

    level = "warning"
    sentence = "{action} {target} in {cluster} failed: {reason}"

    action: str
    cluster: str
    target: str
    reason: str
    plan: str = ""
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """A stage runs."""

    level = "debug"
    sentence = "stage {stage} of {plan} runs on {node} in {cluster}"

    plan: str
    stage: str
    cluster: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished(Event):
    """A stage has ended."""

    level = "debug"
    sentence = "stage {stage} of {plan} {phase} on {node} in {cluster}"

    plan: str
    stage: str
    cluster: str
    node: str
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLost(Event):
    """The node or cluster that a stage was on is gone."""

    level = "warning"
    sentence = "stage {stage} of {plan} is lost with {node} in {cluster}: {reason}"

    plan: str
    stage: str
    cluster: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailedOver(Event):
    """A stage goes on elsewhere: with its replica, where its shadow was placed, or at another place."""

    level = "warning"
    sentence = "stage {stage} of {plan} goes on elsewhere, on {node} in {cluster}"

    plan: str
    stage: str
    cluster: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFinished(Event):
    """All stages of a plan have ended, or none can begin any more."""

    sentence = "plan {plan} {status} after {latency_ms:,.0f} ms"

    plan: str
    status: str
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanVerified(Event):
    """A plan was held against what happened; ratios are (predicted - observed) / observed."""

    sentence = "plan {plan}: {predicted_ms:,.0f} ms predicted, {observed_ms:,.0f} ms observed ({error_ratio:+.1%})"

    plan: str
    predicted_ms: float
    observed_ms: float
    error_ratio: float
    is_within_tolerance: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDown(Event):
    """A node is not ready any more."""

    level = "warning"
    sentence = "node {node} in {cluster} is down: {reason}"

    cluster: str
    node: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUp(Event):
    """A node is ready again."""

    sentence = "node {node} in {cluster} is up"

    cluster: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLost(Event):
    """A cluster does not answer; what is known of it grows old."""

    level = "warning"
    sentence = "cluster {cluster} does not answer: {reason}"

    cluster: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReached(Event):
    """A cluster answers, for the first time or again."""

    sentence = "cluster {cluster} answers"

    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosObserved(Event):
    """Somebody injects a failure and says so, so that it is not taken for an error of the model."""

    level = "warning"
    sentence = "chaos: {what} on {target}"

    what: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderChanged(Event):
    """Which process may act on the fleet changed."""

    sentence = "{holder} {what}"

    holder: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SenseTrouble(Event):
    """Something about a cluster cannot be read, or not as it should."""

    level = "warning"
    sentence = "{cluster}: {what}: {message}"

    cluster: str
    what: str
    message: str
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SenseNote(Event):
    """Something about how a cluster is read changed."""

    sentence = "{cluster}: {what}: {message}"

    cluster: str
    what: str
    message: str
    subject: str = ""

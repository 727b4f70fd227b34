"""What the fleet's service needs of others: somebody who places jobs, and hands that make pods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from opendt.model.errors import OpenDTError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.fleet import PodRole
    from opendt.model.fleet_action import Evict, Scale, SetSchedulable
    from opendt.model.job import Job
    from opendt.model.plan import (
        Infeasible,
        Placement,
        Plan,
        PlanPrediction,
        StageObservation,
    )
    from opendt.twin.fleet_view import NodeLoad

__all__ = ["ActionError", "Hands", "Placed", "Planner", "PlannerState", "StartEstimate"]

PlannerState = dict[str, object]
"""Plain data that a planner learned, to be given back after a restart."""


class ActionError(OpenDTError):
    """A cluster did not do what it was asked.

    Parameters
    ----------
    reason : str
        Why, in one sentence.
    is_final : bool
        Whether asking again is of no use.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Placed:
    """Placements of all stages of a job, with what is predicted of them."""

    placements: dict[str, Placement]
    prediction: PlanPrediction
    explanation: str
    shadow_placements: dict[str, Placement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StartEstimate:
    """When something that waits will start, ms since the epoch (UTC): quantile to moment; `reason` says what it waits for."""

    quantiles_ms: dict[float, int]
    reason: str


class Planner(Protocol):
    """Somebody who places jobs on the fleet as last seen, predicts, and learns from what was observed."""

    @property
    def strategies(self) -> Sequence[str]:
        """Names of the policies."""

    @property
    def snapshot_version(self) -> int:
        """Version of the fleet that the last answer was given on."""

    def place(self, job: Job, strategy: str, scale: float) -> Placed | Infeasible:
        """Place a job; nothing is reserved."""

    def reserve(self, plan: Plan, job: Job) -> None:
        """Count a plan's requests as used until its pods are seen or it is released."""

    def release(self, plan_id: str, stage_id: str | None = None) -> None:
        """Give back what is reserved for a plan, or for one of its stages."""

    def move(self, job: Job, plan: Plan, stage_id: str, placement: Placement) -> bool:
        """Hold room for a stage elsewhere than its plan says; false, and nothing held, where there is none."""

    def replacement(self, job: Job, plan: Plan, stage_id: str) -> Placement | None:
        """Find another place for one stage, outside of the cluster or node that it was lost with; None when there is none."""

    def learn(self, job: Job, plan: Plan, observation: StageObservation, *, is_as_planned: bool) -> None:
        """Learn from a stage that has ended; one that did not run as planned began when nobody had foreseen."""

    def energy_j(self, job: Job, plan: Plan, observation: StageObservation) -> float | None:
        """Attribute energy to a stage that has ended: its CPU seconds through its node's power model."""

    def start_of(self, plan: Plan, job: Job, stage_id: str) -> StartEstimate | None:
        """Estimate when a stage that waits will start; None when that cannot be told."""

    def loads(self, cluster: str, names: Sequence[str]) -> dict[str, NodeLoad]:
        """What nodes of a cluster hold now, reservations included; those that are not known are left out."""

    def start_of_pod(self, cluster: str, namespace: str, name: str) -> StartEstimate | None:
        """Estimate when a pod that waits will start, whoever made it; None when it does not wait or never will.

        Raises
        ------
        OpenDTError
            When there is no such pod.
        """

    def state(self) -> PlannerState:
        """Give what was learned."""

    def restore(self, state: PlannerState) -> None:
        """Take what was learned before."""


class Hands(Protocol):
    """Somebody who acts on clusters. Every method is safe to repeat."""

    def create(self, plan: Plan, job: Job, stage_id: str, placement: Placement, *, role: PodRole) -> str:
        """Make a stage's pod, unless it is there; gives its name.

        Raises
        ------
        ActionError
            When the cluster refuses or does not answer.
        """

    def delete(self, plan: Plan, stage_id: str, cluster: str, *, role: PodRole) -> None:
        """Remove a stage's pod from a cluster, where it is there."""

    def clear(self, plan: Plan, cluster: str) -> None:
        """Remove all that a plan made in a cluster."""

    def act(self, request: SetSchedulable | Evict | Scale, *, dry_run: bool) -> bool:
        """Do what a person asks for, or ask whether it would be done; tells whether anything changes.

        Raises
        ------
        ActionError
            When the cluster refuses or does not answer.
        """

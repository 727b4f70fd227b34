"""What is kept, learned and told when a stage has ended, and when a plan is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.orchestrator import fleet_events as events
from opendt.verification.verify import Tolerances, verify_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.model.plan import PlanVerdict
    from opendt.orchestrator.event_types import Event
    from opendt.orchestrator.fleet_book import PlanBook
    from opendt.orchestrator.fleet_ports import Planner
    from opendt.orchestrator.fleet_report import FleetReport
    from opendt.orchestrator.fleet_run import PlanRun

__all__ = ["FleetEnds"]


class FleetEnds:
    """Takes ends in.

    Parameters
    ----------
    book : PlanBook
        Keeps them.
    planner : Planner
        Learns from them.
    report : FleetReport
        Has a row of each plan.
    tell : callable
        Told of them.
    tolerances : Tolerances
        Of verdicts.
    """

    def __init__(
        self,
        book: PlanBook,
        planner: Planner,
        report: FleetReport,
        tell: Callable[[Event], None],
        tolerances: Tolerances,
    ) -> None:
        self._book = book
        self._planner = planner
        self._report = report
        self._tell = tell
        self._tolerances = tolerances

    def take_stage(self, run: PlanRun, name: str) -> None:
        """Take in that a stage has ended."""
        plan, stage = run.plan, run.stages[name]
        seen = stage.seen
        if seen is None:
            raise ValueError(f"stage {name} of {plan.plan_id} has ended unseen")
        self._book.record_end(plan.plan_id, seen, role=stage.role)
        self._tell(
            events.StageFinished(
                plan=plan.plan_id, stage=name, cluster=seen.cluster, node=seen.node_name, phase=seen.phase
            )
        )
        self.learn(run, name)

    def learn(self, run: PlanRun, name: str) -> None:
        """Learn from how the pod of a stage ended, whether or not the stage has."""
        stage = run.stages[name]
        if run.plan.prediction is not None and stage.seen is not None:
            self._planner.learn(run.job, run.plan, stage.seen, is_as_planned=stage.role == "stage")

    def take_plan(self, run: PlanRun) -> None:
        """Take in that a plan is over: held against its prediction, where all of it succeeded."""
        plan, observation = run.plan, run.observation
        row = self._report.add(plan, run.job, observation)
        self._book.record_over(plan.plan_id, run.status, self._verdict(run))
        ends = [seen.finished_ms for seen in observation.stages if seen.finished_ms is not None]
        latency_ms = float(max(ends) - plan.accepted_ms) if ends else 0.0
        self._tell(events.PlanFinished(plan=plan.plan_id, status=run.status, latency_ms=latency_ms))
        if row is not None:
            self._tell(
                events.PlanVerified(
                    plan=plan.plan_id,
                    predicted_ms=row.predicted_ms,
                    observed_ms=row.observed_ms,
                    error_ratio=row.error_ratio,
                    is_within_tolerance=abs(row.error_ratio) <= self._tolerances.latency_ratio,
                )
            )

    def _verdict(self, run: PlanRun) -> PlanVerdict | None:
        if run.status != "succeeded":
            return None
        observation = run.observation
        parts = [self._planner.energy_j(run.job, run.plan, seen) for seen in observation.stages]
        known = [part for part in parts if part is not None]
        energy_j = sum(known) if len(known) == len(parts) else None
        return verify_plan(run.plan, observation, energy_j=energy_j, tolerances=self._tolerances)

"""One plan while it runs: which stages can begin, which ended, where each is, and what has become of the whole.

Nothing here touches a cluster or a clock. `PlanRun` is told what was seen (`note`) and asked what to do next (`ready`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opendt.model.plan import PlanObservation, StageObservation
from opendt.twin.fleet_costs import arrival_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.model.fleet import LatencyMatrix, PodRole
    from opendt.model.job import Job
    from opendt.model.plan import Placement, Plan, PlanStatus

__all__ = ["PlanRun", "Replica", "StageRun"]

_ENDED: Final = frozenset({"succeeded", "failed", "lost"})


@dataclass(slots=True)
class Replica:
    """A second pod of a stage, at another place: the one that succeeds first counts."""

    placement: Placement
    is_asked: bool = False
    was_asked: bool = False
    """Whether it ever was: it may have been made although its cluster refused it, or did not answer."""
    seen: StageObservation | None = None


@dataclass(slots=True)
class StageRun:
    """One stage: where it is to run, whether it was asked for, and what was last seen of it."""

    placement: Placement
    needs: tuple[str, ...]
    role: PodRole = "stage"
    is_asked: bool = False
    seen: StageObservation | None = None
    replica: Replica | None = None

    @property
    def phase(self) -> str:
        """`waiting` until it is asked for, then that of its pod."""
        if self.seen is not None:
            return self.seen.phase
        return "pending" if self.is_asked else "waiting"

    @property
    def has_ended(self) -> bool:
        """Whether it will not change any more by itself."""
        return self.phase in _ENDED


class PlanRun:
    """A plan with the state of its stages.

    Parameters
    ----------
    plan : Plan
        Feasible, and not a dry run.
    job : Job
        What it is for.
    is_acting : bool
        Whether pods are to be made; else it only stands in the ledger.
    """

    def __init__(self, plan: Plan, job: Job, *, is_acting: bool) -> None:
        self.plan = plan
        self.job = job
        self.is_acting = is_acting
        # A job that is no gang may have been placed in part: what has no place, and what needs that, is not in the plan.
        self.stages: dict[str, StageRun] = {}
        for stage in job.order():
            if stage.id in plan.placements and all(need in self.stages for need in stage.needs):
                self.stages[stage.id] = StageRun(plan.placements[stage.id], stage.needs)

    def ready(self) -> list[str]:
        """Stages that can begin and were not asked for yet; none once a stage has failed for good."""
        if not self.is_acting or any(stage.phase in ("failed", "lost") for stage in self.stages.values()):
            return []
        return [
            name
            for name, stage in self.stages.items()
            if not stage.is_asked and all(self.stages[need].phase == "succeeded" for need in stage.needs)
        ]

    def inputs_ms(self, name: str, where: str, latency: LatencyMatrix) -> float:
        """When all that a stage needs would be in a cluster, by the latency matrix; ms since the epoch.

        Nothing here moves data. A stage that was begun as soon as the ones before it ended would run ahead of its inputs.
        """
        stage = next(one for one in self.job.stages if one.id == name)
        begun = self.plan.accepted_ms + arrival_ms(self.job, stage, where, latency)
        outputs = {one.id: one.output_mb for one in self.job.stages}
        for need in stage.needs:
            seen = self.stages[need].seen
            ended_ms = self.plan.accepted_ms if seen is None or seen.finished_ms is None else seen.finished_ms
            sent = latency.transfer_ms(self.stages[need].placement.cluster, where, outputs[need])
            data = arrival_ms(self.job, stage, where, latency)
            begun = max(begun, ended_ms + sent, ended_ms + data)
        return begun

    def note(self, seen: StageObservation, *, role: PodRole = "stage") -> tuple[str, str] | None:
        """Take what was seen of a stage; gives its phase before and after when that changed.

        What is seen of a placement that the stage has left (it went to its shadow) is not about the stage any more. What has
        ended stays ended: a pod that is cleaned up afterwards takes nothing back.
        """
        stage = self.stages.get(seen.stage_id)
        if stage is None or role != stage.role or stage.has_ended:
            return None
        before = stage.phase
        stage.is_asked = True
        stage.seen = seen
        return None if before == stage.phase else (before, stage.phase)

    def lose(self, name: str, reason: str) -> None:
        """Say that a stage's pod is gone for good, with its node or cluster or by somebody's hand."""
        stage = self.stages[name]
        values = {} if stage.seen is None else stage.seen.model_dump(exclude={"phase", "reason"})
        where = stage.placement
        given = {
            "stage_id": name,
            "node_name": where.node_name,
            "cluster": where.cluster,
            "exec_format": where.exec_format,
        }
        stage.seen = StageObservation.model_validate({**given, **values, "phase": "lost", "reason": reason})

    def shadow_of(self, name: str) -> Placement | None:
        """Where a stage can go on when its own place is gone; None when it has no other, or is there already."""
        stage = self.stages[name]
        shadow = self.plan.shadow_placements.get(name)
        return shadow if stage.role == "stage" else None

    def fail_over(self, name: str, placement: Placement, role: PodRole = "shadow") -> None:
        """Let a stage go on elsewhere: at another placement, to be asked for anew, or with its replica, as that is.

        It happens once: who goes on so does not go on from there.
        """
        stage = self.stages[name]
        replica, stage.replica = stage.replica, None
        there = replica if role == "replica" else None
        stage.placement, stage.role = placement, role
        stage.is_asked = there is not None and there.is_asked
        stage.seen = None if there is None else there.seen

    def replicas(self, cluster: str, node: str) -> list[str]:
        """Stages that have a replica on a node."""
        return [
            name
            for name, stage in self.stages.items()
            if stage.replica is not None
            and (stage.replica.placement.cluster, stage.replica.placement.node_name) == (cluster, node)
        ]

    def on(self, cluster: str, node: str | None = None) -> Iterator[str]:
        """Stages that are asked for and have not ended, in a cluster, or on one of its nodes."""
        for name, stage in self.stages.items():
            if (
                stage.is_asked
                and not stage.has_ended
                and stage.placement.cluster == cluster
                and node in (None, stage.placement.node_name)
            ):
                yield name

    @property
    def status(self) -> PlanStatus:
        """What has become of the whole."""
        phases = [stage.phase for stage in self.stages.values()]
        if all(phase == "succeeded" for phase in phases):
            return "succeeded"
        if any(phase in ("failed", "lost") for phase in phases):
            return "failed"
        if any(phase in ("running", "succeeded") for phase in phases):
            return "running"
        return "acting" if any(phase == "pending" for phase in phases) else "planned"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: all stages ended, or one failed and none of the others runs."""
        phases = [stage.phase for stage in self.stages.values()]
        if self.status == "succeeded":
            return True
        return self.status == "failed" and not any(phase in ("pending", "running") for phase in phases)

    @property
    def observation(self) -> PlanObservation:
        """What is known of the stages that were seen."""
        seen = tuple(stage.seen for stage in self.stages.values() if stage.seen is not None)
        return PlanObservation(plan_id=self.plan.plan_id, status=self.status, stages=seen)

"""The book of plans: every plan is in the ledger before anything is done about it, and every end of a stage when it is seen.

A plan's documents stand in the ledger's table of plans under the fleet's name, grouped by the plan's id: the plan with its job,
the ends of its stages, where a stage went on or runs a second time, and the verdict. None of them ever changes. After a kill they
say what was planned and what is over; the pods of the clusters say the rest.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from opendt.model.job import Job
from opendt.model.plan import Placement, Plan, PlanVerdict, StageObservation
from opendt.orchestrator.fleet_run import PlanRun, Replica
from opendt.verification.ledger_rows import DocumentRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.fleet import PodRole
    from opendt.verification.ledger import Ledger

__all__ = ["PlanBook", "StoredPlan", "job_hash", "plan_id_of"]

_DIGEST_LETTERS: Final = 12
_DRY_RUNS: Final = 1000


def job_hash(job: Job, strategy: str) -> str:
    """Digest of a job and how it is to be placed: equal requests have equal ones."""
    return hashlib.sha256(f"{strategy}\n{job.model_dump_json()}".encode()).hexdigest()


def plan_id_of(job: Job, digest: str) -> str:
    """Name the plan of a job: the same for the same request, so that asking twice makes one plan."""
    return f"{job.id[:40].rstrip('-')}-{digest[:_DIGEST_LETTERS]}"


@dataclass(slots=True)
class StoredPlan:
    """What the ledger has of a plan."""

    plan: Plan
    job: Job
    is_acting: bool
    ended: dict[str, tuple[StageObservation, PodRole]] = field(default_factory=dict)
    """Stage -> its end, and of which of its pods that was."""
    moved: dict[str, tuple[Placement, PodRole]] = field(default_factory=dict)
    """Stage -> where it goes on, and as what."""
    replicated: dict[str, Placement] = field(default_factory=dict)
    """Stage -> where it was to run a second time."""
    dropped: set[str] = field(default_factory=set)
    """Stages that go on without that."""
    verdict: PlanVerdict | None = None
    status: str = ""
    """How it ended; empty while it has not."""

    @property
    def replicas(self) -> dict[str, Placement]:
        """Stage -> where it runs a second time, as long as it does."""
        gone = self.dropped | self.ended.keys()
        return {stage_id: placement for stage_id, placement in self.replicated.items() if stage_id not in gone}

    def run(self) -> PlanRun:
        """The plan as far as the ledger knows it."""
        run = PlanRun(self.plan, self.job, is_acting=self.is_acting)
        for stage_id, placement in self.replicas.items():
            run.stages[stage_id].replica = Replica(placement)
        for stage_id, (placement, role) in self.moved.items():
            run.fail_over(stage_id, placement, role)
        for seen, role in self.ended.values():
            run.note(seen, role=role)
        return run


class PlanBook:
    """Plans by id and by job.

    Parameters
    ----------
    ledger : Ledger
        Where they are kept.
    fleet : str
        Name that they are kept under.
    """

    def __init__(self, ledger: Ledger, fleet: str) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._lock = threading.Lock()
        self._plans: dict[str, StoredPlan] = {}
        self._plan_of_job: dict[str, str] = {}
        self._dry_runs: OrderedDict[str, StoredPlan] = OrderedDict()
        self._unwritten: list[DocumentRow] = []

    def load(self) -> list[StoredPlan]:
        """Read all that is there anew; gives the plans that are not over, oldest first."""
        found = self._read(None)
        with self._lock:
            self._unwritten.clear()
            self._plans = found
            self._plan_of_job = {stored.job.id: plan_id for plan_id, stored in found.items()}
        open_plans = [one for one in found.values() if not one.status]
        return sorted(open_plans, key=lambda one: (one.plan.accepted_ms, one.plan.plan_id))

    def read(self, plan_id: str) -> StoredPlan | None:
        """Look a plan up in the ledger, where another process may have written since; dry runs are this process's own."""
        return self._read(plan_id).get(plan_id) or self._dry_runs.get(plan_id)

    def _read(self, plan_id: str | None) -> dict[str, StoredPlan]:
        rows = self._ledger.documents("plans", self._fleet, proposal_id=plan_id)
        # What people asked for stands beside plans and is about none.
        documents = [row.document for row in rows if row.document.content["type"] != "action"]
        plans = [_stored(one.content) for one in documents if one.content["type"] == "plan"]
        found = {stored.plan.plan_id: stored for stored in sorted(plans, key=lambda one: one.plan.accepted_ms)}
        # A move comes before the end of the shadow, and takes back the end of what was left.
        for document in sorted(documents, key=lambda one: one.content["type"] != "move"):
            _apply(found[document.proposal_id], document.content)
        return found

    def find(self, plan_id: str) -> StoredPlan | None:
        """Look a plan up; dry runs are found as long as they are remembered."""
        with self._lock:
            return self._plans.get(plan_id) or self._dry_runs.get(plan_id)

    def of_job(self, job_id: str) -> StoredPlan | None:
        """Look up the plan of a job; dry runs are none."""
        with self._lock:
            plan_id = self._plan_of_job.get(job_id)
            return None if plan_id is None else self._plans[plan_id]

    def all(self) -> list[StoredPlan]:
        """All plans but dry runs, oldest first."""
        with self._lock:
            return list(self._plans.values())

    def remember(self, plan: Plan, job: Job) -> None:
        """Keep a dry run in memory, so that it can be explained; old ones make room."""
        with self._lock:
            self._dry_runs[plan.plan_id] = StoredPlan(plan, job, is_acting=False, status="dry_run")
            while len(self._dry_runs) > _DRY_RUNS:
                self._dry_runs.popitem(last=False)

    def store(self, plans: Sequence[tuple[Plan, Job]], *, is_acting: bool) -> None:
        """Store plans, safe on disk when this returns, all or none.

        Raises
        ------
        LedgerError
            When the ledger is away for too long, or has another plan of the same id.
        """
        rows = [
            DocumentRow(
                plan.plan_id,
                {
                    "type": "plan",
                    "plan": plan.model_dump(mode="json"),
                    "job": job.model_dump(mode="json"),
                    "is_acting": is_acting,
                },
                plan.plan_id,
            )
            for plan, job in plans
        ]
        self._ledger.record_plans(self._fleet, rows)
        for plan, job in plans:
            self._keep(StoredPlan(plan, job, is_acting))

    def record_end(self, plan_id: str, seen: StageObservation, *, role: PodRole) -> None:
        """Record how a stage ended, with the next `flush`."""
        content = {"type": "stage", "observation": seen.model_dump(mode="json"), "role": role}
        self._add(plan_id, f"{role}.{seen.stage_id}", content)

    def record_move(self, plan_id: str, stage_id: str, placement: Placement, role: PodRole) -> None:
        """Record where a stage goes on, and as what, with the next `flush`, before it does."""
        content = {"type": "move", "stage": stage_id, "placement": placement.model_dump(mode="json"), "role": role}
        self._add(plan_id, f"move.{stage_id}", content)

    def record_replica(self, plan_id: str, stage_id: str, placement: Placement) -> None:
        """Record where a stage is to run a second time, with the next `flush`, before it does."""
        content = {"type": "replica", "stage": stage_id, "placement": placement.model_dump(mode="json")}
        self._add(plan_id, f"replicate.{stage_id}", content)

    def record_drop(self, plan_id: str, stage_id: str) -> None:
        """Record that a stage goes on without its replica, with the next `flush`."""
        self._add(plan_id, f"drop.{stage_id}", {"type": "drop", "stage": stage_id})

    def record_over(self, plan_id: str, status: str, verdict: PlanVerdict | None) -> None:
        """Record what became of a plan, with the next `flush`."""
        said = None if verdict is None else verdict.model_dump(mode="json")
        self._add(plan_id, "over", {"type": "over", "status": status, "verdict": said})

    def _add(self, plan_id: str, name: str, content: dict[str, Any]) -> None:
        with self._lock:
            self._unwritten.append(DocumentRow(f"{plan_id}/{name}", content, plan_id))
            _apply(self._plans[plan_id], content)

    def flush(self) -> None:
        """Write what was recorded since the last time, in one transaction, safe on disk when this returns.

        Raises
        ------
        LedgerError
            When the ledger is away for too long; it is written with the next one then.
        """
        with self._lock:
            rows = list(self._unwritten)
        if rows:
            self._ledger.record_plans(self._fleet, rows)
            with self._lock:
                del self._unwritten[: len(rows)]

    def _keep(self, stored: StoredPlan) -> None:
        with self._lock:
            self._plans[stored.plan.plan_id] = stored
            self._plan_of_job[stored.job.id] = stored.plan.plan_id


def _stored(content: Any) -> StoredPlan:
    return StoredPlan(
        Plan.model_validate_json(_text(content["plan"])),
        Job.model_validate_json(_text(content["job"])),
        is_acting=bool(content["is_acting"]),
    )


def _apply(stored: StoredPlan, content: Any) -> None:
    """Take one document about a plan into what is known of it."""
    kind = content["type"]
    if kind == "stage":
        seen = StageObservation.model_validate_json(_text(content["observation"]))
        stored.ended[seen.stage_id] = (seen, content["role"])
    elif kind == "move":
        placement = Placement.model_validate_json(_text(content["placement"]))
        stored.moved[content["stage"]] = (placement, content["role"])
        stored.ended.pop(content["stage"], None)
    elif kind == "replica":
        stored.replicated[content["stage"]] = Placement.model_validate_json(_text(content["placement"]))
    elif kind == "drop":
        stored.dropped.add(content["stage"])
    elif kind == "over":
        stored.status = content["status"]
        if content["verdict"] is not None:
            stored.verdict = PlanVerdict.model_validate_json(_text(content["verdict"]))


def _text(content: Any) -> bytes:
    """JSON of a part of a document: records are strict, and only JSON's lists become tuples for them."""
    import orjson

    return orjson.dumps(content)

"""The book of plans: every plan is in the ledger before anything is done about it, and every end of a stage when it is seen.

A plan's documents stand in the ledger's table of plans under the fleet's name, grouped by the plan's id: the plan with its job,
the ends of its stages, where a stage went when it lost its place, and the verdict. None of them ever changes. After a kill they
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
from opendt.verification.ledger_rows import DocumentRow

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    ended: dict[str, tuple[StageObservation, bool]] = field(default_factory=dict)
    """Stage -> its end, and whether that was of its shadow."""
    moved: dict[str, Placement] = field(default_factory=dict)
    verdict: PlanVerdict | None = None
    status: str = ""
    """How it ended; empty while it has not."""


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

    def load(self) -> list[StoredPlan]:
        """Read all that is there; gives the plans that are not over, oldest first."""
        documents = [row.document for row in self._ledger.documents("plans", self._fleet)]
        for document in documents:
            if document.content["type"] == "plan":
                self._keep(_stored(document.content))
        for document in documents:
            _apply(self._plans[document.proposal_id], document.content)
        open_plans = [one for one in self._plans.values() if not one.status]
        return sorted(open_plans, key=lambda one: (one.plan.accepted_ms, one.plan.plan_id))

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

    def record_end(self, plan_id: str, seen: StageObservation, *, is_shadow: bool) -> None:
        """Record how a stage ended."""
        place = "shadow" if is_shadow else "stage"
        content = {"type": "stage", "observation": seen.model_dump(mode="json"), "is_shadow": is_shadow}
        self._add(plan_id, f"{place}.{seen.stage_id}", content)

    def record_move(self, plan_id: str, stage_id: str, placement: Placement) -> None:
        """Record where a stage goes on, before it does."""
        content = {"type": "move", "stage": stage_id, "placement": placement.model_dump(mode="json")}
        self._add(plan_id, f"move.{stage_id}", content)

    def record_over(self, plan_id: str, status: str, verdict: PlanVerdict | None) -> None:
        """Record what became of a plan."""
        said = None if verdict is None else verdict.model_dump(mode="json")
        self._add(plan_id, "over", {"type": "over", "status": status, "verdict": said})

    def _add(self, plan_id: str, name: str, content: dict[str, Any]) -> None:
        row = DocumentRow(f"{plan_id}/{name}", content, plan_id)
        self._ledger.record_plans(self._fleet, [row])
        with self._lock:
            _apply(self._plans[plan_id], content)

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
        stored.ended[seen.stage_id] = (seen, bool(content["is_shadow"]))
    elif kind == "move":
        stored.moved[content["stage"]] = Placement.model_validate_json(_text(content["placement"]))
        stored.ended.pop(content["stage"], None)
    elif kind == "over":
        stored.status = content["status"]
        if content["verdict"] is not None:
            stored.verdict = PlanVerdict.model_validate_json(_text(content["verdict"]))


def _text(content: Any) -> bytes:
    """JSON of a part of a document: records are strict, and only JSON's lists become tuples for them."""
    import orjson

    return orjson.dumps(content)

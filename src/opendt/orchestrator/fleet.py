"""The fleet's service: plans, what became of them, and the fleet as last seen. Commands and REST are faces of it.

A plan is stored before anything is done about it and acted on through one gate: pods are made only in the environment ``live``
and when the mode lets a person's request through (``approve``, where asking is the approval, or ``auto``); elsewhere plans are
advice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import InputError, OpenDTError
from opendt.model.fleet import Reading
from opendt.model.fleet_observation import ChaosObservation, FleetObservation, NodeObservation, TelemetryObservation
from opendt.model.plan import Infeasible, Plan, PlanObservation, PlanVerdict
from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.fleet_book import PlanBook, StoredPlan, job_hash, plan_id_of
from opendt.orchestrator.fleet_news import PlanNews
from opendt.twin.scaling import DEFAULT_SCALE
from opendt.twin.state import FleetUpdate, Readings
from opendt.verification.verify import Tolerances, verify_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opendt.model.fleet import FleetSnapshot, NodeState
    from opendt.model.fleet_action import FleetRequest
    from opendt.model.job import Job
    from opendt.model.mode import Mode
    from opendt.model.plan import PlanStatus
    from opendt.orchestrator.event_types import Event
    from opendt.orchestrator.events import EventBus, Notice
    from opendt.orchestrator.fleet_actions import ActionReport, FleetActions
    from opendt.orchestrator.fleet_keeper import FleetKeeper
    from opendt.orchestrator.fleet_ports import Placed, Planner, StartEstimate
    from opendt.orchestrator.fleet_run import PlanRun
    from opendt.twin.state import FleetState

__all__ = [
    "FleetService",
    "InfeasibleJob",
    "JobConflict",
    "NotLeading",
    "PlanRecord",
    "ServiceSettings",
    "UnknownPlan",
    "may_act",
]


_HEARD_S: Final = 1.0


class InfeasibleJob(OpenDTError):  # noqa: N818 - said of a job, not of a program
    """A job cannot be placed; `infeasible` says why, stage by stage and node group by node group."""

    def __init__(self, job_id: str, infeasible: Infeasible) -> None:
        super().__init__(f"job {job_id} cannot be placed: {infeasible.remedy}")
        self.job_id = job_id
        self.infeasible = infeasible


class JobConflict(OpenDTError):  # noqa: N818 - said of a job, not of a program
    """A job of this id is planned already, with another content."""


class UnknownPlan(OpenDTError):  # noqa: N818 - said of a plan, not of a program
    """There is no plan of this id."""


class NotLeading(OpenDTError):  # noqa: N818 - said of a process, not of a program
    """Another process leads the fleet; only it takes plans."""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan with what is known of it now."""

    plan: Plan
    job: Job
    status: PlanStatus
    observation: PlanObservation | None
    verdict: PlanVerdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How a fleet's service answers.

    Parameters
    ----------
    strategy : str
        Policy, where a request names none.
    scale : float
        By how much requests and work are divided, where a job does not say.
    may_act : bool
        Whether the environment and the mode let a person's plan be acted on.
    tolerances : Tolerances
        Of verdicts.
    """

    strategy: str = "greedy"
    scale: float = DEFAULT_SCALE
    may_act: bool = False
    tolerances: Tolerances = field(default_factory=Tolerances)


class FleetService:
    """Places jobs, has plans carried out, and says what became of them. Any thread may call it.

    Parameters
    ----------
    name : str
        Name of the fleet.
    state : FleetState
        The fleet as last seen.
    planner : Planner
        Places and predicts.
    book : PlanBook
        Where plans are kept.
    keeper : FleetKeeper
        Carries them out.
    bus : EventBus
        Told of everything.
    clock_ms : callable
        Clock of the clusters, ms since the epoch.
    actions : FleetActions
        Does what people ask for.
    settings : ServiceSettings, optional
        The defaults unless given.
    leader : callable
        Name of the process that leads when it is another one, else empty.
    wake : callable, optional
        Has the keeper look soon, from a thread of its own; without one it looks at once.
    """

    def __init__(
        self,
        name: str,
        state: FleetState,
        planner: Planner,
        book: PlanBook,
        keeper: FleetKeeper,
        bus: EventBus,
        clock_ms: Callable[[], int],
        actions: FleetActions,
        *,
        settings: ServiceSettings | None = None,
        leader: Callable[[], str] = lambda: "",
        wake: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.state = state
        self.planner = planner
        self.keeper = keeper
        self._book = book
        self._bus = bus
        self._clock_ms = clock_ms
        self._actions = actions
        self._settings = settings or ServiceSettings()
        self._leader = leader
        self._wake = wake or keeper.step
        self._planning = threading.Lock()
        self._news = PlanNews(bus.published)
        bus.subscribe(self._news.hear)

    def resume(self) -> int:
        """Follow the plans that are in the ledger, and no others; gives their number. Call it once the fleet has been seen."""
        for run in self.keeper.runs:
            self.planner.release(run.plan.plan_id)
        self.keeper.forget()
        left = self._book.load()
        self.keeper.report.restore(self._book.all())
        for stored in left:
            if stored.is_acting:
                self._reserve_again(stored)
            self.keeper.resume(stored)
        self._wake()
        return len(left)

    def _reserve_again(self, stored: StoredPlan) -> None:
        plan, job = stored.plan, stored.job
        self.planner.reserve(plan, job)
        for stage_id, placement in stored.replicas.items():
            self.planner.move(job, plan, stage_id, placement)
        for stage_id, (placement, _) in stored.moved.items():
            self.planner.move(job, plan, stage_id, placement)
        for stage_id in stored.ended:
            self.planner.release(plan.plan_id, stage_id)

    @property
    def is_acting(self) -> bool:
        """Whether plans are carried out, by this process."""
        return self._settings.may_act and not self._leader()

    @property
    def strategies(self) -> tuple[str, ...]:
        """Names of the policies."""
        return tuple(self.planner.strategies)

    @property
    def strategy(self) -> str:
        """Policy, where a request names none."""
        return self._settings.strategy

    def act(self, request: FleetRequest, *, dry_run: bool = False) -> ActionReport:
        """Do what a person asks for; raises as `FleetActions.act`, and `NotLeading` when another process leads."""
        if not dry_run:
            self._check_leading("actions")
        return self._actions.act(request, dry_run=dry_run)

    # Plans

    def plan(self, job: Job, strategy: str | None = None, *, dry_run: bool = False) -> Plan:
        """Place a job; stored before anything is done, and acted on unless it is a dry run.

        The same job and strategy again give the plan that is there: asking twice does nothing twice.

        Raises
        ------
        InfeasibleJob
            When it cannot be placed.
        JobConflict
            When a job of its id is planned with another content.
        InputError
            When there is no such strategy, or its origin is no cluster of the fleet.
        NotLeading
            When another process leads; dry runs are answered by all.
        """
        return self.plan_all([job], strategy, dry_run=dry_run)[0]

    def plan_all(self, jobs: Sequence[Job], strategy: str | None = None, *, dry_run: bool = False) -> list[Plan]:
        """Place jobs in their order, each seeing the ones before it; stored in one transaction, all or none.

        Raises as `plan`, of the first that cannot be placed; then none is.
        """

        def refuse(job: Job, infeasible: Infeasible) -> Infeasible:
            raise InfeasibleJob(job.id, infeasible)

        found = self._plan(jobs, strategy, refuse, dry_run=dry_run)
        return [plan for plan in found if isinstance(plan, Plan)]

    def plan_each(
        self, jobs: Sequence[Job], strategy: str | None = None, *, dry_run: bool = False
    ) -> list[Plan | Infeasible]:
        """Place jobs in their order, each seeing the ones before it; those that can be are stored in one transaction.

        Raises as `plan`, but for jobs that cannot be placed: they have the reason in place of a plan.
        """
        return self._plan(jobs, strategy, lambda _job, infeasible: infeasible, dry_run=dry_run)

    def _plan(
        self,
        jobs: Sequence[Job],
        strategy: str | None,
        refused: Callable[[Job, Infeasible], Infeasible],
        *,
        dry_run: bool,
    ) -> list[Plan | Infeasible]:
        self._check(jobs, strategy, dry_run=dry_run)
        chosen = strategy or self._settings.strategy
        found: list[Plan | Infeasible] = []
        fresh: dict[str, tuple[Plan, Job]] = {}
        is_kept = False
        with self._planning:
            try:
                for job in jobs:
                    known = None if dry_run else self._known(job, chosen, fresh)
                    placed = known or self._placed(job, chosen, dry_run=dry_run)
                    if isinstance(placed, Infeasible):
                        placed = refused(job, placed)
                    elif known is None:
                        self.planner.reserve(placed, job)
                        fresh[job.id] = (placed, job)
                    found.append(placed)
                if fresh and not dry_run:
                    self._book.store(list(fresh.values()), is_acting=self._settings.may_act)
                    is_kept = self._settings.may_act
            finally:
                # Advice and dry runs hold nothing: who knows whether anybody follows them.
                for plan, _ in () if is_kept else fresh.values():
                    self.planner.release(plan.plan_id)
        self._took(list(fresh.values()))
        return found

    def _check(self, jobs: Sequence[Job], strategy: str | None, *, dry_run: bool) -> None:
        if strategy is not None and strategy not in self.planner.strategies:
            raise InputError("strategy", repr(strategy), f"one of {', '.join(self.planner.strategies)}")
        for job in jobs:
            if job.origin is not None and self.state.cluster(job.origin.cluster) is None:
                known = ", ".join(self.state.snapshot().clusters)
                raise InputError("job.origin.cluster", repr(job.origin.cluster), f"one of {known or 'none yet'}")
        if not dry_run:
            self._check_leading("plans")

    def _check_leading(self, what: str) -> None:
        leader = self._leader()
        if leader:
            raise NotLeading(f"fleet {self.name}: {leader} leads it; send {what} there, or ask for a dry run")

    def _known(self, job: Job, strategy: str, fresh: Mapping[str, tuple[Plan, Job]]) -> Plan | None:
        stored = self._book.of_job(job.id)
        if stored is None and job.id not in fresh:
            return None
        found = fresh[job.id][0] if stored is None else stored.plan
        if found.job_hash == job_hash(job, strategy):
            return found
        raise JobConflict(
            f"job {job.id} is planned already as {found.plan_id}, with another content or strategy. Give the new one an id of its own"
        )

    def _placed(self, job: Job, strategy: str, *, dry_run: bool) -> Plan | Infeasible:
        scale = self._settings.scale if job.scale is None else job.scale
        placed: Placed | Infeasible = self.planner.place(job, strategy, scale)
        if isinstance(placed, Infeasible):
            self.tell(events.PlanRefused(job=job.id, reason=placed.remedy))
            return placed
        digest = job_hash(job, strategy)
        prefix = "dry-" if dry_run else ""
        return Plan(
            plan_id=prefix + plan_id_of(job, digest),
            job_id=job.id,
            job_hash=digest,
            strategy=strategy,
            snapshot_version=self.planner.snapshot_version,
            accepted_ms=self._clock_ms(),
            scale=scale,
            dry_run=dry_run,
            placements=placed.placements,
            shadow_placements=placed.shadow_placements,
            prediction=placed.prediction,
            explanation=placed.explanation,
        )

    def _took(self, plans: Sequence[tuple[Plan, Job]]) -> None:
        """Follow plans that are stored now, and say so."""
        origins = {}
        for plan, job in plans:
            if plan.dry_run:
                self._book.remember(plan, job)
                continue
            if job.origin is not None:
                origins[job.id] = job.origin.cluster
            said = plan.prediction
            self.tell(
                events.PlanAccepted(
                    plan=plan.plan_id,
                    job=job.id,
                    strategy=plan.strategy,
                    stages=len(plan.placements),
                    latency_ms=0.0 if said is None else said.latency_p50_ms,
                )
            )
        stored = [self._stored(plan.plan_id) for plan, _ in plans if not plan.dry_run]
        if stored:
            if origins:
                self.state.set_job_origins(origins)
            self.keeper.add(*stored)
            self._wake()

    def record(self, plan_id: str) -> PlanRecord:
        """Say all that is known of a plan.

        Raises
        ------
        UnknownPlan
            When there is none of this id.
        """
        stored = self._stored(plan_id)
        if not stored.status:
            run = self._followed(plan_id) or stored.run()
            return PlanRecord(stored.plan, stored.job, run.status, run.observation, None)
        if stored.plan.dry_run:
            return PlanRecord(stored.plan, stored.job, "dry_run", None, None)
        status: PlanStatus = "succeeded" if stored.status == "succeeded" else "failed"
        seen = tuple(observation for observation, _ in stored.ended.values())
        observation = PlanObservation(plan_id=plan_id, status=status, stages=seen)
        return PlanRecord(stored.plan, stored.job, status, observation, stored.verdict)

    def is_over(self, plan_id: str) -> bool:
        """Whether all was told that ever will be of a plan; raises as `record`."""
        stored = self._stored(plan_id)
        if not stored.status or self._followed(plan_id) is not None:
            return False
        # What was published of it may still be told by another thread.
        return self._news.wait_heard(self._bus.published, _HEARD_S)

    def _followed(self, plan_id: str) -> PlanRun | None:
        """The run of a plan that this process follows; one that follows no longer has runs that are not true any more."""
        return None if self._leader() else self.keeper.run_of(plan_id)

    def records(self) -> list[PlanRecord]:
        """All plans but dry runs, oldest first."""
        return [self.record(stored.plan.plan_id) for stored in self._book.all()]

    def verify(self, plan_id: str) -> PlanVerdict:
        """Hold a plan against what has happened so far.

        Raises
        ------
        UnknownPlan
            When there is none of this id.
        """
        record = self.record(plan_id)
        if record.verdict is not None:
            return record.verdict
        seen = record.observation or PlanObservation(plan_id=plan_id, status=record.status, stages=())
        return verify_plan(record.plan, seen, tolerances=self._settings.tolerances)

    def explain(self, plan_id: str) -> str:
        """Say in words why a plan is as it is.

        Raises
        ------
        UnknownPlan
            When there is none of this id.
        """
        return self._stored(plan_id).plan.explanation

    def start_of(self, plan_id: str) -> dict[str, StartEstimate]:
        """Estimate when the stages of a plan that have not begun will start.

        Raises
        ------
        UnknownPlan
            When there is none of this id.
        """
        stored = self._stored(plan_id)
        run = self._followed(plan_id)
        waiting = (
            [] if run is None else [name for name, one in run.stages.items() if one.phase in ("waiting", "pending")]
        )
        found = {name: self.planner.start_of(stored.plan, stored.job, name) for name in waiting}
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def start_of_pod(self, cluster: str, namespace: str, name: str) -> StartEstimate | None:
        """Estimate when a pod that waits will start, whoever made it; None when it does not wait or never will.

        Raises
        ------
        InputError
            When there is no such pod.
        """
        if self.state.pod(cluster, namespace, name) is None:
            found = f"{cluster}/{namespace}/{name}"
            raise InputError("pod", repr(found), "a pod of the fleet; `GET /snapshot` lists them")
        return self.planner.start_of_pod(cluster, namespace, name)

    def _stored(self, plan_id: str) -> StoredPlan:
        stored = self._book.read(plan_id) if self._leader() else self._book.find(plan_id)
        if stored is None:
            raise UnknownPlan(f"plan {plan_id} is not known to fleet {self.name}")
        return stored

    # What is told

    def events(self, plan_id: str, after: int = 0, wait_s: float = 0.0) -> list[Notice]:
        """Give what was told of a plan since this process began, after the event numbered `after`.

        Parameters
        ----------
        plan_id : str
            The plan.
        after : int
            Number of the last event that is known.
        wait_s : float
            How long to wait for the first one, seconds.

        Raises
        ------
        UnknownPlan
            When there is none of this id.
        """
        self._stored(plan_id)
        return self._news.after(plan_id, after, wait_s)

    # The fleet

    def snapshot(self) -> FleetSnapshot:
        """The fleet as last seen."""
        return self.state.snapshot()

    def observe(self, observation: FleetObservation) -> None:
        """Take what somebody outside tells.

        Raises
        ------
        InputError
            When there is no such cluster or node.
        """
        told = observation.root
        if isinstance(told, ChaosObservation):
            if told.cluster not in self.state.snapshot().clusters:
                raise InputError("cluster", repr(told.cluster), "a cluster of the fleet")
            self.tell(events.ChaosObserved(what=told.what, target=f"{told.cluster}/{told.target}"))
            return
        node = self._node(told)
        if isinstance(told, NodeObservation):
            is_ready = told.type == "node_up"
            self.state.apply(FleetUpdate(node.cluster, nodes=(replace(node, is_ready=is_ready),)))
        else:
            self.state.apply(FleetUpdate(node.cluster, node_readings={node.name: self._readings(told)}))
        self._wake()

    def _node(self, told: NodeObservation | TelemetryObservation) -> NodeState:
        node = self.state.node(told.cluster, told.node)
        if node is None:
            known = told.cluster in self.state.snapshot().clusters
            place, found = ("node", told.node) if known else ("cluster", told.cluster)
            raise InputError(place, repr(found), f"a {place} of the fleet; `GET /snapshot` lists them")
        return node

    def _readings(self, told: TelemetryObservation) -> Readings:
        time_ms = self._clock_ms() if told.time_ms is None else told.time_ms

        def reading(value: float | None) -> Reading | None:
            return None if value is None else Reading(value, time_ms)

        return Readings(
            cpu_usage_millicores=reading(told.cpu_usage_millicores),
            memory_usage_mib=reading(told.memory_usage_mib),
        )

    def health(self) -> dict[str, Any]:
        """How it is: clusters, plans by status, who leads."""
        seen = self.state.snapshot()
        return {
            "fleet": self.name,
            "snapshot_version": seen.version,
            "clusters": {name: cluster.is_reachable for name, cluster in seen.clusters.items()},
            "nodes": len(seen.nodes),
            "pods": len(seen.pods),
            "plans": self.keeper.counts(),
            "is_acting": self.is_acting,
            "leader": self._leader(),
        }

    def tell(self, event: Event) -> None:
        """Tell of something that happened to this fleet now."""
        self._bus.publish(replace(event, datacenter=self.name, time_ms=self._clock_ms()))


def may_act(environment: str, mode: Mode) -> bool:
    """Whether a person's plan is acted on: only live, and when the mode lets people's requests through."""
    return environment == "live" and mode in ("approve", "auto")

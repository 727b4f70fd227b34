"""Plans kept in step with their pods: stages begin when what they need is there, go to their shadow when their place is gone.

`FleetKeeper.step` looks at what changed since it last looked, and decides; what takes time (making pods, over a network to
clusters that may be away) is done by one small pool a cluster, so that a cluster which does not answer holds up nobody else.
Every step can be repeated: pods have names of their stages' own, and what was decided stands in the book before it is done.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import filterfalse
from typing import TYPE_CHECKING

from opendt.kubernetes.pods import stage_observation
from opendt.model.fleet import PodRole
from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.fleet_cleaner import FleetCleaner
from opendt.orchestrator.fleet_crew import Crew
from opendt.orchestrator.fleet_ends import FleetEnds
from opendt.orchestrator.fleet_health import FleetHealth
from opendt.orchestrator.fleet_ports import ActionError
from opendt.orchestrator.fleet_report import FleetReport
from opendt.orchestrator.fleet_run import Replica
from opendt.verification.verify import Tolerances

if TYPE_CHECKING:
    from opendt.model.fleet import FleetSnapshot, NodeState, PodState
    from opendt.model.plan import Placement
    from opendt.orchestrator.event_types import Event
    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.fleet_book import PlanBook, StoredPlan
    from opendt.orchestrator.fleet_ports import Hands, Planner
    from opendt.orchestrator.fleet_run import PlanRun
    from opendt.twin.state import FleetState

__all__ = ["FleetKeeper", "KeeperSettings"]

_StageKey = tuple[str, str, PodRole]
"""Plan, stage, and which of its pods is meant."""


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """How a keeper works.

    Parameters
    ----------
    retry_ms : int
        Time from an action that a cluster refused, or did not answer, to the next attempt.
    lost_after_ms : int
        How long a cluster must be away before its stages go to their shadows.
    kept_ms : int
        How long the pods of a plan that is over are left for people to look at.
    threads : int
        Actions at a time in a cluster.
    tolerances : Tolerances
        Of verdicts.
    """

    retry_ms: int = 1000
    lost_after_ms: int = 0
    kept_ms: int = 3_600_000
    threads: int = 4
    tolerances: Tolerances = field(default_factory=Tolerances)


class FleetKeeper:
    """Follows plans to their end.

    Parameters
    ----------
    fleet : str
        Name in events.
    state : FleetState
        The fleet as last seen.
    book : PlanBook
        Where plans and their ends are kept.
    planner : Planner
        Learns from ends, finds other places.
    hands : Hands, optional
        Makes pods; without them plans are only watched.
    bus : EventBus
        Told of everything.
    clock_ms : callable
        Clock of the clusters, ms since the epoch.
    settings : KeeperSettings
        Limits.
    """

    def __init__(
        self,
        fleet: str,
        state: FleetState,
        book: PlanBook,
        planner: Planner,
        hands: Hands | None,
        bus: EventBus,
        clock_ms: Callable[[], int],
        settings: KeeperSettings | None = None,
    ) -> None:
        self._fleet = fleet
        self._state = state
        self._book = book
        self._planner = planner
        self._crew = None if hands is None else Crew(hands, (settings or KeeperSettings()).threads)
        self._bus = bus
        self._clock_ms = clock_ms
        self._settings = settings or KeeperSettings()
        self.report = FleetReport()
        self._health = FleetHealth(state, clock_ms, self._tell)
        self._ends = FleetEnds(book, planner, self.report, self._tell, self._settings.tolerances)
        self._cleaner = FleetCleaner(
            clock_ms, self._tell, retry_ms=self._settings.retry_ms, kept_ms=self._settings.kept_ms
        )
        self._lock = threading.RLock()
        self._runs: dict[str, PlanRun] = {}
        self._changed: dict[str, None] = {}
        self._version = -1
        self._flying: set[_StageKey] = set()
        self._waiting: dict[_StageKey, int] = {}
        self._unsent: list[tuple[str, Callable[[Hands], object]]] = []
        self._is_closed = False

    def drain(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is being done in the clusters."""
        if self._crew is not None:
            self._crew.drain(timeout_s)

    def close(self) -> None:
        """Stop acting; what runs is waited for."""
        with self._lock:
            self._is_closed = True
        if self._crew is not None:
            self._crew.close()

    def forget(self) -> None:
        """Follow nothing any more, and look at everything anew afterwards: somebody else carried the plans on."""
        with self._lock:
            self._runs.clear()
            self._changed.clear()
            self._waiting.clear()
            self._cleaner.forget()
            self._unsent.clear()
            self._version = -1

    @property
    def runs(self) -> list[PlanRun]:
        """Plans that are not over."""
        with self._lock:
            return list(self._runs.values())

    def run_of(self, plan_id: str) -> PlanRun | None:
        """Look up a plan that is not over."""
        return self._runs.get(plan_id)

    def add(self, *plans: StoredPlan) -> None:
        """Follow plans, new or from the book."""
        with self._lock:
            for stored in plans:
                run = stored.run()
                for stage_id in stored.moved:
                    self._cleaner.leave(run.plan, stage_id, stored.plan.placements[stage_id].cluster, role="stage")
                self._runs[stored.plan.plan_id] = run
                self._changed[stored.plan.plan_id] = None

    def resume(self, stored: StoredPlan) -> None:
        """Follow a plan that an earlier process left, and say so."""
        self.add(stored)
        run = self._runs[stored.plan.plan_id]
        done = sum(stage.has_ended for stage in run.stages.values())
        self._tell(events.PlanResumed(plan=stored.plan.plan_id, done=done, stages=len(run.stages)))

    def step(self) -> None:
        """Look at what changed and do what follows from it: what was decided is in the book before it is done.

        Raises
        ------
        LedgerError
            When the book cannot be written; what was decided stands, and is done after the next step that can.
        """
        with self._lock:
            if self._is_closed:
                return
            self._look()
            self._fail_over_from_away()
            self._retry()
            while self._changed:
                run = self._runs.get(self._changed.popitem()[0])
                if run is not None:
                    self._begin_ready(run)
                    if run.is_over:
                        self._finish(run)
            self._unsent += self._cleaner.due(self._health.away_since_ms)
            self._book.flush()
            unsent, self._unsent = self._unsent, []
        for cluster, work in unsent:
            if self._crew is not None:
                self._crew.send(cluster, work)

    def due_ms(self) -> int | None:
        """When a stage that waits is to be looked at again, ms since the epoch; None where none waits."""
        with self._lock:
            return min(self._waiting.values(), default=None)

    # What was seen

    def _look(self) -> None:
        """Take in what changed since the last look; everything, the first time or when too much has changed."""
        if self._version >= 0:
            changes = self._state.changes_since(self._version)
            if changes.is_complete:
                self._version = changes.version
                for before, after in changes.clusters:
                    self._health.see_cluster(before, after)
                # What became of replicas comes first: a stage that loses its place now must not go on with one that is lost, too.
                for old, pod in filter(_is_replica, changes.pods):
                    self._see_pod(old, pod)
                for was, node in changes.nodes:
                    self._see_node(was, node)
                for old, pod in filterfalse(_is_replica, changes.pods):
                    self._see_pod(old, pod)
                return
        seen = self._state.snapshot()
        self._version = seen.version
        for cluster in seen.clusters.values():
            self._health.see_cluster(None, cluster)
        pods = [(None, pod) for pod in seen.pods.values()]
        for pair in filter(_is_replica, pods):
            self._see_pod(*pair)
        for node in seen.nodes.values():
            self._see_node(None, node)
        for pair in filterfalse(_is_replica, pods):
            self._see_pod(*pair)
        self._miss(seen)

    def _miss(self, seen: FleetSnapshot) -> None:
        """Ask again for pods that were made before this look began, and are not there: making is repeatable."""
        there = {(pod.plan_id, pod.stage_id, pod.role) for pod in seen.pods.values() if pod.plan_id}
        for plan_id, run in self._runs.items():
            for name, stage in run.stages.items():
                key: _StageKey = (plan_id, name, stage.role)
                if stage.is_asked and not stage.has_ended and key not in there and key not in self._flying:
                    stage.is_asked, stage.seen = False, None
                    self._changed[plan_id] = None
                key = (plan_id, name, "replica")
                if stage.replica is not None and key not in there and key not in self._flying:
                    stage.replica = Replica(stage.replica.placement, was_asked=stage.replica.was_asked)
                    self._changed[plan_id] = None

    def _see_node(self, was: NodeState | None, node: NodeState | None) -> None:
        known = node or was
        if known is None:
            return
        key = (known.cluster, known.name)
        reason = self._health.see_node(was, node, is_used=lambda: any(self._on(*key)))
        if reason:
            for run, name in self._on(*key):
                self._lose(run, name, f"its node {reason.removeprefix('it ')}")
            for run in self._runs.values():
                for name in run.replicas(*key):
                    self._drop_replica(run, name)

    def _see_pod(self, before: PodState | None, after: PodState | None) -> None:
        pod = after or before
        if pod is None or not pod.plan_id:
            return
        run = self._runs.get(pod.plan_id)
        if run is None:
            if before is None:
                self._see_left(pod)
            return
        stage = run.stages.get(pod.stage_id)
        if stage is None:
            return
        if pod.role == stage.role:
            self._see_own(run, pod, after)
        elif pod.role == "replica" and stage.replica is not None:
            self._see_replica(run, pod.stage_id, stage.replica, after)
        elif before is None and not pod.is_deleting and run.is_acting:
            # It was made while the stage moved or ended: by a request that hung, or in a cluster that was away.
            self._cleaner.leave(run.plan, pod.stage_id, pod.cluster, role=pod.role)

    def _see_own(self, run: PlanRun, pod: PodState, after: PodState | None) -> None:
        """Take in how the pod is that a stage goes on with."""
        name, stage = pod.stage_id, run.stages[pod.stage_id]
        self._changed[pod.plan_id] = None
        if stage.replica is None or stage.replica.seen is not None:
            # What the pod asks for is seen in the cluster from now on. Until a replica's is, what is held is its room.
            self._planner.release(pod.plan_id, name)
        if after is None:
            if not stage.has_ended:
                self._lose(run, name, "its pod was deleted")
            return
        changed = run.note(stage_observation(after), role=after.role)
        if changed is None:
            return
        if changed[1] == "running":
            self._tell_started(after)
        elif changed[1] == "failed" and stage.replica is not None and self._health.is_up(stage.replica.placement):
            self._ends.learn(run, name)
            self._lose(run, name, "its pod failed")
        elif stage.has_ended:
            self._end(run, name)

    def _end(self, run: PlanRun, name: str) -> None:
        self._ends.take_stage(run, name)
        self._drop_replica(run, name)

    def _see_replica(self, run: PlanRun, name: str, replica: Replica, pod: PodState | None) -> None:
        """Take in how a stage's second pod is: the stage goes on with it once it has succeeded."""
        if pod is None:
            self._drop_replica(run, name)
            return
        self._planner.release(run.plan.plan_id, name)
        before, replica.seen = replica.seen, stage_observation(pod)
        replica.is_asked = replica.was_asked = True
        if replica.seen.phase == "succeeded":
            self._changed[run.plan.plan_id] = None
            self._send(run, name, replica.placement, "replica")
            self._end(run, name)
        elif replica.seen.phase in ("failed", "lost"):
            self._drop_replica(run, name)
        elif replica.seen.phase == "running" and (before is None or before.phase != "running"):
            self._tell_started(pod)

    def _tell_started(self, pod: PodState) -> None:
        self._tell(events.StageStarted(plan=pod.plan_id, stage=pod.stage_id, cluster=pod.cluster, node=pod.node))

    def _see_left(self, pod: PodState) -> None:
        """Have pods removed that a plan left which was over before this process began."""
        stored = self._book.find(pod.plan_id)
        if stored is not None and stored.is_acting and stored.status:
            self._cleaner.clear_later(stored.plan, pod.cluster)

    # What is lost

    def _on(self, cluster: str, node: str | None = None) -> list[tuple[PlanRun, str]]:
        return [(run, name) for run in self._runs.values() for name in run.on(cluster, node)]

    def _fail_over_from_away(self) -> None:
        now_ms = self._clock_ms()
        for cluster, since_ms in list(self._health.away_since_ms.items()):
            if now_ms - since_ms >= self._settings.lost_after_ms:
                for run, name in self._on(cluster):
                    self._lose(run, name, f"cluster {cluster} does not answer")

    def _lose(self, run: PlanRun, name: str, reason: str) -> None:
        """Let a stage go on with its replica, at its shadow placement or at another place; where there is none it is lost."""
        plan_id, stage = run.plan.plan_id, run.stages[name]
        left = stage.placement
        self._changed[plan_id] = None
        self._waiting.pop((plan_id, name, stage.role), None)
        self._tell(events.StageLost(plan=plan_id, stage=name, cluster=left.cluster, node=left.node_name, reason=reason))
        elsewhere = self._elsewhere(run, name) if run.is_acting and stage.role == "stage" else None
        if elsewhere is None:
            self._drop_replica(run, name)
            run.lose(name, reason)
            if stage.seen is not None:
                self._book.record_end(plan_id, stage.seen, role=stage.role)
            return
        self._send(run, name, *elsewhere)

    def _send(self, run: PlanRun, name: str, place: Placement, role: PodRole) -> None:
        """Let a stage go on at another place, and have what it leaves removed."""
        plan_id, stage = run.plan.plan_id, run.stages[name]
        left = stage.placement
        self._book.record_move(plan_id, name, place, role)
        run.fail_over(name, place, role)
        if not stage.has_ended:
            self._tell(events.StageFailedOver(plan=plan_id, stage=name, cluster=place.cluster, node=place.node_name))
        self._cleaner.leave(run.plan, name, left.cluster, role="stage")

    def movable(self, plan_id: str, name: str) -> Placement:
        """Where a stage is that can be moved.

        Raises
        ------
        ActionError
            When there is no such stage under way, or it has moved already.
        """
        with self._lock:
            return self._movable(plan_id, name)[1]

    def move(self, plan_id: str, name: str) -> Placement:
        """Let a stage go on at its shadow placement, or another one with room; gives it. Raises as `movable`, and when there is none."""
        with self._lock:
            run, _ = self._movable(plan_id, name)
            elsewhere = self._elsewhere(run, name)
            if elsewhere is None:
                raise ActionError(f"stage {name} of {plan_id}: no other place has room for it", is_final=True)
            self._changed[plan_id] = None
            self._waiting.pop((plan_id, name, "stage"), None)
            self._send(run, name, *elsewhere)
        self.step()
        return elsewhere[0]

    def _movable(self, plan_id: str, name: str) -> tuple[PlanRun, Placement]:
        run = self._runs.get(plan_id)
        stage = None if run is None else run.stages.get(name)
        if run is None or stage is None or stage.has_ended or not run.is_acting:
            raise ActionError(f"stage {name} of {plan_id}: found none under way", is_final=True)
        if stage.role != "stage":
            raise ActionError(f"stage {name} of {plan_id}: it has been moved already", is_final=True)
        return run, stage.placement

    def replicable(self, plan_id: str, name: str) -> Placement:
        """Where a stage is that can be run a second time.

        Raises
        ------
        ActionError
            When there is no such stage under way, its pod has not been seen yet, or it has moved or been replicated already.
        """
        with self._lock:
            return self._replicable(plan_id, name)[1]

    def replicate(self, plan_id: str, name: str) -> Placement:
        """Run a stage a second time, at its shadow placement or another one with room; gives it. The pod that succeeds first counts.

        Raises as `replicable`, and when there is no other place.
        """
        with self._lock:
            run, _ = self._replicable(plan_id, name)
            place = self._other_place(run, name)
            if place is None:
                raise ActionError(f"stage {name} of {plan_id}: no other place has room for it", is_final=True)
            self._book.record_replica(plan_id, name, place)
            run.stages[name].replica = Replica(place)
            self._changed[plan_id] = None
        self.step()
        return place

    def _replicable(self, plan_id: str, name: str) -> tuple[PlanRun, Placement]:
        run, placement = self._movable(plan_id, name)
        stored = self._book.find(plan_id)
        if stored is not None and name in stored.replicated:
            raise ActionError(f"stage {name} of {plan_id}: it has been replicated already", is_final=True)
        if run.status == "failed":
            raise ActionError(f"stage {name} of {plan_id}: its plan has failed", is_final=True)
        if run.stages[name].seen is None:
            raise ActionError(
                f"stage {name} of {plan_id}: its own pod has not been seen yet. Ask again when it is there",
                is_final=True,
            )
        return run, placement

    def _drop_replica(self, run: PlanRun, name: str, *, frees_room: bool = True) -> None:
        """Go on without a stage's second pod, where it has one; what room is held of the stage may be for another place by now."""
        stage = run.stages[name]
        replica, stage.replica = stage.replica, None
        if replica is None:
            return
        self._waiting.pop((run.plan.plan_id, name, "replica"), None)
        if frees_room:
            self._planner.release(run.plan.plan_id, name)
        if not stage.has_ended:
            self._book.record_drop(run.plan.plan_id, name)
        if replica.was_asked:
            self._cleaner.leave(run.plan, name, replica.placement.cluster, role="replica")

    def _elsewhere(self, run: PlanRun, name: str) -> tuple[Placement, PodRole] | None:
        """Where a stage can go on, and as what: with its replica, unless that is known to be lost, else at another place with room."""
        replica = run.stages[name].replica
        if replica is not None and (
            self._health.is_up(replica.placement) or not self._health.is_known(replica.placement.cluster)
        ):
            return replica.placement, "replica"
        place = self._other_place(run, name)
        if place is None:
            return None
        self._drop_replica(run, name, frees_room=False)
        return place, "shadow"

    def _other_place(self, run: PlanRun, name: str) -> Placement | None:
        """Another place for a stage that has room for it, which is held from now on."""
        planned = run.shadow_of(name)
        if planned is not None and self._health.is_up(planned) and self._planner.move(run.job, run.plan, name, planned):
            return planned
        found = self._planner.replacement(run.job, run.plan, name)
        if found is None or not self._health.is_up(found) or not self._planner.move(run.job, run.plan, name, found):
            return None
        return found

    # What is done

    def _begin_ready(self, run: PlanRun) -> None:
        """Ask for the pods of stages that can begin; of those in a cluster that is away, find another place at once."""
        if self._crew is None:
            return
        for name in run.ready():
            stage = run.stages[name]
            if (run.plan.plan_id, name, stage.role) in self._waiting:
                continue
            if stage.placement.cluster in self._health.away_since_ms:
                self._lose(run, name, f"cluster {stage.placement.cluster} does not answer")
                if stage.has_ended or stage.is_asked:
                    continue
            stage.is_asked = self._ask(run, name, stage.placement, stage.role)
        for name, stage in run.stages.items():
            replica = stage.replica
            if replica is None or replica.is_asked or (run.plan.plan_id, name, "replica") in self._waiting:
                continue
            if not self._health.is_known(replica.placement.cluster):
                self._waiting[run.plan.plan_id, name, "replica"] = self._clock_ms() + self._settings.retry_ms
                continue
            if not self._health.is_up(replica.placement):
                self._drop_replica(run, name)
                continue
            replica.is_asked = self._ask(run, name, replica.placement, "replica")
            replica.was_asked |= replica.is_asked

    def _ask(self, run: PlanRun, name: str, placement: Placement, role: PodRole) -> bool:
        """Have a stage's pod made; not before its inputs would be there."""
        key: _StageKey = (run.plan.plan_id, name, role)
        inputs_ms = run.inputs_ms(name, placement.cluster, self._state.latency)
        if inputs_ms > self._clock_ms():
            self._waiting[key] = int(inputs_ms) + 1
            return False
        self._flying.add(key)
        self._unsent.append((placement.cluster, _Create(self, run, name, placement, role)))
        return True

    def _retry(self) -> None:
        """Let stages whose pods were refused for now be asked for again when it is time."""
        now_ms = self._clock_ms()
        for key in [key for key, due_ms in self._waiting.items() if due_ms <= now_ms]:
            del self._waiting[key]
            self._changed[key[0]] = None

    def created(self, run: PlanRun, name: str, placement: Placement, role: PodRole, pod: str) -> None:
        """Take note that a stage's pod was made."""
        with self._lock:
            self._flying.discard((run.plan.plan_id, name, role))
            stage = self._runs.get(run.plan.plan_id, run).stages[name]
            if role != stage.role and not (role == "replica" and stage.replica is not None):
                # It has moved meanwhile, or goes on without its replica.
                self._cleaner.leave(run.plan, name, placement.cluster, role=role)
        self._tell(
            events.FleetAction(action="create pod", cluster=placement.cluster, target=pod, plan=run.plan.plan_id)
        )

    def refused(self, run: PlanRun, name: str, placement: Placement, role: PodRole, error: ActionError) -> None:
        """Take note that a cluster did not make a stage's pod: it is asked again, or the stage goes elsewhere."""
        self._tell(
            events.FleetActionFailed(
                action="create pod",
                cluster=placement.cluster,
                target=name,
                reason=str(error),
                plan=run.plan.plan_id,
                is_final=error.is_final,
            )
        )
        with self._lock:
            key: _StageKey = (run.plan.plan_id, name, role)
            self._flying.discard(key)
            if self._runs.get(run.plan.plan_id) is not run:
                return  # it is over, or somebody else has carried it on meanwhile
            stage = run.stages[name]
            if role == "replica" and stage.replica is not None:
                if error.is_final:
                    self._drop_replica(run, name)
                else:
                    stage.replica.is_asked = False
                    self._waiting[key] = self._clock_ms() + self._settings.retry_ms
                return
            if stage.role != role or stage.seen is not None:
                return
            stage.is_asked = False
            if error.is_final:
                self._lose(run, name, str(error))
            else:
                self._waiting[key] = self._clock_ms() + self._settings.retry_ms

    # What is over

    def _finish(self, run: PlanRun) -> None:
        plan = run.plan
        for name in run.stages:
            self._drop_replica(run, name)
        self._ends.take_plan(run)  # and only then let go: who follows a plan listens as long as it has a run
        self._planner.release(plan.plan_id)
        del self._runs[plan.plan_id]
        places = {stage.placement.cluster for stage in run.stages.values()}
        places |= {placement.cluster for placement in plan.placements.values()}
        stored = self._book.find(plan.plan_id)
        places |= set() if stored is None else {placement.cluster for placement in stored.replicated.values()}
        for cluster in sorted(places) if run.is_acting else ():
            self._cleaner.clear_later(plan, cluster)

    def counts(self) -> dict[str, int]:
        """Number of plans that are not over, by status."""
        found: dict[str, int] = defaultdict(int)
        for run in self.runs:
            found[run.status] += 1
        return dict(found)

    def _tell(self, event: Event) -> None:
        self._bus.publish(replace(event, datacenter=self._fleet, time_ms=self._clock_ms()))


def _is_replica(pair: tuple[PodState | None, PodState | None]) -> bool:
    pod = pair[1] or pair[0]
    return pod is not None and pod.role == "replica"


@dataclass(frozen=True, slots=True)
class _Create:
    """One stage's pod, to be made by a thread of its cluster."""

    keeper: FleetKeeper
    run: PlanRun
    name: str
    placement: Placement
    role: PodRole

    def __call__(self, hands: Hands) -> None:
        try:
            pod = hands.create(self.run.plan, self.run.job, self.name, self.placement, role=self.role)
        except ActionError as error:
            self.keeper.refused(self.run, self.name, self.placement, self.role, error)
        else:
            self.keeper.created(self.run, self.name, self.placement, self.role, pod)

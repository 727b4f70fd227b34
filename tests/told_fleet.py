"""A fleet small enough to see through: two clusters, a planner that does what it is told, hands that make pods at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from opendt.model.fleet import ClusterState, LatencyMatrix, NodeState, PodRole, PodState
from opendt.model.job import Job
from opendt.model.plan import (
    Infeasible,
    Interval,
    Misfit,
    Placement,
    Plan,
    PlanPrediction,
    StageObservation,
    StagePrediction,
    TimeShare,
)
from opendt.orchestrator.events import EventBus, Notice
from opendt.orchestrator.fleet import FleetService, ServiceSettings
from opendt.orchestrator.fleet_actions import FleetActions
from opendt.orchestrator.fleet_book import PlanBook
from opendt.orchestrator.fleet_keeper import FleetKeeper, KeeperSettings
from opendt.orchestrator.fleet_ports import ActionError, Placed, StartEstimate
from opendt.twin.state import FleetState, FleetUpdate

if TYPE_CHECKING:
    from opendt.verification.ledger import Ledger

NOW_MS = 1_800_000_000_000


def node(cluster: str, name: str, **changes: Any) -> NodeState:
    """Make a node of four cores."""
    plain = NodeState(
        cluster, name, "amd64", ("native",), 4000, 8192, 0, 0, "", core_speed_mhz=2400.0, idle_w=40.0, max_w=120.0
    )
    return replace(plain, **changes)


def job(name: str = "job-1", *, needs: bool = True, **changes: Any) -> Job:
    """Make a job of two stages, the second of which needs the first."""
    stages = [
        {"id": "first", "cpu_millicores": 1000, "memory_mib": 64, "work": {"kind": "integer", "cpu_seconds": 10.0}},
        {
            "id": "second",
            "needs": ["first"] if needs else [],
            "cpu_millicores": 1000,
            "memory_mib": 64,
            "work": {"kind": "integer", "cpu_seconds": 10.0},
        },
    ]
    return Job.model_validate({"id": name, "origin": {"cluster": "a"}, "stages": stages, **changes})


def prediction(stages: list[str]) -> PlanPrediction:
    """Predict ten seconds a stage, one after the other."""

    def around(value: float) -> Interval:
        return Interval(lower=value * 0.9, upper=value * 1.1)

    latency_ms = 10_000.0 * len(stages)
    said = tuple(
        StagePrediction(
            stage_id=name,
            start_ms=10_000.0 * place,
            finish_ms=10_000.0 * (place + 1),
            cpu_seconds=10.0,
            memory_peak_mib=64.0,
            energy_j=400.0,
            failure_probability=0.01,
            time=TimeShare(startup_ms=1000.0, run_ms=9000.0),
        )
        for place, name in enumerate(stages)
    )
    return PlanPrediction(
        latency_p50_ms=latency_ms,
        latency_p95_ms=latency_ms * 1.1,
        latency_interval_ms=around(latency_ms),
        cpu_seconds=10.0 * len(stages),
        cpu_seconds_interval=around(10.0 * len(stages)),
        memory_peak_mib=64.0,
        memory_peak_interval_mib=around(64.0),
        energy_kwh=1e-4,
        energy_interval_kwh=around(1e-4),
        carbon_g=0.01,
        cost=0.0,
        risk_score=0.02,
        deadline_miss_probability=0.0,
        stages=said,
        closed_form_latency_ms=latency_ms * 1.5,
    )


@dataclass
class ToldPlanner:
    """Places every stage on cluster a, its shadow on cluster b; remembers what it was told."""

    strategies: tuple[str, ...] = ("greedy", "resilient")
    snapshot_version: int = 1
    with_shadows: bool = True
    refuses: set[str] = field(default_factory=set)
    leaves_out: set[str] = field(default_factory=set)
    full: set[str] = field(default_factory=set)
    held: set[tuple[str, str]] = field(default_factory=set)
    learned: list[str] = field(default_factory=list)

    def place(self, job: Job, strategy: str, scale: float) -> Placed | Infeasible:
        """Place, or refuse where told to."""
        del scale
        if job.id in self.refuses:
            misfit = Misfit(stage_id="first", group="a/small", nodes=1, reason="too small", remedy="ask for 4 cores")
            return Infeasible(misfits=(misfit,), remedy="ask for 4 cores in stage first")
        names = [stage.id for stage in job.order() if stage.id not in self.leaves_out]
        return Placed(
            {name: Placement(stage_id=name, node_name="a-1", cluster="a") for name in names},
            prediction(names),
            f"{strategy}: all on a",
            {name: Placement(stage_id=name, node_name="b-1", cluster="b") for name in names}
            if self.with_shadows
            else {},
        )

    def reserve(self, plan: Plan, job: Job) -> None:
        """Remember."""
        self.held |= {(plan.plan_id, stage.id) for stage in job.stages}

    def release(self, plan_id: str, stage_id: str | None = None) -> None:
        """Forget."""
        self.held = {key for key in self.held if key[0] != plan_id or stage_id not in (None, key[1])}

    def move(self, job: Job, plan: Plan, stage_id: str, placement: Placement) -> bool:
        """There is room, but where told otherwise."""
        del job
        if placement.cluster in self.full:
            return False
        self.held.add((plan.plan_id, stage_id))
        return True

    def replacement(self, job: Job, plan: Plan, stage_id: str) -> Placement | None:
        """There is none."""
        del job, plan, stage_id
        return None

    def learn(self, job: Job, plan: Plan, observation: StageObservation, *, is_as_planned: bool) -> None:
        """Remember."""
        del job, plan, is_as_planned
        self.learned.append(observation.stage_id)

    def energy_j(self, job: Job, plan: Plan, observation: StageObservation) -> float | None:
        """Ten watts a core."""
        del job, plan
        return None if observation.cpu_seconds is None else 10.0 * observation.cpu_seconds

    def start_of(self, plan: Plan, job: Job, stage_id: str) -> StartEstimate | None:
        """In a minute."""
        del job, stage_id
        return StartEstimate({0.5: plan.accepted_ms + 60_000}, "waits for stage first")

    def start_of_pod(self, cluster: str, namespace: str, name: str) -> StartEstimate | None:
        """In a minute; what is not on cluster a never."""
        del namespace, name
        return StartEstimate({0.5: NOW_MS + 60_000}, "waits for room on its node") if cluster == "a" else None

    def state(self) -> dict[str, object]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing."""


@dataclass
class DirectHands:
    """Makes pods in the state at once; refuses those of one cluster where told to."""

    state: FleetState
    clock_ms: Callable[[], int]
    refusal: ActionError | None = None
    refusing: str = "a"
    made: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    acted: list[tuple[Any, bool]] = field(default_factory=list)
    changes: bool = True

    def act(self, request: Any, *, dry_run: bool) -> bool:
        """Take note of it."""
        if self.refusal is not None:
            raise self.refusal
        self.acted.append((request, dry_run))
        return self.changes

    def create(self, plan: Plan, job: Job, stage_id: str, placement: Placement, *, role: PodRole) -> str:
        """Make it, pending."""
        if self.refusal is not None and placement.cluster == self.refusing:
            raise self.refusal
        name = f"{plan.plan_id}-{stage_id}{'' if role == 'stage' else f'-{role}'}"
        self.made.append(name)
        if self.state.pod(placement.cluster, "opendt", name) is None:
            pod = PodState(
                placement.cluster,
                "opendt",
                name,
                f"uid-{name}",
                placement.node_name,
                "Pending",
                10,
                16,
                created_ms=self.clock_ms(),
                plan_id=plan.plan_id,
                job_id=job.id,
                stage_id=stage_id,
                role=role,
            )
            self.state.apply(FleetUpdate(placement.cluster, pods=(pod,)))
        return name

    def delete(self, plan: Plan, stage_id: str, cluster: str, *, role: PodRole) -> None:
        """Remove it."""
        name = f"{plan.plan_id}-{stage_id}{'' if role == 'stage' else f'-{role}'}"
        self.deleted.append(name)
        self.state.apply(FleetUpdate(cluster, gone_pods=(("opendt", name),)))

    def clear(self, plan: Plan, cluster: str) -> None:
        """Remove all of it."""
        gone = [
            pod for pod in self.state.snapshot().pods.values() if pod.plan_id == plan.plan_id and pod.cluster == cluster
        ]
        self.state.apply(FleetUpdate(cluster, gone_pods=tuple((pod.namespace, pod.name) for pod in gone)))


class SmallFleet:
    """Two clusters of one node, with everything that follows plans on it; time stands still until it is moved."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        planner: ToldPlanner | None = None,
        may_act: bool = True,
        state: FleetState | None = None,
        settings: KeeperSettings | None = None,
        leader: Callable[[], str] = lambda: "",
        bus: EventBus | None = None,
    ) -> None:
        self.now_ms = NOW_MS
        self.state = state or FleetState(LatencyMatrix({("a", "b"): 0.0, ("b", "a"): 0.0}), clock_ms=self.clock_ms)
        self.ledger = ledger
        self.bus = bus or EventBus(self.clock_ms)
        self.notices: list[Notice] = []
        self.bus.subscribe(self.notices.append)
        self.planner = planner or ToldPlanner()
        self.hands = DirectHands(self.state, self.clock_ms)
        self.book = PlanBook(ledger, "fleet")
        self.keeper = FleetKeeper(
            "fleet",
            self.state,
            self.book,
            self.planner,
            self.hands if may_act else None,
            self.bus,
            self.clock_ms,
            settings,
        )
        hands = self.hands if may_act else None
        actions = FleetActions("fleet", self.state, ledger, self.keeper, hands, self.bus, self.clock_ms)
        self.service = FleetService(
            "fleet",
            self.state,
            self.planner,
            self.book,
            self.keeper,
            self.bus,
            self.clock_ms,
            actions,
            settings=ServiceSettings(may_act=may_act),
            leader=leader,
        )
        if state is None:
            for cluster in ("a", "b"):
                self.state.apply(
                    FleetUpdate(
                        cluster,
                        nodes=(node(cluster, f"{cluster}-1"),),
                        state=ClusterState(cluster, last_seen_ms=NOW_MS),
                    )
                )

    def clock_ms(self) -> int:
        """Say what time it is."""
        return self.now_ms

    def settle(self) -> None:
        """Let the keeper look, and its pools do what it asked for, until nothing more follows."""
        for _ in range(6):
            self.keeper.step()
            self.keeper.drain()
        self.keeper.step()

    def pod(self, name: str, cluster: str = "a") -> PodState:
        """Look a pod up by the end of its name."""
        found = [
            one for one in self.state.snapshot().pods.values() if one.name.endswith(name) and one.cluster == cluster
        ]
        assert len(found) == 1, [one.name for one in found]
        return found[0]

    def see(self, name: str, cluster: str = "a", **changes: Any) -> None:
        """Change a pod, and let the keeper look."""
        self.state.apply(FleetUpdate(cluster, pods=(replace(self.pod(name, cluster), **changes),)))
        self.settle()

    def finish(self, name: str, cluster: str = "a", *, took_ms: int = 10_000, phase: Any = "Succeeded") -> None:
        """Let a pod run and end."""
        self.see(name, cluster, phase="Running", started_ms=self.now_ms)
        self.now_ms += took_ms
        self.see(name, cluster, phase=phase, finished_ms=self.now_ms, cpu_seconds=took_ms / 1000, memory_peak_mib=60.0)

    def kinds(self) -> list[str]:
        """Kinds of the events so far."""
        return [notice.event.kind for notice in self.bus.recent()]

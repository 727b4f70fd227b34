"""Policies and predictor on the fleet as last seen, behind one lock: the planner of the fleet's service."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import OpenDTError
from opendt.model.plan import Infeasible
from opendt.orchestrator.fleet_ports import Placed, PlannerState, StartEstimate
from opendt.orchestrator.logs import log
from opendt.policy.index import FleetIndex
from opendt.policy.plugins import available_policies, load_policy
from opendt.twin.fleet_energy import stage_energy_j
from opendt.twin.fleet_start import start_of_pod
from opendt.twin.fleet_view import FleetView, Hold
from opendt.twin.predict import PredictiveSimulator
from opendt.twin.scaling import scale_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from opendt.model.job import Job
    from opendt.model.plan import Placement, Plan, StageObservation
    from opendt.policy.base import PlacementPolicy
    from opendt.twin.fleet_view import NodeLoad
    from opendt.twin.scaling import ScaledStage
    from opendt.twin.state import FleetState

__all__ = ["FleetPlanner", "LearnedFile"]

_REPLACING: Final = "greedy"
_FORM: Final = 2


class FleetPlanner:
    """Places, predicts and learns; see `opendt.orchestrator.fleet_ports.Planner`.

    Parameters
    ----------
    state : FleetState
        The fleet as last seen; looked at anew with every question.
    futures, tail_ratio : int, float
        Sampled futures behind a risk, and the share of the worst ones that `cvar` looks at.
    seed : int
        Of all randomness.
    clock_ms : callable
        Clock of the clusters, ms since the epoch.
    """

    def __init__(
        self,
        state: FleetState,
        *,
        futures: int,
        tail_ratio: float,
        seed: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._state = state
        self._clock_ms = clock_ms
        self._lock = threading.RLock()
        self._view = FleetView(state.snapshot())
        self._predictor = PredictiveSimulator(self._view)
        self._index = FleetIndex(self._predictor)
        self._settings: dict[str, dict[str, Any]] = {
            "cvar": {"alpha": tail_ratio, "futures": futures, "seed": seed},
        }
        self._policies: dict[str, PlacementPolicy] = {}
        self._strategies = available_policies()  # looks through all installed packages

    @property
    def strategies(self) -> tuple[str, ...]:
        """Names of the policies, installed plug-ins among them."""
        return self._strategies

    @property
    def snapshot_version(self) -> int:
        """Version of the fleet that the last answer was given on."""
        return self._view.snapshot.version

    def place(self, job: Job, strategy: str, scale: float) -> Placed | Infeasible:
        """Place a job and predict it; nothing is reserved."""
        with self._lock:
            self._view.sync(self._state)
            placed = self._policy(strategy).place(job, self._index, scale=scale)
            if isinstance(placed, Infeasible):
                return placed
            prediction = self._predictor.score_plan(job, placed.placements, scale=scale)
            notes = scale_job(job, scale).notes
        words = [placed.explanation, *(f"Scaled 1:{scale:g}: {note}." for note in notes)]
        return Placed(placed.placements, prediction, " ".join(words), placed.shadow_placements)

    def _policy(self, name: str) -> PlacementPolicy:
        if name not in self._policies:
            self._policies[name] = load_policy(name, **self._settings.get(name, {}))
        return self._policies[name]

    def reserve(self, plan: Plan, job: Job) -> None:
        """Count a plan's requests as used until its pods are seen or it is released."""
        places = plan.placements
        holds = [
            _hold(plan.plan_id, one, places[one.stage.id])
            for one in scale_job(job, plan.scale).stages
            if one.stage.id in places
        ]
        with self._lock:
            self._view.reserve(holds)
            self._predictor.expect(plan)

    def move(self, job: Job, plan: Plan, stage_id: str, placement: Placement) -> bool:
        """Hold room for a stage elsewhere than its plan says; false, and nothing held, where there is none."""
        one = _scaled_stage(job, plan, stage_id)
        with self._lock:
            self._view.sync(self._state)
            self._index.refresh()
            slot = self._index.slot(placement.cluster, placement.node_name)
            if slot is None or not slot.fits(one):
                return False
            self._view.reserve([_hold(plan.plan_id, one, placement)])
        return True

    def release(self, plan_id: str, stage_id: str | None = None) -> None:
        """Give back what is reserved for a plan, or for one of its stages."""
        with self._lock:
            self._view.release(plan_id, stage_id)
            if stage_id is None:
                self._predictor.forget(plan_id)

    def replacement(self, job: Job, plan: Plan, stage_id: str) -> Placement | None:
        """Find another place for one stage, outside of the cluster that it was lost with; None when there is none."""
        stage = next(one for one in job.stages if one.id == stage_id)
        lost = plan.placements[stage_id].cluster
        limits = stage.constraints
        elsewhere = limits.model_copy(update={"excluded_clusters": (*limits.excluded_clusters, lost)})
        for constraints in (limits, elsewhere):
            alone = job.model_copy(
                update={"stages": (stage.model_copy(update={"needs": (), "constraints": constraints}),)}
            )
            with self._lock:
                self._view.sync(self._state)
                placed = self._policy(_REPLACING).place(alone, self._index, scale=plan.scale)
            found = None if isinstance(placed, Infeasible) else placed.placements.get(stage_id)
            if found is not None and found != plan.placements[stage_id]:
                return found
        return None

    def learn(self, job: Job, plan: Plan, observation: StageObservation, *, is_as_planned: bool) -> None:
        """Learn from a stage that has ended; the last one of a plan judges its bands."""
        with self._lock:
            self._view.sync(self._state)
            self._predictor.learn(job, plan, observation, is_as_planned=is_as_planned)

    def energy_j(self, job: Job, plan: Plan, observation: StageObservation) -> float | None:
        """Attribute energy to a stage that has ended: its CPU seconds through its node's power model, J."""
        node = self._state.node(observation.cluster, observation.node_name)
        started_ms, finished_ms = observation.started_ms, observation.finished_ms
        if node is None or observation.cpu_seconds is None or started_ms is None or finished_ms is None:
            return None
        one = _scaled_stage(job, plan, observation.stage_id)
        return stage_energy_j(node, one.cpu_millicores, observation.cpu_seconds, (finished_ms - started_ms) / 1000)

    def start_of(self, plan: Plan, job: Job, stage_id: str) -> StartEstimate | None:
        """Estimate when a stage that waits will start: by what its pod waits for where there is one, else as its plan predicted.

        None when neither can be told.
        """
        with self._lock:
            self._view.sync(self._state)
            place = plan.placements.get(stage_id)
            load = None if place is None else self._view.loads.get((place.cluster, place.node_name))
            pods = {} if load is None else load.pods
            key = next(
                (key for key, pod in pods.items() if (pod.plan_id, pod.stage_id) == (plan.plan_id, stage_id)), None
            )
            found = None if key is None else start_of_pod(self._predictor, key)
        if found is not None:
            return StartEstimate(found.quantiles_ms, found.reason)
        said = plan.prediction
        one = None if said is None else next((stage for stage in said.stages if stage.stage_id == stage_id), None)
        if said is None or one is None or said.latency_p50_ms <= 0:
            return None
        band = said.latency_interval_ms
        tail = (1.0 - band.level) / 2
        quantiles = {
            round(level, 6): plan.accepted_ms + round(one.start_ms * limit / said.latency_p50_ms)
            for level, limit in ((tail, band.lower), (0.5, said.latency_p50_ms), (1.0 - tail, band.upper))
        }
        needs = next(stage.needs for stage in job.stages if stage.id == stage_id)
        now_ms = self._clock_ms()
        words = f"waits for {', '.join(needs)}" if needs else "waits for its node"
        return StartEstimate({level: max(moment, now_ms) for level, moment in quantiles.items()}, words)

    def start_of_pod(self, cluster: str, namespace: str, name: str) -> StartEstimate | None:
        """Estimate when a pod that waits will start, whoever made it; None when it does not wait, or never will start.

        Raises
        ------
        ModelError
            When there is no such pod.
        """
        with self._lock:
            self._view.sync(self._state)
            found = start_of_pod(self._predictor, (cluster, namespace, name))
        return None if found is None else StartEstimate(found.quantiles_ms, found.reason)

    def loads(self, cluster: str, names: Sequence[str]) -> dict[str, NodeLoad]:
        """What nodes of a cluster hold now, copied; those that are not known are left out."""
        with self._lock:
            self._view.sync(self._state)
            found = {name: self._view.loads.get((cluster, name)) for name in names}
            return {name: replace(load) for name, load in found.items() if load is not None}

    def state(self) -> PlannerState:
        """Give what was learned."""
        with self._lock:
            return self._predictor.state()

    def restore(self, state: PlannerState) -> None:
        """Take what was learned before."""
        with self._lock:
            self._predictor.restore(state)


def _scaled_stage(job: Job, plan: Plan, stage_id: str) -> ScaledStage:
    return next(one for one in scale_job(job, plan.scale).stages if one.stage.id == stage_id)


def _hold(plan_id: str, one: ScaledStage, place: Placement) -> Hold:
    stage = one.stage
    asked = (one.cpu_millicores, one.memory_mib, stage.gpu, stage.gpu_millis)
    return Hold(plan_id, stage.id, place.cluster, place.node_name, *asked)


class LearnedFile:
    """What a planner learned, kept from one process to the next.

    Parameters
    ----------
    path : Path
        The file; folders above it are made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load_into(self, planner: FleetPlanner) -> None:
        """Give a planner what was kept; a file that is missing, torn or of another form is begun anew."""
        try:
            content: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            if content["form"] == _FORM:
                planner.restore(content["learned"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, OpenDTError) as error:
            log().warning(
                "what was learned of the fleet cannot be read and is begun anew",
                file=str(self._path),
                reason=str(error),
            )

    def save(self, planner: FleetPlanner) -> None:
        """Keep what a planner learned, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}.part")
        draft.write_text(json.dumps({"form": _FORM, "learned": planner.state()}), encoding="utf-8")
        draft.replace(self._path)

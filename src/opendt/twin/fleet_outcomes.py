"""What became of accepted plans, and what it teaches: stage by stage for the calibration, plan by plan for the bands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from opendt.twin.fleet_bands import RatioBand
from opendt.twin.fleet_costs import quota_run_ms
from opendt.twin.fleet_energy import kwh, stage_energy_j

if TYPE_CHECKING:
    from opendt.model.fleet import NodeState, PodState
    from opendt.model.plan import Interval, Plan, PlanPrediction, StageObservation, StagePrediction
    from opendt.twin.fleet_learn import FleetCalibration
    from opendt.twin.scaling import ScaledStage

__all__ = ["QUANTITIES", "PlanOutcomes"]

QUANTITIES: Final = ("latency_ms", "cpu_seconds", "memory_peak_mib", "energy_kwh")
"""What has a band."""
_OPEN: Final = 20_000
_LEAST_LEFT: Final = 0.05
"""A stage that runs longer than predicted is taken to have this share of its run left."""


@dataclass(slots=True)
class _Open:
    """A plan that was accepted and has not ended."""

    spreads: tuple[float, ...]
    finished_ms: dict[str, int] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, float] = field(default_factory=dict)
    energy_j: dict[str, float] = field(default_factory=dict)
    run_ms: dict[str, float] = field(default_factory=dict)
    """Predicted start-up and run of each stage, by which others know when it will be gone."""


class PlanOutcomes:
    """Accepted plans until they end.

    Parameters
    ----------
    calibration : FleetCalibration
        Learns from stages.
    coverage_ratio : float
        Share of outcomes wanted inside of a band.
    """

    def __init__(self, calibration: FleetCalibration, coverage_ratio: float) -> None:
        self.calibration = calibration
        self.bands = {name: RatioBand(coverage_ratio) for name in QUANTITIES}
        self._scored: OrderedDict[tuple[float, float, float], tuple[float, ...]] = OrderedDict()
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def issued(self, prediction: PlanPrediction, spreads: tuple[float, ...]) -> None:
        """Take note of the spreads that a prediction's bands were made with, of each of `QUANTITIES`."""
        self._scored[_mark(prediction)] = spreads
        while len(self._scored) > _OPEN:
            self._scored.popitem(last=False)

    def expect(self, plan: Plan) -> None:
        """Take note of an accepted plan."""
        said = plan.prediction
        if said is None:
            return
        runs = {stage.stage_id: stage.time.startup_ms + stage.time.run_ms for stage in said.stages}
        self._open[plan.plan_id] = _Open(self._scored.get(_mark(said), ()), run_ms=runs)
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)

    def forget(self, plan_id: str) -> None:
        """Drop a plan that will not run on."""
        self._open.pop(plan_id, None)

    def remaining_ms(self, pod: PodState, now_ms: int) -> float | None:
        """How long a pod will still be there: as predicted, where it belongs to an accepted plan; else unknown."""
        known = self._open.get(pod.plan_id) if pod.plan_id else None
        run_ms = None if known is None else known.run_ms.get(pod.stage_id)
        if run_ms is None:
            return None
        begun_ms = pod.started_ms if pod.started_ms >= 0 else pod.scheduled_ms
        gone_ms = 0 if begun_ms < 0 else max(now_ms - begun_ms, 0)
        return max(run_ms - gone_ms, _LEAST_LEFT * run_ms)

    def learn(
        self,
        one: ScaledStage,
        node: NodeState | None,
        plan: Plan,
        observed: StageObservation,
        *,
        is_as_planned: bool = True,
    ) -> None:
        """Learn from a stage that has ended; the last one of a plan settles its bands.

        Parameters
        ----------
        one : ScaledStage
            As it ran.
        node : NodeState, optional
            Where it ran, if that is still known.
        plan : Plan
            What it belongs to.
        observed : StageObservation
            How it went; what is absent in it teaches nothing.
        is_as_planned : bool
            Whether it ran where the plan said.
        """
        said = () if plan.prediction is None else plan.prediction.stages
        predicted = next((each for each in said if each.stage_id == observed.stage_id), None)
        known = self._open.get(plan.plan_id)
        self._learn_failure(observed)
        if observed.phase != "succeeded":
            self.forget(plan.plan_id)
            return
        if is_as_planned and predicted is not None and predicted.time.queue_ms == 0:
            self._learn_startup(one, plan, known, observed, predicted)
        if node is not None:
            self._learn_run(one, node, observed)
        if observed.memory_peak_mib is not None:
            self.calibration.see_memory(
                observed.exec_format, one.memory_mib, observed.memory_peak_mib, _seen_ms(observed)
            )
        if known is not None:
            self._note(known, plan, observed, None if node is None else (node, one.cpu_millicores))

    def _learn_failure(self, observed: StageObservation) -> None:
        """Count the time at risk, and a failure where the node or the cluster was at fault."""
        ends = (observed.started_ms or observed.created_ms, observed.finished_ms)
        hours = (ends[1] - ends[0]) / 3.6e6 if ends[0] is not None and ends[1] is not None else 0.0
        lost = observed.phase == "lost"
        if hours > 0 or lost:
            self.calibration.see_failures(observed.cluster, float(lost), max(hours, 0.0))

    def _learn_startup(
        self,
        one: ScaledStage,
        plan: Plan,
        known: _Open | None,
        observed: StageObservation,
        predicted: StagePrediction,
    ) -> None:
        if observed.started_ms is None:
            return
        needs = one.stage.needs
        ends = [] if known is None else [known.finished_ms.get(need) for need in needs]
        if needs and (not ends or None in ends):
            ready_ms = observed.created_ms
        else:
            ready_ms = max((end for end in ends if end is not None), default=plan.accepted_ms)
        if ready_ms is not None:
            startup_ms = observed.started_ms - ready_ms - predicted.time.transfer_ms
            self.calibration.see_startup(
                observed.cluster,
                observed.exec_format,
                startup_ms,
                _seen_ms(observed),
                millicores=one.cpu_millicores,
                is_after_others=bool(needs),
            )

    def _learn_run(self, one: ScaledStage, node: NodeState, observed: StageObservation) -> None:
        cores_m = min(one.cpu_millicores, node.cpu_millicores) or 1
        if observed.cpu_seconds is None or observed.cpu_seconds <= 0:
            return
        if one.stage.work is not None and one.cpu_seconds:
            self.calibration.see_cpu(
                node,
                observed.exec_format,
                one.stage.work.kind,
                one.cpu_seconds,
                observed.cpu_seconds,
                _seen_ms(observed),
                millicores=cores_m,
            )
        if observed.started_ms is not None and observed.finished_ms is not None:
            ideal_ms = quota_run_ms(observed.cpu_seconds, cores_m)
            self.calibration.see_run(
                observed.cluster,
                observed.exec_format,
                observed.finished_ms - observed.started_ms,
                ideal_ms,
                observed.finished_ms,
                millicores=cores_m,
            )

    def _note(self, known: _Open, plan: Plan, observed: StageObservation, where: tuple[NodeState, int] | None) -> None:
        """Add a stage to what is known of its plan; the last one settles the plan's bands."""
        name = observed.stage_id
        if observed.finished_ms is not None:
            known.finished_ms[name] = observed.finished_ms
        if observed.cpu_seconds is not None:
            known.cpu_seconds[name] = observed.cpu_seconds
            if where is not None and observed.started_ms is not None and observed.finished_ms is not None:
                seconds = (observed.finished_ms - observed.started_ms) / 1000.0
                known.energy_j[name] = stage_energy_j(where[0], where[1], observed.cpu_seconds, seconds)
        if observed.memory_peak_mib is not None:
            known.memory_mib[name] = observed.memory_peak_mib
        if known.finished_ms.keys() >= plan.placements.keys():
            self._settle(known, plan)
            self.forget(plan.plan_id)

    def _settle(self, known: _Open, plan: Plan) -> None:
        said = plan.prediction
        if said is None or not known.spreads:
            return
        whole = plan.placements.keys()
        found: list[tuple[str, float | None, float, Interval]] = [
            (
                "latency_ms",
                float(max(known.finished_ms.values()) - plan.accepted_ms),
                said.latency_p50_ms,
                said.latency_interval_ms,
            ),
            (
                "cpu_seconds",
                sum(known.cpu_seconds.values()) if known.cpu_seconds.keys() >= whole else None,
                said.cpu_seconds,
                said.cpu_seconds_interval,
            ),
            (
                "memory_peak_mib",
                max(known.memory_mib.values()) if known.memory_mib.keys() >= whole else None,
                said.memory_peak_mib,
                said.memory_peak_interval_mib,
            ),
            (
                "energy_kwh",
                kwh(sum(known.energy_j.values())) if known.energy_j.keys() >= whole else None,
                said.energy_kwh,
                said.energy_interval_kwh,
            ),
        ]
        for (name, observed, value, interval), spread in zip(found, known.spreads, strict=True):
            if observed is not None:
                self.bands[name].settle(observed, value, spread, interval.lower, interval.upper)

    def state(self) -> dict[str, Any]:
        """Everything learned and expected, as plain data for JSON."""
        return {
            "calibration": self.calibration.state(),
            "bands": {name: band.state() for name, band in self.bands.items()},
            "open": {
                plan_id: {
                    "spreads": list(one.spreads),
                    "finished_ms": dict(one.finished_ms),
                    "cpu_seconds": dict(one.cpu_seconds),
                    "memory_mib": dict(one.memory_mib),
                    "energy_j": dict(one.energy_j),
                    "run_ms": dict(one.run_ms),
                }
                for plan_id, one in self._open.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.calibration.restore(state["calibration"])
        for name, band in self.bands.items():
            band.restore(state["bands"][name])
        self._open = OrderedDict(
            (plan_id, _Open(**{**one, "spreads": tuple(one["spreads"])})) for plan_id, one in state["open"].items()
        )


def _seen_ms(observed: StageObservation) -> int:
    return observed.finished_ms or observed.started_ms or observed.created_ms or 0


def _mark(prediction: PlanPrediction) -> tuple[float, float, float]:
    """Tell predictions apart; the bands of two that agree in this were made with the same spread."""
    interval = prediction.latency_interval_ms
    return prediction.latency_p50_ms, interval.lower, interval.upper

"""What a plan will bring: latency, CPU, memory, energy, carbon, cost and risk, on a fork of the fleet's twin.

`PredictiveSimulator.score_plan` puts a plan's stages on a twin of the nodes that it touches, with what is there now
(`opendt.twin.fleet_sim`), lets it run to the end, and says where the time goes. Around these times it samples what varies (delays,
speeds), reads the median, and takes the band from how wrong such plans have been (`opendt.twin.fleet_bands`). `learn` takes in how
each stage went (`opendt.twin.fleet_outcomes`); what is predicted next comes of that (`opendt.twin.fleet_learn`). docs/concepts/predictor.md is the long form.

Everything is deterministic: the same view, the same learned state and the same plan give the same prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import hypot, log, prod, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.model.errors import ModelError
from opendt.model.plan import Interval, PlanPrediction, StagePrediction, TimeShare
from opendt.twin.fleet_costs import StageCost, arrival_ms, closed_form_ms, stage_cost
from opendt.twin.fleet_energy import carbon_g, cost, kwh, stage_energy_j
from opendt.twin.fleet_learn import FleetCalibration
from opendt.twin.fleet_outcomes import QUANTITIES, PlanOutcomes
from opendt.twin.fleet_sim import SimulatedStage, StageTimes, SubTwin
from opendt.twin.scaling import DEFAULT_SCALE, ScaledJob, scale_job

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.model.fleet import NodeState, PodState
    from opendt.model.job import Job
    from opendt.model.plan import Placement, Plan, StageObservation
    from opendt.twin.fleet_learn import Spread
    from opendt.twin.fleet_view import FleetView
    from opendt.twin.scaling import ScaleFloors

__all__ = ["LaidOut", "PredictiveSimulator", "PredictorSettings", "begin_ms"]

_ROUNDING_MS: Final = 3.0
"""The engine knows whole ms; what is below this is no wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSettings:
    """How plans are predicted.

    Parameters
    ----------
    scale : float
        Of jobs that say none.
    coverage_ratio : float
        Share of outcomes wanted inside of a band.
    samples : int
        Draws of what varies, for the median.
    least_spread : float
        Deviation of a latency's logarithm that is always allowed for.
    """

    scale: float = DEFAULT_SCALE
    floors: ScaleFloors | None = None
    coverage_ratio: float = 0.9
    samples: int = 256
    least_spread: float = 0.02


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A plan's stages on their nodes, in the order of `ScaledJob.stages`, ready to be simulated or sampled."""

    scaled: ScaledJob
    placements: tuple[Placement, ...]
    nodes: tuple[NodeState, ...]
    costs: tuple[StageCost, ...]
    stages: tuple[SimulatedStage, ...]
    travels_ms: tuple[tuple[float, ...], ...]
    """How long the output of each stage that it needs travels to a stage."""


class PredictiveSimulator:
    """Predicts plans on the fleet as last seen, and learns from how they went.

    Parameters
    ----------
    view : FleetView
        What is on the nodes; kept in step by its owner.
    calibration : FleetCalibration, optional
        What was learned so far.
    settings : PredictorSettings, optional
        The defaults unless given.
    """

    def __init__(
        self,
        view: FleetView,
        calibration: FleetCalibration | None = None,
        settings: PredictorSettings | None = None,
    ) -> None:
        self.view = view
        self.calibration = calibration or FleetCalibration()
        self.settings = settings or PredictorSettings()
        self.outcomes = PlanOutcomes(self.calibration, self.settings.coverage_ratio)

    def scaled(self, job: Job, scale: float | None = None) -> ScaledJob:
        """Scale a job by its own scale, else by the one given, else by that of the settings."""
        return scale_job(job, self.settings.scale if scale is None else scale, self.settings.floors)

    def score_plan(
        self, job: Job, placements: Mapping[str, Placement], *, scale: float | None = None
    ) -> PlanPrediction:
        """Predict a plan.

        Parameters
        ----------
        job : Job
            As designed.
        placements : mapping of str to Placement
            Of each of its stages (of a job that is no gang, of those that have a place); what the plan itself has reserved must
            not be in the view.
        scale : float, optional
            Of a job that says none; that of the settings unless given.

        Raises
        ------
        ModelError
            When a stage has no placement, or its node is not known or too small for it.
        """
        laid = self.lay_out(self.scaled(job, scale), placements)
        times = self.sub_twin(laid).run(laid.stages)
        shares = _shares(laid, times)
        latency_ms, spread = self._sampled(laid, shares)
        return self._prediction(laid, times, shares, latency_ms, spread)

    def lay_out(self, scaled: ScaledJob, placements: Mapping[str, Placement]) -> LaidOut:
        """Put a job's stages on their nodes; raises as `score_plan`."""
        if not scaled.job.gang:
            scaled = replace(scaled, stages=tuple(one for one in scaled.stages if one.stage.id in placements))
        chosen, nodes, costs, stages = [], [], [], []
        latency, clusters = self.view.snapshot.latency, self.view.snapshot.clusters
        number = {one.stage.id: place for place, one in enumerate(scaled.stages)}
        for one in scaled.stages:
            stage = one.stage
            place = placements.get(stage.id)
            if place is None:
                raise ModelError(f"placements of job {scaled.job.id}", f"none of stage {stage.id}", "one of each stage")
            load = self.view.loads.get((place.cluster, place.node_name))
            if load is None:
                raise ModelError(
                    f"placement of {stage.id}", f"node {place.node_name} of {place.cluster}", "a node of the fleet"
                )
            cluster = clusters.get(place.cluster)
            described = 0.0 if cluster is None else cluster.failure_rate_per_h
            price = stage_cost(self.calibration, load.node, one, place.exec_format, described)
            chosen.append(place)
            nodes.append(load.node)
            costs.append(price)
            stages.append(
                SimulatedStage(
                    node=(place.cluster, place.node_name),
                    cpu_millicores=one.cpu_millicores,
                    memory_mib=one.memory_mib,
                    startup_ms=price.startup_ms,
                    run_ms=price.run_ms,
                    delay_ms=arrival_ms(scaled.job, stage, place.cluster, latency),
                    needs=tuple(number[need] for need in stage.needs),
                    sends_mb=tuple(scaled.stages[number[need]].stage.output_mb for need in stage.needs),
                )
            )
        travels = tuple(
            tuple(
                latency.transfer_ms(stages[need].node[0], stage.node[0], mb)
                for need, mb in zip(stage.needs, stage.sends_mb, strict=True)
            )
            for stage in stages
        )
        return LaidOut(scaled, tuple(chosen), tuple(nodes), tuple(costs), tuple(stages), travels)

    def sub_twin(self, laid: LaidOut, more: Iterable[tuple[str, str]] = ()) -> SubTwin:
        """Make a twin of the nodes that a plan touches, and of `more`; its times are those of a twin of the whole fleet."""
        return SubTwin(self.view, {*(stage.node for stage in laid.stages), *more}, self.remaining_ms)

    def remaining_ms(self, pod: PodState) -> float | None:
        """How long a pod will still be there: as predicted, where it belongs to an accepted plan; else unknown."""
        return self.outcomes.remaining_ms(pod, self.view.snapshot.time_ms)

    def expect(self, plan: Plan) -> None:
        """Take note of an accepted plan: its stages' pods will be gone when it says, and its bands be judged by its end."""
        self.outcomes.expect(plan)

    def forget(self, plan_id: str) -> None:
        """Drop a plan that will not run on."""
        self.outcomes.forget(plan_id)

    def learn(self, job: Job, plan: Plan, observed: StageObservation, *, is_as_planned: bool = True) -> None:
        """Learn from a stage that has ended; the last one of a plan judges its bands.

        Parameters
        ----------
        job : Job
            As designed.
        plan : Plan
            With what was predicted.
        observed : StageObservation
            How it went; what is absent in it teaches nothing.
        is_as_planned : bool
            Whether it ran where the plan said; elsewhere it began when the plan does not say, which teaches nothing of starts.
        """
        one = next(one for one in self.scaled(job, plan.scale or None).stages if one.stage.id == observed.stage_id)
        load = self.view.loads.get((observed.cluster, observed.node_name))
        self.outcomes.learn(one, None if load is None else load.node, plan, observed, is_as_planned=is_as_planned)

    def state(self) -> dict[str, Any]:
        """Everything learned and expected, as plain data for JSON."""
        return self.outcomes.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.outcomes.restore(state)

    def _sampled(self, laid: LaidOut, shares: Sequence[TimeShare]) -> tuple[float, float]:
        """Median of the latency and the deviation of its logarithm, with what varies drawn anew and waits as simulated."""
        draws = _draws(self.settings.samples, 2 + 2 * len(shares))
        finish: list[NDArray[np.float64]] = []
        for place, (price, share) in enumerate(zip(laid.costs, shares, strict=True)):
            startup = share.startup_ms * _varied(price.startup_spread, draws[2 + 2 * place], draws[0])
            run = share.run_ms * _varied(price.run_spread, draws[3 + 2 * place], draws[1])
            finish.append(begin_ms(laid, place, finish) + share.queue_ms + startup + run)
        last = finish[0]
        for other in finish[1:]:
            last = np.maximum(last, other)
        last = np.sort(last)
        count = len(last)
        middle = 0.5 * (last[(count - 1) // 2] + last[count // 2])
        low, high = last[int(0.05 * count)], last[min(int(0.95 * count), count - 1)]
        wide = (log(high) - log(low)) / (2 * 1.645) if low > 0 else 1.0
        return float(middle), max(float(wide), self.settings.least_spread)

    def _prediction(
        self,
        laid: LaidOut,
        times: Sequence[StageTimes],
        shares: Sequence[TimeShare],
        latency_ms: float,
        spread: float,
    ) -> PlanPrediction:
        energies_j = [
            stage_energy_j(node, one.cpu_millicores, price.cpu_seconds, share.run_ms / 1000.0)
            for one, node, price, share in zip(laid.scaled.stages, laid.nodes, laid.costs, shares, strict=True)
        ]
        cpu_seconds = sum(price.cpu_seconds for price in laid.costs)
        peak_mib = max(price.memory_peak_mib for price in laid.costs)
        energy_kwh = kwh(sum(energies_j))
        spreads = self._spreads(laid.costs, spread)
        values = (latency_ms, cpu_seconds, peak_mib, energy_kwh)
        bands = [self._interval(*one) for one in zip(QUANTITIES, values, spreads, strict=True)]
        missed_ratio, risk_ratio = self._risks(laid, latency_ms, spread)
        carbon, price = self._charges(laid, energies_j, shares)
        prediction = PlanPrediction(
            latency_p50_ms=latency_ms,
            latency_p95_ms=bands[0].upper,
            latency_interval_ms=bands[0],
            cpu_seconds=cpu_seconds,
            cpu_seconds_interval=bands[1],
            memory_peak_mib=peak_mib,
            memory_peak_interval_mib=bands[2],
            energy_kwh=energy_kwh,
            energy_interval_kwh=bands[3],
            carbon_g=carbon,
            cost=price,
            risk_score=risk_ratio,
            deadline_miss_probability=missed_ratio,
            stages=_stage_predictions(laid, times, energies_j, shares),
            closed_form_latency_ms=self._closed_form_ms(laid),
        )
        self.outcomes.issued(prediction, spreads)
        return prediction

    def _spreads(self, costs: Sequence[StageCost], latency_spread: float) -> tuple[float, float, float, float]:
        """Deviations of the logarithms of `QUANTITIES`; energy varies as CPU time does."""
        cpu = _joint([(price.cpu_seconds, price.cpu_spread) for price in costs])
        memory = max(price.memory_spread for price in costs)
        return latency_spread, cpu, memory, max(cpu, self.settings.least_spread)

    def _risks(self, laid: LaidOut, latency_ms: float, spread: float) -> tuple[float, float]:
        """Probabilities that the deadline is missed, and that it is or a stage fails."""
        deadline_ms = laid.scaled.job.deadline_ms
        missed = 0.0
        if deadline_ms is not None:
            missed = self.outcomes.bands["latency_ms"].exceedance(float(deadline_ms), latency_ms, spread)
        fine = prod(1.0 - price.failure_probability for price in laid.costs)
        return min(max(missed, 0.0), 1.0), min(max(1.0 - fine * (1.0 - missed), 0.0), 1.0)

    def _charges(self, laid: LaidOut, energies_j: Sequence[float], shares: Sequence[TimeShare]) -> tuple[float, float]:
        """Carbon, g, and cost of a plan: of the energy, and of what is held from a pod's start to its end."""
        clusters = [self.view.snapshot.clusters.get(place.cluster) for place in laid.placements]
        carbon = sum(carbon_g(cluster, energy_j) for cluster, energy_j in zip(clusters, energies_j, strict=True))
        price = sum(
            cost(cluster, one.cpu_millicores, one.cpu_ratio, (share.startup_ms + share.run_ms) / 1000.0)
            for cluster, one, share in zip(clusters, laid.scaled.stages, shares, strict=True)
        )
        return carbon, price

    def _closed_form_ms(self, laid: LaidOut) -> float:
        """What the simple formula says, for comparison."""
        names = [one.stage.id for one in laid.scaled.stages]
        placements = dict(zip(names, laid.placements, strict=True))
        nodes = dict(zip(names, laid.nodes, strict=True))
        return closed_form_ms(self.calibration, laid.scaled, placements, nodes, self.view.snapshot.latency)

    def _interval(self, name: str, value: float, spread: float) -> Interval:
        lower, upper = self.outcomes.bands[name].interval(value, spread)
        return Interval(lower=lower, upper=upper, level=self.settings.coverage_ratio)


def _stage_predictions(
    laid: LaidOut, times: Sequence[StageTimes], energies_j: Sequence[float], shares: Sequence[TimeShare]
) -> tuple[StagePrediction, ...]:
    return tuple(
        StagePrediction(
            stage_id=one.stage.id,
            start_ms=max(time.finish_ms - share.run_ms, 0.0),
            finish_ms=float(time.finish_ms),
            cpu_seconds=price.cpu_seconds,
            memory_peak_mib=price.memory_peak_mib,
            energy_j=energy_j,
            failure_probability=price.failure_probability,
            time=share,
        )
        for one, time, price, energy_j, share in zip(
            laid.scaled.stages, times, laid.costs, energies_j, shares, strict=True
        )
    )


def _shares(laid: LaidOut, times: Sequence[StageTimes]) -> list[TimeShare]:
    """Say where the time of each stage goes, from when its inputs were ready; what contention adds is part of the run.

    A stage waits for its node and for its data at once; the wait is what the node takes longer than the data.
    """
    shares = []
    for stage, travels, price, time in zip(laid.stages, laid.travels_ms, laid.costs, times, strict=True):
        ready = max((times[need].finish_ms for need in stage.needs), default=0)
        arrived = ready + stage.delay_ms
        for need, travel_ms in zip(stage.needs, travels, strict=True):
            arrived = max(arrived, times[need].finish_ms + travel_ms)
        queue_ms = max(time.admitted_ms - arrived, 0.0)
        slowed_ms = time.finish_ms - arrived - queue_ms - price.startup_ms - price.run_ms
        shares.append(
            TimeShare(
                transfer_ms=arrived - ready,
                queue_ms=queue_ms if queue_ms > _ROUNDING_MS else 0.0,
                startup_ms=price.startup_ms,
                run_ms=price.run_ms + (slowed_ms if slowed_ms > _ROUNDING_MS else 0.0),
            )
        )
    return shares


def begin_ms(laid: LaidOut, place: int, finish: Sequence[NDArray[np.float64]]) -> NDArray[np.float64] | float:
    """When all that a stage needs has come to it, in each of many futures: `finish` of the stages before it, ms."""
    stage = laid.stages[place]
    if not stage.needs:
        return stage.delay_ms
    came = finish[stage.needs[0]] + max(stage.delay_ms, laid.travels_ms[place][0])
    for need, travel_ms in zip(stage.needs[1:], laid.travels_ms[place][1:], strict=True):
        came = np.maximum(came, finish[need] + max(stage.delay_ms, travel_ms))
    return came


def _varied(spread: Spread, own: NDArray[np.float64], common: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors that vary so."""
    varied: NDArray[np.float64] = np.exp(spread.own * own + spread.common * common)
    return varied


def _joint(parts: Sequence[tuple[float, Spread]]) -> float:
    """Deviation of the logarithm of a sum of parts: (value, how far it varies)."""
    total = sum(value for value, _ in parts)
    if total <= 0:
        return 1.0
    own = sqrt(sum((value * spread.own) ** 2 for value, spread in parts))
    return hypot(own, sum(value * spread.common for value, spread in parts)) / total


@lru_cache(maxsize=16)
def _draws(count: int, columns: int) -> NDArray[np.float64]:
    """Standard normal draws, shape (columns, count): each column holds the same quantiles in an order of its own."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    mixed = np.random.Generator(np.random.Philox(key=columns))
    return np.stack([mixed.permutation(quantiles) for _ in range(columns)])

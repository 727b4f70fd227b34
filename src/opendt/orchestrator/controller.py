"""The loop of the twin.

Each turn: a window closes, the twin advances, what was measured meets what was predicted, the twin learns, the window is scored,
changes are proposed and simulated, and the next forecasts are issued.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opendt.optimization.base import Context
from opendt.optimization.effect import simulate_effect
from opendt.optimization.rule_based import RuleBasedOptimizer
from opendt.optimization.scoring import SloStatus, check_slo
from opendt.orchestrator.environment import HOUR_MS
from opendt.twin.forecast import BlindForecaster, hour_forecaster, window_forecaster
from opendt.twin.futures import FutureSampler
from opendt.twin.live import LiveTwin
from opendt.twin.metrics import Totals, WindowMetrics, window_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.proposal import Proposal, SimulatedEffect
    from opendt.model.slo import Slo
    from opendt.optimization.base import Optimizer
    from opendt.orchestrator.environment import Environment, Window
    from opendt.twin.forecast import Forecast
    from opendt.twin.live import Observed

__all__ = ["Journal", "OpenDTOrchestrator", "Settings", "Turn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the loop.

    Parameters
    ----------
    window_ms : int
        Length of a window, ms: five minutes.
    horizon_ms : int
        How far a proposal's effect is simulated, ms: an hour.
    futures : int
        Sampled futures behind a blind forecast's band; 0 leaves them out.
    seed : int
        Of all randomness.
    """

    window_ms: int = 300_000
    horizon_ms: int = HOUR_MS
    futures: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the loop brought."""

    window: Window
    observed: Observed
    metrics: WindowMetrics
    slo: tuple[SloStatus, ...]
    proposal: Proposal | None
    effect: SimulatedEffect | None
    forecasts: tuple[Forecast, ...]


@dataclass(slots=True)
class Journal:
    """Everything the loop has said and seen, in order.

    Attributes
    ----------
    forecasts : list of Forecast
        Of all kinds.
    turns : list of tuple
        Window number, metrics and objectives of each window.
    proposals : list of tuple
        Each proposal with its simulated effect.
    events : list
        Drift and rollback, with the kind of forecast whose calibration noticed.
    disturbance_w : list of tuple
        Window end and the disturbances of the hour-ahead calibration together, W.
    series : list of dict
        Series of each window.
    measured_w : list of ndarray
        Readings of each window, W.
    """

    forecasts: list[Forecast] = field(default_factory=list)
    turns: list[tuple[int, WindowMetrics, tuple[SloStatus, ...]]] = field(default_factory=list)
    proposals: list[tuple[Proposal, SimulatedEffect]] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(default_factory=list)
    disturbance_w: list[tuple[int, float]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    measured_w: list[NDArray[np.float64]] = field(default_factory=list)


class OpenDTOrchestrator:
    """Keeps a twin in step with an environment.

    Parameters
    ----------
    environment : Environment
        The world.
    slo : Slo
        Objectives.
    settings : Settings
        Of the loop.
    optimizer : Optimizer, optional
        Proposes changes; the rules unless given.
    """

    def __init__(
        self, environment: Environment, slo: Slo, settings: Settings | None = None, optimizer: Optimizer | None = None
    ) -> None:
        self.environment = environment
        self.slo = slo
        self.settings = settings or Settings()
        self.journal = Journal()
        tick_ms = environment.source.tick_ms
        self.twin = LiveTwin(environment.topology, environment.workload, tick_ms=tick_ms, seed=self.settings.seed)
        classes = self.twin.classes
        self.hour = hour_forecaster(classes, tick_ms)
        self.window = window_forecaster(classes, tick_ms, self.settings.window_ms)
        self.blind = BlindForecaster(classes, tick_ms)
        self.futures = FutureSampler(self.settings.seed)
        self.optimizer = optimizer or RuleBasedOptimizer()
        self._totals = Totals.of(self.twin.simulation)

    def run(self, on_turn: Callable[[Turn], None] | None = None, *, until_ms: int | None = None) -> Journal:
        """Go through all windows of the environment.

        Parameters
        ----------
        on_turn : callable, optional
            Told after every window.
        until_ms : int, optional
            Stop after the window that reaches this time, ms since the start.

        Returns
        -------
        Journal
            What was said and seen; also when the run was interrupted, in `journal`.
        """
        self.twin.start()
        self.forecast()
        for window in self.environment.source.windows(self.settings.window_ms):
            turn = self.turn(window)
            if on_turn is not None:
                on_turn(turn)
            if until_ms is not None and window.end_ms >= until_ms:
                break
        return self.journal

    def turn(self, window: Window) -> Turn:
        """One turn of the loop."""
        observed = self.advance(window)
        self.learn(observed, window)
        metrics, objectives = self.score(observed)
        proposal, effect = self.propose(metrics)
        forecasts = self.forecast() if window.end_ms < self.environment.source.end_ms else ()
        return Turn(window, observed, metrics, objectives, proposal, effect, forecasts)

    def advance(self, window: Window) -> Observed:
        """Bring the twin to the end of the window."""
        observed = self.twin.advance(window.end_ms)
        self.journal.series.append(observed.series)
        self.journal.measured_w.append(window.measured_w)
        return observed

    def learn(self, observed: Observed, window: Window) -> None:
        """Let what was measured meet what was predicted: errors widen or narrow bands, curves follow, drift is noticed."""
        for forecaster in (self.hour, self.window):
            forecaster.observe(observed.load, window.measured_w)
            self.journal.events.extend((forecaster.kind, event) for event in forecaster.calibrator.take_events())
        self.blind.observe(observed.load, window.measured_w)
        submitted = self.twin.simulation.counts["submitted"] - self._totals.submitted
        self.futures.observe(observed.results, submitted, observed.end_ms)
        self.journal.disturbance_w.append((window.end_ms, sum(self.hour.calibrator.calibrator.disturbances_w)))
        if window.end_ms % HOUR_MS == 0:
            self.twin.adopt_curves([self.hour.calibrator.curve(c.name) for c in self.twin.classes])

    def score(self, observed: Observed) -> tuple[WindowMetrics, tuple[SloStatus, ...]]:
        """Hold the window against the objectives."""
        simulation = self.twin.simulation
        start, end = self._totals, Totals.of(simulation)
        metrics = window_metrics(observed.series, observed.results, start=start, end=end, tasks=simulation.tasks())
        objectives = check_slo(self.slo, metrics)
        self._totals = end
        self.journal.turns.append((len(self.journal.turns), metrics, objectives))
        return metrics, objectives

    def propose(self, metrics: WindowMetrics) -> tuple[Proposal | None, SimulatedEffect | None]:
        """Ask the optimiser, and simulate what it proposes on a pair of forks."""
        simulation = self.twin.simulation
        proposal = self.optimizer.propose(Context.of(simulation, self.slo, metrics))
        if proposal is None:
            return None, None
        effect = simulate_effect(simulation, proposal, self.settings.horizon_ms, self.slo)
        self.journal.proposals.append((proposal, effect))
        return proposal, effect

    def forecast(self) -> tuple[Forecast, ...]:
        """Issue what is due now: the next window always, the next hour and the blind hour at full hours."""
        now_ms = self.twin.now_ms
        issued = [self.window.issue(now_ms, self.twin.look_ahead(self.settings.window_ms))]
        if now_ms % HOUR_MS == 0:
            issued.append(self.hour.issue(now_ms, self.twin.look_ahead(HOUR_MS)))
            issued.append(self._forecast_blind(now_ms))
        self.journal.forecasts.extend(issued)
        return tuple(issued)

    def _forecast_blind(self, now_ms: int) -> Forecast:
        hosts_up, busy_hosts = self.twin.class_counts()
        spread_w = None
        if self.settings.futures and self.futures.is_ready:
            loads = self.futures.sample(self.twin, HOUR_MS, self.settings.futures)
            spread_w = self.blind.spread_w(loads)
        return self.blind.issue(now_ms, hosts_up, busy_hosts, spread_w)

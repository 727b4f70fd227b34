"""The loop of the twin.

Each turn: a window closes, what it tells is taken, the twin is confirmed as far as everything is known, learns from what was
measured there, looks at the present, the window is scored, changes are proposed and simulated, the next forecast is issued, and
forecasts whose time has come are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opendt.optimization.base import Context
from opendt.optimization.effect import simulate_effect
from opendt.optimization.rule_based import RuleBasedOptimizer
from opendt.optimization.scoring import SloStatus, check_slo
from opendt.orchestrator.environment import HOUR_MS
from opendt.orchestrator.readings import Readings
from opendt.twin.forecast import BlindForecaster, hour_forecaster, window_forecaster
from opendt.twin.futures import FutureSampler
from opendt.twin.live import LiveTwin
from opendt.twin.metrics import WindowMetrics, window_metrics
from opendt.twin.transition import transition
from opendt.verification.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.proposal import Proposal, SimulatedEffect
    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.optimization.base import Optimizer
    from opendt.orchestrator.environment import Window
    from opendt.twin.forecast import Forecast
    from opendt.twin.live import Load, Observed, Present

__all__ = ["Confirmed", "Cycle", "Settings", "Turn"]


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
class Confirmed:
    """A window of which everything is known by now, with what its measured power taught.

    Attributes
    ----------
    observed : Observed
        What the twin went through.
    measured_w : ndarray, shape (ticks,)
        Readings, W.
    disturbance_w : float
        What the hour's calibration takes for passing, at its end, W.
    forecasts : tuple of Forecast
        Hindcasts whose horizon it completed.
    events : tuple
        Drift and rollback, with the kind of forecast whose calibration noticed.
    """

    observed: Observed
    measured_w: NDArray[np.float64]
    disturbance_w: float
    forecasts: tuple[Forecast, ...]
    events: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the loop brought.

    Attributes
    ----------
    window : Window
        That closed.
    confirmed : tuple of Confirmed
        Earlier windows, and perhaps this one, that were completed by what it told.
    metrics, slo
        Of the window, as known at its end.
    proposal, effect
        If there was one.
    forecasts : tuple of Forecast
        Issued now.
    verdicts : tuple of Verdict
        On forecasts whose time is over.
    strangers : int
        Tasks that something was told of, but that are not in the system.
    """

    window: Window
    confirmed: tuple[Confirmed, ...]
    metrics: WindowMetrics
    slo: tuple[SloStatus, ...]
    proposal: Proposal | None
    effect: SimulatedEffect | None
    forecasts: tuple[Forecast, ...]
    verdicts: tuple[Verdict, ...]
    strangers: int

    @property
    def predictions(self) -> tuple[Forecast, ...]:
        """All forecasts that became known in this turn, hindcasts first."""
        return (*(forecast for one in self.confirmed for forecast in one.forecasts), *self.forecasts)


class Cycle:
    """Keeps a twin in step with what windows tell; all its state is its own and can be pickled.

    Parameters
    ----------
    topology : Topology
        As the datasheet describes it.
    slo : Slo
        Objectives; may be replaced between turns.
    start_epoch_ms : int
        Time 0, ms since the epoch (UTC).
    tick_ms : int
        Time between readings.
    settings : Settings, optional
        Of the loop.
    optimizer : Optimizer, optional
        Proposes changes; the rules unless given.
    """

    def __init__(
        self,
        topology: Topology,
        slo: Slo,
        *,
        start_epoch_ms: int,
        tick_ms: int,
        settings: Settings | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        self.slo = slo
        self.settings = settings or Settings()
        self.twin = LiveTwin(
            topology,
            start_epoch_ms=start_epoch_ms,
            tick_ms=tick_ms,
            window_ms=self.settings.window_ms,
            seed=self.settings.seed,
        )
        self._begin_forecasts(tick_ms, 0)
        self.futures = FutureSampler(self.settings.seed)
        self.optimizer = optimizer or RuleBasedOptimizer()
        self.readings = Readings(tick_ms)
        self._learned_ms = 0
        self._unjudged: list[Forecast] = []

    def _begin_forecasts(self, tick_ms: int, begin_ms: int | None) -> None:
        classes = self.twin.classes
        self.hour = hour_forecaster(classes, tick_ms, begin_ms)
        self.window = window_forecaster(classes, tick_ms, self.settings.window_ms, begin_ms)
        self.blind = BlindForecaster(classes, tick_ms)

    def turn(self, window: Window) -> Turn:
        """One turn of the loop."""
        strangers = self.take(window)
        confirmed = self.confirm(window.end_ms)
        present = self.twin.present(window.end_ms)
        metrics, objectives = self.score(present)
        proposal, effect = self.propose(present, metrics)
        forecasts = self.forecast(present)
        verdicts = self.verify(confirmed, forecasts, window.end_ms)
        return Turn(window, confirmed, metrics, objectives, proposal, effect, forecasts, verdicts, strangers)

    def take(self, window: Window) -> int:
        """Take what the window tells; gives the number of tasks that are not in the system."""
        if window.tasks is not None:
            self.twin.submit(window.tasks)
        self.readings.append(window.measured_w)
        self.blind.note(window.measured_w)
        return self.twin.feed(window.work)

    def confirm(self, end_ms: int) -> tuple[Confirmed, ...]:
        """Advance the twin as far as everything is known, learning window by window."""
        confirmed = []
        for observed in self.twin.confirm(end_ms):
            confirmed.append(self.learn(observed))
            if observed.end_ms % HOUR_MS == 0:
                self.twin.adopt_curves([self.hour.calibrator.curve(c.name) for c in self.twin.classes])
        self._learn_blind(self.twin.rows_since(self._learned_ms))
        return tuple(confirmed)

    def learn(self, observed: Observed) -> Confirmed:
        """Let what was measured meet what was predicted: errors widen or narrow bands, curves follow, drift is noticed."""
        measured_w = self.readings.after(observed.start_ms, observed.end_ms)
        forecasts: list[Forecast] = []
        events: list[tuple[str, Any]] = []
        for forecaster in (self.hour, self.window):
            forecast = forecaster.observe(observed.load, measured_w)
            if forecast is not None:
                forecasts.append(forecast)
            events.extend((forecaster.kind, event) for event in forecaster.calibrator.take_events())
        self._learn_blind(observed.load.after(self._learned_ms))
        submitted = observed.end.submitted - observed.start.submitted
        self.futures.observe(observed.results, submitted, observed.end_ms)
        disturbance_w = sum(self.hour.calibrator.calibrator.disturbances_w)
        return Confirmed(observed, measured_w, disturbance_w, tuple(forecasts), tuple(events))

    def _learn_blind(self, load: Load) -> None:
        if len(load.time_ms):
            self.blind.learn(load, self.readings.at(load.time_ms))
            self._learned_ms = int(load.time_ms[-1])

    def score(self, present: Present) -> tuple[WindowMetrics, tuple[SloStatus, ...]]:
        """Hold the window against the objectives."""
        window = present.window
        metrics = window_metrics(
            window.series, window.results, start=window.start, end=window.end, tasks=present.simulation.tasks()
        )
        return metrics, check_slo(self.slo, metrics)

    def propose(self, present: Present, metrics: WindowMetrics) -> tuple[Proposal | None, SimulatedEffect | None]:
        """Ask the optimiser, and simulate what it proposes on a pair of forks."""
        proposal = self.optimizer.propose(Context.of(present.simulation, self.slo, metrics))
        if proposal is None:
            return None, None
        return proposal, simulate_effect(present.simulation, proposal, self.settings.horizon_ms, self.slo)

    def forecast(self, present: Present) -> tuple[Forecast, ...]:
        """Issue what is due now: the blind hour at full hours."""
        now_ms = present.window.end_ms
        if now_ms % HOUR_MS:
            return ()
        hosts_up, busy_hosts = present.class_counts
        waiting = list(zip(present.unknown.hosts_up, self.readings.at(present.unknown.time_ms).tolist(), strict=True))
        spread_w = None
        if self.settings.futures and self.futures.is_ready:
            loads = self.futures.sample(present.simulation, HOUR_MS, self.settings.futures)
            spread_w = self.blind.spread_w(loads)
        return (self.blind.issue(now_ms, hosts_up, busy_hosts, waiting, spread_w),)

    def verify(self, confirmed: Sequence[Confirmed], forecasts: Sequence[Forecast], now_ms: int) -> tuple[Verdict, ...]:
        """Judge the forecasts whose last tick has been measured."""
        self._unjudged += [forecast for one in confirmed for forecast in one.forecasts]
        self._unjudged += forecasts
        due = [forecast for forecast in self._unjudged if forecast.target_ms[-1] <= now_ms]
        self._unjudged = [forecast for forecast in self._unjudged if forecast.target_ms[-1] > now_ms]
        verdicts = tuple(self._judge(forecast) for forecast in due)
        oldest_ms = min([self._learned_ms, *(forecast.issued_ms for forecast in self._unjudged)])
        self.readings.forget_until(min(oldest_ms, self.twin.now_ms) - 2 * HOUR_MS)
        return verdicts

    def _judge(self, forecast: Forecast) -> Verdict:
        measured_w = self.readings.at(forecast.target_ms)
        last_w = self.readings.last_until(forecast.issued_ms)
        columns = (forecast.target_ms, forecast.power_w, forecast.lower_w, forecast.upper_w)
        return judge(forecast.kind, forecast.issued_ms, *columns, measured_w, last_w)

    def change(self, time_ms: int, old: Topology, new: Topology) -> bool:
        """Let another topology take effect at a time to come, or at the end of the last window.

        Returns
        -------
        bool
            Whether calibration begins anew, because there are host groups that were not there before.

        Raises
        ------
        InputError
            When the running system cannot become that topology; nothing is changed then.
        """
        present = self.twin.at(time_ms)
        self.twin.schedule(time_ms, transition(old, new, present))
        if not self.twin.extend(new):
            return False
        self._begin_forecasts(self.readings.tick_ms, None)
        self._unjudged = []
        return True

"""The loop of the twin.

Each turn: a window closes, what it tells is taken, the twin is confirmed as far as everything is known, learns from what was
measured there, looks at the present, the window is scored, changes are proposed and simulated, the next forecast is issued, and
forecasts whose time has come are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opendt.optimization.budgets import BudgetBook, BudgetStatus
from opendt.optimization.scoring import SloStatus, check_slo
from opendt.orchestrator.aftermath import Aftermath, ChangeVerdict
from opendt.orchestrator.decisions import Decisions, Requests
from opendt.orchestrator.environment import HOUR_MS, without_carbon
from opendt.orchestrator.readings import Readings
from opendt.twin.forecast import BlindForecaster, hour_forecaster, observe_alike, window_forecaster
from opendt.twin.futures import FutureSampler
from opendt.twin.live import LiveTwin
from opendt.twin.metrics import WindowMetrics, window_metrics
from opendt.twin.past import PastWindows
from opendt.twin.transition import transition
from opendt.verification.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.certificate import Certificate
    from opendt.model.proposal import Proposal
    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.optimization.base import Optimizer
    from opendt.orchestrator.decisions import Candidate, DecisionSettings
    from opendt.orchestrator.environment import Window
    from opendt.twin.forecast import Forecast
    from opendt.twin.live import Load, Observed, Present
    from opendt.verification.trust import TrustChange

__all__ = ["Confirmed", "Cycle", "Settings", "Turn"]

NOTHING_ASKED: Final = Requests()


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
    budgets : tuple of BudgetStatus
        How the error budgets stand.
    candidates : tuple of Candidate
        What was proposed or asked for, with what became of it; the best first.
    trust : TrustChange, optional
        What may be done without a person went up or down.
    forecasts : tuple of Forecast
        Issued now.
    verdicts : tuple of Verdict
        On forecasts whose time is over.
    aftermath : tuple of ChangeVerdict
        On applied changes whose horizon is known.
    strangers : int
        Tasks that something was told of, but that are not in the system.
    """

    window: Window
    confirmed: tuple[Confirmed, ...]
    metrics: WindowMetrics
    slo: tuple[SloStatus, ...]
    budgets: tuple[BudgetStatus, ...]
    candidates: tuple[Candidate, ...]
    trust: TrustChange | None
    forecasts: tuple[Forecast, ...]
    verdicts: tuple[Verdict, ...]
    strangers: int
    aftermath: tuple[ChangeVerdict, ...] = ()

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
        Objectives; see `follow`.
    start_epoch_ms : int
        Time 0, ms since the epoch (UTC).
    tick_ms : int
        Time between readings.
    settings : Settings, optional
        Of the loop.
    decisions : DecisionSettings, optional
        What may be decided, and how.
    optimizers : sequence of Optimizer, optional
        Propose changes; the rules unless given.
    """

    def __init__(
        self,
        topology: Topology,
        slo: Slo,
        *,
        start_epoch_ms: int,
        tick_ms: int,
        settings: Settings | None = None,
        decisions: DecisionSettings | None = None,
        optimizers: Sequence[Optimizer] | None = None,
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
        self.budgets = BudgetBook(slo)
        bare = without_carbon(topology)
        self.decisions = Decisions(bare, slo, self.settings.horizon_ms, decisions, optimizers)
        self._start_epoch_ms = start_epoch_ms
        self.readings = Readings(tick_ms)
        self._learned_ms = 0
        self._unjudged: list[Forecast] = []
        self.aftermath = Aftermath()
        self.past = PastWindows(self.settings.horizon_ms)
        self._applied: dict[str, tuple[Proposal, Certificate]] = {}

    def _begin_forecasts(self, tick_ms: int, begin_ms: int | None) -> None:
        classes = self.twin.classes
        self.hour = hour_forecaster(classes, tick_ms, begin_ms)
        self.window = window_forecaster(classes, tick_ms, self.settings.window_ms, begin_ms)
        self.blind = BlindForecaster(classes, tick_ms)

    def turn(self, window: Window, requests: Requests = NOTHING_ASKED, *, is_moving: bool = False) -> Turn:
        """One turn of the loop.

        Parameters
        ----------
        window : Window
            That has closed.
        requests : Requests
            What people asked for in it.
        is_moving : bool
            Whether another topology takes effect at its end.
        """
        strangers = self.take(window)
        confirmed = self.confirm(window.end_ms)
        present = self.twin.present(window.end_ms)
        metrics, objectives = self.score(present)
        budgets = self.budgets.observe(window.end_ms, objectives)
        forecasts = self.forecast(present)
        verdicts = self.verify(confirmed, forecasts, window.end_ms)
        trust = self.watch(present, window, verdicts)
        aftermath = self.look_back(verdicts, window.end_ms)
        candidates = self.decide(present, metrics, requests, is_moving=is_moving)
        kept = (metrics, objectives, budgets, candidates, trust, forecasts, verdicts, strangers, aftermath)
        return Turn(window, confirmed, *kept)

    def take(self, window: Window) -> int:
        """Take what the window tells; gives the number of tasks that are not in the system."""
        if window.tasks is not None:
            self.twin.submit(window.tasks)
        self.readings.append(window.measured_w)
        self.aftermath.feed(window)
        self.past.feed(window.tasks, window.work)
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
        if self.decisions.may_certify:  # nobody else asks
            self.past.follow(self.twin)
        return tuple(confirmed)

    def learn(self, observed: Observed) -> Confirmed:
        """Let what was measured meet what was predicted: errors widen or narrow bands, curves follow, drift is noticed."""
        measured_w = self.readings.after(observed.start_ms, observed.end_ms)
        known = (self.hour, self.window)
        forecasts = [one for one in observe_alike(known, observed.load, measured_w) if one is not None]
        events = [(one.kind, event) for one in known for event in one.calibrator.take_events()]
        self._learn_blind(observed.load.after(self._learned_ms))
        submitted = observed.end.submitted - observed.start.submitted
        self.futures.observe(observed.results, submitted, observed.end_ms)
        disturbance_w = sum(self.hour.calibrator.calibrator.disturbances_w)
        return Confirmed(observed, measured_w, disturbance_w, tuple(forecasts), tuple(events))

    def _learn_blind(self, load: Load) -> None:
        if len(load.time_ms):
            self.blind.learn(load, self.readings.at(load.time_ms))
            self._learned_ms = int(load.time_ms[-1])

    def follow(self, slo: Slo) -> None:
        """Hold everything against other objectives from the next window on."""
        self.slo = slo
        self.budgets.follow(slo)

    def score(self, present: Present) -> tuple[WindowMetrics, tuple[SloStatus, ...]]:
        """Hold the window against the objectives."""
        window = present.window
        metrics = window_metrics(
            window.series, window.results, start=window.start, end=window.end, tasks=present.simulation.tasks()
        )
        return metrics, check_slo(self.slo, metrics)

    def watch(self, present: Present, window: Window, verdicts: Sequence[Verdict]) -> TrustChange | None:
        """Let trust follow how right the twin was and how sound the readings are."""
        expected_w = present.window.series["power_w"].sum(axis=1).tolist()
        return self.decisions.watch(window.end_ms, verdicts, window.measured_w.tolist(), expected_w)

    def look_back(self, verdicts: Sequence[Verdict], now_ms: int) -> tuple[ChangeVerdict, ...]:
        """Hold applied changes against what was predicted of them, and tell those who proposed them."""
        self.aftermath.note(verdicts)
        found = self.aftermath.confirm(now_ms)
        self.decisions.tell_outcomes(found)
        return found

    def decide(
        self, present: Present, metrics: WindowMetrics, requests: Requests, *, is_moving: bool
    ) -> tuple[Candidate, ...]:
        """Ask the optimisers, simulate and certify what they propose, and let the gate decide."""
        candidates = self.decisions.decide(
            present,
            metrics,
            self.slo,
            self.futures,
            self.hour.calibrator.calibrator,
            requests,
            now_ms=present.window.end_ms + self._start_epoch_ms,
            is_moving=is_moving,
            past=self.past.past(),
        )
        applied = (one for one in candidates if one.decision.is_applied and one.certificate is not None)
        self._applied = {one.proposal.id: (one.proposal, one.certificate) for one in applied if one.certificate}
        return candidates

    def forecast(self, present: Present) -> tuple[Forecast, ...]:
        """Issue what is due now: the blind hour at full hours."""
        now_ms = present.window.end_ms
        if now_ms % HOUR_MS:
            return ()
        hosts_up, busy_hosts = present.class_counts
        waiting = list(zip(present.unknown.hosts_up, self.readings.at(present.unknown.time_ms).tolist(), strict=True))
        spread_w = None
        if self.settings.futures and self.futures.is_ready:
            futures = self.futures.sample(present.simulation, HOUR_MS, self.settings.futures)
            spread_w = self.blind.spread_w([self.twin.fold(load, present.simulation) for load in futures])
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

    def change(self, time_ms: int, old: Topology, new: Topology, *, applied: str = "") -> bool:
        """Let another topology take effect at a time to come, or at the end of the last window.

        Parameters
        ----------
        time_ms : int
            When, ms since the start.
        old, new : Topology
            What the system is taken to be, and what it is to be.
        applied : str
            Id of the proposal of the last turn that this applies; it is then followed what it brings.

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
        before = self.twin.fork() if applied in self._applied else None
        self.twin.schedule(time_ms, transition(old, new, present))
        self.decisions.topology = without_carbon(new)
        self.aftermath.cut(time_ms)
        self.past.forget()
        if before is not None:
            prices = self.hour.calibrator.calibrator.fork()
            measured_w = self.readings.after(before.completed_ms, time_ms)
            self.aftermath.begin(*self._applied[applied], time_ms, before, prices, measured_w)
        if not self.twin.extend(new):
            return False
        self._begin_forecasts(self.readings.tick_ms, None)
        self._unjudged = []
        return True

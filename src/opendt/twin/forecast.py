"""Forecasts of power with bands: with the workload known, an hour and a window ahead, and blind.

Every forecaster is told what was measured tick by tick; nothing it says depends on any power measured later, and nothing that
a blind one says on any load known later. The mean is a mixture over a family of calibrations (`settings.FAMILY`), weighed by their errors so far; the
band is adaptive conformal inference over the forecaster's own errors (`bands`).
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.twin.bands import BLIND_HOUR_BAND, FIVE_MINUTE_BAND, HOUR_BAND, AdaptiveBand, BandSettings
from opendt.twin.blind import EXPERTS, HELD_TICKS, assumed_load, blind_experts
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.guard import GuardedCalibrator, update_alike
from opendt.twin.live import Load
from opendt.twin.mixture import ExpertMixture
from opendt.twin.settings import FAMILY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.twin.curve import HostClass
    from opendt.twin.settings import CalibrationSettings

__all__ = [
    "BlindForecaster",
    "Forecast",
    "KnownForecaster",
    "hour_forecaster",
    "observe_alike",
    "scaled_band",
    "window_forecaster",
]

_HOUR_MS: Final = 3_600_000
_REFERENCE_TICK_MS: Final = 30_000
_LEAST_SD_RATIO: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Forecast:
    """Power at ticks to come.

    Attributes
    ----------
    kind : str
        ``hour``, ``window`` or ``blind_hour``.
    issued_ms : int
        Moment after which nothing was used, ms since the start.
    target_ms : ndarray, shape (ticks,)
        Times that it speaks of.
    power_w, lower_w, upper_w : ndarray, shape (ticks,)
        Expected power and its 90 % band, W.
    """

    kind: str
    issued_ms: int
    target_ms: NDArray[np.int64]
    power_w: NDArray[np.float64]
    lower_w: NDArray[np.float64]
    upper_w: NDArray[np.float64]


def scaled_band(band: BandSettings, tick_ms: int, interval_ms: int) -> BandSettings:
    """Fit the groups of leads, stated for 30 s ticks, to other ticks and another interval."""
    ticks = interval_ms // tick_ms
    ratio = ticks / band.lead_edges[-1]
    edges = sorted({0, ticks, *(round(edge * ratio) for edge in band.lead_edges)})
    return replace(band, lead_edges=tuple(edges), issue_interval_s=interval_ms / 1000)


def _tick_family(tick_ms: int) -> tuple[CalibrationSettings, ...]:
    if tick_ms == _REFERENCE_TICK_MS:
        return FAMILY
    return tuple(replace(settings, tick_s=tick_ms / 1000) for settings in FAMILY)


class KnownForecaster:
    """Hindcasts: what would have been forecast of a horizon, had its workload been known when it began.

    Who follows a live system learns of a load when it has ended. The load of a horizon is then priced by the curves as they were
    calibrated at its beginning, so that nothing measured within it plays a part.

    Parameters
    ----------
    kind : str
        Name of the kind.
    classes : sequence of HostClass
        Datasheets.
    band : BandSettings
        Of the band.
    tick_ms, interval_ms : int
        Time between readings, and between forecasts, which is also their horizon.
    begin_ms : int, optional
        Beginning of the first horizon; without it the next multiple of the interval.
    """

    def __init__(
        self,
        kind: str,
        classes: Sequence[HostClass],
        band: BandSettings,
        *,
        tick_ms: int,
        interval_ms: int,
        begin_ms: int | None = 0,
    ) -> None:
        self.kind = kind
        self.interval_ms = interval_ms
        self.calibrator = GuardedCalibrator(classes, _tick_family(tick_ms))
        self.band = AdaptiveBand(scaled_band(band, tick_ms, interval_ms))
        leads = interval_ms // tick_ms
        self.mixture = ExpertMixture(len(FAMILY), (0, leads), interval_ms / _HOUR_MS)
        self._leads = leads
        self._loads: list[Load] = []
        self._readings: list[NDArray[np.float64]] = []
        self._issued_ms: int | None = None
        if begin_ms is not None:
            self._issue(begin_ms)

    def _issue(self, now_ms: int) -> None:
        """Freeze what is known now: the forecast made of it later uses nothing else but the load."""
        self._issued_ms = now_ms
        self._frozen = self.calibrator.calibrator.fork()
        self._loads, self._readings = [], []

    def observe(self, load: Load, measured_w: NDArray[np.float64]) -> Forecast | None:
        """Learn from the next window (readings are NaN where there is none), one reading a tick.

        Returns
        -------
        Forecast, optional
            Where the window completes a horizon: what was forecast of it, from the calibration as it was when it began.
        """
        return observe_alike([self], load, measured_w)[0]

    def _judge(self, load: Load, measured_w: NDArray[np.float64]) -> tuple[Forecast | None, bool]:
        """Before anything is learned from a window: the forecast that it completes, and whether the next horizon begins then."""
        if self._issued_ms is None:
            return None, bool(load.time_ms[-1] % self.interval_ms == 0)
        self._loads.append(load)
        self._readings.append(measured_w)
        if sum(map(len, self._readings)) < self._leads:
            return None, False
        forecast = self._forecast(Load.joined(self._loads))
        outcome = np.concatenate(self._readings)[: self._leads]
        self.band.settle(outcome)
        self.mixture.settle(outcome)
        self.calibrator.calibrator.weigh(self.mixture.weights[0])
        return forecast, True

    def unfinished(self) -> Forecast | None:
        """Forecast of the part of the running horizon whose load is known, if there is one; changes nothing."""
        if not self._loads:
            return None
        load = Load.joined(self._loads)
        known = len(load.time_ms)
        whole = copy.deepcopy(self)._forecast(load.padded(self._leads))  # noqa: SLF001 - its own kind
        return replace(
            whole,
            target_ms=load.time_ms,
            power_w=whole.power_w[:known],
            lower_w=whole.lower_w[:known],
            upper_w=whole.upper_w[:known],
        )

    def _forecast(self, load: Load) -> Forecast:
        assert self._issued_ms is not None
        members = self._frozen.predict_members(load.features, load.hosts_up)
        self.mixture.issue(members.mean_w)
        forecast = self._frozen.mixed(members)
        sd_w = np.maximum(forecast.sd_w, _LEAST_SD_RATIO * np.abs(forecast.mean_w) + 1e-9)
        mean_w = np.maximum(forecast.mean_w, 0.0)
        lower_w, upper_w = self.band.issue(mean_w, sd_w)
        return Forecast(self.kind, self._issued_ms, load.time_ms, mean_w, lower_w, upper_w)


def observe_alike(
    forecasters: Sequence[KnownForecaster], load: Load, measured_w: NDArray[np.float64]
) -> list[Forecast | None]:
    """Let several forecasters observe a window; as `KnownForecaster.observe` of each, at little more than the cost of one."""
    judged = [one._judge(load, measured_w) for one in forecasters]  # noqa: SLF001 - its own kind
    update_alike([one.calibrator for one in forecasters], load.features, load.hosts_up, measured_w)
    for one, (_, begins) in zip(forecasters, judged, strict=True):
        if begins:
            one._issue(int(load.time_ms[-1]))  # noqa: SLF001 - its own kind
    return [forecast for forecast, _ in judged]


def hour_forecaster(classes: Sequence[HostClass], tick_ms: int, begin_ms: int | None = 0) -> KnownForecaster:
    """Forecast an hour, every hour."""
    return KnownForecaster("hour", classes, HOUR_BAND, tick_ms=tick_ms, interval_ms=_HOUR_MS, begin_ms=begin_ms)


def window_forecaster(
    classes: Sequence[HostClass], tick_ms: int, window_ms: int, begin_ms: int | None = 0
) -> KnownForecaster:
    """Forecast the next window, every window."""
    return KnownForecaster(
        "window", classes, FIVE_MINUTE_BAND, tick_ms=tick_ms, interval_ms=window_ms, begin_ms=begin_ms
    )


class BlindForecaster:
    """Forecasts an hour from requests, fragments that have ended and readings, and from nothing else.

    It keeps a calibrator of its own, which learns from a tick only when every fragment that ran at it has ended: those of the
    other forecasters know fragments that are still running.

    Parameters
    ----------
    classes : sequence of HostClass
        Datasheets.
    tick_ms : int
        Time between readings.
    """

    kind: Final = "blind_hour"
    interval_ms: Final = _HOUR_MS

    def __init__(self, classes: Sequence[HostClass], tick_ms: int) -> None:
        self.tick_ms = tick_ms
        self._calibrator = PowerCalibrator(classes, _tick_family(tick_ms))
        self._leads = _HOUR_MS // tick_ms
        self.band = AdaptiveBand(scaled_band(BLIND_HOUR_BAND, tick_ms, _HOUR_MS))
        edges = self.band.settings.lead_edges
        self.mixture = ExpertMixture(len(EXPERTS), edges, self.interval_ms / _HOUR_MS)
        self._outcome: list[NDArray[np.float64]] | None = None
        self._known: deque[NDArray[np.float64]] = deque(maxlen=max(HELD_TICKS))
        self._last_w = float("nan")

    def note(self, measured_w: NDArray[np.float64]) -> None:
        """Take note of the readings of a window that has closed."""
        present = measured_w[np.isfinite(measured_w)]
        if present.size:
            self._last_w = float(present[-1])
        if self._outcome is None:
            return
        self._outcome.append(measured_w)
        if sum(map(len, self._outcome)) >= self._leads:
            outcome = np.concatenate(self._outcome)[: self._leads]
            self.band.settle(outcome)
            self.mixture.settle(outcome)
            self._outcome = None

    def learn(self, load: Load, measured_w: NDArray[np.float64]) -> None:
        """Learn from the next ticks whose load has become known."""
        if len(measured_w):
            self._calibrator.update(load.features, load.hosts_up, measured_w)
            self._known.extend(load.features[-max(HELD_TICKS) :])

    def spread_w(self, futures: Sequence[Load]) -> NDArray[np.float64]:
        """Standard deviation of power over sampled futures, shape (ticks,), W, priced by what is known."""
        weights, expect = self._calibrator.weights, self._calibrator.expect_members
        power_w = [weights @ expect(load.features, load.hosts_up) for load in futures]
        spread: NDArray[np.float64] = np.std(np.stack(power_w), axis=0)
        return spread

    def issue(
        self,
        now_ms: int,
        hosts_up: NDArray[np.float64],
        busy_hosts: NDArray[np.float64],
        waiting: Sequence[tuple[NDArray[np.float64], float]] = (),
        spread_w: NDArray[np.float64] | None = None,
    ) -> Forecast:
        """Forecast the coming hour.

        Parameters
        ----------
        now_ms : int
            Moment of issue, ms since the start.
        hosts_up, busy_hosts : ndarray, shape (classes,)
            Hosts that draw power, and those that hold a task, now.
        waiting : sequence of tuple
            Ticks up to now whose load is not known yet, oldest first: hosts that draw power, shape (classes,), and reading, W.
        spread_w : ndarray, shape (ticks,), optional
            Standard deviation of power over sampled futures, W; makes the band as wide as the unknown workload asks for.
        """
        present = self._calibrator.fork()
        known = np.stack(self._known) if self._known else assumed_load(present, busy_hosts)
        for hosts, measured_w in waiting[:-1]:
            present.update(known[-1], hosts, measured_w)
        guesses = blind_experts(present, known, hosts_up, self._last_w, self._leads)
        mean_w = np.maximum(self.mixture.issue(guesses), 0.0)
        load = np.repeat(known[-1][None], self._leads, axis=0)
        sd_w = present.predict(load, np.repeat(hosts_up[None], self._leads, axis=0)).sd_w
        if spread_w is not None:
            sd_w = np.hypot(sd_w, spread_w)
        lower_w, upper_w = self.band.issue(mean_w, sd_w)
        self._outcome = []
        target_ms = now_ms + self.tick_ms * np.arange(1, self._leads + 1, dtype=np.int64)
        return Forecast(self.kind, now_ms, target_ms, mean_w, lower_w, upper_w)

"""Forecasts of power with bands: with the workload known, an hour and a window ahead, and blind.

Every forecaster is told what was measured tick by tick and issues at its own interval; nothing it says depends on anything
that happened later. The mean is a mixture over a family of calibrations (`settings.FAMILY`), weighed by their errors so far; the
band is adaptive conformal inference over the forecaster's own errors (`bands`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.twin.bands import BLIND_HOUR_BAND, FIVE_MINUTE_BAND, HOUR_BAND, AdaptiveBand, BandSettings
from opendt.twin.blind import EXPERTS, HELD_TICKS, assumed_load, blind_experts
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.guard import GuardedCalibrator
from opendt.twin.mixture import ExpertMixture
from opendt.twin.settings import FAMILY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.twin.curve import HostClass
    from opendt.twin.live import Load
    from opendt.twin.settings import CalibrationSettings

__all__ = ["BlindForecaster", "Forecast", "KnownForecaster", "hour_forecaster", "scaled_band", "window_forecaster"]

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


class _Outcomes:
    """Readings since the last issue, handed to whoever settles when the horizon is full."""

    def __init__(self, leads: int) -> None:
        self.leads = leads
        self._readings: list[NDArray[np.float64]] | None = None

    def issued(self) -> None:
        self._readings = []

    def add(self, measured_w: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Add readings; the whole horizon's when it is full."""
        if self._readings is None:
            return None
        self._readings.append(measured_w)
        if sum(map(len, self._readings)) < self.leads:
            return None
        outcome = np.concatenate(self._readings)[: self.leads]
        self._readings = None
        return outcome


class KnownForecaster:
    """Forecasts with the workload of the horizon known: its load priced by calibrated curves.

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
    """

    def __init__(
        self,
        kind: str,
        classes: Sequence[HostClass],
        band: BandSettings,
        *,
        tick_ms: int,
        interval_ms: int,
    ) -> None:
        self.kind = kind
        self.interval_ms = interval_ms
        self.calibrator = GuardedCalibrator(classes, _tick_family(tick_ms))
        self.band = AdaptiveBand(scaled_band(band, tick_ms, interval_ms))
        leads = interval_ms // tick_ms
        self.mixture = ExpertMixture(len(FAMILY), (0, leads), interval_ms / _HOUR_MS)
        self._outcomes = _Outcomes(leads)

    def observe(self, load: Load, measured_w: NDArray[np.float64]) -> None:
        """Learn from a window's readings (NaN where there is none), one a tick."""
        outcome = self._outcomes.add(measured_w)
        if outcome is not None:
            self.band.settle(outcome)
            self.mixture.settle(outcome)
            self.calibrator.calibrator.weigh(self.mixture.weights[0])
        self.calibrator.update(load.features, load.hosts_up, measured_w)

    def issue(self, now_ms: int, load: Load) -> Forecast:
        """Forecast the ticks of `load`, which begin one tick from now."""
        members = self.calibrator.calibrator.predict_members(load.features, load.hosts_up)
        self.mixture.issue(members.mean_w)
        forecast = self.calibrator.calibrator.mixed(members)
        sd_w = np.maximum(forecast.sd_w, _LEAST_SD_RATIO * np.abs(forecast.mean_w) + 1e-9)
        mean_w = np.maximum(forecast.mean_w, 0.0)
        lower_w, upper_w = self.band.issue(mean_w, sd_w)
        self._outcomes.issued()
        return Forecast(self.kind, now_ms, load.time_ms, mean_w, lower_w, upper_w)


def hour_forecaster(classes: Sequence[HostClass], tick_ms: int) -> KnownForecaster:
    """Forecast an hour, every hour."""
    return KnownForecaster("hour", classes, HOUR_BAND, tick_ms=tick_ms, interval_ms=_HOUR_MS)


def window_forecaster(classes: Sequence[HostClass], tick_ms: int, window_ms: int) -> KnownForecaster:
    """Forecast the next window, every window."""
    return KnownForecaster("window", classes, FIVE_MINUTE_BAND, tick_ms=tick_ms, interval_ms=window_ms)


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
        self._outcomes = _Outcomes(self._leads)
        # Ticks whose load is not known yet, oldest first: known from, features, hosts up, reading.
        self._waiting: deque[tuple[int, NDArray[Any], NDArray[Any], float]] = deque()
        self._known: deque[NDArray[np.float64]] = deque(maxlen=max(HELD_TICKS))
        self._hosts_up: NDArray[np.float64] | None = None
        self._last_w = float("nan")

    def observe(self, load: Load, measured_w: NDArray[np.float64]) -> None:
        """Take note of a window; what is not known yet of its load waits."""
        outcome = self._outcomes.add(measured_w)
        if outcome is not None:
            self.band.settle(outcome)
            self.mixture.settle(outcome)
        self._waiting.extend(
            zip(load.known_ms.tolist(), load.features, load.hosts_up, measured_w.tolist(), strict=True)
        )
        if len(load.hosts_up):
            self._hosts_up = load.hosts_up[-1]
        present = measured_w[np.isfinite(measured_w)]
        if present.size:
            self._last_w = float(present[-1])

    def _learn_until(self, now_ms: int) -> None:
        """Learn from the ticks whose load has become known, in order of time."""
        rows = []
        while self._waiting and self._waiting[0][0] <= now_ms:
            rows.append(self._waiting.popleft())
        if not rows:
            return
        features, hosts = np.stack([row[1] for row in rows]), np.stack([row[2] for row in rows])
        measured_w = np.array([row[3] for row in rows])
        self._calibrator.update(features, hosts, measured_w)
        self._known.extend(features[-max(HELD_TICKS) :])

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
        spread_w: NDArray[np.float64] | None = None,
    ) -> Forecast:
        """Forecast the coming hour.

        Parameters
        ----------
        now_ms : int
            Moment of issue, ms since the start.
        hosts_up, busy_hosts : ndarray, shape (classes,)
            Hosts that draw power, and those that hold a task, now.
        spread_w : ndarray, shape (ticks,), optional
            Standard deviation of power over sampled futures, W; makes the band as wide as the unknown workload asks for.
        """
        self._learn_until(now_ms)
        present = self._calibrator.fork()
        known = np.stack(self._known) if self._known else assumed_load(present, busy_hosts)
        for _, _, hosts, measured_w in list(self._waiting)[:-1]:
            present.update(known[-1], hosts, measured_w)
        guesses = blind_experts(present, known, hosts_up, self._last_w, self._leads)
        mean_w = np.maximum(self.mixture.issue(guesses), 0.0)
        load = np.repeat(known[-1][None], self._leads, axis=0)
        sd_w = present.predict(load, np.repeat(hosts_up[None], self._leads, axis=0)).sd_w
        if spread_w is not None:
            sd_w = np.hypot(sd_w, spread_w)
        lower_w, upper_w = self.band.issue(mean_w, sd_w)
        self._outcomes.issued()
        target_ms = now_ms + self.tick_ms * np.arange(1, self._leads + 1, dtype=np.int64)
        return Forecast(self.kind, now_ms, target_ms, mean_w, lower_w, upper_w)

"""A calibrator under supervision: drift is reported, and a fit that got worse is rolled back.

Every hour the curves are kept. Every hour as well, the curves of some hours ago and the datasheet are asked to price the load
of the last hours, which none of them has seen. If one of them does so clearly better than the curves that the filter itself
had at the start of each of those hours, what was learned since has made the forecast worse (a broken sensor, most often):
the filter goes back to it. Disturbances are left out on both sides; the question is about the curves.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.twin.calibrate import PowerCalibrator, PowerForecast
from opendt.twin.drift import DRIFT_DEFAULTS, DriftDetector, DriftEvent, DriftSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from opendt.twin.curve import HostClass
    from opendt.twin.settings import CalibrationSettings

_BLOCK_TICKS: Final = 10  # of the drift detector
_LEAST_ERROR: Final = 1e-9  # relative; keeps a ratio of errors finite


@dataclass(frozen=True, slots=True)
class RollbackEvent:
    """One rollback.

    Attributes
    ----------
    tick : int
        When.
    to_tick : int
        Tick from which the curves stem; 0 is the datasheet.
    error_ratio, kept_error_ratio : float
        Mean relative error over the hours compared: of the curves given up, and of those taken back.
    """

    tick: int
    to_tick: int
    error_ratio: float
    kept_error_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """The event as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackSettings:
    """When to go back.

    Parameters
    ----------
    check_ticks : int
        Ticks between checks and between kept curves (an hour at 30 s).
    judged_checks : int
        Checks over which errors are compared: three hours, so that one odd job does not decide.
    ages : tuple of int
        Ages of the candidates in checks, all older than what is judged; the datasheet is always one.
    gain_ratio : float
        A candidate's error must be below this ratio of the present one: the best of several is always a bit lucky, and after a change
        of the plant an old curve may fit by chance while the filter is still on its way. 0.3: the pick of
        `benches/forecast_guard.py`, which knows synthetic plants only.
    least_error_ratio : float
        Below this present error nothing is rolled back: 2 %, less than curves without disturbances reach in good times.
    """

    check_ticks: int = 120
    judged_checks: int = 3
    ages: tuple[int, ...] = (4, 6, 12, 24)
    gain_ratio: float = 0.3
    least_error_ratio: float = 0.02


ROLLBACK_DEFAULTS: Final = RollbackSettings()


class GuardedCalibrator:
    """A `PowerCalibrator` that reports drift and undoes harm; the same interface, and `take_events`.

    Parameters
    ----------
    classes, settings
        As for `PowerCalibrator`.
    drift : DriftSettings
        Thresholds of the drift reports.
    rollback : RollbackSettings
        When to go back.

    Attributes
    ----------
    kept_ratio : float
        At the last check, the error of the best of the kept curves as a ratio of that of the present ones, over all hours compared or
        over the last one, whichever is larger; NaN while there is nothing to compare or no reason to.
    """

    def __init__(
        self,
        classes: Sequence[HostClass],
        settings: CalibrationSettings | Sequence[CalibrationSettings],
        drift: DriftSettings = DRIFT_DEFAULTS,
        rollback: RollbackSettings = ROLLBACK_DEFAULTS,
    ) -> None:
        """Start at the datasheet."""
        self.calibrator = PowerCalibrator(classes, settings)
        self.drift = DriftDetector(drift)
        self.rollback = rollback
        shape = (len(self.calibrator.classes), len(self.calibrator.classes[0].utilization))
        length = rollback.check_ticks
        self._busy = np.zeros((length, *shape))
        self._hosts = np.zeros((length, shape[0]))
        self._readings = np.full(length, np.nan)
        self._reference: NDArray[np.float64] | None = None
        # Per check, newest last: tick, curves at its end, and the curves' mean relative errors over it, by their tick.
        self._checks: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=max(rollback.ages) + 2)
        self._checks.append((0, self.calibrator.parameters()))
        self._errors: deque[tuple[float, dict[int, float]]] = deque(maxlen=rollback.judged_checks)
        self._events: list[DriftEvent | RollbackEvent] = []
        self.kept_ratio = float("nan")

    def update(self, features: ArrayLike, hosts_up: ArrayLike, measured_w: ArrayLike) -> NDArray[np.float64]:
        """Learn from one or many ticks; arguments, result and errors as for `PowerCalibrator.update`."""
        return update_alike([self], features, hosts_up, measured_w)[0]

    def _note(
        self,
        busy: NDArray[np.float64],
        hosts: NDArray[np.float64],
        readings: NDArray[np.float64],
        innovations: NDArray[np.float64],
    ) -> None:
        """Take note of what the calibrator has just learned from, up to the end of a block at most."""
        tick = self.calibrator.tick
        where = np.arange(tick - readings.size, tick) % self.rollback.check_ticks
        self._busy[where], self._hosts[where] = busy, hosts
        self._readings[where] = np.where(np.isnan(innovations), np.nan, readings)
        if tick % _BLOCK_TICKS == 0:
            self._watch()
        if tick % self.rollback.check_ticks == 0:
            self._check()

    def predict(self, features: ArrayLike, hosts_up: ArrayLike, lead: int = 1) -> PowerForecast:
        """As `PowerCalibrator.predict`."""
        return self.calibrator.predict(features, hosts_up, lead)

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """As `PowerCalibrator.curve`."""
        return self.calibrator.curve(name)

    def take_events(self) -> list[DriftEvent | RollbackEvent]:
        """Drifts and rollbacks since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def _watch(self) -> None:
        """Feed the drift detector with the block that has just ended."""
        tick = self.calibrator.tick
        where = np.arange(tick - _BLOCK_TICKS, tick) % self.rollback.check_ticks
        readings = self._readings[where]
        seen = np.isfinite(readings)
        if not seen.any():
            return
        present = self.calibrator.parameters()
        if tick <= self.drift.settings.settling_ticks or self._reference is None:
            self._reference = present
        # Innovations are against the curves of the last check: they have not been bent yet by what is to be found.
        curves = np.stack([self._checks[-1][1], present, self._reference], axis=1)
        power = self.calibrator.parameter_power(curves, self._busy[where], self._hosts[where])
        expected, level, reference = power.mean(axis=0).tolist()
        step = self.drift.observe(tick, float((readings - power[:, 0])[seen].mean()), expected)
        if step:
            self._events.append(step)
        slow = self.drift.observe_level(tick, level, reference)
        if slow:
            self._events.append(slow)
            self._reference = present

    def _check(self) -> None:
        """Score kept curves on the hour that has just ended, roll back if one of them was clearly better, keep the present."""
        tick = self.calibrator.tick
        seen = np.isfinite(self._readings)
        if seen.sum() * 2 >= seen.size:
            readings = self._readings[seen]

            def error(parameters: NDArray[np.float64]) -> float:
                power = self.calibrator.parameter_power(parameters, self._busy[seen], self._hosts[seen])
                return float(np.abs(power / readings - 1.0).mean())

            kept = dict(self._checks)
            kept[0] = np.zeros_like(self._checks[-1][1])
            self._errors.append((error(self._checks[-1][1]), {t: error(p) for t, p in kept.items()}))
            self._roll_back(tick, kept)
        self._checks.append((tick, self.calibrator.parameters()))

    def _roll_back(self, tick: int, kept: dict[int, NDArray[np.float64]]) -> None:
        self.kept_ratio = float("nan")
        if len(self._errors) < self.rollback.judged_checks:
            return
        present = float(np.mean([own for own, _ in self._errors]))
        ages = {tick - age * self.rollback.check_ticks for age in self.rollback.ages} | {0}
        candidates = [t for t in ages & kept.keys() if all(t in errors for _, errors in self._errors)]
        if not candidates or present < self.rollback.least_error_ratio:
            return
        scores = {t: float(np.mean([errors[t] for _, errors in self._errors])) for t in sorted(candidates)}
        best = min(scores, key=lambda t: (scores[t], -t))
        # Also over the last check alone: a filter that is on its way to a plant that has changed is left to it.
        latest, latest_errors = self._errors[-1]
        self.kept_ratio = max(scores[best] / present, latest_errors[best] / max(latest, _LEAST_ERROR))
        if self.kept_ratio >= self.rollback.gain_ratio:
            return
        self.calibrator.revert(kept[best])
        self._errors.clear()
        self._events.append(RollbackEvent(tick, best, present, scores[best]))

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain data for JSON, without settings and datasheet; events not yet taken are left out."""
        return {
            "calibrator": self.calibrator.snapshot(),
            "drift": self.drift.snapshot(),
            "busy": self._busy.tolist(),
            "hosts": self._hosts.tolist(),
            "readings": [None if np.isnan(v) else v for v in self._readings.tolist()],
            "reference": None if self._reference is None else self._reference.tolist(),
            "checks": [[tick, parameters.tolist()] for tick, parameters in self._checks],
            "errors": [[own, [[t, e] for t, e in errors.items()]] for own, errors in self._errors],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot` of a guarded calibrator with the same classes and settings."""
        self.calibrator.restore(state["calibrator"])
        self.drift.restore(state["drift"])
        self._busy, self._hosts = np.array(state["busy"]), np.array(state["hosts"])
        self._readings = np.array([np.nan if v is None else v for v in state["readings"]])
        self._reference = None if state["reference"] is None else np.array(state["reference"])
        self._checks.clear()
        self._checks.extend((tick, np.array(parameters)) for tick, parameters in state["checks"])
        self._errors.clear()
        self._errors.extend((own, dict(errors)) for own, errors in state["errors"])
        self._events = []


def update_alike(
    guards: Sequence[GuardedCalibrator], features: ArrayLike, hosts_up: ArrayLike, measured_w: ArrayLike
) -> list[NDArray[np.float64]]:
    """Update several calibrators with the same ticks: one learns, and those that are like it take over what it has learned.

    The result is that of `GuardedCalibrator.update` of each. Forecasters that differ in their weights only have the same filters
    until one of them is rolled back.
    """
    busy = np.asarray(features, float)
    busy = busy[None] if busy.ndim == 2 else busy
    hosts = np.atleast_2d(np.asarray(hosts_up, float))
    readings = np.atleast_1d(np.asarray(measured_w, float))
    innovations = [np.empty(readings.size) for _ in guards]
    first = guards[0].calibrator
    start = 0
    while start < readings.size:
        part = slice(start, min(readings.size, start + _BLOCK_TICKS - first.tick % _BLOCK_TICKS))
        is_like = [guard.calibrator.is_like(first) for guard in guards[1:]]
        columns = busy[part], hosts[part], readings[part]
        innovations[0][part] = first.update(*columns)
        for guard, own, follows in zip(guards[1:], innovations[1:], is_like, strict=True):
            own[part] = guard.calibrator.follow(first) if follows else guard.calibrator.update(*columns)
        for guard, own in zip(guards, innovations, strict=True):
            guard._note(*columns, own[part])  # noqa: SLF001 - its own kind
        start = part.stop
    return innovations

"""What the power meter itself does to its readings: held samples, noise, nonsense.

A power sensor is often refreshed less often than it is read (baseboard controllers every few minutes), so that a reading shows the
load at the last refresh. Period and phase of the refresh are found from the readings: the mean absolute change at one phase
stands out from that at all others. White noise of the readings is found from the negative correlation it gives to
successive changes. Both use only readings that have been seen.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

MAX_PERIOD: Final = 20
"""Longest refresh period looked for, in ticks (10 minutes at 30 s)."""
_MIN_CYCLES: Final = 6
_DETECTION_SCORE: Final = 7.0  # standard errors between the refresh phase and the rest; 209 phases are compared at once
_SWITCH_RATIO: Final = 1.3  # another period must be this much clearer, or the choice would flicker between multiples
_LARGE_CHANGE: Final = (
    5.0  # changes count up to this multiple of the usual one, so that jobs starting do not drown the pattern
)
_EVALUATE_EVERY: Final = 10  # ticks
_MEMORY_TICKS: Final = 5760.0


class MeterMonitor:
    """Refresh period, phase and noise of a meter, learned from its readings.

    Attributes
    ----------
    period, phase : int
        The meter refreshes at ticks k with `k % period == phase`; period 1 until a longer one has been found.
    noise_w : float
        Standard deviation of white noise on the readings, in W.
    """

    def __init__(self) -> None:
        """Start with a meter that is refreshed at every tick and has no noise."""
        periods = np.arange(2, MAX_PERIOD + 1)
        self._periods = periods
        self._offsets = np.concatenate([[0], np.cumsum(periods)[:-1]])
        self._starts = self._offsets
        self._count = np.zeros(int(periods.sum()))
        self._sum = np.zeros_like(self._count)
        self._square = 0.0
        self._total = 0.0
        self._mass = 0.0
        self._usual_w = 0.0
        self._noise_sum = 0.0
        self._noise_mass = 0.0
        self._last_w = np.nan
        self._last_change_w = np.nan
        self.period = 1
        self.phase = 0
        self.noise_w = 0.0

    def __copy__(self) -> MeterMonitor:
        """A monitor of its own in the same state."""
        twin = MeterMonitor.__new__(MeterMonitor)
        twin.__dict__.update(self.__dict__)
        twin._count, twin._sum = self._count.copy(), self._sum.copy()  # noqa: SLF001 - its own kind
        return twin

    def is_like(self, other: MeterMonitor) -> bool:
        """Whether both have seen the same readings, as far as their sums tell, and have concluded the same."""
        return self._scalars() == other._scalars() and (self.period, self.phase) == (other.period, other.phase)

    def _scalars(self) -> list[float]:
        return [self._square, self._total, self._mass, self._usual_w, self._noise_sum, self._noise_mass]

    def observe(self, tick: int, power_w: float) -> None:
        """Take in the reading of `tick` (NaN: none); at every tenth tick the conclusions are drawn anew."""
        change = power_w - self._last_w
        if not math.isnan(change):
            self._learn(tick, change)
        else:
            self._last_change_w = np.nan
        self._last_w = power_w
        if tick % _EVALUATE_EVERY == 0:
            self._conclude()

    def _learn(self, tick: int, change: float) -> None:
        size = abs(change)
        self._usual_w += (size - self._usual_w) * max(0.01, 1.0 / (self._mass + 1.0))
        limit = _LARGE_CHANGE * self._usual_w
        value = min(size / self._usual_w, _LARGE_CHANGE) if self._usual_w > 0 else 0.0
        index = self._offsets + tick % self._periods
        self._count[index] += 1.0
        self._sum[index] += value
        self._total += value
        self._square += value * value
        self._mass += 1.0
        if not math.isnan(self._last_change_w):
            before = min(max(self._last_change_w, -limit), limit)
            self._noise_sum -= before * min(max(change, -limit), limit)
            self._noise_mass += 1.0
        self._last_change_w = change

    def _conclude(self) -> None:
        if self._noise_mass >= _EVALUATE_EVERY:
            self.noise_w = float(np.sqrt(max(self._noise_sum / self._noise_mass, 0.0)))
        variance = self._square / self._mass - (self._total / self._mass) ** 2 if self._mass else 0.0
        if variance > 0:
            self._choose(variance)
        if self._mass > _MEMORY_TICKS:  # forget by halves: cheap, and the pattern needs no finer memory
            self._count *= 0.5
            self._sum *= 0.5
            self._noise_sum *= 0.5
            self._noise_mass *= 0.5
            self._total *= 0.5
            self._square *= 0.5
            self._mass *= 0.5

    def _choose(self, variance: float) -> None:
        count = np.maximum(self._count, 1e-9)
        rest_count = np.maximum(self._mass - self._count, 1e-9)
        contrast = self._sum / count - (self._total - self._sum) / rest_count
        score = contrast / np.sqrt(variance * (1.0 / count + 1.0 / rest_count))
        score[self._count < _MIN_CYCLES] = 0.0
        best = int(np.argmax(score))
        current = (
            score[self._offsets[self.period - 2] + self.phase] if self.period > 1 else _DETECTION_SCORE / _SWITCH_RATIO
        )
        if score[best] > _SWITCH_RATIO * max(current, _DETECTION_SCORE / _SWITCH_RATIO):
            which = int(np.searchsorted(self._offsets, best, side="right")) - 1
            self.period = int(self._periods[which])
            self.phase = best - int(self._offsets[which])
        elif self.period > 1 and current < _DETECTION_SCORE / 2:
            self.period, self.phase = 1, 0

    def refreshed_at(self, ticks: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The last refresh at or before each of `ticks`."""
        return ticks - (ticks - self.phase) % self.period

    def snapshot(self) -> dict[str, Any]:
        """State as plain data."""
        return {
            "count": self._count.tolist(),
            "sum": self._sum.tolist(),
            "scalars": self._scalars(),
            "last": [_plain(self._last_w), _plain(self._last_change_w)],
            "period": self.period,
            "phase": self.phase,
            "noise_w": self.noise_w,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot`."""
        self._count = np.array(state["count"])
        self._sum = np.array(state["sum"])
        self._square, self._total, self._mass, self._usual_w, self._noise_sum, self._noise_mass = state["scalars"]
        self._last_w, self._last_change_w = (np.nan if value is None else value for value in state["last"])
        self.period, self.phase, self.noise_w = state["period"], state["phase"], state["noise_w"]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value

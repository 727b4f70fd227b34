"""Readings of the recent past on the grid of ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Readings"]


class Readings:
    """Measured power of the recent past, window by window.

    Parameters
    ----------
    tick_ms : int
        Time between readings.
    """

    def __init__(self, tick_ms: int) -> None:
        self.tick_ms = tick_ms
        self._first_tick = 1  # nothing is measured at time 0
        self._power_w = np.empty(0)
        self._earlier_w = float("nan")

    def append(self, measured_w: NDArray[np.float64]) -> None:
        """Take the readings of the next window, W; NaN where there is none."""
        self._power_w = np.concatenate([self._power_w, measured_w])

    def after(self, start_ms: int, end_ms: int) -> NDArray[np.float64]:
        """Readings after `start_ms` up to and including `end_ms`, one a tick, W; NaN where there is none (any more)."""
        ticks = np.arange(start_ms // self.tick_ms + 1, end_ms // self.tick_ms + 1)
        return self.at(ticks * self.tick_ms)

    def at(self, time_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Readings at ticks, W; NaN where there is none (any more)."""
        place = time_ms // self.tick_ms - self._first_tick
        known = (place >= 0) & (place < len(self._power_w))
        found = np.full(len(place), np.nan)
        found[known] = self._power_w[place[known]]
        return found

    def last_until(self, time_ms: int) -> float:
        """Last reading at or before a time, W; NaN before the first."""
        stop = time_ms // self.tick_ms - self._first_tick + 1
        present = self._power_w[: max(stop, 0)]
        seen = np.flatnonzero(np.isfinite(present))
        return float(present[seen[-1]]) if len(seen) else self._earlier_w

    def forget_until(self, time_ms: int) -> None:
        """Drop what was measured at or before a time; the last of it is kept."""
        count = min(time_ms // self.tick_ms - self._first_tick + 1, len(self._power_w))
        if count > 0:
            self._earlier_w = self.last_until(time_ms)
            self._power_w = self._power_w[count:]
            self._first_tick += count

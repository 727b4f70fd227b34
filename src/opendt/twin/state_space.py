"""The linear model behind calibration: what is in the state, how it moves, and how a tick's features become a row.

Order of the state: for each class its idle power and its knots, then the disturbances, last the share of the dynamic power
that the meter shows as of its last refresh. All but the disturbances are deviations from the datasheet or the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.twin.curve import HostClass
    from opendt.twin.settings import CalibrationSettings

_IDLE_BOUNDS: Final = (-0.7, 3.0)  # deviation of idle power as a ratio of the datasheet's
_DYNAMIC_BOUNDS: Final = (-0.5, 3.0)  # of dynamic power, as a ratio of the datasheet's full-load power
_SHARE_BOUNDS: Final = (-0.25, 1.25)  # of the meter's share; slightly beyond 0 to 1, so that a bound is no attractor
_SHARE_WALK_PER_SQRT_H: Final = 0.02


class _Move(NamedTuple):
    """Motion of the state over one tick: deviation * decay, covariance * outer_decay + added."""

    decay: NDArray[np.float64]
    outer_decay: NDArray[np.float64]
    added: NDArray[np.float64]


class StateSpace:
    """Matrices of the filter for given classes and settings; immutable after construction."""

    def __init__(self, classes: tuple[HostClass, ...], settings: CalibrationSettings) -> None:
        """Lay out the state and fill prior, motion and bounds."""
        self._knot_count = len(classes[0].utilization)
        self._stride = self._knot_count + 1
        self.parameter_count = len(classes) * self._stride
        disturbances = settings.disturbances
        self.size = self.parameter_count + len(disturbances) + 1
        self.disturbance_slice = slice(self.parameter_count, self.size - 1)
        self.datasheet = np.zeros(self.size)
        self._meter_share = settings.meter_share
        self.prior_covariance = np.zeros((self.size, self.size))
        self._walk = np.zeros((self.size, self.size))  # variance per tick
        self._lower = np.full(self.size, -np.inf)
        self._upper = np.full(self.size, np.inf)
        self._tick_decay = np.ones(self.size)  # per tick
        self._tick_h = settings.tick_s / 3600.0
        for index, host_class in enumerate(classes):
            self._add_class(self.class_slice(index), host_class, settings)
        self._tick_decay[: self.parameter_count] = np.exp(-self._tick_h / settings.datasheet_pull_h)
        full_load_w = sum(c.host_count * max(c.power_w) for c in classes)
        self.noise_variance = (settings.noise_ratio * full_load_w) ** 2
        where = np.arange(self.parameter_count, self.size - 1)
        self._stationary = np.array([(d.sd_ratio * full_load_w) ** 2 for d in disturbances])
        self._held = np.array([d.held for d in disturbances], dtype=bool)
        self._disturbance_decay = np.exp([-settings.tick_s / d.time_constant_s for d in disturbances])
        self.prior_covariance[where, where] = self._stationary
        share = self.size - 1
        self.prior_covariance[share, share] = settings.meter_share_sd**2
        self._walk[share, share] = _SHARE_WALK_PER_SQRT_H**2 * self._tick_h
        self._lower[share], self._upper[share] = (b - settings.meter_share for b in _SHARE_BOUNDS)
        self._moves: dict[tuple[int, bool], _Move] = {}

    def _add_class(self, part: slice, host_class: HostClass, settings: CalibrationSettings) -> None:
        power = np.array(host_class.power_w)
        knots = np.array(host_class.utilization)
        idle, peak = power[0], power.max()
        spread = max(
            float(np.ptp(power)), 0.1 * peak
        )  # a flat datasheet is no proof that power does not depend on load
        self.datasheet[part] = np.concatenate([power[:1], power - idle])
        idle_scale = max(idle, 0.1 * peak)
        scale = np.concatenate(
            [[settings.idle_sd_ratio * idle_scale], np.full(knots.size, settings.curve_sd_ratio * spread)]
        )
        walk = np.concatenate(
            [[settings.idle_walk_ratio * idle_scale], np.full(knots.size, settings.curve_walk_ratio * spread)]
        )
        correlation = np.eye(self._stride)
        correlation[1:, 1:] = np.exp(-np.abs(knots[:, None] - knots) / settings.knot_correlation)
        self.prior_covariance[part, part] = correlation * np.outer(scale, scale)
        self._walk[part, part] = correlation * np.outer(walk, walk) * self._tick_h
        self._lower[part] = np.concatenate([[_IDLE_BOUNDS[0] * idle], np.full(knots.size, _DYNAMIC_BOUNDS[0] * peak)])
        self._upper[part] = np.concatenate(
            [[_IDLE_BOUNDS[1] * idle_scale], np.full(knots.size, _DYNAMIC_BOUNDS[1] * peak)]
        )

    def class_slice(self, index: int) -> slice:
        """Where the idle power and the knots of class `index` are."""
        return slice(index * self._stride, (index + 1) * self._stride)

    def rows(
        self, busy: NDArray[np.float64], held: NDArray[np.float64], hosts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Regressors of ticks from sums of hat functions now (`busy`) and at the meter's last refresh (`held`)."""
        ticks, classes = hosts.shape
        out = np.ones((ticks, self.size))
        blocks = out[:, : self.parameter_count].reshape(ticks, classes, self._stride)
        blocks[:, :, 0] = hosts
        blocks[:, :, 1:] = busy + self._meter_share * (held - busy)
        dynamic = self.datasheet[: self.parameter_count].reshape(classes, self._stride)[:, 1:]
        out[:, -1] = ((held - busy) * dynamic).reshape(ticks, -1).sum(axis=1)
        return out

    def advance(
        self, deviation: NDArray[np.float64], covariance: NDArray[np.float64], period: int, *, refreshed: bool
    ) -> None:
        """Move a state in place over one tick, at which a meter of that refresh `period` was `refreshed` or not."""
        move = self._moves.get((period, refreshed))
        if move is None:
            move = self._moves[period, refreshed] = self._move(period, refreshed=refreshed)
        deviation *= move.decay
        covariance *= move.outer_decay
        covariance += move.added

    def _move(self, period: int, *, refreshed: bool) -> _Move:
        decay = self._tick_decay.copy()
        decay[self.disturbance_slice] = np.where(self._held, self._disturbance_decay**period, self._disturbance_decay)
        if not refreshed:
            decay[self.disturbance_slice][self._held] = 1.0
        added = self._walk.copy()
        where = np.arange(self.size)[self.disturbance_slice]
        added[where, where] = self._stationary * (1.0 - decay[where] ** 2)
        return _Move(decay, np.outer(decay, decay), added)

    def decay(self, leads: NDArray[np.int64], refreshes: NDArray[np.int64], period: int) -> NDArray[np.float64]:
        """What is left of each number of the state after `leads` ticks with `refreshes` of the meter, one row per lead."""
        out = self._tick_decay ** leads[:, None]
        ticks = np.where(self._held, (refreshes * period)[:, None], leads[:, None])
        out[:, self.disturbance_slice] = self._disturbance_decay**ticks
        return out

    def growth(
        self, rows: NDArray[np.float64], leads: NDArray[np.int64], decay: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Variance in W^2 that motion adds to each row's prediction over its lead (parameters as a plain random walk)."""
        walk = ((rows @ self._walk) * rows).sum(axis=1) * leads
        disturbances = (1.0 - decay[:, self.disturbance_slice] ** 2) @ self._stationary
        return np.asarray(walk + disturbances)

    def bound(self, deviation: NDArray[np.float64]) -> None:
        """Keep a state in place within physical limits."""
        np.clip(deviation, self._lower, self._upper, out=deviation)

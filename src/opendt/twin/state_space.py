"""The linear model behind calibration: what is in the state, how it moves, and how a tick's features become a row.

Order of the state: for each class its idle power and its knots, then the disturbances, last the share of the dynamic power
that the meter shows as of its last refresh. All but the disturbances are deviations from the datasheet or the settings.

Every array has a leading axis for the members of a family: filters with other settings that see the same readings. Going
through them together costs little more than one of them.
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
    """Motion of the states over one tick: deviation * decay, covariance * outer_decay + added."""

    decay: NDArray[np.float64]
    outer_decay: NDArray[np.float64]
    added: NDArray[np.float64]


class StateSpace:
    """Matrices of the filters for given classes and a family of settings; immutable after construction."""

    def __init__(self, classes: tuple[HostClass, ...], family: tuple[CalibrationSettings, ...]) -> None:
        """Lay out the state and fill prior, motion and bounds."""
        self._knot_count = len(classes[0].utilization)
        self._stride = self._knot_count + 1
        self.parameter_count = len(classes) * self._stride
        self.size = self.parameter_count + len(family[0].disturbances) + 1
        self.disturbance_slice = slice(self.parameter_count, self.size - 1)
        members = len(family)
        self.datasheet = np.zeros(self.size)
        self._meter_share = np.array([settings.meter_share for settings in family])
        self.prior_covariance = np.zeros((members, self.size, self.size))
        self._walk = np.zeros((members, self.size, self.size))  # variance per tick
        self._lower = np.full((members, self.size), -np.inf)
        self._upper = np.full((members, self.size), np.inf)
        self._tick_decay = np.ones((members, self.size))  # per tick
        full_load_w = sum(c.host_count * max(c.power_w) for c in classes)
        self.noise_variance = np.array([(settings.noise_ratio * full_load_w) ** 2 for settings in family])
        self._stationary = np.array([[(d.sd_ratio * full_load_w) ** 2 for d in s.disturbances] for s in family])
        self._held = np.array([[d.held for d in s.disturbances] for s in family], dtype=bool)
        self._disturbance_decay = np.exp([[-s.tick_s / d.time_constant_s for d in s.disturbances] for s in family])
        for member, settings in enumerate(family):
            self._add_member(member, classes, settings)
        self._moves: dict[tuple[int, bool], _Move] = {}

    def _add_member(self, member: int, classes: tuple[HostClass, ...], settings: CalibrationSettings) -> None:
        tick_h = settings.tick_s / 3600.0
        for index, host_class in enumerate(classes):
            self._add_class(member, self.class_slice(index), host_class, settings)
        self._tick_decay[member, : self.parameter_count] = np.exp(-tick_h / settings.datasheet_pull_h)
        where = np.arange(self.size)[self.disturbance_slice]
        self.prior_covariance[member, where, where] = self._stationary[member]
        share = self.size - 1
        self.prior_covariance[member, share, share] = settings.meter_share_sd**2
        if settings.meter_share_sd > 0:  # else the share is given and does not move
            self._walk[member, share, share] = _SHARE_WALK_PER_SQRT_H**2 * tick_h
        self._lower[member, share], self._upper[member, share] = (b - settings.meter_share for b in _SHARE_BOUNDS)

    def _add_class(self, member: int, part: slice, host_class: HostClass, settings: CalibrationSettings) -> None:
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
        self.prior_covariance[member, part, part] = correlation * np.outer(scale, scale)
        self._walk[member, part, part] = correlation * np.outer(walk, walk) * settings.tick_s / 3600.0
        self._lower[member, part] = np.concatenate(
            [[_IDLE_BOUNDS[0] * idle], np.full(knots.size, _DYNAMIC_BOUNDS[0] * peak)]
        )
        self._upper[member, part] = np.concatenate(
            [[_IDLE_BOUNDS[1] * idle_scale], np.full(knots.size, _DYNAMIC_BOUNDS[1] * peak)]
        )

    def class_slice(self, index: int) -> slice:
        """Where the idle power and the knots of class `index` are."""
        return slice(index * self._stride, (index + 1) * self._stride)

    def rows(
        self, busy: NDArray[np.float64], held: NDArray[np.float64], hosts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Regressors from sums of hat functions now (`busy`) and at the meter's last refresh (`held`), (ticks, members, size)."""
        ticks, classes = hosts.shape
        members = self._meter_share.size
        out = np.ones((ticks, members, self.size))
        blocks = out[:, :, : self.parameter_count].reshape(ticks, members, classes, self._stride)
        late = held - busy
        blocks[..., 0] = hosts[:, None]
        blocks[..., 1:] = busy[:, None] + self._meter_share[:, None, None] * late[:, None]
        out[:, :, : self.parameter_count] = blocks.reshape(ticks, members, -1)
        dynamic = self.datasheet[: self.parameter_count].reshape(classes, self._stride)[:, 1:]
        out[:, :, -1] = (late * dynamic).reshape(ticks, -1).sum(axis=1)[:, None]
        return out

    def parameter_rows(self, busy: NDArray[np.float64], hosts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Regressors of the curves alone, of a meter that does nothing by itself, shape (ticks, parameters)."""
        return np.concatenate([hosts[:, :, None], busy], axis=2).reshape(hosts.shape[0], -1)

    def advance(
        self, deviation: NDArray[np.float64], covariance: NDArray[np.float64], period: int, *, refreshed: bool
    ) -> None:
        """Move the states in place over one tick, at which a meter of that refresh `period` was `refreshed` or not."""
        move = self._moves.get((period, refreshed))
        if move is None:
            move = self._moves[period, refreshed] = self._move(period, refreshed=refreshed)
        deviation *= move.decay
        covariance *= move.outer_decay
        covariance += move.added

    def _move(self, period: int, *, refreshed: bool) -> _Move:
        decay = self._tick_decay.copy()
        disturbances = np.where(self._held, self._disturbance_decay**period, self._disturbance_decay)
        decay[:, self.disturbance_slice] = disturbances if refreshed else np.where(self._held, 1.0, disturbances)
        added = self._walk.copy()
        where = np.arange(self.size)[self.disturbance_slice]
        added[:, where, where] = self._stationary * (1.0 - decay[:, where] ** 2)
        return _Move(decay, decay[:, :, None] * decay[:, None, :], added)

    def decay(self, leads: NDArray[np.int64], refreshes: NDArray[np.int64], period: int) -> NDArray[np.float64]:
        """What is left of the states after `leads` ticks with `refreshes` of the meter, shape (leads, members, size)."""
        out = self._tick_decay ** leads[:, None, None]
        ticks = np.where(self._held, (refreshes * period)[:, None, None], leads[:, None, None])
        out[:, :, self.disturbance_slice] = self._disturbance_decay**ticks
        return out

    def growth(
        self, rows: NDArray[np.float64], leads: NDArray[np.int64], decay: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Variance in W^2 that motion adds to each row's prediction over its lead (parameters as a plain random walk)."""
        walk = quadratic(rows, self._walk) * leads[:, None]
        disturbances = np.vecdot(1.0 - decay[:, :, self.disturbance_slice] ** 2, self._stationary)
        return np.asarray(walk + disturbances)

    def bound(self, deviation: NDArray[np.float64]) -> None:
        """Keep states in place within physical limits."""
        np.clip(deviation, self._lower, self._upper, out=deviation)


def quadratic(rows: NDArray[np.float64], matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """`row @ matrix @ row` of rows (ticks, members, size) and matrices (members, size, size), shape (ticks, members)."""
    product = (rows.transpose(1, 0, 2) @ matrices).transpose(1, 0, 2)
    return np.asarray(np.vecdot(product, rows))

"""Online calibration of power curves from measured power: a Kalman filter that never looks ahead.

Model of one reading, with hosts of classes c and knots k:

    measured = sum_c [ hosts_up_c * idle_c + sum_k dynamic_ck * busy_ck ] + disturbances + noise

`busy_ck` is the sum over busy hosts of the hat function of knot k at their utilisation (`curve.hat_weights`), `idle_c` and
`dynamic_ck` (watts per host) are the power curve and start at the datasheet, disturbances are decaying watts beside it. If
the meter is refreshed less often than it is read (`meter.MeterMonitor`), a learned share of the dynamic power is as of the
last refresh. The state is the deviation from the datasheet, so that a filter without readings *is* the datasheet.

How far to trust the datasheet, how fast to forget and whether the meter holds its readings cannot be known beforehand. So
several filters with other settings, a family, go through the same readings, and whoever forecasts weighs them by how right
they have been (`weigh`). Curve, disturbances and forecasts are then the weighted means over the family.

How far to trust it: docs/concepts/calibration.md has the errors on a measured week, with and without drift, steps and noise.

References: R. E. Kalman, "A new approach to linear filtering and prediction problems", 1960; P. J. Huber, "Robust
estimation of a location parameter", 1964 (clipped innovations).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.twin.curve import OCCUPIED_UTILIZATION, HostClass, monotone
from opendt.twin.meter import MAX_PERIOD, MeterMonitor
from opendt.twin.settings import CalibrationSettings
from opendt.twin.state_space import StateSpace, quadratic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

_BLOCK_TICKS: Final = (
    10  # conclusions about the meter are drawn at these ticks, so that any split of the readings gives the same
)
_PLAUSIBLE_RATIO: Final = (
    0.3,
    2.5,
)  # of the datasheet's idle power and full-load power: outside it, the sensor is wrong
_STUCK_S: Final = 1800.0  # a meter that reads the same number for so long is stuck
_EXPOSURE_HALF_LIFE_H: Final = 24.0  # of the load that decides how a learned curve is made to rise
_SNAPSHOT_VERSION: Final = 2
_OWN: Final = ("deviation", "covariance", "weights", "meter", "rejected", "_history", "_exposure")
_PLAIN: Final = ("tick", "_innovations", "_last_reading_w", "_same_reading_ticks")


@dataclass(frozen=True, slots=True)
class PowerForecast:
    """Power at successive ticks, as the filters see it: shape (ticks,), or (members, ticks) for each member of the family.

    Attributes
    ----------
    mean_w : ndarray
        Expected reading, in W.
    sd_w : ndarray
        Standard deviation of the reading around it according to the model, in W; a scale for bands, not a band.
    disturbance_w : ndarray
        Part of `mean_w` that stems from disturbances and not from the curve, in W.
    """

    mean_w: NDArray[np.float64]
    sd_w: NDArray[np.float64]
    disturbance_w: NDArray[np.float64]


class PowerCalibrator:
    """Learns the power curve of each host class, one reading at a time.

    Parameters
    ----------
    classes : sequence of HostClass
        What the datasheet says; all with the same number of knots.
    settings : CalibrationSettings or sequence of CalibrationSettings
        `FAMILY`, one setting, or one's own; all of a family have the same tick and equally many disturbances.

    Attributes
    ----------
    tick : int
        Number of ticks seen; the reading after time 0 is tick 1.
    rejected : dict of str to int
        Readings not used, by reason: ``missing``, ``implausible``, ``stuck``.
    innovation_sd : float
        Last innovation before clipping, in its own standard deviations; NaN if the last reading was not used.
    weights : ndarray, shape (members,)
        Present weights of the family; equal until `weigh` is called.

    Notes
    -----
    A tick costs O(m n^2) time for m members and n = classes x (knots + 1) + disturbances + 1 numbers of state.
    """

    def __init__(
        self, classes: Sequence[HostClass], settings: CalibrationSettings | Sequence[CalibrationSettings]
    ) -> None:
        """Start at the datasheet.

        Raises
        ------
        ValueError
            If there is no class, the classes have different numbers of knots, or the settings do not make a family.
        """
        if not classes or len({len(c.utilization) for c in classes}) != 1:
            raise ValueError(
                f"calibration got {len(classes)} host classes, expected at least one, all with equally many knots"
            )
        family = (settings,) if isinstance(settings, CalibrationSettings) else tuple(settings)
        if len({(one.tick_s, len(one.disturbances)) for one in family}) != 1:
            raise ValueError(
                f"calibration got a family of {len(family)} settings, expected at least one, all with the same tick_s and "
                "equally many disturbances"
            )
        self.classes = tuple(classes)
        self.family = family
        self._tick_s = family[0].tick_s
        self._clip_sd = np.array([one.clip_sd for one in family])
        self._space = StateSpace(self.classes, family)
        self._shape = (len(classes), len(classes[0].utilization))
        self.weights = np.full(len(family), 1.0 / len(family))
        self.deviation = np.zeros((len(family), self._space.size))
        self.covariance = self._space.prior_covariance.copy()
        self.meter = MeterMonitor()
        self._history = np.zeros((MAX_PERIOD, *self._shape))  # features of the last ticks, at index tick % MAX_PERIOD
        # Mean number of hosts per class: empty ones, then busy ones at each knot.
        self._exposure = np.ones((self._shape[0], self._shape[1] + 1))
        self._exposure_rate = 1.0 - 0.5 ** (_BLOCK_TICKS * self._tick_s / 3600.0 / _EXPOSURE_HALF_LIFE_H)
        self.tick = 0
        self.rejected = {"missing": 0, "implausible": 0, "stuck": 0}
        self.innovation_sd = float("nan")
        self._innovations = np.empty((0, len(family)))
        self._last_reading_w = float("nan")
        self._same_reading_ticks = 0

    # -- learning ------------------------------------------------------------------------------------------------------

    def update(self, features: ArrayLike, hosts_up: ArrayLike, measured_w: ArrayLike) -> NDArray[np.float64]:
        """Advance by one or many ticks and learn from their readings.

        Parameters
        ----------
        features : array_like, shape ([ticks,] classes, knots)
            Sum over busy hosts of the hat function of each knot at their utilisation.
        hosts_up : array_like, shape ([ticks,] classes)
            Hosts that are up, busy or not.
        measured_w : array_like, shape ([ticks])
            Readings in W; NaN where there is none.

        Returns
        -------
        ndarray, shape (ticks,)
            Innovations in standard deviations, before clipping, the weighted mean of the family's; NaN where the reading was not
            used.

        Raises
        ------
        ValueError
            If shapes do not fit, or features or hosts are not finite.
        """
        busy, hosts = self._checked(features, hosts_up)
        readings = np.atleast_1d(np.asarray(measured_w, float))
        if readings.shape != (busy.shape[0],):
            raise ValueError(
                f"measured_w has shape {readings.shape}, expected ({busy.shape[0]},): one reading per tick"
            )
        members = np.empty((readings.size, self.weights.size))
        start = 0
        while start < readings.size:
            stop = min(readings.size, start + _BLOCK_TICKS - self.tick % _BLOCK_TICKS)
            members[start:stop] = self._update_block(busy[start:stop], hosts[start:stop], readings[start:stop])
            start = stop
        self._innovations = members
        return self._weighted(members)

    def _weighted(self, members: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted innovations of ticks out of those of the members, shape (ticks, members)."""
        innovations = np.array([self.weights @ one for one in members])
        if innovations.size:
            self.innovation_sd = float(innovations[-1])
        return innovations

    def _update_block(
        self, busy: NDArray[np.float64], hosts: NDArray[np.float64], readings: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        space = self._space
        rows, refreshed = self._rows(busy, hosts, first=1)
        base = (rows * space.datasheet).sum(axis=2)  # per row: a product of matrices would depend on their size
        low, high = self._plausible(hosts)
        innovations = np.full((readings.size, self.weights.size), np.nan)
        noise_variance = space.noise_variance + self.meter.noise_w**2
        for i, reading in enumerate(readings.tolist()):
            self.tick += 1
            space.advance(self.deviation, self.covariance, self.meter.period, refreshed=bool(refreshed[i]))
            self._history[self.tick % MAX_PERIOD] = busy[i]
            if self._usable(reading, low[i], high[i]):
                innovations[i] = self._learn(rows[i], reading - base[i], noise_variance)
            self.meter.observe(self.tick, reading if low[i] <= reading <= high[i] else float("nan"))
        if self.tick % _BLOCK_TICKS == 0:
            space.bound(self.deviation)
            empty = hosts[-1] - busy[-1].sum(axis=1)
            exposure = np.concatenate([np.maximum(empty, 0.0)[:, None], busy[-1]], axis=1)
            self._exposure += self._exposure_rate * (exposure - self._exposure)
        return innovations

    def _learn(
        self, row: NDArray[np.float64], surplus_w: NDArray[np.float64], noise_variance: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Learn from a reading; gives the members' innovations before clipping, in standard deviations."""
        gain = np.matmul(self.covariance, row[:, :, None])[:, :, 0]
        sd = np.sqrt(np.vecdot(row, gain) + noise_variance)
        innovation = (surplus_w - np.vecdot(row, self.deviation)) / sd
        clipped = np.minimum(np.maximum(innovation, -self._clip_sd), self._clip_sd)
        gain /= sd[:, None]
        self.deviation += clipped[:, None] * gain
        self.covariance -= gain[:, :, None] * gain[:, None, :]
        return np.asarray(innovation)

    def weigh(self, weights: ArrayLike) -> None:
        """Take over weights of the family, shape (members,), not negative; they are made to sum to 1.

        Raises
        ------
        ValueError
            If there is not one weight a member, or they are negative or all zero.
        """
        given = np.asarray(weights, float)
        if given.shape != self.weights.shape or not (given >= 0).all() or not 0 < given.sum() < np.inf:
            raise ValueError(
                f"weights are {given}, expected {self.weights.size} finite numbers, none negative, not all 0"
            )
        self.weights = given / given.sum()

    def _usable(self, reading: float, low: float, high: float) -> bool:
        if math.isnan(reading):
            self.rejected["missing"] += 1
            return False
        if not low <= reading <= high:
            self.rejected["implausible"] += 1
            return False
        self._same_reading_ticks = self._same_reading_ticks + 1 if reading == self._last_reading_w else 0
        self._last_reading_w = reading
        if self._same_reading_ticks * self._tick_s > _STUCK_S:
            self.rejected["stuck"] += 1
            return False
        return True

    def _plausible(self, hosts: NDArray[np.float64]) -> tuple[list[float], list[float]]:
        low = (hosts * [c.power_w[0] for c in self.classes]).sum(axis=1) * _PLAUSIBLE_RATIO[0]
        high = (hosts * [max(c.power_w) for c in self.classes]).sum(axis=1) * _PLAUSIBLE_RATIO[1]
        return low.tolist(), high.tolist()

    # -- forecasting ---------------------------------------------------------------------------------------------------

    def predict(self, features: ArrayLike, hosts_up: ArrayLike, lead: int = 1) -> PowerForecast:
        """Forecast the readings of the coming ticks without changing the filter.

        Parameters
        ----------
        features : array_like, shape (ticks, classes, knots)
            As in `update`, for ticks to come.
        hosts_up : array_like, shape (ticks, classes)
            As in `update`.
        lead : int
            Ticks from the last update to the first row.

        Returns
        -------
        PowerForecast
            Mean, standard deviation and the disturbances' part, per tick: those of the mixture of the family, whose variance is
            the mean of the variances and the variance of the means.

        Raises
        ------
        ValueError
            If shapes do not fit, or `lead` is below 1.
        """
        return self.mixed(self.predict_members(features, hosts_up, lead))

    def mixed(self, members: PowerForecast) -> PowerForecast:
        """The weighted mixture of what `predict_members` gave."""
        mean = self.weights @ members.mean_w
        variance = self.weights @ (members.sd_w**2 + (members.mean_w - mean) ** 2)
        return PowerForecast(mean, np.sqrt(variance), self.weights @ members.disturbance_w)

    def predict_members(self, features: ArrayLike, hosts_up: ArrayLike, lead: int = 1) -> PowerForecast:
        """As `predict`, but what each member of the family says, shape (members, ticks)."""
        rows, decayed, leads, decay = self._ahead(features, hosts_up, lead)
        variance = quadratic(decayed, self.covariance) + self._space.growth(rows, leads, decay)
        variance += self._space.noise_variance + self.meter.noise_w**2
        others = self._space.disturbance_slice
        disturbance = np.vecdot(decayed[:, :, others], self.deviation[:, others])
        return PowerForecast(self._mean(rows, decayed), np.sqrt(np.maximum(variance, 0.0)).T, disturbance.T)

    def expect_members(self, features: ArrayLike, hosts_up: ArrayLike, lead: int = 1) -> NDArray[np.float64]:
        """Only the means of `predict_members`, at a third of its cost."""
        rows, decayed, _, _ = self._ahead(features, hosts_up, lead)
        return self._mean(rows, decayed)

    def _mean(self, rows: NDArray[np.float64], decayed: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((rows @ self._space.datasheet + np.vecdot(decayed, self.deviation)).T)

    def _ahead(
        self, features: ArrayLike, hosts_up: ArrayLike, lead: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Regressors of ticks to come, the same with what is left of the state, their leads, and what is left."""
        if lead < 1:
            raise ValueError(f"lead is {lead}, expected at least 1: ticks that have been seen are not forecast")
        busy, hosts = self._checked(features, hosts_up)
        rows, _ = self._rows(busy, hosts, first=lead)
        leads = np.arange(lead, lead + busy.shape[0])
        refreshes = (self.tick + leads - self.meter.phase) // self.meter.period
        refreshes -= (self.tick - self.meter.phase) // self.meter.period
        decay = self._space.decay(leads, refreshes, self.meter.period)
        return rows, rows * decay, leads, decay

    def _rows(
        self, busy: NDArray[np.float64], hosts: NDArray[np.float64], first: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Regressors of the ticks `first`, first + 1, ... after the present one, and whether the meter is refreshed there."""
        ticks = self.tick + first + np.arange(busy.shape[0])
        refreshed = self.meter.refreshed_at(ticks)
        index = refreshed - ticks[0]
        # Ticks between the last update and `first` are unknown; the nearest known one stands for them.
        held = np.where((index >= 0)[:, None, None], busy[np.maximum(index, 0)], 0.0)
        past = np.flatnonzero(index < 0)
        if past.size:
            held[past] = self._history[np.clip(refreshed[past], 0, self.tick) % MAX_PERIOD]
        return self._space.rows(busy, held, hosts), refreshed == ticks

    def _checked(self, features: ArrayLike, hosts_up: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        busy = np.asarray(features, float)
        busy = busy[None] if busy.ndim == 2 else busy
        hosts = np.atleast_2d(np.asarray(hosts_up, float))
        if busy.ndim != 3 or busy.shape[1:] != self._shape or hosts.shape != busy.shape[:2]:
            raise ValueError(
                f"features have shape {busy.shape} and hosts_up {hosts.shape}, expected (ticks, classes, knots) with "
                f"{self._shape[0]} classes and {self._shape[1]} knots, and (ticks, classes)"
            )
        if not (np.isfinite(busy).all() and np.isfinite(hosts).all()):
            raise ValueError("features or hosts_up hold NaN or infinity, expected finite sums over hosts")
        return busy, hosts

    # -- what was learned ----------------------------------------------------------------------------------------------

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """The learned curve of class `name`, fit for the engine: rising utilisations from 0 to 1 and watts of one host.

        Power never falls as utilisation rises: of all such curves it is the nearest to what was learned, weighted by how
        many hosts were at each point of late, so that the power of the whole stays what it was. It is at least 0.3 of the
        datasheet's idle power. The second point is a host that holds a task without load, which differs from an empty one.

        Raises
        ------
        ValueError
            If there is no such class.
        """
        index = next((i for i, c in enumerate(self.classes) if c.name == name), None)
        if index is None:
            raise ValueError(f"there is no host class {name!r}, expected one of {[c.name for c in self.classes]}")
        part = self._space.class_slice(index)
        mean = self._space.datasheet[part] + self.weights @ self.deviation[:, part]
        watts = monotone(np.concatenate([mean[:1], mean[0] + mean[1:]]), np.maximum(self._exposure[index], 1e-6))
        datasheet = self.classes[index]
        watts = np.maximum(watts, _PLAUSIBLE_RATIO[0] * datasheet.power_w[0])
        return [0.0, OCCUPIED_UTILIZATION, *datasheet.utilization[1:]], watts.tolist()

    @property
    def disturbances_w(self) -> list[float]:
        """Present value of each disturbance beside the curve, in W, in the order of the settings."""
        return [float(w) for w in self.weights @ self.deviation[:, self._space.disturbance_slice]]

    @property
    def meter_share(self) -> float:
        """Learned share of the dynamic power that the meter shows as of its last refresh."""
        prior = [one.meter_share for one in self.family]
        return float(self.weights @ (prior + self.deviation[:, -1]))

    def parameters(self) -> NDArray[np.float64]:
        """Deviation of the curves from the datasheet, in W: idle and knots of each class in turn; the weighted mean."""
        return np.asarray(self.weights @ self.deviation[:, : self._space.parameter_count])

    def parameter_power(
        self, parameters: NDArray[np.float64], features: ArrayLike, hosts_up: ArrayLike
    ) -> NDArray[np.float64]:
        """Power in W of ticks under given `parameters` (of `parameters()`), without disturbances and held readings.

        `parameters` may hold several sets as columns; the result then has a column for each.
        """
        busy, hosts = self._checked(features, hosts_up)
        count = self._space.parameter_count
        rows = self._space.parameter_rows(busy, hosts)
        datasheet = self._space.datasheet[:count]
        return np.asarray(rows @ (datasheet + parameters.T).T)

    def revert(self, parameters: NDArray[np.float64]) -> None:
        """Put the curves of all members back to `parameters`; disturbances start from zero and all uncertainty from the prior."""
        self.deviation[:] = 0.0
        self.deviation[:, : self._space.parameter_count] = parameters
        self.covariance[:] = self._space.prior_covariance

    def fork(self) -> PowerCalibrator:
        """A copy that learns and forecasts on its own."""
        twin = PowerCalibrator.__new__(PowerCalibrator)
        twin.__dict__.update(self.__dict__)
        for name in _OWN:  # all else is immutable and may be shared
            setattr(twin, name, copy.copy(getattr(self, name)))
        return twin

    def is_like(self, other: PowerCalibrator) -> bool:
        """Whether the filters of both are in the same state, and so will be after the same readings; weights may differ."""
        return (
            self.tick == other.tick
            and self.family == other.family
            and self.classes == other.classes
            and self.rejected == other.rejected
            and self.meter.is_like(other.meter)
            and np.array_equal(self.deviation, other.deviation)
            and np.array_equal(self.covariance, other.covariance)
        )

    def follow(self, other: PowerCalibrator) -> NDArray[np.float64]:
        """Take over what `other`, which was like this one, has learned in its last `update`; gives the same as that."""
        for name in (*_OWN, *_PLAIN):
            if name != "weights":
                setattr(self, name, copy.copy(getattr(other, name)))
        return self._weighted(self._innovations)

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain data for JSON, without the settings and the datasheet."""
        return {
            "version": _SNAPSHOT_VERSION,
            "tick": self.tick,
            "deviation": self.deviation.tolist(),
            "covariance": self.covariance.tolist(),
            "weights": self.weights.tolist(),
            "history": self._history.tolist(),
            "exposure": self._exposure.tolist(),
            "rejected": dict(self.rejected),
            "innovation_sd": None if np.isnan(self.innovation_sd) else self.innovation_sd,
            "last_reading_w": None if np.isnan(self._last_reading_w) else self._last_reading_w,
            "same_reading_ticks": self._same_reading_ticks,
            "meter": self.meter.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot` of a calibrator with the same classes and settings.

        Raises
        ------
        ValueError
            If the state is of another version or size.
        """
        found = np.shape(state.get("deviation", ()))
        if state.get("version") != _SNAPSHOT_VERSION or found != self.deviation.shape:
            raise ValueError(
                f"calibration state has version {state.get('version')} and shape {found}, expected version {_SNAPSHOT_VERSION} "
                f"and {self.deviation.shape} (members, numbers of state): start a new calibration or use the same host classes "
                "and settings"
            )
        self.tick = state["tick"]
        self.deviation = np.array(state["deviation"])
        self.covariance = np.array(state["covariance"])
        self.weights = np.array(state["weights"])
        self._history = np.array(state["history"])
        self._exposure = np.array(state["exposure"])
        self.rejected = dict(state["rejected"])
        self.innovation_sd = float("nan") if state["innovation_sd"] is None else state["innovation_sd"]
        self._last_reading_w = float("nan") if state["last_reading_w"] is None else state["last_reading_w"]
        self._same_reading_ticks = state["same_reading_ticks"]
        self.meter.restore(state["meter"])

"""Scores of a forecast of power: error, bias, coverage and Winkler score, each beside persistence on the same points.

All errors are relative to the measured power of their own point, so that night and day count alike. With measured y,
forecast f and band [l, u]:

- *MAPE* mean of abs(f - y) / y; *bias* mean of (f - y) / y, positive where the forecast is too high;
- *coverage* share of points with l <= y <= u;
- *Winkler score* of a central 90 % band, mean of ((u - l) + 2/a max(l - y, 0) + 2/a max(y - u, 0)) / y with a = 0.1: the
  width, plus twenty times what sticks out. Smaller is better, and no other band than the true quantiles does better in
  expectation: Winkler, "A decision-theoretic approach to interval estimation", JASA 67 (1972); Gneiting, Raftery, "Strictly
  proper scoring rules, prediction, and estimation", JASA 102 (2007), section 6.2;
- *skill* 1 - MAPE / MAPE of persistence; its interval by a circular block bootstrap, since neighbouring errors are alike:
  Künsch, Annals of Statistics 17 (1989); Politis, Romano, "A circular block-resampling procedure for stationary data" (1992).
  A block is a day, as long as the strongest rhythm; a week has few days, so the interval is a rough one.

Points whose power was not measured (no sample at that very time, not finite, or not above zero) are not scored; there is no
search for a lag.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.model.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["ForecastScore", "Interval", "Outcomes", "interval_score_w", "match", "score", "skill_interval"]

BAND_COVERAGE_RATIO: Final = 0.9
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
_BLOCK_HOURS: Final = 24
_DRAWS: Final = 4000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the interval it lies in with a probability of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastScore:
    """How right one kind of forecast was.

    Attributes
    ----------
    points, unscored : int
        Predictions that were compared, and those whose power was not measured.
    mape_ratio, bias_ratio, coverage_ratio, winkler_ratio : float
        As defined at the head of this module.
    persistence_points : int
        Points at which persistence has a value too; the next figures are of these points alone.
    persistence_mape_ratio, persistence_coverage_ratio, persistence_winkler_ratio : float or None
        The rival's; the last two only where it was given a band.
    skill_ratio : Interval or None
        Skill in MAPE, with its 95 % interval; None without a rival.
    winkler_skill_ratio : float or None
        1 - Winkler score / Winkler score of persistence.
    coverage_by_day_ratio : dict of int to float
        Coverage of each day of 24 h since the first submission that has points; a sample belongs to the interval it ends.
    coverage_by_tercile_ratio : tuple of float
        Coverage at low, middle and high measured power, with a third of the points each; fewer where power hardly varies.
    """

    points: int
    unscored: int
    mape_ratio: float
    bias_ratio: float
    coverage_ratio: float
    winkler_ratio: float
    persistence_points: int
    persistence_mape_ratio: float | None
    persistence_coverage_ratio: float | None
    persistence_winkler_ratio: float | None
    skill_ratio: Interval | None
    winkler_skill_ratio: float | None
    coverage_by_day_ratio: dict[int, float]
    coverage_by_tercile_ratio: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain data, for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which predictions have been measured, and what was measured.

    Attributes
    ----------
    index : ndarray of int
        Positions of the predictions that were.
    measured_w : ndarray
        The power at each of them, in W.
    """

    index: Integers
    measured_w: Floats


def match(target_ms: ArrayLike, measured_time_ms: ArrayLike, measured_w: ArrayLike) -> Outcomes:
    """Find the measured sample of each target's very time.

    Parameters
    ----------
    target_ms : array of int
        Times that predictions are about, in any order.
    measured_time_ms, measured_w : array
        Times and power of the samples, in W; NaN where nothing was measured.
    """
    target = np.asarray(target_ms, np.int64)
    time_ms, power_w = np.asarray(measured_time_ms, np.int64), np.asarray(measured_w, np.float64)
    order = np.argsort(time_ms, kind="stable")
    time_ms, power_w = time_ms[order], power_w[order]
    if not time_ms.size:
        return Outcomes(np.empty(0, np.int64), np.empty(0))
    where = np.minimum(np.searchsorted(time_ms, target), time_ms.size - 1)
    found_w = power_w[where]
    index = np.flatnonzero((time_ms[where] == target) & np.isfinite(found_w) & (found_w > 0))
    return Outcomes(index, found_w[index])


def interval_score_w(lower_w: ArrayLike, upper_w: ArrayLike, measured_w: ArrayLike) -> Floats:
    """Winkler score of each 90 % band, in W (smaller is better).

    Examples
    --------
    >>> interval_score_w([90.0, 90.0], [110.0, 110.0], [100.0, 111.0]).round(9).tolist()
    [20.0, 40.0]
    """
    lower, upper, outcome = (np.asarray(values, np.float64) for values in (lower_w, upper_w, measured_w))
    outside = np.maximum(lower - outcome, 0.0) + np.maximum(outcome - upper, 0.0)
    result: Floats = upper - lower + 2.0 / (1.0 - BAND_COVERAGE_RATIO) * outside
    return result


def skill_interval(own: ArrayLike, rival: ArrayLike, time_ms: ArrayLike, *, seed: int = 0) -> Interval:
    """1 - mean error / mean error of the rival, with a 95 % interval.

    Parameters
    ----------
    own, rival : array
        Errors at the same points, >= 0.
    time_ms : array of int
        When the points are; they are drawn in circular blocks of 24 hours (of all of it, when it is shorter).
    seed : int
        Seed of the draws.
    """
    own, rival = np.asarray(own, np.float64), np.asarray(rival, np.float64)
    hour = (np.asarray(time_ms, np.int64) - 1) // HOUR_MS  # a sample belongs to the interval it ends
    hour = hour - hour.min()
    used = np.bincount(hour) > 0
    own_sum, rival_sum = np.bincount(hour, own)[used], np.bincount(hour, rival)[used]
    length = min(_BLOCK_HOURS, own_sum.size)
    blocks = -(-own_sum.size // length)
    starts = np.random.default_rng(seed).integers(0, own_sum.size, (_DRAWS, blocks, 1))
    drawn = ((starts + np.arange(length)) % own_sum.size).reshape(_DRAWS, -1)[:, : own_sum.size]
    drawn_rival = rival_sum[drawn].sum(axis=1)
    value = _skill(float(own_sum.sum()), float(rival_sum.sum()))
    if not drawn_rival.min() > 0:  # the rival was perfect for a block: skill has no meaning there
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(1.0 - own_sum[drawn].sum(axis=1) / drawn_rival, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def score(
    issued_ms: ArrayLike,
    target_ms: ArrayLike,
    power_w: ArrayLike,
    lower_w: ArrayLike,
    upper_w: ArrayLike,
    measured_time_ms: ArrayLike,
    measured_w: ArrayLike,
    persistence_w: ArrayLike,
    *,
    persistence_lower_w: ArrayLike | None = None,
    persistence_upper_w: ArrayLike | None = None,
    seed: int = 0,
) -> ForecastScore:
    """Judge one kind of forecast.

    Parameters
    ----------
    issued_ms, target_ms : array of int
        When each prediction was made and what time it is about, in ms since the first submission.
    power_w, lower_w, upper_w : array
        Predicted power and its 90 % band, in W.
    measured_time_ms, measured_w : array
        Measured samples, in ms and W; NaN where nothing was measured.
    persistence_w : array
        For each prediction, the last power measured when it was issued, in W; NaN where there was none yet.
    persistence_lower_w, persistence_upper_w : array, optional
        Band of the rival, made by the same wrapper; known wherever `persistence_w` is.
    seed : int
        Seed of the bootstrap.

    Raises
    ------
    ModelError
        If columns differ in length, a prediction is not finite, is issued at or after its target, or none was measured.
    """
    issued, target = np.asarray(issued_ms, np.int64), np.asarray(target_ms, np.int64)
    columns = {"power_w": power_w, "lower_w": lower_w, "upper_w": upper_w, "persistence_w": persistence_w}
    own = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    _check(issued, target, own)
    outcomes = match(target, measured_time_ms, measured_w)
    at, outcome = outcomes.index, outcomes.measured_w
    if not at.size:
        raise ModelError(
            "score", "no target at the time of a measured sample", "both on one grid, in ms since the first submission"
        )
    target = target[at]
    power, lower, upper, naive = (column[at] for column in own.values())
    inside = (outcome >= lower) & (outcome <= upper)
    error, winkler = np.abs(power - outcome) / outcome, interval_score_w(lower, upper, outcome) / outcome

    known = np.isfinite(naive)
    rival_error = np.abs(naive[known] - outcome[known]) / outcome[known]
    rival_coverage = rival_winkler = None
    if persistence_lower_w is not None and persistence_upper_w is not None and known.any():
        rival_lower, rival_upper = (
            np.asarray(bound, np.float64)[at][known] for bound in (persistence_lower_w, persistence_upper_w)
        )
        rival_coverage, rival_winkler = _judge_band(rival_lower, rival_upper, outcome[known])
    return ForecastScore(
        points=int(at.size),
        unscored=int(issued.size - at.size),
        mape_ratio=float(error.mean()),
        bias_ratio=float(((power - outcome) / outcome).mean()),
        coverage_ratio=float(inside.mean()),
        winkler_ratio=float(winkler.mean()),
        persistence_points=int(known.sum()),
        persistence_mape_ratio=float(rival_error.mean()) if known.any() else None,
        persistence_coverage_ratio=rival_coverage,
        persistence_winkler_ratio=rival_winkler,
        skill_ratio=skill_interval(error[known], rival_error, target[known], seed=seed) if known.any() else None,
        winkler_skill_ratio=None if rival_winkler is None else _skill(float(winkler[known].mean()), rival_winkler),
        coverage_by_day_ratio=_by_group(inside, (target - 1) // DAY_MS),
        coverage_by_tercile_ratio=tuple(_by_group(inside, _terciles(outcome)).values()),
    )


def _judge_band(lower: Floats, upper: Floats, outcome: Floats) -> tuple[float, float]:
    """Coverage and Winkler score."""
    inside = (outcome >= lower) & (outcome <= upper)
    return float(inside.mean()), float((interval_score_w(lower, upper, outcome) / outcome).mean())


def _check(issued: Integers, target: Integers, columns: dict[str, Floats]) -> None:
    """Refuse what cannot be judged, instead of letting a NaN run through every figure."""
    for name, column in {"target_ms": target, **columns}.items():
        if column.shape != issued.shape:
            raise ModelError(f"score: {name}", f"{column.size} values", f"{issued.size}, as many as issued_ms has")
    for name in ("power_w", "lower_w", "upper_w"):
        bad = np.flatnonzero(~np.isfinite(columns[name]))
        if bad.size:
            raise ModelError(f"score: {name}[{bad[0]}]", float(columns[name][bad[0]]), "a finite power in W")
    late = np.flatnonzero(issued >= target)
    if late.size:
        row = int(late[0])
        raise ModelError(
            f"score: row {row}", f"issued at {issued[row]} ms for {target[row]} ms", "a prediction made before its time"
        )


def _terciles(values: Floats) -> Integers:
    return np.digitize(values, np.quantile(values, [1 / 3, 2 / 3])).astype(np.int64)


def _by_group(inside: NDArray[np.bool_], group: Integers) -> dict[int, float]:
    return {int(g): float(inside[group == g].mean()) for g in np.unique(group)}


def _skill(own: float, rival: float) -> float:
    return 1.0 - own / rival if rival > 0 else float("nan")

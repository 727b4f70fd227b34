"""The verdict on one forecast: what was said held against what was measured, beside the naive rival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How right a forecast was.

    Attributes
    ----------
    kind : str
        Of the forecast.
    issued_ms, target_ms : int
        Moment after which nothing was used, and last moment spoken of, ms since the start.
    points : int
        Ticks that were measured; nothing else is known when it is 0.
    error_ratio : float, optional
        Mean absolute error over the reading.
    bias_ratio : float, optional
        Mean error over the reading; positive where too much was forecast.
    coverage_ratio : float, optional
        Share of readings within the band.
    persistence_error_ratio : float, optional
        Mean absolute error of saying "as now" on the same ticks; None where nothing had been measured yet.
    """

    kind: str
    issued_ms: int
    target_ms: int
    points: int
    error_ratio: float | None = None
    bias_ratio: float | None = None
    coverage_ratio: float | None = None
    persistence_error_ratio: float | None = None

    @property
    def skill_ratio(self) -> float | None:
        """1 - error / error of persistence; None where one of them is unknown or persistence is perfect."""
        if self.error_ratio is None or not self.persistence_error_ratio:
            return None
        return 1.0 - self.error_ratio / self.persistence_error_ratio


def judge(
    kind: str,
    issued_ms: int,
    target_ms: NDArray[np.int64],
    power_w: NDArray[np.float64],
    lower_w: NDArray[np.float64],
    upper_w: NDArray[np.float64],
    measured_w: NDArray[np.float64],
    last_w: float,
) -> Verdict:
    """Hold a forecast against the readings of its ticks.

    Parameters
    ----------
    kind, issued_ms
        Of the forecast.
    target_ms, power_w, lower_w, upper_w, measured_w : ndarray, shape (ticks,)
        Times, forecast with its band, and readings (NaN or not positive where there is none), W.
    last_w : float
        Last reading when the forecast was issued, W; NaN when there was none.
    """
    end_ms = int(target_ms[-1])
    seen = measured_w > 0
    if not seen.any():
        return Verdict(kind=kind, issued_ms=issued_ms, target_ms=end_ms, points=0)
    truth = measured_w[seen]
    error = power_w[seen] / truth - 1.0
    inside = (lower_w[seen] <= truth) & (truth <= upper_w[seen])
    return Verdict(
        kind=kind,
        issued_ms=issued_ms,
        target_ms=end_ms,
        points=len(truth),
        error_ratio=float(np.abs(error).mean()),
        bias_ratio=float(error.mean()),
        coverage_ratio=float(inside.mean()),
        persistence_error_ratio=float(np.abs(last_w / truth - 1.0).mean()) if np.isfinite(last_w) else None,
    )

"""When autonomy steps down and up: thresholds of `opendt.verification.trust`, with their defaults.

What the defaults did on a recorded week, sound and with planted faults: docs/concepts/trust.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from opendt.verification.trust_budget import AccuracyBudget

__all__ = ["TrustSettings"]


def _default_budgets() -> dict[str, AccuracyBudget]:
    # A day of verdicts: errors of neighbouring ones are so alike that two hours of them are as good as one or two.
    return {
        "window": AccuracyBudget(verdicts=288, error_ratio=0.05, bias_ratio=0.04, coverage_ratio=0.5, skill_ratio=-1.0),
        "hour": AccuracyBudget(verdicts=24, error_ratio=0.08, bias_ratio=0.06, coverage_ratio=0.5, skill_ratio=-0.5),
        "blind_hour": AccuracyBudget(
            verdicts=24, error_ratio=0.25, bias_ratio=0.20, coverage_ratio=0.5, skill_ratio=-0.5
        ),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """When autonomy steps down and up.

    Parameters
    ----------
    bad_limit, bad_of : int
        So many bad windows, or bad verdicts of the quick kind, of the last so many make a step down.
    missing_ratio : float
        Share of a window's readings that are missing or impossible from which it is bad.
    still_windows : int
        Windows in a row over which all readings are equal from which they are taken for those of a sensor that hangs.
    still_ratio : float
        Range of the simulated power, over its mean, up to which it stood still too and equal readings are no wonder.
    jitter_factor, jitter_ratio, jitter_coverage_ratio : float
        A window is bad as well when its readings step from one to the next (less what was simulated; mean over the power, without
        the largest quarter) `jitter_factor` times as much as the median of `jitter_windows` before, and more than
        `jitter_ratio`, while the band of the latest quick verdict covered no more than `jitter_coverage_ratio`.
    jitter_windows : int
        Windows that are remembered for that; a day of them.
    quick_kind : str
        Kind of forecast with a verdict for every window.
    quick_error_ratio : float
        Error of a single quick verdict from which it is bad.
    scatter_limits : tuple of (float, float)
        A quick verdict is bad as well when its scatter (error less bias either way: what is not common to its readings) is above
        a multiple of the mean of the last `scatter_verdicts`, and its band covered no more than a share of its readings: noise
        that bands expect is no fault. Pairs of multiple and share, of which one must hold.
    scatter_ratio : float
        Scatter below which it never counts.
    scatter_verdicts : int
        Verdicts that are remembered for that; a day of them.
    silent_windows : int
        Windows without any quick verdict from which they are bad: a twin that cannot say how right it is.
    good_windows : int
        Windows in a row with nothing bad that make a step up.
    recovery_ratio : float
        Share of a budget within which all must be for a step up.
    budgets : mapping
        Kind of forecast -> budget.
    """

    bad_limit: int = 3
    bad_of: int = 6
    missing_ratio: float = 0.5
    still_windows: int = 3
    still_ratio: float = 0.0005
    jitter_factor: float = 3.0
    jitter_ratio: float = 0.001
    jitter_coverage_ratio: float = 0.8
    jitter_windows: int = 288
    quick_kind: str = "window"
    quick_error_ratio: float = 0.10
    scatter_limits: tuple[tuple[float, float], ...] = ((4.0, 0.6), (10.0, 0.8))
    scatter_ratio: float = 0.005
    scatter_verdicts: int = 288
    silent_windows: int = 24
    good_windows: int = 36
    recovery_ratio: float = 0.8
    budgets: Mapping[str, AccuracyBudget] = field(default_factory=_default_budgets)

    def __post_init__(self) -> None:
        """Refuse settings that make no sense.

        Raises
        ------
        ValueError
            When a number is out of its range; names it.
        """
        for name in (
            "bad_limit",
            "bad_of",
            "still_windows",
            "scatter_verdicts",
            "jitter_windows",
            "silent_windows",
            "good_windows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"trust setting {name} is {getattr(self, name)}, expected at least 1")
        if self.bad_limit > self.bad_of:
            raise ValueError(f"trust setting bad_limit is {self.bad_limit}, expected at most bad_of ({self.bad_of})")
        for name in ("missing_ratio", "recovery_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"trust setting {name} is {getattr(self, name)}, expected above 0 and at most 1")
        for name in (
            "still_ratio",
            "quick_error_ratio",
            "scatter_ratio",
            "jitter_factor",
            "jitter_ratio",
            "jitter_coverage_ratio",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"trust setting {name} is {getattr(self, name)}, expected a number of at least 0")
        if any(not (factor >= 1 and 0 <= covered <= 1) for factor, covered in self.scatter_limits):
            raise ValueError(
                f"trust setting scatter_limits is {self.scatter_limits}, expected pairs of a multiple of at least 1 and a share"
            )

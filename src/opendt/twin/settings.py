"""Settings of online calibration: one record for forecasts an hour ahead, one for five minutes ahead, each with its reasons.

Amounts of power are ratios of what the datasheet says, so that they mean the same for a rack and for a hall. They were chosen
on days 0-2 of the SURF week and on a synthetic plant, in round numbers; docs/concepts/calibration.md shows how little the error
depends on each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Power beside the curve that decays by itself: an explicit, reported amount in watts, not a parameter of any host.

    Parameters
    ----------
    time_constant_s : float
        Time after which 1/e of it is left, in s.
    sd_ratio : float
        Its stationary standard deviation as a ratio of the full-load power of all hosts.
    held : bool
        Whether it changes only when the meter is refreshed, like the reading it explains.
    """

    time_constant_s: float
    sd_ratio: float
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """How far the datasheet is trusted, how fast hosts change, and what else moves the meter.

    Parameters
    ----------
    tick_s : float
        Time between readings, in s.
    idle_sd_ratio : float
        Prior standard deviation of the idle power of a host, as a ratio of the datasheet's. 0.2: nameplate figures are commonly
        wrong by some ten percent, and what is not a host (fans, switches) must fit in as well.
    curve_sd_ratio : float
        The same for each knot of the dynamic power, as a ratio of the curve's range (0.2, for the same reason).
    knot_correlation : float
        Distance in utilisation over which errors of the datasheet are alike (correlation 1/e); a curve is smooth.
    idle_walk_ratio, curve_walk_ratio : float
        Change of the true parameters per square root of an hour, as a ratio of idle power and of the curve's range. It is
        what makes the filter forget. Larger for the shorter horizon, which may follow the mix of jobs on the hosts.
    datasheet_pull_h : float
        Time constant in h with which parameters return to the datasheet by themselves. The prior pulls far more at the start;
        this is what is left of it for parameters that readings no longer speak of. A quarter of a year: two weeks cost
        0.03 points of error, because clipped innovations correct little.
    disturbances : tuple of Disturbance
        Decaying deviations beside the curve.
    noise_ratio : float
        Standard deviation of what neither curve nor disturbance explains in one reading, as a ratio of full-load power.
        It covers the error of the model, so it is far above a sensor's noise for the longer horizon, where a smaller one
        would make the curve follow every passing deviation. White noise found on the meter is added.
    clip_sd : float
        Innovations count up to this many standard deviations (Huber's idea), so that outages and stray readings, which the
        workload cannot explain, do not move the curve.
    meter_share, meter_share_sd : float
        How much of the dynamic power a slowly refreshed meter shows as of its last refresh rather than as of now: prior mean
        and standard deviation of a ratio that is learned. Without effect while the meter is refreshed at every reading.
    """

    tick_s: float = 30.0
    idle_sd_ratio: float = 0.2
    curve_sd_ratio: float = 0.2
    knot_correlation: float = 0.15
    idle_walk_ratio: float
    curve_walk_ratio: float
    datasheet_pull_h: float = 2160.0
    disturbances: tuple[Disturbance, ...]
    noise_ratio: float
    clip_sd: float
    meter_share: float
    meter_share_sd: float = 0.3

    def __post_init__(self) -> None:
        """Refuse amounts that make no sense.

        Raises
        ------
        ValueError
            If an amount is not positive and finite, or the share of the meter is not a ratio.
        """
        amounts = {
            "tick_s": self.tick_s,
            "knot_correlation": self.knot_correlation,
            "datasheet_pull_h": self.datasheet_pull_h,
            "noise_ratio": self.noise_ratio,
            "clip_sd": self.clip_sd,
            **{f"disturbances[{i}].time_constant_s": d.time_constant_s for i, d in enumerate(self.disturbances)},
        }
        for name, value in amounts.items():
            if not 0.0 < value < float("inf"):
                raise ValueError(f"calibration setting {name} is {value}, expected a positive number")
        if not 0.0 <= self.meter_share <= 1.0:
            raise ValueError(f"calibration setting meter_share is {self.meter_share}, expected a ratio from 0 to 1")


HOUR_AHEAD: Final = CalibrationSettings(
    idle_walk_ratio=0.0016,
    curve_walk_ratio=0.004,
    # Minutes: jobs that start or end beside the clock. Hours: what the curve cannot tell apart, such as the mix of programs.
    disturbances=(Disturbance(time_constant_s=180, sd_ratio=0.002), Disturbance(time_constant_s=7200, sd_ratio=0.003)),
    noise_ratio=0.009,
    clip_sd=1.0,
    meter_share=0.5,
)
"""For horizons of about an hour: a slow curve, little trust in the present deviation."""

FIVE_MINUTES_AHEAD: Final = CalibrationSettings(
    idle_walk_ratio=0.004,
    curve_walk_ratio=0.02,
    # The present deviation is the best guess of the next minutes; as the meter holds its reading, it holds its deviation.
    disturbances=(
        Disturbance(time_constant_s=300, sd_ratio=0.01, held=True),
        Disturbance(time_constant_s=7200, sd_ratio=0.004),
    ),
    noise_ratio=0.003,
    clip_sd=2.0,
    meter_share=1.0,
)
"""For horizons of a few minutes: most of the present deviation persists."""

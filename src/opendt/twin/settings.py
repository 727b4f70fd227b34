"""Settings of online calibration: the family of filters that every forecast weighs by how right they have been.

Amounts of power are ratios of what the datasheet says, so that they mean the same for a rack and for a hall. None of them was
fitted to a recorded week: what can be reasoned is stated with its reason, and what cannot (how wrong the model is, how large passing
deviations are) stands in the family at several levels, between which the mixture learns to choose. Which levels is chosen by
`benches/forecast_choice.py` on synthetic plants.
docs/concepts/calibration.md lists each amount with its origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        Distance in utilisation over which errors of the datasheet are alike (correlation 1/e); a curve is smooth. 0.15 is the widest
        gap between knots: neighbours are alike, and every knot is free to differ from the next but one.
    idle_walk_ratio, curve_walk_ratio : float
        Change of the true parameters per square root of an hour, as a ratio of idle power and of the curve's range. It is
        what makes the filter forget. 0.005: six percent in a week, as firmware, fans and the mix of jobs may bring.
    datasheet_pull_h : float
        Time constant in h with which parameters return to the datasheet by themselves. The prior pulls far more at the start;
        this is what is left of it for parameters that readings no longer speak of. A quarter of a year: slow beside the walk.
    disturbances : tuple of Disturbance
        Decaying deviations beside the curve: one of minutes, one of hours.
    noise_ratio : float
        Standard deviation of what neither curve nor disturbance explains in one reading, as a ratio of full-load power.
        It covers the error of the model, so it may be far above a sensor's noise. White noise found on the meter is added.
    clip_sd : float
        Innovations count up to this many standard deviations, so that outages and stray readings, which the workload cannot
        explain, do not move the curve. 1.345: P. J. Huber's constant, 95 % as efficient as the mean where errors are Gaussian.
    meter_share, meter_share_sd : float
        How much of the dynamic power a slowly refreshed meter shows as of its last refresh rather than as of now: prior mean
        and standard deviation of a ratio that is learned. Without effect while the meter is refreshed at every reading; a
        standard deviation of 0 states the share instead.
    """

    tick_s: float = 30.0
    idle_sd_ratio: float = 0.2
    curve_sd_ratio: float = 0.2
    knot_correlation: float = 0.15
    idle_walk_ratio: float = 0.005
    curve_walk_ratio: float = 0.005
    datasheet_pull_h: float = 2160.0
    disturbances: tuple[Disturbance, ...]
    noise_ratio: float
    clip_sd: float = 1.345
    meter_share: float = 0.0
    meter_share_sd: float = 0.0

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


NOISE_RATIOS: Final = (0.003, 0.01)
"""Noises in the family, ratios of full-load power."""

DISTURBANCE_RATIOS: Final = (0.001, 0.003, 0.01, 0.03)
"""Sizes of the short disturbance in the family, ratios of full-load power."""

TIME_CONSTANTS_S: Final = ((150.0, 3600.0),)
"""Time constants in s of the short and the long disturbance: jobs that start or end beside the clock; what the curve cannot tell apart,
such as the mix of programs."""

LONG_DISTURBANCE_RATIO: Final = 0.003
"""Standard deviation of the long disturbance, a ratio of full-load power: a good meter's accuracy."""

METERS: Final = ("exact", "part", "all")
"""Ways to see a meter whose readings seem to be held: it holds nothing; a part of the power; all of it. The share is learned from there."""

METER_SHARE_SD: Final = 0.3
"""How uncertain the share is that such a meter holds: from the middle, both ends are within two of it."""

FAMILY_METERS: Final = ("all",)
"""Those in the family: without a pattern in the readings all three are the same, and with one the learned share does the rest."""


def make_family(
    noise_ratios: Sequence[float],
    disturbance_ratios: Sequence[float],
    time_constants_s: Sequence[tuple[float, float]],
    meters: Sequence[str],
) -> tuple[CalibrationSettings, ...]:
    """Every noise with every short disturbance, every pair of time constants and every meter.

    Parameters
    ----------
    noise_ratios, disturbance_ratios : sequence of float
        Standard deviations of noise and of the short disturbance, ratios of full-load power.
    time_constants_s : sequence of tuple
        Pairs for the short and the long disturbance, in s.
    meters : sequence of str
        Of `METERS`.
    """
    axes = product(noise_ratios, disturbance_ratios, time_constants_s, meters)
    return tuple(_member(*point) for point in axes)


def _member(
    noise_ratio: float, disturbance_ratio: float, time_constants_s: tuple[float, float], meter: str
) -> CalibrationSettings:
    short_s, long_s = time_constants_s
    is_held = meter != "exact"
    return CalibrationSettings(
        disturbances=(
            # Where all is held, the deviation of a reading is held with it: it changes at refreshes only.
            Disturbance(time_constant_s=short_s, sd_ratio=disturbance_ratio, held=meter == "all"),
            Disturbance(time_constant_s=long_s, sd_ratio=LONG_DISTURBANCE_RATIO),
        ),
        noise_ratio=noise_ratio,
        meter_share={"exact": 0.0, "part": 0.5, "all": 1.0}[meter],
        meter_share_sd=METER_SHARE_SD if is_held else 0.0,
    )


FAMILY: Final = make_family(NOISE_RATIOS, DISTURBANCE_RATIOS, TIME_CONSTANTS_S, FAMILY_METERS)
"""The filters of every forecast: the pick of `benches/forecast_choice.py`, which knows synthetic plants only."""

STEADY: Final = _member(0.01, 0.003, TIME_CONSTANTS_S[0], "all")
"""A member that trusts its curve: large noise, small disturbance."""

NIMBLE: Final = _member(0.003, 0.01, TIME_CONSTANTS_S[0], "all")
"""A member that follows the present deviation: small noise, large disturbance."""

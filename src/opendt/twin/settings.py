"""Settings of online calibration: the family of filters that every forecast weighs by how right they have been.

Amounts of power are ratios of what the datasheet says, so that they mean the same for a rack and for a hall. None of them was
fitted to a recorded week: what can be reasoned is stated with its reason, and what cannot (how wrong the model is, how large passing
deviations are, what the meter does) stands in the family at two or three levels, between which the mixture learns to choose.
docs/concepts/calibration.md lists each amount with its origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
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


LEVELS: Final = (0.003, 0.01)
"""Levels of noise and of passing disturbance in the family, as ratios of full-load power: a good and a usual meter's accuracy, half a decade apart."""


def _member(noise_ratio: float, disturbance_ratio: float) -> CalibrationSettings:
    """The settings of a member whose meter does nothing by itself."""
    return CalibrationSettings(
        # Minutes: jobs that start or end beside the clock. Hours: what the curve cannot tell apart, such as the mix of programs.
        disturbances=(
            Disturbance(time_constant_s=300, sd_ratio=disturbance_ratio),
            Disturbance(time_constant_s=7200, sd_ratio=LEVELS[0]),
        ),
        noise_ratio=noise_ratio,
    )


def with_meters(settings: CalibrationSettings) -> tuple[CalibrationSettings, CalibrationSettings, CalibrationSettings]:
    """Three ways to see a meter that seems to hold its readings: it does not; for a part of the power; for all of it.

    Where all is held, the deviation of a reading is held with it: the shortest disturbance changes at refreshes only.
    """
    first, *others = settings.disturbances
    part = replace(settings, meter_share=0.5, meter_share_sd=0.3)
    whole = replace(part, meter_share=1.0, disturbances=(replace(first, held=True), *others))
    return settings, part, whole


FAMILY: Final = tuple(member for levels in product(LEVELS, LEVELS) for member in with_meters(_member(*levels)))
"""Every noise with every disturbance and every meter: twelve filters."""

STEADY: Final = with_meters(_member(LEVELS[1], LEVELS[0]))[1]
"""The member of the family that trusts its curve most: large noise, small disturbance, a meter that holds a part."""

NIMBLE: Final = with_meters(_member(LEVELS[0], LEVELS[1]))[2]
"""The member that follows the present deviation most: small noise, large disturbance, a meter that holds all."""

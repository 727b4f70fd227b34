"""Drift of measured power against what was learned: sudden steps by innovations, slow drift by the level of the curve.

A filter that adapts hides a slow drift in its parameters, and a clipped one hides the size of a step. So two signals are
watched, both once per block of ticks:

- *step*: the mean standardised innovation of a block, by Page's two-sided cumulative sum (E. S. Page, "Continuous inspection
  schemes", Biometrika 1954; as used by D. V. Hinkley, 1971), which asks for several blocks in the same direction;
- *drift*: by how much the present curve prices the present load above or below the curve of the last event (at first, the one
  that was learned in the first day). It is reported when it stays beyond a threshold.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """One report.

    Attributes
    ----------
    kind : {'step', 'drift'}
        Sudden, seen in innovations, or slow, seen in the curve.
    tick, since_tick : int
        When it was noticed, and when it seems to have begun.
    size_ratio : float
        Step: mean relative difference of measured and expected power since it began. Drift: relative change of the curve's level.
    """

    kind: Literal["step", "drift"]
    tick: int
    since_tick: int
    size_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """The event as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """Thresholds.

    Parameters
    ----------
    allowance_sd : float
        Deviation in standard deviations of a block's mean innovation that is never counted (half of what should be found).
    threshold_sd : float
        Cumulative sum beyond which a step is reported. With blocks of five minutes 25 means: two standard deviations above
        the allowance for about an hour, or an outage of eight for a quarter of it.
    step_ratio : float
        Smallest step worth a report, relative to power (2 %).
    quiet_ticks : int
        After a step, none in the same direction is reported for this long (six hours): it is the same one, being learned.
    settling_ticks : int
        Ticks at the start, while the datasheet is being corrected, in which nothing is reported (a day).
    level_ratio : float
        Change of the curve's level that counts as drift: 3 %, the accuracy of many meters.
    level_blocks : int
        Successive blocks for which it must last (an hour).
    """

    allowance_sd: float = 0.5
    threshold_sd: float = 25.0
    step_ratio: float = 0.02
    quiet_ticks: int = 720
    settling_ticks: int = 2880
    level_ratio: float = 0.03
    level_blocks: int = 12


DRIFT_DEFAULTS: Final = DriftSettings()


class DriftDetector:
    """Watches one calibrated cluster.

    Parameters
    ----------
    settings : DriftSettings
        Thresholds.
    """

    def __init__(self, settings: DriftSettings = DRIFT_DEFAULTS) -> None:
        """Start without knowledge of the usual innovation or level."""
        self.settings = settings
        self._usual = 0.0  # mean absolute innovation of a block, for standardising; capped growth
        self._blocks = 0
        self._sums = [0.0, 0.0]  # upwards, downwards
        self._starts = [0, 0]
        self._relative = [0.0, 0.0]
        self._counts = [0, 0]
        self._quiet_until = [0, 0]
        self._beyond = 0
        self._beyond_since = 0

    def observe(self, tick: int, innovation_w: float, expected_w: float) -> DriftEvent | None:
        """Take in the mean innovation of the block that ends at `tick`, in W, and the power that was expected.

        Returns
        -------
        DriftEvent or None
            A step, once per step: the sums start anew after a report.
        """
        size = abs(innovation_w)
        self._blocks += 1
        usual = self._usual
        if usual <= 0.0:
            self._usual = size
            return None
        self._usual += (min(size, 4.0 * usual) - usual) * max(1.0 / self._blocks, 0.005)
        deviation = innovation_w / (1.25 * usual)  # a Gaussian's mean absolute value is 0.8 standard deviations
        for side, sign in enumerate((1.0, -1.0)):
            self._sums[side] = max(0.0, self._sums[side] + sign * deviation - self.settings.allowance_sd)
            if self._sums[side] == 0.0:
                self._starts[side], self._relative[side], self._counts[side] = tick, 0.0, 0
                continue
            self._relative[side] += innovation_w / max(expected_w, 1.0)
            self._counts[side] += 1
            if self._sums[side] > self.settings.threshold_sd:
                event = DriftEvent("step", tick, self._starts[side], self._relative[side] / self._counts[side])
                self._restart_sums(tick)
                return event if self._worth_reporting(event, side) else None
        return None

    def _restart_sums(self, tick: int) -> None:
        self._sums, self._relative, self._counts, self._starts = [0.0, 0.0], [0.0, 0.0], [0, 0], [tick, tick]

    def _worth_reporting(self, event: DriftEvent, side: int) -> bool:
        quiet = event.tick < self._quiet_until[side]
        if abs(event.size_ratio) < self.settings.step_ratio or event.tick <= self.settings.settling_ticks:
            return False
        self._quiet_until[side] = event.tick + self.settings.quiet_ticks
        return not quiet

    def observe_level(self, tick: int, level_w: float, reference_w: float) -> DriftEvent | None:
        """Take in the power of the present load under the present curve and under the curve of reference, in W.

        Returns
        -------
        DriftEvent or None
            A drift; the caller then takes the present curve as the new reference.
        """
        change = level_w / max(reference_w, 1.0) - 1.0
        if tick <= self.settings.settling_ticks or abs(change) < self.settings.level_ratio:
            self._beyond = 0
            self._beyond_since = tick
            return None
        self._beyond += 1
        if self._beyond < self.settings.level_blocks:
            return None
        event = DriftEvent("drift", tick, self._beyond_since, change)
        self._beyond, self._beyond_since = 0, tick
        return event

    def snapshot(self) -> dict[str, Any]:
        """State as plain data."""
        names = (
            "_usual",
            "_blocks",
            "_sums",
            "_starts",
            "_relative",
            "_counts",
            "_quiet_until",
            "_beyond",
            "_beyond_since",
        )
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot`."""
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)

"""Trust: the twin's own objectives for accuracy, and what it may do by itself while they are kept or broken.

Each window brings readings of power and verdicts on forecasts whose time is over. Three watches look at them:

1. *readings*: a window is bad when half of its readings are missing or impossible, have not moved for `still_windows`, or jump
   from one to the next `jitter_factor` times as much as they use to, without simulation or band accounting for it;
2. *errors*: a verdict of the quick kind (``window``) is bad when its error exceeds `quick_error_ratio`, or when readings scatter
   around it several times as much as they use to and the band does not cover that;
3. *budgets*: error, bias, coverage and skill against persistence of each kind of forecast, over a stretch of verdicts.

`bad_limit` bad ones of the last `bad_of` of the first or of the second, or a budget that is left, and autonomy steps down one
level (auto, approve, advise, observe). All watches then begin anew: only what is bad from there on makes a second step. After `good_windows` windows in a row without anything bad, and with all budgets kept by a margin
(`recovery_ratio`), it steps up one level: slower up than down, so that it does not flap.

Why three: calibration follows a wrong sensor within minutes, so that errors alone would soon look well again; a sensor that
stands still is predicted almost perfectly; and what is wrong by a little shows only over many verdicts. Constants and what they
did on a recorded week with planted faults: docs/concepts/trust.md.

Deterministic, of event time, without a clock. State is plain data (`TrustKeeper.state`), equal after a restart.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import ModelError, shown
from opendt.model.mode import Mode, lowered, rank
from opendt.verification.trust_budget import budget_use, judged, judged_of
from opendt.verification.trust_settings import TrustSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.verification.trust_budget import BudgetUse, Judged
    from opendt.verification.verdict import Verdict

__all__ = ["TrustChange", "TrustKeeper"]

_STATE_VERSION: Final = 1
_LEAST_SCATTERS: Final = 12
_LEAST_READINGS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustChange:
    """Autonomy went one level down or up.

    Attributes
    ----------
    time_ms : int
        End of the window that decided, ms since the start.
    before, after : Mode
        What might be done, and what may be done from here on.
    reason : str
        In plain words.
    """

    time_ms: int
    before: Mode
    after: Mode
    reason: str


class TrustKeeper:
    """Watches accuracy and readings, and tells what may be done.

    Parameters
    ----------
    mode : Mode
        What is configured: the most that may be done.
    settings : TrustSettings, optional
        When it steps.
    most_power_w : float, optional
        Power that no reading can exceed, W (all hosts at full load and a margin); readings above it count as missing.

    Examples
    --------
    >>> keeper = TrustKeeper("auto")
    >>> nan = float("nan")
    >>> changes = [keeper.observe(300_000 * n, (), [nan] * 10) for n in range(1, 4)]
    >>> keeper.level, changes[-1].reason
    ('approve', '3 of the last 3 windows had no usable readings: 10 of 10 missing or impossible')
    """

    def __init__(
        self, mode: Mode = "approve", settings: TrustSettings | None = None, *, most_power_w: float | None = None
    ) -> None:
        self.mode: Mode = mode
        self.settings = TrustSettings() if settings is None else settings
        self.most_power_w = math.inf if most_power_w is None else most_power_w
        self._begin()

    def _begin(self) -> None:
        settings = self.settings
        self._last_ms = -1
        self._steps = 0
        self._good = 0
        self._silent = 0
        self._coverage: float | None = None
        self._jitter: deque[float] = deque(maxlen=settings.jitter_windows)
        self._readings: deque[bool] = deque(maxlen=settings.bad_of)
        self._errors: deque[bool] = deque(maxlen=settings.bad_of)
        self._ranges: deque[_Range] = deque(maxlen=settings.still_windows)
        self._scatter: deque[float] = deque(maxlen=settings.scatter_verdicts)
        self._verdicts: dict[str, deque[Judged]] = {
            kind: deque(maxlen=budget.verdicts) for kind, budget in settings.budgets.items()
        }
        self._uses: dict[str, BudgetUse] = {}  # of stretches that have not changed since

    @property
    def level(self) -> Mode:
        """What may be done now."""
        return lowered(self.mode, self._steps)

    def observe(
        self,
        end_ms: int,
        verdicts: Iterable[Verdict],
        measured_w: Sequence[float],
        expected_w: Sequence[float] | None = None,
    ) -> TrustChange | None:
        """Take a window that has closed; tells when that changes what may be done.

        Parameters
        ----------
        end_ms : int
            End of the window, ms since the start. A window that was taken already, as after a restart, changes nothing.
        verdicts : iterable of Verdict
            Those that became known with it.
        measured_w : sequence of float
            Readings of the window, W; NaN or not positive where there is none.
        expected_w : sequence of float, optional
            What the twin simulated for it, W. Without it, readings that do not move are always taken for a fault; on the same ticks
        as the readings it also tells noise from a load that moves.
        """
        if end_ms <= self._last_ms:
            return None
        self._last_ms = end_ms
        self._steps = min(self._steps, rank(self.mode))
        fault = self._watch_readings([float(value) for value in measured_w], expected_w)
        worst = self._watch_verdicts(tuple(verdicts))
        uses = self.budgets()
        broken = [f"{use.kind}: {words}" for use in uses for words in use.broken]
        self._good = 0 if fault or worst or broken else self._good + 1
        alarm = self._alarm(fault, worst, broken)
        if alarm is not None:
            return self._step(1, end_ms, alarm)
        if self._steps and self._good >= self.settings.good_windows and all(use.recovered for use in uses):
            return self._step(-1, end_ms, f"{self._good} windows in a row without fault, all budgets kept")
        return None

    def _step(self, down: int, end_ms: int, reason: str) -> TrustChange | None:
        before = self.level
        self._steps = min(max(0, self._steps + down), rank(self.mode))
        self._good = 0
        if before == self.level:
            return None
        return TrustChange(time_ms=end_ms, before=before, after=self.level, reason=reason)

    def _alarm(self, fault: str | None, worst: str | None, broken: Sequence[str]) -> str | None:
        """Say why to step down, if so; all watches begin anew then, or one fault would make several steps."""
        limit, words = self.settings.bad_limit, None
        if fault and sum(self._readings) >= limit:
            words = f"{sum(self._readings)} of the last {len(self._readings)} windows had no usable readings: {fault}"
        elif worst and sum(self._errors) >= limit:
            words = f"{sum(self._errors)} of the last {len(self._errors)} forecasts were far off: {worst}"
        elif broken:
            words = "; ".join(broken)
        if words is not None:
            self._readings.clear()
            self._errors.clear()
            for stretch in self._verdicts.values():
                stretch.clear()
            self._uses.clear()
        return words

    # -- the watches -------------------------------------------------------------------------------------------------

    def _watch_readings(self, measured_w: Sequence[float], expected_w: Sequence[float] | None) -> str | None:
        """Say what is wrong with the readings of a window, if anything."""
        usable = [value for value in measured_w if 0 < value <= self.most_power_w]
        expected = [] if expected_w is None else [float(value) for value in expected_w if math.isfinite(value)]
        self._ranges.append((_range(usable), _range(expected), bool(expected)))
        missing = len(measured_w) - len(usable)
        fault = None
        if not measured_w or missing >= self.settings.missing_ratio * len(measured_w):
            fault = f"{missing} of {len(measured_w)} missing or impossible"
        elif self._stands_still():
            fault = f"the same {usable[0]:.6g} W for {self.settings.still_windows} windows"
        elif expected_w is not None and len(expected_w) == len(measured_w):
            fault = self._jitters(measured_w, expected_w)
        self._readings.append(fault is not None)
        return fault

    def _stands_still(self) -> bool:
        if len(self._ranges) < self.settings.still_windows:
            return False
        readings = _joined(measured for measured, _, _ in self._ranges)
        if readings is None or readings[0] < readings[1]:
            return False
        if not all(known for _, _, known in self._ranges):
            return True
        expected = _joined(simulated for _, simulated, _ in self._ranges)
        if expected is None:
            return True
        return expected[1] - expected[0] > self.settings.still_ratio * expected[1]

    def _jitters(self, measured_w: Sequence[float], expected_w: Sequence[float]) -> str | None:
        """Compare the steps from reading to reading that were not simulated with what is usual."""
        settings = self.settings
        jitter = _jitter([(own, other) for own, other in zip(measured_w, expected_w, strict=True) if own > 0])
        if jitter is None:
            return None
        usual = median(self._jitter) if len(self._jitter) >= _LEAST_SCATTERS else math.inf
        covered = self._coverage is None or self._coverage > settings.jitter_coverage_ratio
        if jitter > max(settings.jitter_ratio, settings.jitter_factor * usual) and not covered:
            return f"steps of {jitter:.1%} that were not simulated, usually {usual:.1%}, and outside of the band"
        self._jitter.append(jitter)
        return None

    def _watch_verdicts(self, verdicts: Sequence[Verdict]) -> str | None:
        """Take verdicts down; say what is wrong with the quick ones, if anything."""
        fault = None
        self._silent += 1
        for verdict in verdicts:
            stretch = self._verdicts.get(verdict.kind)
            if stretch is not None and verdict.error_ratio is not None:
                stretch.append(judged(verdict))
                self._uses.pop(verdict.kind, None)
            if verdict.kind == self.settings.quick_kind:
                self._silent = 0
                self._coverage = verdict.coverage_ratio
                found = self._watch_quick(verdict)
                self._errors.append(found is not None)
                fault = found or fault
        if self._silent >= self.settings.silent_windows:
            self._errors.append(True)
            fault = f"no verdict for {self._silent} windows"
        return fault

    def _watch_quick(self, verdict: Verdict) -> str | None:
        """Say what is wrong with the readings that one forecast met; none at all is the other watch's matter."""
        if verdict.error_ratio is None:
            return None
        settings = self.settings
        if not verdict.error_ratio <= settings.quick_error_ratio:
            return f"error {verdict.error_ratio:.0%}, allowed {settings.quick_error_ratio:.0%}"
        scatter = verdict.error_ratio - abs(verdict.bias_ratio or 0.0)
        enough = len(self._scatter) >= _LEAST_SCATTERS
        usual = math.fsum(self._scatter) / len(self._scatter) if enough else math.inf
        covered = 1.0 if verdict.coverage_ratio is None else verdict.coverage_ratio
        outside = any(scatter > factor * usual and covered <= share for factor, share in settings.scatter_limits)
        if scatter > settings.scatter_ratio and outside:
            return f"scatter {scatter:.1%}, usually {usual:.1%}, and {1 - covered:.0%} outside of the band"
        self._scatter.append(scatter)
        return None

    def budgets(self) -> tuple[BudgetUse, ...]:
        """Hold the latest verdicts of every kind against their budget."""
        for kind, budget in self.settings.budgets.items():
            if kind not in self._uses:
                stretch = tuple(self._verdicts[kind])
                self._uses[kind] = budget_use(kind, budget, stretch, self.settings.recovery_ratio)
        return tuple(self._uses[kind] for kind in self.settings.budgets)

    # -- restarts ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that is remembered, as plain data that fits JSON."""
        return {
            "version": _STATE_VERSION,
            "last_ms": self._last_ms,
            "steps": self._steps,
            "good": self._good,
            "silent": self._silent,
            "coverage": self._coverage,
            "jitter": list(self._jitter),
            "readings": list(self._readings),
            "errors": list(self._errors),
            "ranges": [[_listed(measured), _listed(simulated), known] for measured, simulated, known in self._ranges],
            "scatter": list(self._scatter),
            "verdicts": {kind: [list(one) for one in stretch] for kind, stretch in self._verdicts.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; kinds without a budget now are forgotten, longer stretches lose their oldest part.

        Raises
        ------
        ModelError
            When it is not what `state` gives; names the key. Nothing is changed then.
        """
        restored = TrustKeeper(self.mode, self.settings, most_power_w=self.most_power_w)
        version = state.get("version")
        if version != _STATE_VERSION:
            raise ModelError("trust.version", shown(version), str(_STATE_VERSION))
        key = ""
        try:
            for key in ("last_ms", "steps", "good", "silent"):
                setattr(restored, f"_{key}", int(state[key]))
            for key in ("readings", "errors"):
                getattr(restored, f"_{key}").extend(bool(one) for one in state[key])
            key = "coverage"
            restored._coverage = None if state[key] is None else float(state[key])
            for key in ("scatter", "jitter"):
                getattr(restored, f"_{key}").extend(float(one) for one in state[key])
            key = "ranges"
            restored._ranges.extend((_paired(one[0]), _paired(one[1]), bool(one[2])) for one in state[key])
            key = "verdicts"
            for kind, stretch in restored._verdicts.items():
                stretch.extend(judged_of(one) for one in state[key].get(kind, ()))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelError(f"trust.{key}", shown(state.get(key)), "what TrustKeeper.state gave") from error
        self.__dict__.update(restored.__dict__)


_Range = tuple[tuple[float, float] | None, tuple[float, float] | None, bool]
"""Least and most of the readings and of the simulated power of a window, and whether the latter is known."""


def _jitter(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Mean step of (reading - simulated), over the reading, without the largest quarter: a jump or two are no noise."""
    if len(pairs) < _LEAST_READINGS:
        return None
    errors_w = [own - other for own, other in pairs]
    steps_w = sorted(abs(after - before) for before, after in pairwise(errors_w))
    kept_w = steps_w[: len(steps_w) - len(steps_w) // 4]
    return math.fsum(kept_w) / len(kept_w) / median(own for own, _ in pairs)


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _joined(ranges: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Range of several windows; None when one of them has no value."""
    known = list(ranges)
    if any(one is None for one in known):
        return None
    found = [one for one in known if one is not None]
    return min(low for low, _ in found), max(high for _, high in found)


def _listed(one: tuple[float, float] | None) -> list[float] | None:
    return None if one is None else list(one)


def _paired(one: Sequence[Any] | None) -> tuple[float, float] | None:
    return None if one is None else (float(one[0]), float(one[1]))

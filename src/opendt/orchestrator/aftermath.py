"""After the fact: what a change that was applied has brought, held against what was predicted of it.

Nobody can measure what would have been without the change. So a twin of the old configuration goes on beside the live one, fed with
the same tasks and the same work, until the horizon of the change's certificate is known. Its load is priced by what calibration had
learned up to the moment of the change, as in an hour-ahead forecast with the workload known:

    realised saving  =  mean power of the old configuration, simulated  -  mean power, measured     (over the same readings)
    its error        =  1.645 times how far such forecasts had been off when the change was made (root mean square of the relative
                        biases of the last 24 times power; with fewer than three, the calibration's own standard deviation)

It is *as predicted* where it lies, give or take its error, between the 5 % and the 95 % quantile of the certificate's futures. Where
another topology takes effect before the horizon ends, what there is until then counts.

Deterministic, of event time, and part of the loop's state.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from opendt.model.errors import OpenDTError
from opendt.model.proposal import ExpectedEffect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from opendt.model.certificate import Certificate, Distribution
    from opendt.model.proposal import Proposal
    from opendt.orchestrator.environment import Window
    from opendt.twin.calibrate import PowerCalibrator
    from opendt.twin.live import LiveTwin, Load
    from opendt.verification.verdict import Verdict

__all__ = ["Aftermath", "ChangeVerdict", "Judgement"]

Judgement = Literal["as_predicted", "less", "more", "unknown"]

_HOURS: Final = 24
_LEAST_HOURS: Final = 3
_NINETY: Final = 1.645  # standard deviations within which a normal error lies with 90 %
_LOW, _HIGH = 0.05, 0.95
_LEAST_SHARE: Final = 0.5  # of the readings, for anything to be said
_MOST: Final = 4  # comparisons under way, each with a twin of its own
_J_PER_KWH: Final = 3.6e6
_KIND: Final = "hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeVerdict:
    """What became of an applied change. Savings are of mean power, W; negative ones are losses; None where unknown.

    Attributes
    ----------
    proposal : Proposal
        That was applied.
    start_ms, end_ms : int
        From when the change held, and until when it was compared, ms since the start.
    verdict : {"as_predicted", "less", "more", "unknown"}
        The realised saving beside the predicted one.
    reason : str
        In plain words.
    predicted_w, predicted_low_w, predicted_high_w : float, optional
        Mean saving over the certificate's futures, and its 5 % and 95 % quantiles.
    realised_w, error_w : float, optional
        Saving after the fact, and how far off it may be (90 %).
    counterfactual_w, measured_w : float, optional
        Mean power of the old configuration as simulated, and as measured.
    counterfactual_peak_w, measured_peak_w : float, optional
        Highest of the readings compared.
    readings : int
        That were compared.
    """

    proposal: Proposal
    start_ms: int
    end_ms: int
    verdict: Judgement
    reason: str
    predicted_w: float | None = None
    predicted_low_w: float | None = None
    predicted_high_w: float | None = None
    realised_w: float | None = None
    error_w: float | None = None
    counterfactual_w: float | None = None
    measured_w: float | None = None
    counterfactual_peak_w: float | None = None
    measured_peak_w: float | None = None
    readings: int = 0

    @property
    def effect(self) -> ExpectedEffect | None:
        """The measured effect relative to no change, as optimisers state what they expect; waits are not measured."""
        if self.measured_w is None or not self.counterfactual_w:
            return None
        peak = None
        if self.measured_peak_w is not None and self.counterfactual_peak_w:
            peak = self.measured_peak_w / self.counterfactual_peak_w - 1.0
        return ExpectedEffect(energy_ratio=self.measured_w / self.counterfactual_w - 1.0, peak_power_ratio=peak)

    def as_dict(self, origin_ms: int) -> dict[str, Any]:
        """Plain data, with times since the epoch; the proposal is named by its id."""
        names = [name for name in self.__slots__ if name not in ("proposal", "start_ms", "end_ms")]
        return {
            "proposal": self.proposal.id,
            "start_ms": self.start_ms + origin_ms,
            "end_ms": self.end_ms + origin_ms,
            **{name: getattr(self, name) for name in names},
        }


@dataclass(slots=True, eq=False)
class _Comparison:
    """A change under comparison: the old configuration goes on in `twin`."""

    proposal: Proposal
    predicted: Distribution | None
    horizon_ms: int
    start_ms: int
    end_ms: int
    twin: LiveTwin
    prices: PowerCalibrator
    bias_ratio: float | None
    readings: list[NDArray[np.float64]]
    loads: list[Load] = field(default_factory=list)
    trouble: str = ""

    def feed(self, window: Window) -> None:
        """Take what a window tells."""
        self.readings.append(window.measured_w)
        if self.trouble:
            return
        try:
            if window.tasks is not None:
                self.twin.submit(window.tasks)
            self.twin.feed(window.work)
        except OpenDTError as error:
            self.trouble = f"the old configuration could not go on: {error}"

    def confirm(self, end_ms: int) -> bool:
        """Advance as far as everything is known; tells whether the comparison is complete."""
        if not self.trouble:
            try:
                for observed in self.twin.confirm(end_ms):
                    self._take(observed.load, observed.end_ms)
            except OpenDTError as error:
                self.trouble = f"the old configuration could not go on: {error}"
        return bool(self.trouble) or self.twin.completed_ms >= self.end_ms

    def _take(self, load: Load, until_ms: int) -> None:
        if until_ms <= self.start_ms:  # both configurations are one up to here
            measured_w = np.concatenate(self.readings)[: len(load.time_ms)]
            self.prices.update(load.features, load.hosts_up, measured_w)
            self.readings = [np.concatenate(self.readings)[len(load.time_ms) :]]
        elif until_ms <= self.end_ms:
            self.loads.append(load)

    def judge(self) -> ChangeVerdict:
        """Compare what there is."""
        if self.trouble or not self.loads:
            return self._unknown(self.trouble or "another topology took effect before anything could be compared")
        load = type(self.loads[0]).joined(self.loads)
        measured_w = np.concatenate(self.readings)[: len(load.time_ms)]
        seen = np.isfinite(measured_w)
        if seen.mean() < _LEAST_SHARE:
            return self._unknown(f"{int(seen.sum())} of {len(seen)} readings are there, expected at least half")
        power = self.prices.predict(load.features, load.hosts_up)
        old_w = np.maximum(power.mean_w, 0.0)[seen]
        simulated_w, mean_w = float(old_w.mean()), float(measured_w[seen].mean())
        sd_w = float(power.sd_w[seen].mean()) if self.bias_ratio is None else self.bias_ratio * simulated_w
        error_w = _NINETY * sd_w
        realised_w = simulated_w - mean_w
        predicted = self._predicted_w()
        verdict, reason = _verdict(realised_w, error_w, predicted)
        mean, low, high = predicted or (None, None, None)
        return ChangeVerdict(
            proposal=self.proposal,
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            verdict=verdict,
            reason=reason,
            predicted_w=mean,
            predicted_low_w=low,
            predicted_high_w=high,
            realised_w=realised_w,
            error_w=error_w,
            counterfactual_w=simulated_w,
            measured_w=mean_w,
            counterfactual_peak_w=float(old_w.max()),
            measured_peak_w=float(measured_w[seen].max()),
            readings=int(seen.sum()),
        )

    def _unknown(self, reason: str) -> ChangeVerdict:
        mean, low, high = self._predicted_w() or (None, None, None)
        return ChangeVerdict(
            proposal=self.proposal,
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            verdict="unknown",
            reason=reason,
            predicted_w=mean,
            predicted_low_w=low,
            predicted_high_w=high,
        )

    def _predicted_w(self) -> tuple[float, float, float] | None:
        """Mean saving over the certificate's futures, its 5 % and its 95 % quantile."""
        if self.predicted is None or self.predicted.mean is None:
            return None
        per_kwh = _J_PER_KWH / (self.horizon_ms / 1000.0)
        at = dict(self.predicted.quantiles)  # of changed minus baseline: most saved where it is lowest
        return -self.predicted.mean * per_kwh, -at[_HIGH] * per_kwh, -at[_LOW] * per_kwh


def _verdict(realised_w: float, error_w: float, predicted: tuple[float, float, float] | None) -> tuple[Judgement, str]:
    found = f"{realised_w:,.0f} W saved, give or take {error_w:,.0f} W"
    if predicted is None:
        return "unknown", f"{found}; its certificate says nothing of energy"
    mean_w, low_w, high_w = predicted
    said = f"{mean_w:,.0f} W predicted ({low_w:,.0f} to {high_w:,.0f})"
    if realised_w + error_w < low_w:
        return "less", f"{found}: less than the {said}"
    if realised_w - error_w > high_w:
        return "more", f"{found}: more than the {said}"
    return "as_predicted", f"{found}: within the {said}"


class Aftermath:
    """Follows what applied changes bring; at most four at a time."""

    def __init__(self) -> None:
        self._running: list[_Comparison] = []
        self._biases: deque[float] = deque(maxlen=_HOURS)

    def begin(
        self,
        proposal: Proposal,
        certificate: Certificate,
        time_ms: int,
        twin: LiveTwin,
        prices: PowerCalibrator,
        measured_w: NDArray[np.float64],
    ) -> None:
        """Let the old configuration go on beside the new one.

        Parameters
        ----------
        proposal, certificate
            What is applied, and what was predicted of it.
        time_ms : int
            From when it holds, ms since the start.
        twin : LiveTwin
            A copy from before the change, which is kept.
        prices : PowerCalibrator
            Knows all readings of the twin's completed windows; a copy, which is kept.
        measured_w : ndarray, shape (ticks,)
            Readings from there to `time_ms`, W.
        """
        energy = next((one for one in certificate.distributions if one.name == "energy_kwh"), None)
        horizon_ms = certificate.claim.horizon_ms
        self._running.append(
            _Comparison(
                proposal=proposal,
                predicted=energy,
                horizon_ms=horizon_ms,
                start_ms=time_ms,
                end_ms=time_ms + horizon_ms,
                twin=twin,
                prices=prices,
                bias_ratio=self._bias_ratio(),
                readings=[np.asarray(measured_w, dtype=np.float64)],
            )
        )
        for old in self._running[:-_MOST]:
            old.trouble = old.trouble or f"{_MOST} later changes are compared already"

    def cut(self, time_ms: int) -> None:
        """Another topology takes effect: what comes after it says nothing about earlier changes."""
        for one in self._running:
            one.end_ms = max(one.start_ms, min(one.end_ms, time_ms))

    def note(self, verdicts: Iterable[Verdict]) -> None:
        """Learn how right forecasts of the next hour with the workload known are."""
        found = (one.bias_ratio for one in verdicts if one.kind == _KIND)
        self._biases.extend(one for one in found if one is not None and math.isfinite(one))

    def feed(self, window: Window) -> None:
        """Take what a window tells."""
        for one in self._running:
            one.feed(window)

    def confirm(self, end_ms: int) -> tuple[ChangeVerdict, ...]:
        """Advance as far as everything is known; gives verdicts on changes whose horizon is."""
        done = [one for one in self._running if one.confirm(end_ms)]
        self._running = [one for one in self._running if one not in done]
        return tuple(one.judge() for one in done)

    def _bias_ratio(self) -> float | None:
        """Root mean square of the biases of late; None where there are too few."""
        if len(self._biases) < _LEAST_HOURS:
            return None
        return math.sqrt(sum(one * one for one in self._biases) / len(self._biases))

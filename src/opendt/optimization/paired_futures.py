"""The same futures with and without changes: what an objective gains, what each target loses, pair by pair.

For a future i, with baseline b and changed copy c of each quantity:

    gain          g = 1 - c / b                       of the claim's objective (0 where b is 0)
    worsening     d = c / t - b / t                   of a target t (a band: how much further outside, in points of utilisation)
    work put off  w = 1 - (CPU supply with the changes) / (CPU supply without them), over the samples of the horizon
    lost          the target is met by b and not by c; one that is known of b and unknown of c counts as lost and infinitely worse

Nothing is cut here: `opendt.optimization.certify` says what counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.model.certificate import Distribution
from opendt.model.errors import InputError
from opendt.optimization.scoring import check_slo, score, window_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.model.certificate import Claim
    from opendt.model.change import Change
    from opendt.model.slo import Slo
    from opendt.optimization.scoring import Score, SloStatus
    from opendt.twin.metrics import WindowMetrics
    from opendt.twin.scenarios import Outcomes, Scenarios

__all__ = ["PairedFutures", "SloPairs", "gain", "pair_futures", "quantiles"]

_QUANTITIES: Final = {
    "energy_kwh": "kWh",
    "emission_kg": "kg CO2",
    "peak_power_kw": "kW",
    "utilization_ratio": "ratio",
    "hosts_up": "hosts",
    "tasks_completed": "tasks",
    "tasks_pending": "tasks",
    "task_wait_p95_s": "s",
    "task_slowdown_p95_ratio": "ratio",
    "makespan_s": "s",
}
_RATIOS: Final = {"energy": "energy_kwh", "carbon": "emission_kg", "peak_power": "peak_power_kw"}
_SHARES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BAND: Final = "utilization"


@dataclass(frozen=True, slots=True)
class SloPairs:
    """One target over all pairs: its tolerance (relative; of a band, points), worsenings, and where it was lost."""

    name: str
    tolerance_ratio: float
    worse: NDArray[np.float64]
    lost: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PairedFutures:
    """Gains, worsenings and plain differences, an entry a future."""

    gain: NDArray[np.float64]
    put_off: NDArray[np.float64]
    slos: tuple[SloPairs, ...]
    differences: dict[str, NDArray[np.float64]]

    def distributions(self) -> tuple[Distribution, ...]:
        """Quantiles of the differences of each quantity (changed minus baseline), and of the gain."""
        rows = [quantiles("gain", "ratio", self.gain)]
        rows.append(quantiles("work_put_off", "ratio", self.put_off))
        rows += (quantiles(name, _QUANTITIES.get(name, "score"), values) for name, values in self.differences.items())
        return tuple(rows)


def pair_futures(
    scenarios: Scenarios, changes: Sequence[Change], slo: Slo, claim: Claim, *, threads: int | None = None
) -> PairedFutures:
    """Live each scenario twice, as it is and with changes.

    Raises
    ------
    InputError
        When the changes cannot be applied.
    """
    outcomes = scenarios.evaluate([(), changes], threads=threads)
    if outcomes.errors[1] is not None:
        raise InputError("changes", outcomes.errors[1], "changes that the engine can apply in every future")
    pairs = [(outcomes.metrics(i, 0), outcomes.metrics(i, 1)) for i in range(len(scenarios))]
    scores = [(score(slo, before), score(slo, after)) for before, after in pairs]
    statuses = [(check_slo(slo, before), check_slo(slo, after)) for before, after in pairs]
    targets = range(len(statuses[0][0]) if statuses else 0)
    differences = {name: np.array([_difference(*pair, name) for pair in pairs]) for name in _QUANTITIES}
    differences["score"] = np.array([after.total - before.total for before, after in scores])
    return PairedFutures(
        gain=np.array([_gain(claim, slo, pair, both) for pair, both in zip(pairs, scores, strict=True)]),
        put_off=_put_off(outcomes),
        slos=tuple(_slo_pairs([(before[k], after[k]) for before, after in statuses]) for k in targets),
        differences=differences,
    )


def quantiles(name: str, unit: str, values: NDArray[np.float64]) -> Distribution:
    """Mean and quantiles of what is known."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Distribution(name=name, unit=unit, pairs=0)
    drawn = zip(_SHARES, np.quantile(known, _SHARES).tolist(), strict=True)
    return Distribution(name=name, unit=unit, pairs=len(known), mean=float(known.mean()), quantiles=tuple(drawn))


def gain(claim: Claim, slo: Slo, pair: tuple[WindowMetrics, WindowMetrics]) -> float:
    """Gain of one future by a claim's objective, from its metrics without and with the changes; -inf where it is unknown."""
    return _gain(claim, slo, pair, (score(slo, pair[0]), score(slo, pair[1])))


def _difference(before: WindowMetrics, after: WindowMetrics, name: str) -> float:
    one, other = getattr(before, name), getattr(after, name)
    return math.nan if one is None or other is None else float(other) - float(one)


def _put_off(outcomes: Outcomes) -> NDArray[np.float64]:
    """Share of the work that is not done within the horizon any more; infinite where no sample tells."""
    before, after = outcomes.columns["usage_mhz"].T
    sampled = outcomes.columns["capacity_mhz"][:, 0] > 0
    ratio = np.divide(after, before, out=np.ones_like(before), where=before > 0)
    return np.where(sampled, 1.0 - ratio, np.inf)


def _gain(claim: Claim, slo: Slo, pair: tuple[WindowMetrics, WindowMetrics], scores: tuple[Score, Score]) -> float:
    if claim.objective == "score":
        before, after = _comparable(*scores)
    else:
        known = [_measured(claim, slo, metrics) for metrics in pair]
        if known[0] is None or known[1] is None:
            return -math.inf
        before, after = known[0], known[1]
    return 1.0 - after / before if before > 0 else 0.0


def _measured(claim: Claim, slo: Slo, metrics: WindowMetrics) -> float | None:
    """The objective of one future, where it is not the score; money has a price only where objectives name one."""
    if claim.objective == "cost":
        return None if slo.cost is None else window_cost(slo.cost, metrics)
    value: float | None = getattr(metrics, _RATIOS[claim.objective])
    return value


def _comparable(before: Score, after: Score) -> tuple[float, float]:
    """Both scores over the targets that are known of both: a target that drops out must not look like a gain."""
    names = {str(part.name) for part in before.parts} & {str(part.name) for part in after.parts}
    if len(names) == len(before.parts) == len(after.parts):
        return before.total, after.total
    return _total(before, names), _total(after, names)


def _total(one: Score, names: set[str]) -> float:
    """The formula at the head of `opendt.optimization.scoring`, over some of the targets."""
    parts = [part for part in one.parts if part.name in names]
    violation = sum(part.weight * part.violation for part in parts)
    weights = sum(part.weight for part in parts)
    objective = sum(part.weight * part.cost for part in parts) / weights if weights else 0.0
    return 1.0 + violation if violation > 0 else objective / (1.0 + objective)


def _slo_pairs(pairs: Sequence[tuple[SloStatus, SloStatus]]) -> SloPairs:
    first = pairs[0][0]
    tolerance = abs(first.limit - first.target)
    return SloPairs(
        name=first.name,
        tolerance_ratio=tolerance if first.name == _BAND else tolerance / first.target,
        worse=np.array([_worse(*pair) for pair in pairs]),
        lost=np.array([before.met is True and after.met is not True for before, after in pairs]),
    )


def _worse(before: SloStatus, after: SloStatus) -> float:
    if before.excess_ratio is None:
        # Nothing was known to be good; what is now known to be bad is as bad as it is above the target.
        return max(0.0, after.excess_ratio or 0.0)
    if after.excess_ratio is None:
        return math.inf
    if after.name == _BAND:
        return max(0.0, after.excess_ratio) - max(0.0, before.excess_ratio)
    return after.excess_ratio - before.excess_ratio

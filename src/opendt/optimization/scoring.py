"""Whether the service-level objectives are met, and one score that every optimiser shares.

For target i with target t, tolerance e, weight w and measured value m, in the unit of the target and scaled to its window:

    excess     x = m / t - 1                              (a band: how far m lies outside of it, in points of utilisation)
    limit      l = t (1 + e)                              (a band: its ends moved outwards by e)
    violation  v = max(0, m / l - 1)                      (a band: max(0, x - e))
    cost       c = m / t                                  (a band: max(0, x))

    violation of all  V = sum(w v)        objective  O = sum(w c) / sum(w)        both over what has been measured
    score             S = O / (1 + O)  where V = 0  (feasible: 0 <= S < 1)
                      S = 1 + V        elsewhere

Lower is better, and any feasible state scores below any infeasible one: feasibility first, then cost. The score compares
states under the same objectives; its size means nothing across different ones. Targets of weight 0 are reported and do not
count. What is unknown does not count either, and is named: a score with unknown parts is no proof of feasibility.

The money that a window costs is its energy at the price of each hour of the day that it touches, taken as spread evenly over the
window, and the hosts in service at its end at their price for its length (`window_cost`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opendt.model.slo import SloKind

if TYPE_CHECKING:
    from opendt.model.slo import CostTarget, Slo, UtilizationBand
    from opendt.twin.metrics import WindowMetrics

__all__ = ["Score", "ScorePart", "SloKind", "SloStatus", "check_slo", "score", "window_cost"]

_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class SloStatus:
    """One target against what was measured.

    Parameters
    ----------
    name : str
        Which target.
    unit : str
        Unit of target, limit and measured; energy, carbon and cost are per window of the objectives.
    target, limit : float
        What is asked, and what still counts as met. Of a band, the end that is nearer to being broken.
    measured : float, optional
        None where unknown. A makespan that is not complete is what it is at least.
    met : bool, optional
        None where it cannot be told.
    excess_ratio : float, optional
        measured / target - 1: 0.3 is 30 % over, negative is below. Of a band, points of utilisation outside of it, negative
        inside.
    weight : float
        Of the target; 0 only reports.
    """

    name: SloKind
    unit: str
    target: float
    limit: float
    measured: float | None
    met: bool | None
    excess_ratio: float | None
    weight: float


@dataclass(frozen=True, slots=True)
class ScorePart:
    """What one target adds to the score; see the formula at the head of the module."""

    name: SloKind
    unit: str
    measured: float
    target: float
    weight: float
    cost: float
    violation: float


@dataclass(frozen=True, slots=True)
class Score:
    """One number, lower is better, with its parts and with the targets of which nothing is known."""

    total: float
    objective: float
    violation: float
    parts: tuple[ScorePart, ...]
    unknown: tuple[SloKind, ...]

    @property
    def feasible(self) -> bool:
        """Whether no target of those measured is breached."""
        return self.violation == 0.0


def check_slo(slo: Slo, metrics: WindowMetrics) -> tuple[SloStatus, ...]:
    """Hold a window against the objectives.

    Energy, carbon and cost of a window of another length than ``slo.window_s`` are scaled to it; the other quantities do not
    grow with the window and stay as they are.

    Returns
    -------
    tuple of SloStatus
        In the order of `SloKind`; only targets that are set.
    """
    is_open = not metrics.makespan_complete
    statuses = [_status(*target, at_least=target[0] == "makespan" and is_open) for target in _targets(slo, metrics)]
    if slo.utilization is not None:
        statuses.append(_band_status(slo.utilization, metrics.utilization_ratio))
    return tuple(statuses)


def score(slo: Slo, metrics: WindowMetrics) -> Score:
    """Score a window; the formula stands at the head of this module."""
    statuses = [status for status in check_slo(slo, metrics) if status.weight > 0]
    # An open makespan within its limit costs what it is so far and proves nothing, so it is among the unknown as well.
    parts = tuple(part for part in map(_part, statuses) if part is not None)
    unknown = tuple(status.name for status in statuses if status.met is None)
    violation = sum(part.weight * part.violation for part in parts)
    weights = sum(part.weight for part in parts)
    objective = sum(part.weight * part.cost for part in parts) / weights if weights else 0.0
    total = 1.0 + violation if violation > 0 else objective / (1.0 + objective)
    return Score(total=total, objective=objective, violation=violation, parts=parts, unknown=unknown)


def window_cost(prices: CostTarget, metrics: WindowMetrics) -> float | None:
    """Money that a window cost, in the currency of the prices; not scaled to any other length.

    Parameters
    ----------
    prices : CostTarget
        Prices of energy and of hosts; the target itself plays no part.
    metrics : WindowMetrics
        The window.

    Returns
    -------
    float or None
        None where energy is unknown, hosts have a price and their number is unknown, or the price depends on the hour and the
        absolute time of the window is unknown.
    """
    price = _mean_price_per_kwh(prices, metrics)
    if price is None or metrics.energy_kwh is None:
        return None
    hosts_up = metrics.hosts_up if prices.price_per_host_hour else 0
    if hosts_up is None:
        return None
    return metrics.energy_kwh * price + hosts_up * metrics.duration_s / 3600.0 * prices.price_per_host_hour


def _mean_price_per_kwh(prices: CostTarget, metrics: WindowMetrics) -> float | None:
    """Price of the hours that a window touches, each by the time that it lies in it."""
    by_hour = prices.price_per_kwh_by_hour
    if by_hour is None:
        return prices.price_per_kwh
    if metrics.start_epoch_ms is None:
        return None
    offset_ms = metrics.start_epoch_ms + round(prices.utc_offset_h * _HOUR_MS)
    start_ms, end_ms = metrics.start_ms + offset_ms, metrics.end_ms + offset_ms
    total, now_ms = 0.0, start_ms
    while now_ms < end_ms:
        hour = now_ms // _HOUR_MS
        until_ms = min((hour + 1) * _HOUR_MS, end_ms)
        total += by_hour[hour % len(by_hour)] * (until_ms - now_ms)
        now_ms = until_ms
    return total / (end_ms - start_ms)


def _targets(slo: Slo, metrics: WindowMetrics) -> Iterator[tuple[SloKind, str, float, float, float, float | None]]:
    """Name, unit, target, tolerance, weight and measured value of each upper target that is set."""
    to_window = slo.window_s / metrics.duration_s
    if (energy := slo.energy) is not None:
        measured = None if metrics.energy_kwh is None else metrics.energy_kwh * to_window
        yield "energy", "kWh", energy.target_kwh, energy.tolerance_ratio, energy.weight, measured
    if (carbon := slo.carbon) is not None:
        measured = None if metrics.emission_kg is None else metrics.emission_kg * to_window
        yield "carbon", "kg CO2", carbon.target_kg_co2, carbon.tolerance_ratio, carbon.weight, measured
    if (cost := slo.cost) is not None:
        spent = window_cost(cost, metrics)
        measured = None if spent is None else spent * to_window
        yield "cost", cost.currency, cost.target_cost, cost.tolerance_ratio, cost.weight, measured
    if (peak := slo.peak_power) is not None:
        yield "peak_power", "kW", peak.target_kw, peak.tolerance_ratio, peak.weight, metrics.peak_power_kw
    if slo.runtime is None:
        return
    if (makespan := slo.runtime.makespan) is not None:
        yield "makespan", "s", makespan.target_s, makespan.tolerance_ratio, makespan.weight, metrics.makespan_s
    if (wait := slo.runtime.task_wait_p95) is not None:
        yield "task_wait_p95", "s", wait.target_s, wait.tolerance_ratio, wait.weight, metrics.task_wait_p95_s
    if (slow := slo.runtime.task_slowdown_p95) is not None:
        measured = metrics.task_slowdown_p95_ratio
        yield "task_slowdown_p95", "ratio", slow.target_ratio, slow.tolerance_ratio, slow.weight, measured


def _status(
    name: SloKind,
    unit: str,
    target: float,
    tolerance: float,
    weight: float,
    measured: float | None,
    *,
    at_least: bool,
) -> SloStatus:
    limit = target * (1.0 + tolerance)
    met: bool | None = None if measured is None else measured <= limit
    if at_least and met:
        met = None  # it may still grow beyond the limit
    excess = None if measured is None else measured / target - 1.0
    return SloStatus(name, unit, target, limit, measured, met, excess, weight)


def _band_status(band: UtilizationBand, measured: float | None) -> SloStatus:
    # Below the middle of the band its lower end is the one at risk.
    low = measured is not None and measured < (band.min_ratio + band.max_ratio) / 2
    target = band.min_ratio if low else band.max_ratio
    limit = target - band.tolerance_ratio if low else target + band.tolerance_ratio
    if measured is None:
        return SloStatus("utilization", "ratio", target, limit, None, None, None, band.weight)
    excess = target - measured if low else measured - target
    met = measured >= limit if low else measured <= limit
    return SloStatus("utilization", "ratio", target, limit, measured, met, excess, band.weight)


def _part(status: SloStatus) -> ScorePart | None:
    if status.measured is None or status.excess_ratio is None:
        return None
    if status.name == "utilization":
        cost = max(0.0, status.excess_ratio)
        violation = 0.0 if status.met else abs(status.measured - status.limit)
    else:
        cost = status.measured / status.target
        violation = max(0.0, status.measured / status.limit - 1.0)
    return ScorePart(status.name, status.unit, status.measured, status.target, status.weight, cost, violation)

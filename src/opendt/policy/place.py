"""From a way to weigh to placements: what the policies share of placing a job."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from opendt.policy.base import Placed
from opendt.policy.lay import Laid, Rules, Weigh, lay
from opendt.policy.misfits import deadline_missed, explain_misfits
from opendt.policy.search import search

if TYPE_CHECKING:
    from opendt.model.plan import Infeasible
    from opendt.policy.index import FleetIndex
    from opendt.twin.scaling import ScaledJob

__all__ = ["best_layout", "explained", "latest_finishes", "place_by"]


def place_by(index: FleetIndex, scaled: ScaledJob, weigh: Weigh | None, why: str) -> Placed | Infeasible:
    """Place a job by what weighs least; see `best_layout`."""
    laid = best_layout(index, scaled, weigh)
    return laid if not isinstance(laid, Laid) else explained(index, scaled, laid, why)


def best_layout(index: FleetIndex, scaled: ScaledJob, weigh: Weigh | None = None) -> Laid | Infeasible:
    """Lay a job out by what weighs least, the finish unless given, and hold it against what jobs may demand.

    - Where the 95th percentile misses the deadline and stages are emulated that could run natively, they do.
    - A job whose stages talk across clusters is also tried in each of those clusters alone, when the finish is what counts.
    - Where a stage finds no place, or the deadline cannot be met, all layouts are searched (`opendt.policy.search`).
    """
    deadline_ms = scaled.job.deadline_ms
    if weigh is None and deadline_ms is None:
        rules = None
        laid = lay(index, scaled)
    else:
        index.refresh()
        latest = {} if weigh is None else latest_finishes(index, scaled)
        rules = Rules(weigh, latest_ms=latest)
        laid = lay(index, scaled, rules if latest or weigh is not None else None)
    if laid.failed:
        if not scaled.job.gang and laid.chosen:
            return laid
        found = search(index, scaled)
        if found.laid is None:
            note = "" if found.is_complete else f"; {found.tried} layouts were tried, not all there are"
            return explain_misfits(index, scaled, laid.failed, note)
        laid = found.laid
    if len(scaled.stages) > 1 and weigh is None and len(laid.clusters) > 1:
        laid = _together(index, scaled, laid)
    if deadline_ms is None:
        return laid
    if laid.p95_ms > deadline_ms and laid.emulated:
        laid = _natively(index, scaled, laid, rules)
    return laid if laid.latency_ms <= deadline_ms else _in_time(index, scaled, laid)


def explained(index: FleetIndex, scaled: ScaledJob, laid: Laid, why: str) -> Placed:
    """Give a layout as placements, with what there is to say about it."""
    left_out = explain_misfits(index, scaled, laid.failed) if laid.failed else None
    where = ", ".join(
        f"{name} on {one.group.sample.cluster}/{one.node}{'' if one.form == 'native' else ' as ' + one.form}"
        for name, one in laid.chosen.items()
    )
    return Placed(
        placements=laid.placements,
        estimate_ms=laid.latency_ms,
        estimate_p95_ms=laid.p95_ms,
        explanation=f"{why}: {where}; about {laid.latency_ms / 1000:.1f} s.",
        left_out=left_out,
    )


def latest_finishes(index: FleetIndex, scaled: ScaledJob) -> dict[str, float]:
    """When each stage must have finished for those after it to keep the deadline at their quickest; empty without one."""
    deadline_ms = scaled.job.deadline_ms
    if deadline_ms is None:
        return {}
    latest: dict[str, float] = {}
    for one in reversed(scaled.stages):
        name = one.stage.id
        mine = latest.setdefault(name, float(deadline_ms))
        options = index.options(one)
        if not len(options):
            continue
        seconds = options.cpu_seconds(one, index.predictor.calibration.priors.default_run_s)
        quickest = float((options.startup_ms(one) + options.run_ms(one, seconds)).min())
        for need in one.stage.needs:
            latest[need] = min(latest.get(need, float(deadline_ms)), mine - quickest)
    return latest


def _together(index: FleetIndex, scaled: ScaledJob, laid: Laid) -> Laid:
    """Compare with layouts in one of its clusters: going stage by stage does not see what leaving one costs later."""
    best = laid
    for cluster in laid.clusters:
        alone = lay(index, scaled, Rules(within=cluster))
        if not alone.failed and alone.latency_ms < best.latency_ms:
            best = alone
    return best


def _natively(index: FleetIndex, scaled: ScaledJob, laid: Laid, rules: Rules | None) -> Laid:
    """Lay emulated stages out natively where they can be; as it was where there is no room for that."""
    native = lay(index, scaled, replace(rules or Rules(), native=laid.emulated))
    if not native.failed:
        return native
    found = search(index, scaled, native_only=True)
    return laid if found.laid is None else found.laid


def _in_time(index: FleetIndex, scaled: ScaledJob, laid: Laid) -> Laid | Infeasible:
    """Look for any layout that keeps the deadline; say how much it would have to be raised where there is none."""
    deadline_ms = scaled.job.deadline_ms
    assert deadline_ms is not None
    best_ms, is_certain = laid.latency_ms, True
    for native_only in (True, False) if laid.emulated else (False,):
        found = search(index, scaled, native_only=native_only)
        is_certain = found.is_complete
        if found.laid is not None:
            best_ms = min(best_ms, found.laid.latency_ms)
            if found.laid.latency_ms <= deadline_ms:
                return found.laid
    return deadline_missed(scaled, best_ms, is_certain=is_certain)

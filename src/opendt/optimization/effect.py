"""What a proposal would do, simulated on two forks of the live twin; the twin itself is left as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.model.proposal import Compared, SimulatedEffect, SloOutcome
from opendt.optimization.scoring import check_slo, score, window_cost
from opendt.twin.whatif import Comparison, WhatIf

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation
    from opendt.model.proposal import Proposal
    from opendt.model.slo import Slo
    from opendt.twin.metrics import WindowMetrics

__all__ = ["effect_of", "simulate_effect"]

_J_PER_KWH = 3.6e6


def simulate_effect(
    live: Simulation, proposal: Proposal, horizon_ms: int, slo: Slo, *, what_if: WhatIf | None = None
) -> SimulatedEffect:
    """Simulate what a proposal would change over the next `horizon_ms`, against leaving things as they are.

    Parameters
    ----------
    live : Simulation
        Forked twice, never changed.
    proposal : Proposal
        Its changes are applied at once.
    horizon_ms : int
        How far to look ahead, ms.
    slo : Slo
        Objectives; energy and carbon of the horizon are scaled to their window.
    what_if : WhatIf, optional
        Of the same `live` and `horizon_ms`, to share the future without changes between proposals.

    Raises
    ------
    EngineError
        When the changes cannot be applied to the twin as it is.
    """
    question = WhatIf(live, horizon_ms) if what_if is None else what_if
    return effect_of(proposal, question.compare(proposal.changes), slo)


def effect_of(proposal: Proposal, comparison: Comparison, slo: Slo) -> SimulatedEffect:
    """Put a comparison into the record that is kept."""
    before, after = comparison.baseline, comparison.changed
    outcomes = tuple(
        SloOutcome(name=one.name, met_before=one.met, met_after=other.met)
        for one, other in zip(check_slo(slo, before), check_slo(slo, after), strict=True)
    )

    def compared(name: str, factor: float = 1.0) -> Compared:
        values = (getattr(before, name), getattr(after, name))
        one, other = (None if value is None else float(value) * factor for value in values)
        return Compared(baseline=one, changed=other)

    return SimulatedEffect(
        proposal_id=proposal.id,
        start_ms=before.start_ms,
        horizon_ms=before.end_ms - before.start_ms,
        energy_j=compared("energy_kwh", _J_PER_KWH),
        peak_power_w=compared("peak_power_kw", 1000.0),
        emission_g=compared("emission_kg", 1000.0),
        cost=Compared(baseline=_cost(slo, before), changed=_cost(slo, after)),
        utilization_ratio=compared("utilization_ratio"),
        task_wait_p95_s=compared("task_wait_p95_s"),
        task_slowdown_p95_ratio=compared("task_slowdown_p95_ratio"),
        makespan_s=compared("makespan_s"),
        hosts_up=compared("hosts_up"),
        tasks_completed=compared("tasks_completed"),
        tasks_pending=compared("tasks_pending"),
        score=Compared(baseline=score(slo, before).total, changed=score(slo, after).total),
        slos=outcomes,
    )


def _cost(slo: Slo, metrics: WindowMetrics) -> float | None:
    return None if slo.cost is None else window_cost(slo.cost, metrics)

"""``resilient``: reliability against latency, with a shadow for each stage.

An option weighs its expected finish, counting what a failure would cost, over its cluster's resiliency score to the power
`resiliency_weight`::

    (finish + p * (finish - begin + recovery_ms)) / resiliency ** resiliency_weight

where p is the probability that the node fails while the stage is there: the fleet's described rate until failures have a history.
A weight of 0 is about latency alone; at 4 a score of 0.8 counts as much as taking 2.4 times as long.

The *shadow* of a stage is where it goes on when its place fails. It lies where it is least likely to fail with it: in the cluster
whose failure domain has least in common with that of the stage's own (`correlation`), and of those in the one that weighs least.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from opendt.policy.lay import Laid, Rules, Table, choose
from opendt.policy.place import best_layout, explained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.fleet import ClusterState
    from opendt.model.job import Job
    from opendt.model.plan import Infeasible, Placement
    from opendt.policy.base import Placed
    from opendt.policy.index import FleetIndex
    from opendt.policy.lay import Chosen, Weigh
    from opendt.twin.scaling import ScaledJob

__all__ = ["Resilient", "correlation", "shadows"]


def correlation(one: ClusterState | None, other: ClusterState | None) -> float:
    """How much two clusters' failures have in common, from 0 to 1.

    1 for a cluster and itself. Failure domains are paths of names, from the largest: ``grid-west/street-4`` and
    ``grid-west/street-7`` share one name of two, 0.5. Equal domains of two clusters give 0.9, since a cluster can also fail by
    itself. What is not described has nothing in common with anything.
    """
    if one is None or other is None:
        return 0.0
    if one.name == other.name:
        return 1.0
    ours, theirs = ([name for name in state.failure_domain.split("/") if name] for state in (one, other))
    shared = 0
    for mine, its in zip(ours, theirs, strict=False):
        if mine != its:
            break
        shared += 1
    return 0.9 * shared / max(len(ours), len(theirs), 1)


class Resilient:
    """Reliability against latency.

    Parameters
    ----------
    resiliency_weight : float
        See the head of this module.
    recovery_ms : float
        What a failure costs besides the work lost: noticing it and starting again.
    """

    name = "resilient"

    def __init__(self, resiliency_weight: float = 4.0, recovery_ms: float = 10_000.0) -> None:
        self.resiliency_weight = resiliency_weight
        self.recovery_ms = recovery_ms

    def weigh(self, table: Table) -> NDArray[np.float64]:
        """Weigh the options of a stage."""
        lost_ms = table.finish_ms - table.begin_ms + self.recovery_ms
        expected_ms = table.finish_ms + table.failure_probability * lost_ms
        weights: NDArray[np.float64] = expected_ms / table.options.resiliency.clip(1e-3) ** self.resiliency_weight
        return weights

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        """Place a job; see `PlacementPolicy.place`."""
        scaled = fleet.scaled(job, scale)
        laid = best_layout(fleet, scaled, self.weigh)
        if not isinstance(laid, Laid):
            return laid
        placed = explained(fleet, scaled, laid, "least expected finish, counting failures")
        return replace(placed, shadow_placements=shadows(fleet, scaled, laid, self))


def shadows(fleet: FleetIndex, scaled: ScaledJob, laid: Laid, policy: Resilient | None = None) -> dict[str, Placement]:
    """Give each stage another place that is unlikely to fail with its own; stages for which there is none have none.

    There is room for the shadows beside the plan, but nothing is reserved for them.
    """
    weigh = (policy or Resilient()).weigh
    taken = [(one.group, one.node, one.one, fleet.take(one.group, one.node, one.one)) for one in laid.chosen.values()]
    found: dict[str, Placement] = {}
    try:
        for name, own in laid.chosen.items():
            shadow = _shadow(fleet, scaled, laid, own, weigh)
            if shadow is not None:
                found[name] = shadow.placement
                devices = fleet.take(shadow.group, shadow.node, own.one)
                taken.append((shadow.group, shadow.node, own.one, devices))
    finally:
        for group, node, one, devices in reversed(taken):
            fleet.give_back(group, node, one, devices)
    return found


def _shadow(fleet: FleetIndex, scaled: ScaledJob, laid: Laid, own: Chosen, weigh: Weigh) -> Chosen | None:
    """Try clusters by what they have in common with the stage's own, the least first; its own node never."""
    clusters = fleet.view.snapshot.clusters
    name, here = own.one.stage.id, own.group.sample.cluster
    shared = {other: correlation(clusters.get(here), clusters.get(other)) for other in fleet.clusters}
    shared[here] = 1.0
    for level in sorted(set(shared.values())):
        away = {other for other, common in shared.items() if common != level}
        rules = Rules(weigh, barred={name: {(here, own.node)}}, barred_clusters={name: away})
        found = choose(fleet, scaled, own.one, laid.chosen, rules)
        if found is not None:
            return found
    return None

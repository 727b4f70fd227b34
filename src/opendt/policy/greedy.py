"""``greedy``: the least end-to-end latency.

Stages are taken in the order of the graph; each goes where it finishes first, counting when its inputs are there (round trips from
the origin, transfers from the stages before it, data that lies elsewhere), how long it starts and how long it runs there in the best
form. For a job of one stage this is the optimum; of several it is the earliest-finish-time heuristic (Topcuoglu, Hariri, Wu,
HEFT, IEEE TPDS 2002, without insertion), compared with keeping all stages in one of the clusters that it used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.policy.place import place_by

if TYPE_CHECKING:
    from opendt.model.job import Job
    from opendt.model.plan import Infeasible
    from opendt.policy.base import Placed
    from opendt.policy.index import FleetIndex

__all__ = ["Greedy"]


class Greedy:
    """Least latency."""

    name = "greedy"

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        """Place a job; see `PlacementPolicy.place`."""
        return place_by(fleet, fleet.scaled(job, scale), None, "earliest finish")

"""``cost``: the least money that keeps the deadline.

A stage weighs its cluster's price per core and hour, for the cores that it was designed for and as long as it holds them. Deadlines
are kept as in ``carbon``; without one the cheapest place wins whatever it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.policy.place import place_by

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.job import Job
    from opendt.model.plan import Infeasible
    from opendt.policy.base import Placed
    from opendt.policy.index import FleetIndex
    from opendt.policy.lay import Table

__all__ = ["Cost"]


class Cost:
    """Least cost that keeps the deadline."""

    name = "cost"

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        """Place a job; see `PlacementPolicy.place`."""
        return place_by(fleet, fleet.scaled(job, scale), _weigh, "least cost")


def _weigh(table: Table) -> NDArray[np.float64]:
    return table.cost

"""``carbon``: the least carbon that keeps the deadline.

A stage weighs its energy (its part of its node's power, `opendt.twin.fleet_energy`) times its cluster's intensity. With a deadline, each
stage goes where the 95th percentile of its finish still leaves those after it the time they need at their quickest; without one,
the least carbon wins whatever it takes, so give jobs deadlines. Intensities are those of the fleet's description.
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

__all__ = ["Carbon"]


class Carbon:
    """Least carbon that keeps the deadline."""

    name = "carbon"

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        """Place a job; see `PlacementPolicy.place`."""
        return place_by(fleet, fleet.scaled(job, scale), _weigh, "least carbon")


def _weigh(table: Table) -> NDArray[np.float64]:
    return table.carbon_g

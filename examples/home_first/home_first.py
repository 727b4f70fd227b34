"""A placement policy of one's own: keep a job where it comes from, unless another cluster is much quicker.

`load_policy("home_first", patience=1.5)` finds it once the package is installed. All that a policy needs is a name and a method
`place`: a job and the fleet in, placements or the reasons why there are none out. What it places is predicted, reserved and
acted on like any other's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.policy.lay import Laid, Rules, lay
from opendt.policy.place import best_layout, explained

if TYPE_CHECKING:
    from opendt.model.job import Job
    from opendt.model.plan import Infeasible
    from opendt.policy.base import Placed
    from opendt.policy.index import FleetIndex


class HomeFirst:
    name = "home_first"

    def __init__(self, patience: float = 2.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}, expected a factor of at least 1")
        self.patience = patience

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        scaled = fleet.scaled(job, scale)
        quickest = best_layout(fleet, scaled)
        if not isinstance(quickest, Laid):
            return quickest
        if job.origin is None or job.origin.cluster not in fleet.clusters:
            return explained(fleet, scaled, quickest, "no home")
        home = lay(fleet, scaled, Rules(within=job.origin.cluster))
        slowest_ms = quickest.latency_ms * self.patience
        if job.deadline_ms is not None:
            slowest_ms = min(slowest_ms, job.deadline_ms)
        if not home.failed and home.latency_ms <= slowest_ms:
            return explained(fleet, scaled, home, "at home")
        return explained(fleet, scaled, quickest, f"home would take more than {slowest_ms / 1000:.1f} s")

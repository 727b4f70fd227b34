"""What a placement policy is: a job and the fleet in, placements or reasons out.

A policy reserves nothing and does not change what it is given; whoever accepts its placements reserves them (`FleetView.reserve`). What
it may use of the fleet: `FleetIndex.options` (what may run a stage, and how long it takes there), `FleetIndex.find` (a node with
room), `lay` (stage by stage, the option that weighs least) and the predictor behind it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from opendt.model.job import Job
    from opendt.model.plan import Infeasible, Placement
    from opendt.policy.index import FleetIndex

__all__ = ["Placed", "PlacementPolicy"]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the stages of a job go.

    Attributes
    ----------
    placements : dict of str to Placement
        Of each stage; of a job that is no gang, of those that have a place.
    estimate_ms, estimate_p95_ms : float
        Latency by the sums that the policy went by, without a simulation, and its 95th percentile.
    explanation : str
        Why so, in a sentence or two.
    shadow_placements : dict of str to Placement
        Where a stage goes on when its place fails; nothing is reserved there.
    left_out : Infeasible or None
        Why stages of a job that is no gang have no place.
    """

    placements: dict[str, Placement]
    estimate_ms: float
    estimate_p95_ms: float
    explanation: str
    shadow_placements: dict[str, Placement] = field(default_factory=dict)
    left_out: Infeasible | None = None


@runtime_checkable
class PlacementPolicy(Protocol):
    """Somebody who places jobs. Same fleet, same learned state and same job give the same placements."""

    @property
    def name(self) -> str:
        """As which it is asked for."""

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        """Place a job on the fleet as it is now.

        Parameters
        ----------
        job : Job
            As designed.
        fleet : FleetIndex
            What there is; not changed.
        scale : float, optional
            Of a job that says none.
        """

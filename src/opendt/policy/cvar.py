"""``cvar``: the least mean of the worst futures.

Layouts of the job (`candidates`: the greedy one, natively, in each cluster alone, without each cluster that greedy used, the resilient
one) are held against the same 1,000 sampled futures (`opendt.twin.fleet_futures`): delays and speeds that vary, failures that strike
whole failure domains. What counts is the mean latency of the worst `alpha` of them. Adding times up gives a bound of each layout's
tail; from the least bound on, layouts are lived on forks of the twin, with what else is on their nodes, until no bound left is below
the best tail found. So the best layout on forks wins, and mostly one needs to be lived.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from opendt.policy.lay import Laid, Rules, lay
from opendt.policy.place import best_layout, explained
from opendt.policy.resilient import Resilient, shadows
from opendt.twin.fleet_futures import FleetFutures, FutureSettings, tail_mean

if TYPE_CHECKING:
    from opendt.model.job import Job
    from opendt.model.plan import Infeasible
    from opendt.policy.base import Placed
    from opendt.policy.index import FleetIndex
    from opendt.twin.scaling import ScaledJob

__all__ = ["Cvar"]

_ROUNDING_MS: Final = 3.0
"""The engine knows whole ms."""


class Cvar:
    """Least mean of the worst futures.

    Parameters
    ----------
    futures : int
        How many are drawn.
    alpha : float
        Share of the worst futures that the mean is taken of: 0.1 for the mean beyond the 90th percentile.
    seed : int
        Of the draws.
    most_candidates : int
        Layouts that are compared.
    """

    name = "cvar"

    def __init__(
        self,
        futures: int = 1000,
        alpha: float = 0.1,
        seed: int = 0,
        most_candidates: int = 16,
    ) -> None:
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha is {alpha}, expected a share above 0 and at most 1")
        if futures < 1 or most_candidates < 1:
            raise ValueError("futures and most_candidates must be at least 1")
        self.settings = FutureSettings(count=futures, seed=seed)
        self.alpha = alpha
        self.most_candidates = most_candidates

    def place(self, job: Job, fleet: FleetIndex, *, scale: float | None = None) -> Placed | Infeasible:
        """Place a job; see `PlacementPolicy.place`."""
        scaled = fleet.scaled(job, scale)
        first = best_layout(fleet, scaled)
        if not isinstance(first, Laid):
            return first
        if first.failed:
            return explained(fleet, scaled, first, "earliest finish of the stages that have a place")
        futures = FleetFutures(fleet.predictor, self.settings)
        layouts = [
            (laid, fleet.predictor.lay_out(scaled, laid.placements)) for laid in self.candidates(fleet, scaled, first)
        ]
        summed = [(tail_mean(futures.latencies_ms(out), self.alpha), place) for place, (_, out) in enumerate(layouts)]
        best: tuple[float, int] | None = None
        # Equal tails keep the order of the candidates, the earliest finish first. What is in the way only ever adds to a sum, so
        # a layout whose sum is no better than what another was found to take on forks need not be lived.
        for least_ms, place in sorted(summed):
            if best is not None and least_ms >= best[0] - _ROUNDING_MS:
                break
            lived = (tail_mean(futures.on_forks(layouts[place][1], threads=1), self.alpha), place)
            best = lived if best is None else min(best, lived)
        assert best is not None  # the first layout is always among them
        tail_ms, place = best
        laid = layouts[place][0]
        why = (
            f"least mean latency of the worst {self.alpha:.0%} of {self.settings.count} futures, "
            f"{tail_ms / 1000:.1f} s, of {len(layouts)} layouts"
        )
        return replace(explained(fleet, scaled, laid, why), shadow_placements=shadows(fleet, scaled, laid))

    def candidates(self, fleet: FleetIndex, scaled: ScaledJob, first: Laid) -> list[Laid]:
        """Layouts to be compared, `first` among them and none twice; all keep the deadline's rule of native stages."""
        names = [one.stage.id for one in scaled.stages]
        deadline_ms = scaled.job.deadline_ms
        rules = [Rules(native=names), Rules(weigh=Resilient().weigh)]
        rules += [Rules(within=cluster) for cluster in fleet.clusters]
        rules += [Rules(barred_clusters=dict.fromkeys(names, (cluster,))) for cluster in first.clusters]
        found = {_where(first): first}
        for one in rules:
            laid = lay(fleet, scaled, one)
            if laid.failed or (deadline_ms is not None and laid.latency_ms > deadline_ms):
                continue
            if deadline_ms is not None and laid.emulated and laid.p95_ms > deadline_ms:
                laid = lay(fleet, scaled, replace(one, native=names))
                if laid.failed or laid.latency_ms > deadline_ms:
                    continue
            found.setdefault(_where(laid), laid)
            if len(found) >= self.most_candidates:
                break
        return list(found.values())


def _where(laid: Laid) -> tuple[tuple[str, str, str], ...]:
    return tuple((one.group.sample.cluster, one.node, one.form) for one in laid.chosen.values())

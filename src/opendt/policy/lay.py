"""Laying out a job: stage by stage in the order of the graph, each to the option that weighs least.

A policy is a way to weigh (`Table` -> a number an option). What all of them share is here: when a stage can begin in each cluster,
how long it takes there, where there is room, which nodes the job itself has used up, deadlines, and forms: where an emulated
stage would make the 95th percentile miss the deadline and the stage could run natively, it is laid out natively.

What weighs the same is decided by the earlier finish, then by the index's total order of ties.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.model.plan import Placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.model.job import ExecFormat
    from opendt.policy.index import FleetIndex, NodeGroup, Options
    from opendt.twin.fleet_view import NodeKey
    from opendt.twin.scaling import ScaledJob, ScaledStage

__all__ = ["P95", "Chosen", "Laid", "Rules", "Table", "Weigh", "choose", "lay", "tabulate"]

P95: Final = 1.6449
"""The 95th percentile of a normal distribution, in deviations."""


@dataclass(slots=True)
class Chosen:
    """Where one stage goes; times are ms from acceptance, `variance` that of the finish, in ms squared."""

    one: ScaledStage
    group: NodeGroup
    node: str
    form: ExecFormat
    finish_ms: float
    variance: float

    @property
    def placement(self) -> Placement:
        """As the model has it."""
        return Placement.model_construct(
            stage_id=self.one.stage.id,
            node_name=self.node,
            cluster=self.group.sample.cluster,
            exec_format=self.form,
        )


@dataclass(slots=True)
class Table:
    """All options of a stage, an entry each: what a policy weighs."""

    one: ScaledStage
    options: Options
    begin_ms: NDArray[np.float64]
    """When all that it needs is there."""
    startup_ms: NDArray[np.float64]
    run_ms: NDArray[np.float64]
    finish_ms: NDArray[np.float64]
    cpu_seconds: NDArray[np.float64]
    allowed: NDArray[np.bool_] | None
    """Where round trips allow it; everywhere when None."""
    begin_variance: float

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of the finish, ms squared."""
        options = self.options
        startup = self.startup_ms * options.startup_spread
        run = self.run_ms * options.run_spread
        result: NDArray[np.float64] = self.begin_variance + startup * startup + run * run
        return result

    @property
    def held_ms(self) -> NDArray[np.float64]:
        """How long the stage holds what it asks for."""
        return self.startup_ms + self.run_ms

    @property
    def energy_j(self) -> NDArray[np.float64]:
        """As `opendt.twin.fleet_energy.stage_energy_j`."""
        rest_w = self.options.rest_w * self.one.cpu_millicores
        return rest_w * self.run_ms / 1000.0 + self.options.busy_j * self.cpu_seconds

    @property
    def carbon_g(self) -> NDArray[np.float64]:
        """Of its energy."""
        return self.energy_j / 3.6e6 * self.options.carbon_g_per_kwh

    @property
    def cost(self) -> NDArray[np.float64]:
        """As `opendt.twin.fleet_energy.cost`."""
        cores = self.one.cpu_millicores * self.one.cpu_ratio / 1000.0
        return self.options.cost_per_core_h * (cores / 3.6e6) * self.held_ms

    @property
    def failure_probability(self) -> NDArray[np.float64]:
        """That the node fails while the stage is there."""
        return -np.expm1(-self.options.failures_per_h * self.held_ms / 3.6e6)


Weigh = Callable[[Table], "NDArray[np.float64]"]
"""How much each option weighs; the least is taken."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a job is laid out.

    Parameters
    ----------
    weigh : callable, optional
        The finish unless given.
    native : collection of str
        Stages that must not be emulated where they can run natively.
    within : str, optional
        The only cluster; one of the index.
    barred : mapping of str to collection of (str, str)
        Nodes that a stage must not go to.
    barred_clusters : mapping of str to collection of str
        Clusters that a stage must not go to.
    latest_ms : mapping of str to float
        When the 95th percentile of a stage's finish must be, where some option keeps it.
    """

    weigh: Weigh | None = None
    native: Collection[str] = ()
    within: str | None = None
    barred: Mapping[str, Collection[NodeKey]] = field(default_factory=dict)
    barred_clusters: Mapping[str, Collection[str]] = field(default_factory=dict)
    latest_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Laid:
    """A job laid out as far as it went; `failed` names the stages without a place."""

    chosen: dict[str, Chosen]
    failed: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> float:
        """When the last stage finishes."""
        return max((one.finish_ms for one in self.chosen.values()), default=inf)

    @property
    def p95_ms(self) -> float:
        """95th percentile of the latency, by the variances along its longest path."""
        return max((one.finish_ms + P95 * sqrt(one.variance) for one in self.chosen.values()), default=inf)

    @property
    def emulated(self) -> tuple[str, ...]:
        """Stages that do not run natively."""
        return tuple(name for name, one in self.chosen.items() if one.form != "native")

    @property
    def clusters(self) -> tuple[str, ...]:
        """Clusters used, in the order in which they are first used."""
        return tuple(dict.fromkeys(one.group.sample.cluster for one in self.chosen.values()))

    @property
    def placements(self) -> dict[str, Placement]:
        """As the model has them."""
        return {name: one.placement for name, one in self.chosen.items()}


def tabulate(index: FleetIndex, scaled: ScaledJob, one: ScaledStage, chosen: Mapping[str, Chosen]) -> Table | None:
    """List the options of a stage after those that it needs; None when there are none at all."""
    options = index.options(one)
    if not len(options):
        return None
    stage, job = one.stage, scaled.job
    ready = index.arrival_ms(job, stage)
    variance = 0.0
    if stage.needs:
        last = max((chosen[need] for need in stage.needs), key=lambda parent: parent.finish_ms)
        variance = last.variance
        ready = last.finish_ms + ready
        for need in stage.needs:
            parent = chosen[need]
            came = parent.finish_ms + index.travel_ms(parent.group.cluster_number, parent.one.stage.output_mb)
            ready = np.maximum(ready, came)
    cpu_seconds = options.cpu_seconds(one, index.predictor.calibration.priors.default_run_s)
    run_ms = options.run_ms(one, cpu_seconds)
    startup_ms = options.startup_ms(one)
    begin_ms = ready[options.cluster]
    allowed = None
    limit_ms = stage.constraints.max_latency_ms
    if limit_ms is not None:
        sources = [chosen[need].group.sample.cluster for need in stage.needs]
        if not stage.needs and job.origin is not None:
            sources = [job.origin.cluster]
        allowed = np.ones(len(options), dtype=np.bool_)
        for source in sources:
            allowed &= index.round_trip_ms(source)[options.cluster] <= limit_ms
    finish_ms = begin_ms + (startup_ms + run_ms)
    return Table(one, options, begin_ms, startup_ms, run_ms, finish_ms, cpu_seconds, allowed, variance)


def lay(index: FleetIndex, scaled: ScaledJob, rules: Rules | None = None) -> Laid:
    """Lay a job out; of one that is no gang, stages that find no place (and those that need them) are left out.

    What the job itself takes counts while it is laid out; afterwards the index is as it was.
    """
    index.refresh()
    followed = rules or _PLAIN
    laid = Laid({})
    taken: list[tuple[NodeGroup, str, ScaledStage, list[int]]] = []
    try:
        for place, one in enumerate(scaled.stages):
            name = one.stage.id
            if (
                laid.failed
                and not laid.failed.__contains__(name)
                and any(need in laid.failed for need in one.stage.needs)
            ):
                laid.failed += (name,)
                continue
            choice = choose(index, scaled, one, laid.chosen, followed)
            if choice is None:
                laid.failed += (name,)
                if scaled.job.gang:
                    return laid
                continue
            laid.chosen[name] = choice
            if place + 1 < len(scaled.stages):
                taken.append((choice.group, choice.node, one, index.take(choice.group, choice.node, one)))
    finally:
        for group, node, one, devices in reversed(taken):
            index.give_back(group, node, one, devices)
    return laid


_PLAIN: Final = Rules()


def choose(
    index: FleetIndex, scaled: ScaledJob, one: ScaledStage, chosen: Mapping[str, Chosen], rules: Rules
) -> Chosen | None:
    """Choose where one stage goes when those that it needs are `chosen`; None when there is no room anywhere."""
    table = tabulate(index, scaled, one, chosen)
    if table is None:
        return None
    finish = table.finish_ms
    weights = finish if rules.weigh is None else rules.weigh(table)
    if rules is not _PLAIN or table.allowed is not None:
        weights = _restricted(index, table, weights, rules)
    barred = rules.barred.get(one.stage.id, ())
    groups = table.options.groups
    while True:
        best = int(weights.argmin())
        least = weights[best]
        if least == inf:
            return None
        if weights is not finish and rules.weigh is not None:
            # Of what weighs the same, the one that finishes first.
            same = np.flatnonzero(weights == least)
            if len(same) > 1:
                best = int(same[finish[same].argmin()])
        group = groups[best]
        node = index.find(group, one, barred)
        if node is not None:
            options = table.options
            startup = table.startup_ms.item(best) * options.startup_spread.item(best)
            run = table.run_ms.item(best) * options.run_spread.item(best)
            variance = table.begin_variance + startup * startup + run * run
            return Chosen(one, group, node, options.formats[best], finish.item(best), variance)
        if weights is finish:
            weights = finish.copy()
        for place in range(len(groups)):  # in whatever form, there is no room in this group
            if groups[place] is group:
                weights[place] = inf


def _restricted(index: FleetIndex, table: Table, weights: NDArray[np.float64], rules: Rules) -> NDArray[np.float64]:
    """Weigh what the rules forbid infinitely much; what they only prefer, where there is anything else."""
    name, options = table.one.stage.id, table.options
    out = np.zeros(len(options), dtype=np.bool_) if table.allowed is None else ~table.allowed
    if rules.within is not None:
        out |= options.cluster != index.clusters.index(rules.within)
    for cluster in rules.barred_clusters.get(name, ()):
        if cluster in index.clusters:
            out |= options.cluster == index.clusters.index(cluster)
    if name in rules.native and bool((options.is_native & ~out).any()):
        out |= ~options.is_native
    latest_ms = rules.latest_ms.get(name)
    if latest_ms is not None:
        late = table.finish_ms + P95 * np.sqrt(table.variance) > latest_ms
        if bool((late & ~out).all()) or not bool((~late & ~out).any()):
            # Nothing keeps it: then as early as can be.
            weights = table.finish_ms
        else:
            out |= late
    return np.where(out, inf, weights)

"""Questions about a recorded demand, answered once: what would have been better, and what the rules, a model or a search say.

The demand is known from its first task to its last, so a configuration is set at its beginning and kept to its end. Simulations go
on for some time after the last task, so that work that a slower configuration puts off is still done and paid for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.engine.simulation import Simulation
from opendt.model.change import ConserveWork
from opendt.model.errors import ModelError
from opendt.model.options import Options
from opendt.optimization.base import Context
from opendt.optimization.demand import coarsened, resampled_days
from opendt.optimization.search import Search, SearchResult, SearchSettings
from opendt.optimization.search_space import SearchSpace
from opendt.optimization.trials import Trial, Trials
from opendt.twin.metrics import Totals, window_metrics
from opendt.twin.scenarios import Scenarios

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opendt.engine.simulation import EngineWorkload
    from opendt.model.change import Change
    from opendt.model.options import Allocation
    from opendt.model.proposal import Proposal
    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.optimization.base import Optimizer
    from opendt.optimization.search_space import SpaceLimits

__all__ = ["Recorded", "Step", "advise", "search_recorded"]

_DAY_MS: Final = 86_400_000
_LONGEST_SAMPLE_MS: Final = 300_000
_SAMPLES: Final = 2_000
_COARSE_MS: Final = 300_000
_MANY_FRAGMENTS: Final = 200_000
_LEAD_MS: Final = 1_000
_EXACT_SHARE: Final = 5
_LEAST_EXACT: Final = 24
_MOST_SUGGESTIONS: Final = 12


@dataclass(frozen=True)
class Recorded:
    """A recorded demand on a datacenter, and perhaps others like it.

    Attributes
    ----------
    topology : Topology
        The hosts, as they are before any change.
    demands : tuple of EngineWorkload
        What happens in each future; the first is the record.
    until_ms : int
        End of the simulations, ms since the first submission.

    Notes
    -----
    Simulations begin a second before the first task, so that what is changed is changed before a host is taken.
    """

    topology: Topology
    demands: tuple[EngineWorkload, ...]
    until_ms: int

    @classmethod
    def of(
        cls, topology: Topology, workload: EngineWorkload, *, drain_ms: int, resampled: int = 0, seed: int = 0
    ) -> Recorded:
        """Take a record, and demands that are made of its days in random order (see `resampled_days`).

        Parameters
        ----------
        topology, workload
            The record.
        drain_ms : int
            Time after the end of the last task, as recorded, ms.
        resampled : int
            Other demands.
        seed : int
            Of their days.

        Raises
        ------
        ModelError
            When there is no task, or when workflows are to be resampled.
        """
        if not len(workload):
            raise ModelError("workload", "no task", "one task or more")
        end_ms = _end_ms(workload)
        days = max(1, -(-end_ms // _DAY_MS))
        rng = np.random.default_rng((seed, 2))
        draws = [rng.integers(0, _days_with_tasks(workload), days).tolist() for _ in range(resampled)]
        others = [resampled_days(workload, draw, until_ms=end_ms) for draw in draws]
        return cls(topology, (workload, *others), end_ms + drain_ms)

    def coarse(self) -> Recorded:
        """The same in steps of five minutes, to be simulated several times as fast."""
        return replace(self, demands=tuple(coarsened(demand, _COARSE_MS) for demand in self.demands))

    @property
    def fragment_count(self) -> int:
        """Steps of all demands together."""
        return sum(demand.fragment_count for demand in self.demands)

    @property
    def _sample_ms(self) -> int:
        """Some two thousand samples, in whole seconds, and none farther apart than a window of the loop."""
        return min(_LONGEST_SAMPLE_MS, max(1_000, self.until_ms // _SAMPLES // 1_000 * 1_000))

    def scenarios(self) -> Scenarios:
        """All demands on the empty datacenter, as futures."""
        options = Options(start_epoch_ms=self.demands[0].first_submission_ms - _LEAD_MS)
        base = Simulation(self.topology, options, sample_interval_ms=self._sample_ms)
        base.apply(ConserveWork())
        count = len(self.demands)
        return Scenarios(
            base=base,
            until_ms=self.until_ms + _LEAD_MS,
            tasks=np.zeros(0, np.uint32),
            left_ms=np.zeros((count, 0), np.int64),
            cpu_mhz=np.zeros((count, 0)),
            arrivals=self.demands,
        )

    def context(self, slo: Slo, changes: tuple[Change, ...] = ()) -> Context:
        """What an optimiser is told: the metrics of the whole record, and the state at its busiest sample.

        The empty datacenter of the beginning would tell it that no host is needed.
        """
        future = self.scenarios()
        simulation = future.fork(0)
        if changes:
            simulation.apply(*changes)
        start = Totals.of(simulation)
        probe = simulation.fork()
        probe.advance(future.until_ms)
        series = probe.take_series()
        metrics = window_metrics(series, probe.take_results(), start=start, end=Totals.of(probe), tasks=probe.tasks())
        busiest_ms = int(series["time_ms"][int(np.argmax(series["hosts_busy"]))])
        simulation.advance(busiest_ms)
        simulation.take_series()
        simulation.take_results()
        return Context(now_ms=simulation.now_ms, slo=slo, metrics=metrics, source=simulation)

    def trials(
        self,
        slo: Slo,
        settings: SearchSettings,
        *,
        limits: SpaceLimits | None = None,
        policies: Mapping[str, Allocation] | None = None,
    ) -> Trials:
        """Simulations of configurations of this demand.

        All that comes is known, so no reserve of idle hosts is kept (of the resampled demands a part is what nobody has seen).
        """
        wanted = settings.limits if limits is None else limits
        cores = max((int(demand.columns()["cpu_count"].max()) for demand in self.demands), default=0)
        space = SearchSpace.of(
            self.context(slo),
            limits=replace(wanted, reserve_ratio=0.0, reserve_hosts=0),
            topology=self.topology,
            policies=policies,
            largest_core_count=cores,
        )
        return Trials(
            space,
            self.scenarios().evaluate,
            slo,
            settings.prices,
            tail_ratio=settings.tail_ratio,
            work_tolerance_ratio=settings.work_tolerance_ratio,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What an optimiser proposed, after what it proposed before, and what all of it together does."""

    proposal: Proposal
    trial: Trial


def advise(recorded: Recorded, slo: Slo, optimizer: Optimizer, trials: Trials, rounds: int) -> list[Step]:
    """Ask an optimiser that makes one step at a time, until it has nothing to say, all is met, or it makes things worse.

    Parameters
    ----------
    recorded : Recorded
        The demand.
    slo : Slo
        Objectives.
    optimizer : Optimizer
        Asked every time at a moment of the same record: it must not keep silent for some time after a proposal.
    trials : Trials
        Of the same demand, for the effect.
    rounds : int
        Most steps.
    """
    steps: list[Step] = []
    changes: tuple[Change, ...] = ()
    trials.run([])
    best = trials.baseline
    for _ in range(rounds):
        proposal = optimizer.propose(recorded.context(slo, changes))
        if proposal is None:
            break
        changes = (*changes, *proposal.changes)
        trial = trials.of_changes(changes, "; ".join([*(step.proposal.rule for step in steps), proposal.rule]))
        steps.append(Step(proposal, trial))
        if trial.meets or not trial.rank < best.rank:
            break
        best = trial
    return steps


def search_recorded(
    recorded: Recorded,
    slo: Slo,
    settings: SearchSettings,
    *,
    policies: Mapping[str, Allocation] | None = None,
    on_batch: Callable[[int], None] | None = None,
    clock_s: Callable[[], float] = time.monotonic,
) -> tuple[SearchResult, bool]:
    """Search in a recorded demand.

    A long record is searched in steps of five minutes first; then the best of that and their neighbours are simulated as recorded,
    and only those are told. Half of a time budget goes to each.

    Returns
    -------
    SearchResult
        Of simulations of the record itself.
    bool
        Whether Ctrl-C ended it; the result is what was found until then.
    """
    suggestions: tuple[tuple[int, ...], ...] = ()
    begun_s, done, interrupted = clock_s(), 0, False
    exact_trials = recorded.trials(slo, settings, policies=policies)
    if recorded.fragment_count > _MANY_FRAGMENTS:
        half = None if settings.time_budget_s is None else settings.time_budget_s / 2
        coarse_settings = replace(settings, time_budget_s=half)
        coarse = Search(recorded.coarse().trials(slo, settings, policies=policies), coarse_settings, clock_s=clock_s)
        interrupted = _run(coarse, on_batch)
        result = coarse.result
        done = len(result.trials)
        suggestions = _suggestions(result)
        count = max(_LEAST_EXACT, settings.evaluations // _EXACT_SHARE)
        settings = replace(settings, evaluations=len(suggestions) + count, walk_ratio=1.0)
        if interrupted:
            settings = replace(settings, evaluations=2)
    if settings.time_budget_s is not None:
        left_s = settings.time_budget_s - (clock_s() - begun_s)
        settings = replace(settings, time_budget_s=max(left_s, 1e-3))
    exact = Search(exact_trials, settings, suggestions, clock_s=clock_s)
    told = None if on_batch is None else (lambda count: on_batch(done + count))
    interrupted |= _run(exact, told)
    return exact.result, interrupted


def _run(search: Search, on_batch: Callable[[int], None] | None) -> bool:
    try:
        search.run(on_batch)
    except KeyboardInterrupt:
        if not len(search.trials):
            raise
        return True
    return False


def _suggestions(result: SearchResult) -> tuple[tuple[int, ...], ...]:
    """The best, the knee and a spread of the front, the best first."""
    ranked = sorted(result.trials, key=lambda trial: trial.rank)[:4]
    front = result.front
    spread = np.linspace(0, len(front) - 1, min(len(front), _MOST_SUGGESTIONS)).round().astype(int).tolist()
    chosen = [*ranked, result.knee, *(front[index] for index in spread)]
    return tuple(dict.fromkeys(trial.point for trial in chosen))


def _end_ms(workload: EngineWorkload) -> int:
    """End of the last task when none waits, ms since the first submission."""
    columns = workload.columns()
    total_ms = np.concatenate([[0], np.cumsum(columns["fragment_duration_ms"], dtype=np.int64)])
    offset = columns["fragment_offset"].astype(np.int64)
    ends_ms = columns["submission_ms"] - workload.first_submission_ms + total_ms[offset[1:]] - total_ms[offset[:-1]]
    return int(ends_ms.max(initial=1))


def _days_with_tasks(workload: EngineWorkload) -> int:
    submitted_ms = workload.columns()["submission_ms"]
    return int(submitted_ms[-1] - submitted_ms[0]) // _DAY_MS + 1

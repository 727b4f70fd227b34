"""Searching for better configurations: a genetic algorithm over whole populations of forks, then a walk downhill from the best.

Three quarters of the evaluations go to NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6, 2002) by way of pymoo's
ask and tell: each generation is simulated as one batch. Its first generation holds the present, what the caller suggests, each gene
alone at a few levels, and random points. Work that is lost and objectives that are breached are its constraints, so the population
gathers where all objectives are met. The rest of the evaluations goes to the neighbours of the best point found, single genes and
pairs, by steps that halve: a genetic algorithm comes near the cheapest configuration and rarely upon it.

Every point that was simulated is kept; the front is that of all of them. A search can be stopped at any time and tells what it has
found so far. With a budget of evaluations the same seed gives the same result; a budget of time may end it earlier.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from opendt.optimization.pareto import knee, non_dominated
from opendt.optimization.search_space import Point, SpaceLimits
from opendt.optimization.trials import Prices, Trial, Trials

__all__ = ["Search", "SearchResult", "SearchSettings"]

Stopped = Literal["evaluations", "time", "exhausted", "asked"]

_STALE_GENERATIONS: Final = 5
_LEVELS_ALONE: Final = 6
_FIRST_CHUNK: Final = 8
_HUGE: Final = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Budgets and preferences of a search.

    Parameters
    ----------
    evaluations : int
        Most configurations that are simulated. 300: a second or two of a live loop (eight futures of an hour, 280 hosts, two
        cores; power caps take the most of it), and where the front hardly moves any more for two or three genes.
    time_budget_s : float, optional
        Longest time, s; the batch under way is finished.
    population : int
        Configurations of a generation.
    walk_ratio : float
        Share of the evaluations that is kept for the neighbours of the best; 1 leaves the genetic algorithm out.
    seed : int
        Of all randomness.
    tail_ratio, work_tolerance_ratio : float
        See `opendt.optimization.trials.Trials`.
    horizon_ms : int
        How far the futures of a decision reach, ms, when `SearchOptimizer` makes them itself.
    least_gain_ratio : float
        Where all objectives are met already, the saving below which things are left as they are.
    cooldown_ms : int
        Time after a search in which no other is made, ms. An hour, as for the rules.
    limits : SpaceLimits
        How far to go.
    prices : Prices
        What things cost.
    """

    evaluations: int = 300
    time_budget_s: float | None = None
    population: int = 32
    walk_ratio: float = 0.25
    seed: int = 0
    tail_ratio: float = 1.0
    work_tolerance_ratio: float = 0.02
    horizon_ms: int = 3_600_000
    least_gain_ratio: float = 0.02
    cooldown_ms: int = 3_600_000
    limits: SpaceLimits = field(default_factory=SpaceLimits)
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        """Refuse budgets that make no sense.

        Raises
        ------
        ValueError
            Names the setting.
        """
        if self.evaluations < 1 or self.population < 4:
            raise ValueError(
                f"evaluations is {self.evaluations} and population {self.population}, expected at least 1 and at least 4"
            )
        if not 0 <= self.walk_ratio <= 1:
            raise ValueError(f"walk_ratio is {self.walk_ratio}, expected a share from 0 to 1")
        if self.time_budget_s is not None and not self.time_budget_s > 0:
            raise ValueError(f"time_budget_s is {self.time_budget_s}, expected a positive time")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search has found, at its end or on the way.

    Attributes
    ----------
    trials : tuple of Trial
        All that were simulated; the first is the present.
    front : tuple of Trial
        Those that keep the work and that none dominates in `OBJECTIVES`, by energy.
    knee : Trial
        Of the front, or of its part that meets the objectives where there is one.
    best : Trial
        The cheapest that meets the objectives; where none does, the one that comes nearest.
    stopped : str
        Why it ended: ``"evaluations"``, ``"time"``, ``"exhausted"`` (nothing new was found any more) or ``"asked"``.
    """

    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    knee: Trial
    best: Trial
    stopped: Stopped

    @property
    def baseline(self) -> Trial:
        """The present, left as it is."""
        return self.trials[0]

    @property
    def meets(self) -> bool:
        """Whether a configuration that meets the objectives was found."""
        return self.best.meets

    @classmethod
    def of(cls, trials: Sequence[Trial], stopped: Stopped) -> SearchResult:
        """Sum up trials, the first of which is the present."""
        kept = [trial for trial in trials if trial.keeps_work] or [trials[0]]
        flags = non_dominated([trial.objectives for trial in kept])
        front = sorted(itertools.compress(kept, flags.tolist()), key=lambda trial: trial.objectives)
        meeting = [trial for trial in front if trial.meets] or front
        middle = knee([trial.objectives for trial in meeting]) or 0
        best = min(trials, key=lambda trial: trial.rank)
        return cls(tuple(trials), tuple(front), meeting[middle], best, stopped)


class Search:
    """One search.

    Parameters
    ----------
    trials : Trials
        Simulates points; what it has simulated before counts neither in time nor in evaluations.
    settings : SearchSettings
        Budgets.
    suggestions : sequence of Point
        Points to begin with, beside the present.
    clock_s : callable
        Seconds, for the time budget.
    """

    def __init__(
        self,
        trials: Trials,
        settings: SearchSettings,
        suggestions: Sequence[Point] = (),
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trials = trials
        self.settings = settings
        self._suggestions = tuple(suggestions)
        self._clock_s = clock_s
        self._stopped: Stopped = "asked"
        self._began_s = 0.0
        self._spent_s = 0.0
        self._done = 0

    @property
    def result(self) -> SearchResult:
        """What was found so far; needs the present to have been simulated, which is the first thing a search does."""
        return SearchResult.of(self.trials.all(), self._stopped)

    def run(self, on_batch: Callable[[int], None] | None = None) -> SearchResult:
        """Search until a budget is spent.

        Parameters
        ----------
        on_batch : callable, optional
            Told after each batch how many configurations have been simulated. What it raises ends the search, as Ctrl-C does;
            `result` holds what was found until then.
        """
        self._began_s = self._clock_s()
        space, budget = self.trials.space, self.settings.evaluations
        self._stopped = "asked"
        stopped = self._simulate([space.now, *self._suggestions], budget, on_batch)
        evolving = budget - int(budget * self.settings.walk_ratio)
        if stopped is None and space.genes and evolving:
            stopped = self._evolve(evolving, on_batch)
        if stopped in {None, "evaluations", "exhausted"} and space.genes:
            stopped = self._walk(budget, on_batch)
        self._stopped = stopped or "exhausted"
        return self.result

    def _simulate(self, points: Sequence[Point], budget: int, on_batch: Callable[[int], None] | None) -> Stopped | None:
        """Simulate new points, in pieces that fit into the time that is left; tells when a budget is spent."""
        new = [point for point in dict.fromkeys(points) if point not in self.trials]
        while new:
            if self._done >= budget:
                return "evaluations"
            size = self._chunk(min(len(new), budget - self._done))
            if not size:
                return "time"
            begun_s, before = self._clock_s(), len(self.trials)
            self.trials.run(new[:size])
            self._spent_s += self._clock_s() - begun_s
            self._done += len(self.trials) - before
            new = new[size:]
            if on_batch is not None:
                on_batch(self._done)
        return None

    def _chunk(self, wanted: int) -> int:
        """How many of `wanted` are simulated next; 0 when time is up."""
        limit_s = self.settings.time_budget_s
        if limit_s is None:
            return wanted
        left_s = limit_s - (self._clock_s() - self._began_s)
        if not self._done:
            return min(wanted, _FIRST_CHUNK)  # the present at least is always simulated
        if left_s <= 0:
            return 0
        each_s = self._spent_s / self._done
        return wanted if each_s * wanted <= left_s else max(1, min(wanted, int(left_s / each_s)))

    # The genetic algorithm.

    def _evolve(self, budget: int, on_batch: Callable[[int], None] | None) -> Stopped | None:
        """Let populations evolve until a budget is spent or nothing new comes up."""
        from pymoo.core.evaluator import Evaluator  # type: ignore[import-untyped]
        from pymoo.problems.static import StaticProblem  # type: ignore[import-untyped]

        algorithm, problem = self._algorithm()
        stale = 0
        while stale < _STALE_GENERATIONS:
            population = algorithm.ask()
            points = [self.trials.space.legal(x) for x in population.get("X")]
            before = len(self.trials)
            stopped = self._simulate(points, budget, on_batch)
            if stopped is not None:
                return stopped
            stale = stale + 1 if len(self.trials) == before else 0
            trials = [self.trials[point] for point in points]
            static = StaticProblem(
                problem, F=np.array([_fitness(trial) for trial in trials]), G=np.array([_breaches(t) for t in trials])
            )
            population.set("X", np.array(points, dtype=float))
            Evaluator().eval(static, population)
            algorithm.tell(infills=population)
        return "exhausted"

    def _algorithm(self) -> tuple[Any, Any]:
        from pymoo.algorithms.moo.nsga2 import NSGA2  # type: ignore[import-untyped]
        from pymoo.core.problem import Problem  # type: ignore[import-untyped]
        from pymoo.operators.crossover.sbx import SBX  # type: ignore[import-untyped]
        from pymoo.operators.mutation.pm import PM  # type: ignore[import-untyped]
        from pymoo.operators.repair.rounding import RoundingRepair  # type: ignore[import-untyped]

        space = self.trials.space
        first = self._first_generation()
        problem = Problem(
            n_var=len(space.genes),
            n_obj=len(self.trials.baseline.objectives),
            n_ieq_constr=2,
            xl=np.zeros(len(space.genes)),
            xu=np.array([len(gene.levels) - 1 for gene in space.genes], dtype=float),
        )
        # Distribution indices and rates as pymoo recommends for whole numbers (rounded after each operator).
        algorithm = NSGA2(
            pop_size=self.settings.population,
            sampling=np.array(first, dtype=float),
            crossover=SBX(prob=0.9, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        algorithm.setup(problem, termination=("n_gen", 2**31), seed=self.settings.seed, verbose=False)
        return algorithm, problem

    def _first_generation(self) -> list[Point]:
        """The present, what was suggested, each gene alone at a few levels, and random points."""
        space = self.trials.space
        rng = np.random.default_rng(self.settings.seed)
        points = [space.now, *self._suggestions]
        for position, gene in enumerate(space.genes):
            levels = np.linspace(0, len(gene.levels) - 1, min(_LEVELS_ALONE, len(gene.levels))).tolist()
            before, after = space.now[:position], space.now[position + 1 :]
            points.extend(space.legal([*before, level, *after]) for level in levels)
        known = list(dict.fromkeys(points))
        most = self.settings.population
        if len(known) > most:  # many genes: a sample of them, but for what was asked for
            kept = 1 + len(dict.fromkeys(self._suggestions))
            chosen = kept + rng.permutation(len(known) - kept)[: max(0, most - kept)]
            known = [*known[:kept], *(known[index] for index in sorted(chosen.tolist()))]
        for _ in range(max(0, most - len(known))):
            known.append(space.legal([int(rng.integers(0, len(gene.levels))) for gene in space.genes]))
        return list(dict.fromkeys(known))

    # The walk downhill.

    def _walk(self, budget: int, on_batch: Callable[[int], None] | None) -> Stopped | None:
        """Try the neighbours of the best, nearer and nearer, as long as they are better."""
        genes = self.trials.space.genes
        step = max(1, max(len(gene.levels) for gene in genes) // 16)
        rng = np.random.default_rng((self.settings.seed, 1))
        best = min(self.trials.all(), key=lambda trial: trial.rank)
        while True:
            stopped = self._simulate(self._neighbours(best.point, step, rng), budget, on_batch)
            better = min(self.trials.all(), key=lambda trial: trial.rank)
            if stopped is not None:
                return stopped
            if better.rank < best.rank:
                best = better
            elif step == 1:
                return "exhausted"
            else:
                step = max(1, step // 2)

    def _neighbours(self, point: Point, step: int, rng: np.random.Generator) -> list[Point]:
        """Points that differ in one gene or in two, a population of them at most, single genes first."""
        space = self.trials.space
        most = self.settings.population
        found = [space.legal(moved) for moved in _moves(point, step, 1)]
        pairs = [space.legal(moved) for moved in itertools.islice(_moves(point, step, 2), 64 * most)]
        room = max(0, most - len(found))
        chosen = sorted(rng.permutation(len(pairs))[:room].tolist()) if len(pairs) > room else range(len(pairs))
        if len(found) > most:
            found = [found[index] for index in sorted(rng.permutation(len(found))[:most].tolist())]
        return [*found, *(pairs[index] for index in chosen)]


def _moves(point: Point, step: int, genes: int) -> Iterator[list[int]]:
    for positions in itertools.combinations(range(len(point)), genes):
        for signs in itertools.product((-step, step), repeat=genes):
            moved = list(point)
            for position, sign in zip(positions, signs, strict=True):
                moved[position] += sign
            yield moved


def _fitness(trial: Trial) -> tuple[float, ...]:
    return trial.objectives if trial.error is None else (_HUGE,) * len(trial.objectives)


def _breaches(trial: Trial) -> tuple[float, float]:
    """Constraints, met at 0 and below: work that is lost, objectives that are breached."""
    if trial.error is not None:
        return _HUGE, _HUGE
    return max(0.0, trial.lost_tasks), trial.score.violation

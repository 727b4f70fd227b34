"""The search as an optimiser of the loop: from the present on, in sampled futures, to one proposal or none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from opendt.model.change import ConserveWork
from opendt.model.proposal import ExpectedEffect, Proposal
from opendt.optimization.search import Search, SearchResult, SearchSettings
from opendt.optimization.search_space import SearchSpace, installed_of
from opendt.optimization.trials import Trial, Trials
from opendt.twin.scenarios import Scenarios

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opendt.engine.simulation import Simulation
    from opendt.model.options import Allocation
    from opendt.model.topology import Topology
    from opendt.optimization.base import Context
    from opendt.optimization.rules import Installed

__all__ = ["Futures", "SearchOptimizer", "expected_effect", "known_future", "reason"]

Futures = Callable[["Context"], Scenarios]
"""Draws the futures that a decision is searched in."""


def known_future(simulation: Simulation, horizon_ms: int) -> Scenarios:
    """The future that a simulation holds itself, as the only one: of a recorded trace its tasks, of a live twin held demands.

    Parameters
    ----------
    simulation : Simulation
        Forked, never changed.
    horizon_ms : int
        How far, ms.
    """
    base = simulation.fork(with_basis=False)
    base.apply(ConserveWork())
    return Scenarios(
        base=base,
        until_ms=base.now_ms + horizon_ms,
        tasks=np.zeros(0, np.uint32),
        left_ms=np.zeros((1, 0), np.int64),
        cpu_mhz=np.zeros((1, 0)),
        arrivals=(None,),
    )


class SearchOptimizer:
    """Searches from the present on; proposes the cheapest change that meets the objectives, or what comes nearest to it.

    Parameters
    ----------
    settings : SearchSettings, optional
        Budgets and preferences.
    futures : callable, optional
        Draws futures for a context (`FutureSampler.scenarios` with purpose ``"search"``). Without it the simulation's own future
        is the only one, which for a live twin means that demands are held and nothing arrives.
    topology : Topology, optional
        What is installed, so that hosts can be switched on again.
    policies : mapping, optional
        Policies of placing tasks to choose from, by name.
    clock_s : callable
        Seconds, for the time budget.

    Attributes
    ----------
    last : SearchResult or None
        Of the last search, for a plot or a table; no part of what is pickled.
    """

    def __init__(
        self,
        settings: SearchSettings | None = None,
        *,
        futures: Futures | None = None,
        topology: Topology | None = None,
        policies: Mapping[str, Allocation] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or SearchSettings()
        self.futures = futures
        self.topology = topology
        self.policies = dict(policies or {})
        self.last: SearchResult | None = None
        self._clock_s = clock_s
        self._installed: Installed = {}
        self._searched_ms: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Give what its next search depends on: clocks are the process's, and the last search is only looked at."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_clock_s", "last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it over, with the clock of this process."""
        self.__dict__.update(state, _clock_s=time.monotonic, last=None)

    def propose(self, context: Context) -> Proposal | None:
        """Search, and propose what was found if it is worth a change.

        A context without a simulation (only the state is known) gives no proposal: nothing could be simulated.
        """
        last_ms = self._searched_ms
        cooling = last_ms is not None and context.now_ms - last_ms < self.settings.cooldown_ms
        source: Any = context.source
        if cooling or not hasattr(source, "fork"):
            return None
        self._searched_ms = context.now_ms
        for key, value in installed_of(context).items():
            self._installed.setdefault(key, value)
        scenarios = self.futures(context) if self.futures else known_future(source, self.settings.horizon_ms)
        result = self.search(context, scenarios)
        self.last = result
        return self._proposal(context, result, len(scenarios))

    def search(
        self, context: Context, scenarios: Scenarios, on_batch: Callable[[int], None] | None = None
    ) -> SearchResult:
        """Search in given futures."""
        settings = self.settings
        trials = Trials(
            self._space(context),
            scenarios.evaluate,
            context.slo,
            settings.prices,
            tail_ratio=settings.tail_ratio,
            work_tolerance_ratio=settings.work_tolerance_ratio,
        )
        return Search(trials, settings, clock_s=self._clock_s).run(on_batch)

    def _space(self, context: Context) -> SearchSpace:
        return SearchSpace.of(
            context,
            limits=self.settings.limits,
            topology=self.topology,
            policies=self.policies,
            installed=self._installed,
        )

    def _proposal(self, context: Context, result: SearchResult, futures: int) -> Proposal | None:
        best, now = result.best, result.baseline
        if not best.changes or not _worth_it(best, now, self.settings.least_gain_ratio):
            return None
        return Proposal.of(
            "search",
            context.now_ms,
            "cheapest_that_meets" if best.meets else "nearest_to_meeting",
            reason(result, futures),
            best.changes,
            self._space(context).bounds(),
            expected_effect(best, now),
        )


def _worth_it(best: Trial, now: Trial, least_gain_ratio: float) -> bool:
    """Whether a trial gains enough on the present: objectives that are met, a smaller breach, or a saving."""
    if best.meets and now.meets:
        return best.cost <= now.cost * (1.0 - least_gain_ratio)
    return best.rank < now.rank


def expected_effect(trial: Trial, now: Trial) -> ExpectedEffect:
    """What a trial expects, relative to the present."""

    def ratio(name: str) -> float | None:
        before, after = getattr(now.metrics, name), getattr(trial.metrics, name)
        return None if not before or after is None else float(after / before - 1.0)

    return ExpectedEffect(
        energy_ratio=ratio("energy_kwh"),
        task_wait_p95_ratio=ratio("task_wait_p95_s"),
        peak_power_ratio=ratio("peak_power_kw"),
    )


def reason(result: SearchResult, futures: int) -> str:
    """Why the best of a search is proposed, in words."""
    best, now = result.best, result.baseline
    hours = best.metrics.duration_s / 3600.0
    what = "the cheapest that meets all objectives" if best.meets else "none meets all objectives, this comes nearest"
    wait = f"{now.metrics.task_wait_p95_s or 0.0:.4g} -> {best.metrics.task_wait_p95_s or 0.0:.4g} s"
    energy = f"{now.metrics.energy_kwh or 0.0:.4g} -> {best.metrics.energy_kwh or 0.0:.4g} kWh"
    where = "1 future" if futures == 1 else f"{futures} futures"
    return (
        f"{best.words}: {what} of {len(result.trials)} configurations simulated in {where} of {hours:.3g} h; energy {energy}, "
        f"wait (p95) {wait}"
    )

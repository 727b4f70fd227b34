"""Futures of a plan: what varies drawn many times, failures that come together among it, lived on forks of the twin.

A future draws, for each stage, how long it starts and runs (lognormal, with the spreads that were learned; part of a run's deviation
is its cluster's and the same for all stages there), and when nodes fail. Failures follow Marshall and Olkin (JASA 62, 1967): of
a node's rate the share `common_ratio` comes as shocks to its whole failure domain, the rest to the node alone. A shock of a domain
comes at the rate of its weakest cluster and strikes another with the ratio of their rates, so that each node fails at its own
rate. A stage whose node fails loses what it did, and starts again after `recovery_ms`.

Draws belong to stages, clusters and domains and not to placements, so that two layouts of a job are compared in the same futures.
`latencies_ms` adds the times up; `on_forks` lives them in the engine, a fork each, with what else is on the nodes. The two agree to
the ms where nothing is in the way (tests hold one against the other).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt._engine import evaluate
from opendt.twin.fleet_sim import FOREVER_MS
from opendt.twin.predict import begin_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.twin.fleet_sim import SubTwin
    from opendt.twin.predict import LaidOut, PredictiveSimulator

__all__ = ["FleetFutures", "FutureSettings", "tail_mean"]

_MS_PER_H: Final = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureSettings:
    """How futures are drawn.

    Parameters
    ----------
    count : int
        Futures.
    seed : int
        Of the draws.
    common_ratio : float
        Share of failures that strike a whole failure domain.
    shared_ratio : float
        Share of the variance of a run's logarithm that is its cluster's.
    recovery_ms : float
        From a failure to the stage starting again.
    """

    count: int = 1000
    seed: int = 0
    common_ratio: float = 0.5
    shared_ratio: float = 0.3
    recovery_ms: float = 10_000.0


@dataclass(frozen=True, slots=True, eq=False)
class _Draws:
    """Standard draws, shape (things, futures)."""

    startup: NDArray[np.float64]
    run: NDArray[np.float64]
    node: NDArray[np.float64]
    shared: NDArray[np.float64]
    struck: NDArray[np.float64]
    domain: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Lived:
    """Lengths of the pieces of a stage in each future, ms: start, work that is lost, the pause after it, work."""

    startup_ms: NDArray[np.float64]
    lost_ms: NDArray[np.float64]
    pause_ms: NDArray[np.float64]
    run_ms: NDArray[np.float64]

    def pieces(self) -> list[tuple[NDArray[np.float64], float]]:
        """Pieces with the share of the request that each uses; those of a failure only where there is one in some future."""
        failure = [(self.lost_ms, 1.0), (self.pause_ms, 0.0)] if bool(self.pause_ms.any()) else []
        return [(self.startup_ms, 0.0), *failure, (self.run_ms, 1.0)]


class FleetFutures:
    """Futures of plans on the fleet as it is now.

    Parameters
    ----------
    predictor : PredictiveSimulator
        The twin, and what was learned.
    settings : FutureSettings, optional
        The defaults unless given.
    """

    def __init__(self, predictor: PredictiveSimulator, settings: FutureSettings | None = None) -> None:
        self._predictor = predictor
        self.settings = settings or FutureSettings()
        clusters = predictor.view.snapshot.clusters
        names = sorted(clusters)
        domains = sorted({clusters[name].failure_domain or name for name in names})
        self._cluster = {name: place for place, name in enumerate(names)}
        self._domain = {name: domains.index(clusters[name].failure_domain or name) for name in names}
        self._rate = {
            name: predictor.calibration.failure_rate_per_h(name, clusters[name].failure_rate_per_h) for name in names
        }
        self._worst = [
            max(self._rate[name] for name in names if self._domain[name] == place) for place in range(len(domains))
        ]

    def latencies_ms(self, laid: LaidOut) -> NDArray[np.float64]:
        """Latency of a plan in each future, by adding up; shape (futures,)."""
        return self._live(laid)[0]

    def on_forks(
        self, laid: LaidOut, twin: SubTwin | None = None, *, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Latency of a plan in each future, lived on a fork of the twin; shape (futures,).

        Parameters
        ----------
        laid : LaidOut
            The plan.
        twin : SubTwin, optional
            One that holds its nodes; made unless given.
        threads : int, optional
            All cores unless given; what comes out does not depend on it.
        """
        twin = twin or self._predictor.sub_twin(laid)
        pieces = [lived.pieces() for lived in self._live(laid)[1]]
        count = self.settings.count
        arrivals, first_ms = twin.workloads(laid.stages, pieces, count)
        nothing = np.zeros((count, 0))
        columns = evaluate(
            twin.engine,
            np.zeros(0, dtype=np.uint32),
            nothing.astype(np.int64),
            nothing,
            arrivals,
            (),
            [b"[]"],
            2 * FOREVER_MS,
            threads=threads,
        )
        finished_ms: NDArray[np.float64] = columns["makespan_s"][:, 0] * 1000.0 + first_ms
        return finished_ms

    def _live(self, laid: LaidOut) -> tuple[NDArray[np.float64], list[_Lived]]:
        settings = self.settings
        draws = _standard(settings.seed, settings.count, len(laid.stages), len(self._cluster), max(len(self._worst), 1))
        shared, own = settings.shared_ratio**0.5, (1.0 - settings.shared_ratio) ** 0.5
        finish: list[NDArray[np.float64]] = []
        lived: list[_Lived] = []
        for place, (stage, price) in enumerate(zip(laid.stages, laid.costs, strict=True)):
            cluster = self._cluster.get(stage.node[0])
            varied = draws.run[place] if cluster is None else shared * draws.shared[cluster] + own * draws.run[place]
            startup = price.startup_ms * np.exp(price.startup_spread.total * draws.startup[place])
            run = price.run_ms * np.exp(price.run_spread.total * varied)
            begin = begin_ms(laid, place, finish) + np.zeros(settings.count)
            lost, pause = np.zeros(settings.count), np.zeros(settings.count)
            fails = (
                None if cluster is None else self._fails_ms(draws, place, stage.node[0], begin, begin + startup + run)
            )
            if fails is not None:
                struck = np.isfinite(fails)
                # What was done is gone: the start-up first, then work.
                lost = np.where(struck, np.clip(fails - begin - startup, 0.0, None), 0.0)
                pause = np.where(struck, settings.recovery_ms + startup, 0.0)
                startup = np.where(struck, np.minimum(startup, fails - begin), startup)
            finish.append(begin + startup + lost + pause + run)
            lived.append(_Lived(startup, lost, pause, run))
        last = finish[0]
        for other in finish[1:]:
            last = np.maximum(last, other)
        return last, lived

    def _fails_ms(
        self,
        draws: _Draws,
        place: int,
        cluster: str,
        begin: NDArray[np.float64],
        end: NDArray[np.float64],
    ) -> NDArray[np.float64] | None:
        """When a stage's node fails while it is there, ms from acceptance; infinite where it does not."""
        rate, common = self._rate[cluster], self.settings.common_ratio
        if rate <= 0:
            return None
        worst = self._worst[self._domain[cluster]]
        first = np.full(len(begin), np.inf)
        if common < 1:
            alone = begin + draws.node[place] * (_MS_PER_H / (rate * (1.0 - common)))
            first = np.where(alone < end, alone, first)
        if common > 0:
            shock = draws.domain[self._domain[cluster]] * (_MS_PER_H / (worst * common))
            strikes = (draws.struck[self._cluster[cluster]] < rate / worst) & (shock >= begin) & (shock < end)
            first = np.where(strikes, np.minimum(first, shock), first)
        return first if bool(np.isfinite(first).any()) else None


def tail_mean(values: NDArray[np.float64], tail_ratio: float) -> float:
    """Mean of the worst `tail_ratio` of the values (conditional value at risk; Rockafellar, Uryasev, J. of Risk 2, 2000).

    Examples
    --------
    >>> import numpy as np
    >>> tail_mean(np.arange(1.0, 101.0), 0.1)
    95.5
    """
    count = max(round(tail_ratio * len(values)), 1)
    return float(np.partition(values, len(values) - count)[len(values) - count :].mean())


@lru_cache(maxsize=32)
def _standard(seed: int, count: int, stages: int, clusters: int, domains: int) -> _Draws:
    """Draws of everything that varies, the same for all layouts of a job with so many stages."""
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, stages], dtype=np.uint64)))
    return _Draws(
        startup=draw.standard_normal((stages, count)),
        run=draw.standard_normal((stages, count)),
        node=draw.exponential(size=(stages, count)),
        shared=draw.standard_normal((clusters, count)),
        struck=draw.random((clusters, count)),
        domain=draw.exponential(size=(domains, count)),
    )

"""Futures of a workload that nobody knows yet, sampled from the live twin as it is now.

An operator knows requests, what has run and what was measured. A sampled future gives each running task a residual life (drawn
among finished tasks that lived longer than it has), lets it go on at the load it last showed, and lets new tasks arrive at the
recent rate, each a copy of a finished one. Nothing of the recorded future is used: the fork forgets it first.

Two uses: the spread of blind forecasts (`FutureSampler.sample`), and futures that a search or a certificate simulates with and
without changes (`scenarios`). The mean of many futures did not beat holding the load (docs/concepts/calibration.md).

Draws are counter-based and keyed by purpose, seed, moment and number of the future (`stream`): the futures that a search tried its
candidates on are never those that a certificate judges them by, whatever seeds the two were given.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from opendt.engine.simulation import EngineWorkload
from opendt.model.change import ConserveWork, DropFuture
from opendt.twin.live import load_of
from opendt.twin.scenarios import Scenarios

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.engine.simulation import Simulation
    from opendt.twin.live import Load
    from opendt.twin.posterior import CurveDraws

__all__ = ["MOST_FUTURES", "FutureModel", "FutureSampler", "Purpose", "stream"]

_HOUR_MS: Final = 3_600_000
_POOL: Final = 2_000
_RATE_HOURS: Final = 6
_LEAST_POOL: Final = 20

Purpose = Literal["forecast", "search", "certificate"]
"""What futures are drawn for; each purpose has draws of its own."""

MOST_FUTURES: Final = 4_096
"""Futures of one moment, purpose and round that can be told apart."""

_SPACES: Final[dict[Purpose, int]] = {"forecast": 0, "search": 1, "certificate": 2}
_SPACE_BIT: Final = 60  # moments (ms) times MOST_FUTURES stay below it for eight thousand years


def stream(
    purpose: Purpose, seed: int, now_ms: int, number: int, round_: int = 0, *, kind: int = 0
) -> np.random.Generator:
    """Give the random numbers of one future; two streams that differ in any argument share none.

    Philox is a bijection of a 256-bit counter under a 128-bit key (Salmon et al., SC 2011). Purpose, moment and number make one
    word of the key and the seed the other; round and kind are the two upper words of the counter, which no draw reaches.

    Raises
    ------
    ValueError
        When an argument is out of range.
    """
    place = now_ms * MOST_FUTURES + number
    if not (0 <= number < MOST_FUTURES and 0 <= place < 1 << _SPACE_BIT):
        raise ValueError(f"future {number} at {now_ms} ms, expected a number below {MOST_FUTURES} and a moment from 0")
    if not (0 <= seed < 1 << 64 and 0 <= round_ < 1 << 64):
        raise ValueError(f"seed {seed} and round {round_}, expected whole numbers from 0 that fit 64 bits")
    key = np.array([seed, _SPACES[purpose] << _SPACE_BIT | place], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, kind, round_], dtype=np.uint64)))


@dataclass(frozen=True, slots=True, eq=False)
class FutureModel:
    """What is known of tasks to come at a moment; does not change while the sampler goes on learning.

    Attributes
    ----------
    lived_ms : ndarray of int64, shape (finished,)
        Lives of tasks that ended, in the order in which they did, ms.
    cpu_mhz : ndarray of float64, shape (finished,)
        Their mean load, MHz.
    cpu_count : ndarray of uint32, shape (finished,)
        Cores they asked for.
    arrivals_per_hour : float
        Recent rate.
    """

    lived_ms: NDArray[np.int64]
    cpu_mhz: NDArray[np.float64]
    cpu_count: NDArray[np.uint32]
    arrivals_per_hour: float

    @property
    def is_ready(self) -> bool:
        """Whether enough tasks have ended to draw from."""
        return len(self.lived_ms) >= _LEAST_POOL

    def scenarios(
        self,
        present: Simulation,
        horizon_ms: int,
        count: int,
        seed: int,
        *,
        purpose: Purpose = "search",
        round_: int = 0,
        first: int = 0,
        curves: CurveDraws | None = None,
    ) -> Scenarios:
        """Draw futures `first` to `first` + `count` - 1 of the system as it is now (a fork, which is not changed).

        Parameters
        ----------
        present : Simulation
            The present.
        horizon_ms : int
            Length of the futures, ms.
        count, first : int
            Which futures; any split of the same futures gives the same ones.
        seed, purpose, round_
            As `stream`.
        curves : CurveDraws, optional
            Power curves; future i is priced by curve i, counted round.

        Raises
        ------
        ValueError
            When too few tasks have ended to draw from, or `horizon_ms` is not positive.
        """
        if not self.is_ready or horizon_ms <= 0:
            raise ValueError(
                f"{len(self.lived_ms)} tasks have ended and the horizon is {horizon_ms} ms, expected at least {_LEAST_POOL} "
                "tasks and a positive time"
            )
        base = present.fork(with_basis=False)
        base.apply(DropFuture(), ConserveWork())
        drawing = _Drawing(self, present, horizon_ms)
        numbers = range(first, first + count)
        drawn = [drawing.draw(stream(purpose, seed, present.now_ms, number, round_)) for number in numbers]
        left_ms = np.array([left for left, _ in drawn], dtype=np.int64).reshape(count, len(drawing.known_mhz))
        return Scenarios(
            base=base,
            until_ms=present.now_ms + horizon_ms,
            tasks=drawing.tasks,
            left_ms=left_ms,
            cpu_mhz=np.tile(drawing.known_mhz, (count, 1)),
            arrivals=tuple(arrivals for _, arrivals in drawn),
            setups=() if curves is None else tuple(curves.changes(number) for number in numbers),
        )


class FutureSampler:
    """Learns from what ended and samples what may come.

    Parameters
    ----------
    seed : int
        Of the draws; each moment has draws of its own, whatever was drawn before.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._finished: deque[tuple[int, float, int]] = deque(maxlen=_POOL)
        self._arrivals_ms: deque[int] = deque()

    def observe(self, results: dict[str, Any], submitted: int, now_ms: int) -> None:
        """Take note of the tasks that ended in a window, and of how many were submitted in it."""
        lived = results["finished_ms"] - results["started_ms"]
        for index in np.flatnonzero(results["completed"] & (lived > 0)):
            load = float(results["supplied_mhz_ms"][index]) / int(lived[index])
            self._finished.append((int(lived[index]), load, int(results["cpu_count"][index])))
        self._arrivals_ms.extend([now_ms] * submitted)
        while self._arrivals_ms and self._arrivals_ms[0] <= now_ms - _RATE_HOURS * _HOUR_MS:
            self._arrivals_ms.popleft()

    @property
    def is_ready(self) -> bool:
        """Whether enough tasks have ended to draw from."""
        return len(self._finished) >= _LEAST_POOL

    def model(self, now_ms: int) -> FutureModel:
        """What is known now, as it is now."""
        lived, loads, cores = zip(*self._finished, strict=True) if self._finished else ((), (), ())
        hours = min(_RATE_HOURS, max(now_ms / _HOUR_MS, 1.0))
        return FutureModel(
            lived_ms=np.array(lived, dtype=np.int64),
            cpu_mhz=np.array(loads, dtype=np.float64),
            cpu_count=np.array(cores, dtype=np.uint32),
            arrivals_per_hour=len(self._arrivals_ms) / hours,
        )

    def scenarios(
        self, present: Simulation, horizon_ms: int, count: int, seed: int, *, curves: CurveDraws | None = None
    ) -> Scenarios:
        """Draw futures for a search; a certificate draws others (`FutureModel.scenarios`, which raises alike)."""
        return self.model(present.now_ms).scenarios(present, horizon_ms, count, seed, curves=curves)

    def sample(self, present: Simulation, horizon_ms: int, count: int) -> list[Load]:
        """Sample `count` futures of the system as it is now (a fork, which is not changed) and give the load of each."""
        drawing = _Drawing(self.model(present.now_ms), present, horizon_ms)
        past = present.fork()
        past.apply(DropFuture())
        pieces = np.arange(len(drawing.tasks) + 1, dtype=np.uint32)
        futures = []
        for number in range(count):
            left_ms, arrivals = drawing.draw(stream("forecast", self.seed, present.now_ms, number))
            future = past.fork()
            future.replace_work(drawing.tasks, pieces, left_ms, drawing.known_mhz)
            if arrivals is not None:
                future.submit(arrivals)
            future.advance(present.now_ms + horizon_ms)
            futures.append(load_of(future.take_series()))
        return futures


class _Drawing:
    """Draws from a model at a moment; what all futures of the moment share is worked out once."""

    def __init__(self, model: FutureModel, present: Simulation, horizon_ms: int) -> None:
        tasks = present.tasks()
        known = tasks["known_mhz"]
        self.tasks: NDArray[np.uint32] = tasks["number"]
        self.known_mhz: NDArray[np.float64] = np.where(np.isfinite(known), known, model.cpu_mhz.mean())
        self._age_ms = np.where(tasks["started_ms"] >= 0, present.now_ms - tasks["started_ms"], 0)
        self._lives_ms = np.sort(model.lived_ms)
        self._model = model
        self._begin_ms = present.start_epoch_ms + present.now_ms
        self._horizon_ms = horizon_ms

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], EngineWorkload | None]:
        """What tasks in the system have left, ms, and those that arrive."""
        left_ms = np.maximum(_residual(rng, self._lives_ms, self._age_ms), 1)
        return left_ms, self._arrivals(rng)

    def _arrivals(self, rng: np.random.Generator) -> EngineWorkload | None:
        """New tasks within the horizon, copies of finished ones at the recent rate."""
        model = self._model
        count = int(rng.poisson(model.arrivals_per_hour * self._horizon_ms / _HOUR_MS))
        if count == 0:
            return None
        chosen = rng.integers(0, len(model.lived_ms), count)
        submitted = np.sort(rng.integers(1, self._horizon_ms, count)) + self._begin_ms
        lived_ms = model.lived_ms[chosen]
        return EngineWorkload.from_columns(
            {
                "ids": np.arange(-count, 0, dtype=np.int64),
                "submission_ms": submitted.astype(np.int64),
                "duration_ms": lived_ms,
                "cpu_count": model.cpu_count[chosen],
                "cpu_capacity_mhz": np.zeros(count),
                "memory_mib": np.zeros(count, dtype=np.int64),
                "fragment_offset": np.arange(count + 1, dtype=np.uint32),
                "fragment_duration_ms": np.minimum(lived_ms, 2**32 - 1).astype(np.uint32),
                "fragment_cpu_mhz": model.cpu_mhz[chosen],
            }
        )


def _residual(rng: np.random.Generator, lives_ms: NDArray[np.int64], age_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Residual lives: of a finished task that lived longer; of the longest lived, as long again as it has lived."""
    first = np.searchsorted(lives_ms, age_ms, side="right")
    left = len(lives_ms) - first
    pick = first + np.floor(rng.random(len(age_ms)) * np.maximum(left, 1)).astype(np.int64)
    drawn = lives_ms[np.minimum(pick, len(lives_ms) - 1)] - age_ms
    residual: NDArray[np.int64] = np.where(left > 0, drawn, np.maximum(age_ms, 1))
    return residual

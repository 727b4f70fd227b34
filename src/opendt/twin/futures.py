"""Futures of a workload that nobody knows yet, sampled on forks of the live twin.

An operator knows requests, what has run and what was measured. A sampled future gives each running task a residual life (drawn
among finished tasks that lived longer than it has), lets it go on at the load it last showed, and lets new tasks arrive at the
recent rate, each a copy of a finished one. Nothing of the recorded future is used: the fork forgets it first.

Its use is the spread: how far apart the power of an hour can end up. The mean of many futures did not beat holding the load
(docs/concepts/calibration.md).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.engine.simulation import EngineWorkload
from opendt.model.change import DropFuture
from opendt.twin.live import load_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.engine.simulation import Simulation
    from opendt.twin.live import Load

__all__ = ["FutureSampler"]

_HOUR_MS: Final = 3_600_000
_POOL: Final = 2_000
_RATE_HOURS: Final = 6
_LEAST_POOL: Final = 20


@dataclass(frozen=True, slots=True)
class _Finished:
    """A finished task, as a pattern for new ones."""

    lived_ms: int
    cpu_mhz: float
    cpu_count: int


class FutureSampler:
    """Learns from what ended and samples what may come.

    Parameters
    ----------
    seed : int
        Of the draws; each moment has draws of its own, whatever was drawn before.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._finished: deque[_Finished] = deque(maxlen=_POOL)
        self._arrivals_ms: deque[int] = deque()

    def observe(self, results: dict[str, Any], submitted: int, now_ms: int) -> None:
        """Take note of the tasks that ended in a window, and of how many were submitted in it."""
        lived = results["finished_ms"] - results["started_ms"]
        for index in np.flatnonzero(results["completed"] & (lived > 0)):
            load = float(results["supplied_mhz_ms"][index]) / int(lived[index])
            self._finished.append(_Finished(int(lived[index]), load, int(results["cpu_count"][index])))
        self._arrivals_ms.extend([now_ms] * submitted)
        while self._arrivals_ms and self._arrivals_ms[0] <= now_ms - _RATE_HOURS * _HOUR_MS:
            self._arrivals_ms.popleft()

    @property
    def is_ready(self) -> bool:
        """Whether enough tasks have ended to draw from."""
        return len(self._finished) >= _LEAST_POOL

    def sample(self, present: Simulation, horizon_ms: int, count: int) -> list[Load]:
        """Sample `count` futures of the system as it is now (a fork, which is not changed) and give the load of each."""
        lives = np.sort(np.array([task.lived_ms for task in self._finished], dtype=np.int64))
        loads = np.array([task.cpu_mhz for task in self._finished])
        tasks = present.tasks()
        known = np.where(np.isfinite(tasks["known_mhz"]), tasks["known_mhz"], loads.mean())
        age = np.where(tasks["started_ms"] >= 0, present.now_ms - tasks["started_ms"], 0)
        past = present.fork()
        past.apply(DropFuture())
        futures = []
        for number in range(count):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, present.now_ms * 4096 + number]))
            future = past.fork()
            rest = np.maximum(_residual(rng, lives, age), 1)
            future.replace_work(tasks["number"], np.arange(len(rest) + 1, dtype=np.uint32), rest, known)
            arrivals = self._arrivals(rng, present, horizon_ms)
            if arrivals is not None:
                future.submit(arrivals)
            future.advance(present.now_ms + horizon_ms)
            futures.append(load_of(future.take_series()))
        return futures

    def _arrivals(self, rng: np.random.Generator, present: Simulation, horizon_ms: int) -> EngineWorkload | None:
        """New tasks within the horizon, copies of finished ones at the recent rate."""
        hours = min(_RATE_HOURS, max(present.now_ms / _HOUR_MS, 1.0))
        count = int(rng.poisson(len(self._arrivals_ms) / hours * horizon_ms / _HOUR_MS))
        if count == 0:
            return None
        chosen = [self._finished[i] for i in rng.integers(0, len(self._finished), count)]
        begin = present.start_epoch_ms + present.now_ms
        submitted = np.sort(rng.integers(1, horizon_ms, count)) + begin
        return EngineWorkload.from_columns(
            {
                "ids": np.arange(-count, 0, dtype=np.int64),
                "submission_ms": submitted.astype(np.int64),
                "duration_ms": np.array([task.lived_ms for task in chosen], dtype=np.int64),
                "cpu_count": np.array([task.cpu_count for task in chosen], dtype=np.uint32),
                "cpu_capacity_mhz": np.zeros(count),
                "memory_mib": np.zeros(count, dtype=np.int64),
                "fragment_offset": np.arange(count + 1, dtype=np.uint32),
                "fragment_duration_ms": np.array([min(t.lived_ms, 2**32 - 1) for t in chosen], dtype=np.uint32),
                "fragment_cpu_mhz": np.array([task.cpu_mhz for task in chosen]),
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

"""What if: fork the live twin, change one fork, advance both, compare.

Both forks see the same tasks and the same random numbers (the engine's generator is keyed by entity, not by order of drawing),
so a difference between them is the effect of the changes and of nothing else. Both conserve work, whatever policy the trace
ran with: otherwise a slower host would lose work instead of taking longer, and look like a saving. The live twin is read and
never written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from opendt.model.change import ConserveWork
from opendt.twin.metrics import Totals, WindowMetrics, window_metrics

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation
    from opendt.model.change import Change

__all__ = ["Comparison", "WhatIf", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same stretch of time without and with changes."""

    baseline: WindowMetrics
    changed: WindowMetrics


class WhatIf:
    """Questions to the live twin as it is now; the future without changes is simulated once and shared by all of them.

    Parameters
    ----------
    live : Simulation
        Asked, never changed. Peak power and utilisation need it to record samples.
    horizon_ms : int
        How far to look ahead, in ms.

    Raises
    ------
    ValueError
        When the horizon is not positive.
    """

    def __init__(self, live: Simulation, horizon_ms: int) -> None:
        if horizon_ms <= 0:
            raise ValueError(f"the horizon of a what-if is {horizon_ms} ms, expected a positive time")
        self._present = live.fork(with_basis=False)
        self._present.apply(ConserveWork())
        self._start = Totals.of(self._present)
        self._until_ms = self._start.time_ms + horizon_ms
        self._baseline: WindowMetrics | None = None

    @property
    def baseline(self) -> WindowMetrics:
        """The horizon without changes."""
        if self._baseline is None:
            self._baseline = self._ahead(self._present.fork())
        return self._baseline

    def changed(self, changes: Sequence[Change]) -> WindowMetrics:
        """Simulate the horizon with changes applied now, in order.

        Raises
        ------
        EngineError
            When a change names what does not exist or holds values that no simulation can use.
        """
        fork = self._present.fork()
        fork.apply(*changes)
        return self._ahead(fork)

    def compare(self, changes: Sequence[Change]) -> Comparison:
        """Simulate the horizon without and with changes, both at once; raises as `changed`."""
        if self._baseline is not None:
            return Comparison(baseline=self._baseline, changed=self.changed(changes))
        stop = Event()
        with ThreadPoolExecutor(max_workers=1) as pool:
            baseline = pool.submit(self._ahead, self._present.fork(), _until(stop))
            try:
                changed = self.changed(changes)
                self._baseline = baseline.result()
            except BaseException:  # Ctrl-C too, which only this thread hears
                stop.set()
                raise
        return Comparison(baseline=self._baseline, changed=changed)

    def _ahead(self, fork: Simulation, progress: Callable[[int], None] | None = None) -> WindowMetrics:
        fork.advance(self._until_ms, progress)
        ends = {"start": self._start, "end": Totals.of(fork)}
        return window_metrics(fork.take_series(), fork.take_results(), **ends, tasks=fork.tasks(), opening=True)


class _StoppedError(Exception):
    """Ends a simulation whose result nobody waits for any more."""


def _until(stop: Event) -> Callable[[int], None]:
    """Give a progress callback that ends the run when `stop` is set."""

    def progress(_now_ms: int) -> None:
        if stop.is_set():
            raise _StoppedError

    return progress


def compare(live: Simulation, changes: Sequence[Change], horizon_ms: int) -> Comparison:
    """Compare the next `horizon_ms` of the live twin without and with changes; see `WhatIf` for several questions.

    Raises
    ------
    EngineError
        When a change cannot be applied.
    ValueError
        When the horizon is not positive.
    """
    return WhatIf(live, horizon_ms).compare(changes)

"""The last hours as they were, ready to be lived again with something changed.

One twin lags behind the live one and knows all that happened since: a state, and behind it the work of whole windows. Lived again
with a change, each of these windows tells what the change would have brought; `opendt.optimization.backtest` asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation
    from opendt.twin.arrivals import Tasks, Work
    from opendt.twin.live import LiveTwin

__all__ = ["Past", "PastWindows"]


@dataclass(frozen=True, slots=True)
class Past:
    """A state of earlier that knows what came after it.

    Attributes
    ----------
    simulation : Simulation
        Of that moment; forked, never changed.
    windows : int
        Whole windows that are known from there on, at least one.
    window_ms : int
        Their length, ms.
    """

    simulation: Simulation
    windows: int
    window_ms: int


class PastWindows:
    """Keeps the last windows of a live twin; all its state is its own and can be pickled.

    Parameters
    ----------
    window_ms : int
        Length of a window, ms.
    most : int
        Windows that are kept.
    """

    def __init__(self, window_ms: int, most: int = 12) -> None:
        self.window_ms = window_ms
        self.most = most
        self._twin: LiveTwin | None = None
        self._known_ms = 0

    def feed(self, tasks: Tasks | None, work: Work) -> None:
        """Take what the live twin is told, when it is told."""
        if self._twin is not None:
            if tasks is not None:
                self._twin.submit(tasks)
            self._twin.feed(work)

    def follow(self, live: LiveTwin) -> None:
        """Go on with the live twin after it has advanced."""
        if self._twin is None:
            # A topology that is about to change says little of the one that comes.
            if not live.is_changing:
                self._twin = live.fork()
            return
        self._known_ms = live.now_ms
        while self._windows > self.most:
            for _ in self._twin.confirm(self._twin.now_ms + self.window_ms):
                pass

    def forget(self) -> None:
        """Begin anew: the system is another one now."""
        self._twin = None

    def past(self) -> Past | None:
        """Give what is known; None before the first window is whole."""
        if self._twin is None or self._windows < 1:
            return None
        return Past(self._twin.simulation.fork(with_basis=False), self._windows, self.window_ms)

    @property
    def _windows(self) -> int:
        return 0 if self._twin is None else (self._known_ms - self._twin.now_ms) // self.window_ms

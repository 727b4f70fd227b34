"""The loop over a recorded environment, with everything that it said and saw kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opendt.orchestrator.cycle import Confirmed, Cycle, Settings, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.proposal import Proposal, SimulatedEffect
    from opendt.model.slo import Slo
    from opendt.optimization.base import Optimizer
    from opendt.optimization.scoring import SloStatus
    from opendt.orchestrator.environment import Environment, Window
    from opendt.twin.forecast import Forecast
    from opendt.twin.metrics import WindowMetrics

__all__ = ["Journal", "Rehearsal"]


@dataclass(slots=True)
class Journal:
    """Everything the loop has said and seen, in order.

    Attributes
    ----------
    forecasts : list of Forecast
        Of all kinds.
    turns : list of tuple
        Window number, metrics and objectives of each window.
    proposals : list of tuple
        Each proposal with its simulated effect.
    events : list
        Drift and rollback, with the kind of forecast whose calibration noticed.
    disturbance_w : list of tuple
        Window end and the disturbances of the hour-ahead calibration together, W.
    series : list of dict
        Series of each window that is confirmed.
    measured_w : list of ndarray
        Readings of each window, W.
    """

    forecasts: list[Forecast] = field(default_factory=list)
    turns: list[tuple[int, WindowMetrics, tuple[SloStatus, ...]]] = field(default_factory=list)
    proposals: list[tuple[Proposal, SimulatedEffect]] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(default_factory=list)
    disturbance_w: list[tuple[int, float]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    measured_w: list[NDArray[np.float64]] = field(default_factory=list)

    def note(self, turn: Turn) -> None:
        """Take down a turn."""
        self.measured_w.append(turn.window.measured_w)
        self.confirm(turn.confirmed)
        self.forecasts.extend(turn.forecasts)
        self.turns.append((turn.window.index, turn.metrics, turn.slo))
        self.proposals.extend((one.proposal, one.effect) for one in turn.candidates if one.effect is not None)

    def confirm(self, confirmed: tuple[Confirmed, ...]) -> None:
        """Take down windows that became known."""
        for one in confirmed:
            self.series.append(one.observed.series)
            self.forecasts.extend(one.forecasts)
            self.events.extend(one.events)
            self.disturbance_w.append((one.observed.end_ms, one.disturbance_w))


class Rehearsal:
    """The loop over a recorded environment.

    Parameters
    ----------
    environment : Environment
        The world.
    slo : Slo
        Objectives.
    settings : Settings
        Of the loop.
    optimizer : Optimizer, optional
        Proposes changes; the rules unless given.
    """

    def __init__(
        self, environment: Environment, slo: Slo, settings: Settings | None = None, optimizer: Optimizer | None = None
    ) -> None:
        self.environment = environment
        self.settings = settings or Settings()
        self.journal = Journal()
        self.cycle = Cycle(
            environment.topology,
            slo,
            start_epoch_ms=environment.start_epoch_ms,
            tick_ms=environment.source.tick_ms,
            settings=self.settings,
            optimizers=None if optimizer is None else (optimizer,),
        )

    def run(self, on_turn: Callable[[Turn], None] | None = None, *, until_ms: int | None = None) -> Journal:
        """Go through the windows of the environment.

        What ran in the last one is known in the one after it, which is taken in but no turn is made of it.

        Parameters
        ----------
        on_turn : callable, optional
            Told after every window.
        until_ms : int, optional
            Stop after the window that reaches this time, ms since the start.

        Returns
        -------
        Journal
            What was said and seen; also when the run was interrupted, in `journal`.
        """
        end_ms = self.environment.source.end_ms
        end_ms = end_ms if until_ms is None else min(end_ms, until_ms)
        for window in self.environment.source.windows(self.settings.window_ms):
            if window.start_ms >= end_ms:
                self._close(window)
                break
            turn = self.cycle.turn(window)
            self.journal.note(turn)
            if on_turn is not None:
                on_turn(turn)
        return self.journal

    def _close(self, window: Window) -> None:
        """Learn what the last windows were from the one after them; of a horizon under way tell what is known of it."""
        self.cycle.take(window)
        self.journal.confirm(self.cycle.confirm(window.start_ms))
        begun = (self.cycle.hour.unfinished(), self.cycle.window.unfinished())
        self.journal.forecasts.extend(forecast for forecast in begun if forecast is not None)

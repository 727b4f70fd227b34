"""From turns of the loop to what the live view shows: running scores of each kind of forecast, objectives, the last proposal."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from opendt.cli.live_view import ForecastState, LiveState, LiveView, SloState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from opendt.orchestrator.controller import OpenDTOrchestrator, Turn
    from opendt.twin.forecast import Forecast

    Floats = NDArray[np.float64]

__all__ = ["watch"]

_NAMES: Final = {"hour": "one hour ahead", "window": "next window", "blind_hour": "one hour, blind"}


@dataclass(slots=True)
class _Tally:
    """Errors of one kind of forecast so far, point by point."""

    current: Forecast | None = None
    last_w: float | None = None
    points: int = 0
    rival_points: int = 0
    error: float = 0.0
    rival_error: float = 0.0
    inside: int = 0

    def issue(self, forecast: Forecast, last_w: float | None) -> None:
        self.current, self.last_w = forecast, last_w

    def settle(self, start_ms: int, measured_w: Floats, tick_ms: int) -> float | None:
        """Compare a window with what was said about it; gives the mean that was predicted."""
        if self.current is None:
            return None
        first = (start_ms - self.current.issued_ms) // tick_ms
        part = slice(first, first + len(measured_w))
        power_w = self.current.power_w[part]
        measured_w = measured_w[: len(power_w)]
        seen = measured_w > 0
        if seen.any():
            truth = measured_w[seen]
            self.points += len(truth)
            self.error += float(abs(power_w[seen] / truth - 1.0).sum())
            lower_w, upper_w = self.current.lower_w[part], self.current.upper_w[part]
            self.inside += int(((lower_w[seen] <= truth) & (truth <= upper_w[seen])).sum())
            if self.last_w is not None:
                self.rival_points += len(truth)
                self.rival_error += float(abs(self.last_w / truth - 1.0).sum())
        return float(power_w.mean()) if len(power_w) else None

    def state(self, name: str) -> ForecastState:
        return ForecastState(
            name=name,
            mape_ratio=self.error / self.points if self.points else None,
            persistence_mape_ratio=self.rival_error / self.rival_points if self.rival_points else None,
            coverage_ratio=self.inside / self.points if self.points else None,
        )


@dataclass(slots=True)
class _Watcher:
    """Turns the loop's turns into states of the view."""

    orchestrator: OpenDTOrchestrator
    view: LiveView
    tallies: dict[str, _Tally] = field(default_factory=lambda: {kind: _Tally() for kind in _NAMES})
    last_w: float | None = None
    proposal: str = ""

    def begin(self) -> None:
        """Take over what was issued before the first window."""
        for forecast in self.orchestrator.journal.forecasts:
            self.tallies[forecast.kind].issue(forecast, self.last_w)

    def turn(self, turn: Turn) -> None:
        if turn.window.index == 0:
            self.begin()
        source = self.orchestrator.environment.source
        measured_w = turn.window.measured_w
        predicted = {
            kind: tally.settle(turn.window.start_ms, measured_w, source.tick_ms) for kind, tally in self.tallies.items()
        }
        seen = measured_w[measured_w > 0]
        if len(seen):
            self.last_w = float(seen[-1])
        for forecast in turn.forecasts:
            self.tallies[forecast.kind].issue(forecast, self.last_w)
        if turn.proposal is not None:
            self.proposal = turn.proposal.reason
        self.view.update(self._state(turn, predicted["window"], float(seen.mean()) if len(seen) else None))

    def _state(self, turn: Turn, predicted_w: float | None, measured_w: float | None) -> LiveState:
        environment = self.orchestrator.environment
        hour = self.tallies["hour"].current
        return LiveState(
            dataset=environment.title,
            now_ms=turn.window.end_ms,
            end_ms=environment.source.end_ms,
            window=turn.window.index + 1,
            windows=-(-environment.source.end_ms // self.orchestrator.settings.window_ms),
            measured_w=measured_w,
            predicted_w=predicted_w,
            next_w=None if hour is None else float(hour.power_w.mean()),
            next_lower_w=None if hour is None else float(hour.lower_w.mean()),
            next_upper_w=None if hour is None else float(hour.upper_w.mean()),
            forecasts=[tally.state(_NAMES[kind]) for kind, tally in self.tallies.items()],
            slos=[SloState(status.name.replace("_", " "), status.met) for status in turn.slo],
            proposal=self.proposal,
            proposals=len(self.orchestrator.journal.proposals),
            start_epoch_ms=self.orchestrator.twin.simulation.start_epoch_ms,
        )


@contextmanager
def watch(orchestrator: OpenDTOrchestrator, *, quiet: bool) -> Iterator[Callable[[Turn], None] | None]:
    """Show the loop while it runs; gives what is to be told of every turn, or None when nobody looks."""
    if quiet:
        yield None
        return
    click.echo(f"{orchestrator.environment.title}: the closed loop, window by window", err=True)
    with LiveView() as view:
        yield _Watcher(orchestrator, view).turn

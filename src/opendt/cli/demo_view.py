"""From turns of the loop to what the live view shows: running scores of each kind of forecast, objectives, the last proposal."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from opendt.cli.live_view import ForecastState, LiveState, LiveView, SloState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opendt.orchestrator.cycle import Turn
    from opendt.orchestrator.rehearsal import Rehearsal
    from opendt.twin.forecast import Forecast
    from opendt.verification.verdict import Verdict

__all__ = ["watch"]

_NAMES: Final = {"hour": "one hour ahead", "window": "next window", "blind_hour": "one hour, blind"}


@dataclass(slots=True)
class _Tally:
    """Errors of one kind of forecast so far, point by point."""

    points: int = 0
    rival_points: int = 0
    error: float = 0.0
    rival_error: float = 0.0
    inside: float = 0.0

    def add(self, verdict: Verdict) -> None:
        if verdict.error_ratio is None or verdict.coverage_ratio is None:
            return
        self.points += verdict.points
        self.error += verdict.points * verdict.error_ratio
        self.inside += verdict.points * verdict.coverage_ratio
        if verdict.persistence_error_ratio is not None:
            self.rival_points += verdict.points
            self.rival_error += verdict.points * verdict.persistence_error_ratio

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

    rehearsal: Rehearsal
    view: LiveView
    tallies: dict[str, _Tally] = field(default_factory=lambda: {kind: _Tally() for kind in _NAMES})
    ahead: Forecast | None = None
    proposal: str = ""

    def turn(self, turn: Turn) -> None:
        for verdict in turn.verdicts:
            self.tallies[verdict.kind].add(verdict)
        predicted_w = None
        if self.ahead is not None:
            spoken_of = (self.ahead.target_ms > turn.window.start_ms) & (self.ahead.target_ms <= turn.window.end_ms)
            predicted_w = float(self.ahead.power_w[spoken_of].mean()) if spoken_of.any() else None
        for forecast in turn.forecasts:
            self.ahead = forecast
        if turn.candidates:
            self.proposal = turn.candidates[0].proposal.reason
        self.view.update(self._state(turn, predicted_w))

    def _state(self, turn: Turn, predicted_w: float | None) -> LiveState:
        environment = self.rehearsal.environment
        seen = turn.window.measured_w[turn.window.measured_w > 0]
        ahead = self.ahead
        return LiveState(
            dataset=environment.title,
            now_ms=turn.window.end_ms,
            end_ms=environment.source.end_ms,
            window=turn.window.index + 1,
            windows=-(-environment.source.end_ms // self.rehearsal.settings.window_ms),
            measured_w=float(seen.mean()) if len(seen) else None,
            predicted_w=predicted_w,
            next_w=None if ahead is None else float(ahead.power_w.mean()),
            next_lower_w=None if ahead is None else float(ahead.lower_w.mean()),
            next_upper_w=None if ahead is None else float(ahead.upper_w.mean()),
            forecasts=[tally.state(_NAMES[kind]) for kind, tally in self.tallies.items()],
            slos=[SloState(status.name.replace("_", " "), status.met) for status in turn.slo],
            proposal=self.proposal,
            proposals=len(self.rehearsal.journal.proposals),
            start_epoch_ms=environment.start_epoch_ms,
        )


@contextmanager
def watch(rehearsal: Rehearsal, *, quiet: bool) -> Iterator[Callable[[Turn], None] | None]:
    """Show the loop while it runs; gives what is to be told of every turn, or None when nobody looks."""
    if quiet:
        yield None
        return
    click.echo(f"{rehearsal.environment.title}: the closed loop, window by window", err=True)
    with LiveView() as view:
        yield _Watcher(rehearsal, view).turn

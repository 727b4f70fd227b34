"""What is told of a window that has closed: events to people, results to whoever listens, the state to whoever asks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from opendt.orchestrator import event_types as events
from opendt.orchestrator.buffer import WindowSeries, series_columns
from opendt.orchestrator.records import events_of, proposals_of, result_of, topology_of
from opendt.telemetry.deadletter import encode_dead_letter
from opendt.telemetry.messages import DEAD_LETTERS, PROPOSALS, RESULTS, SIM_TOPOLOGY, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.mode import Mode
    from opendt.orchestrator.buffer import SimulationResultsBuffer
    from opendt.orchestrator.cycle import Turn
    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.in_force import InForce
    from opendt.orchestrator.state import LiveState
    from opendt.telemetry.deadletter import DeadLetter
    from opendt.telemetry.source import Sink
    from opendt.telemetry.windows import WindowInput
    from opendt.verification.ledger_rows import WindowEntry

__all__ = ["Counts", "Teller"]


@dataclass(slots=True)
class Counts:
    """What has come in since the first window."""

    late: int = 0
    duplicate: int = 0
    dead: int = 0
    energy_kwh: float = 0.0
    strangers: int = 0


class Teller:
    """Tells of the windows of one datacenter.

    Parameters
    ----------
    datacenter : str
        Its name.
    window_ms : int
        Length of a window.
    in_force : InForce
        Its topology and objectives.
    state : LiveState
        What is shown of it.
    buffer : SimulationResultsBuffer
        Takes the series of the windows that are known.
    bus : EventBus
        Told of everything.
    sink : Sink, optional
        Where results and dead letters go.
    """

    def __init__(
        self,
        datacenter: str,
        window_ms: int,
        in_force: InForce,
        state: LiveState,
        buffer: SimulationResultsBuffer,
        bus: EventBus,
        sink: Sink | None,
    ) -> None:
        self.counts = Counts()
        self._datacenter = datacenter
        self._window_ms = window_ms
        self._in_force = in_force
        self._state = state
        self._buffer = buffer
        self._bus = bus
        self._sink = sink
        self._told_topology: int | None = None

    def publish(self, closed: WindowInput, turn: Turn, dead: Sequence[DeadLetter], *, is_new: bool) -> None:
        """Tell of a window by events (once), series and messages (at least once: they are known by their window)."""
        if is_new:
            self._tell_events(closed, turn, dead)
        self._keep_series(closed, turn)
        if self._sink is None:
            return
        # What follows a snapshot is derived again after a kill, and told again.
        self._sink.send(RESULTS, encode(result_of(closed, turn)), key=self._datacenter)
        for proposal in proposals_of(closed, turn):
            self._sink.send(PROPOSALS, encode(proposal), key=self._datacenter)
        self._tell_topology(closed, self._sink)
        for letter in dead:
            self._sink.send(DEAD_LETTERS, encode_dead_letter(letter), key=self._datacenter)

    def _tell_events(self, closed: WindowInput, turn: Turn, dead: Sequence[DeadLetter]) -> None:
        for event in events_of(closed, turn):
            self._bus.publish(event)
        for letter in dead:
            self._bus.publish(
                events.DeadLetter(
                    datacenter=self._datacenter,
                    time_ms=letter.timestamp_ms,
                    topic=letter.topic,
                    partition=letter.partition,
                    offset=letter.offset,
                    reason=letter.reason,
                )
            )

    def _keep_series(self, closed: WindowInput, turn: Turn) -> None:
        topology, origin_ms = self._in_force.topology, closed.origin_ms
        names = [cluster.name for cluster in topology.clusters] if topology is not None else []
        for one in turn.confirmed:
            observed = one.observed
            columns = series_columns(observed.series, names, origin_ms=origin_ms)
            columns["measured_w"] = one.measured_w
            index = observed.end_ms // self._window_ms - 1
            self._buffer.append(
                WindowSeries(index, observed.start_ms + origin_ms, observed.end_ms + origin_ms, columns)
            )

    def _tell_topology(self, closed: WindowInput, sink: Sink) -> None:
        """Tell which topology is in force in the twin from the next window on, when that is news."""
        index, topology = closed.index + 1, self._in_force.topology
        version = self._in_force.versions(index)[0]
        if topology is None or version == self._told_topology:
            return
        self._told_topology = version
        source = self._in_force.topology_source(index)
        sink.send(SIM_TOPOLOGY, encode(topology_of(closed, topology, version, source)), key=self._datacenter)

    def show_counts(self) -> None:
        """Show what has come in so far."""
        self._state.update(
            late_count=self.counts.late,
            duplicate_count=self.counts.duplicate,
            dead_letter_count=self.counts.dead,
            energy_kwh=self.counts.energy_kwh,
        )

    def show(self, closed: WindowInput, turn: Turn, entry: WindowEntry, trust_level: Mode) -> None:
        """Show the window, and count what came in with it."""
        counts = self.counts
        counts.late += closed.counts.get("late", 0)
        counts.duplicate += closed.counts.get("duplicate", 0)
        counts.dead += closed.counts.get("dead", 0)
        counts.energy_kwh += turn.metrics.energy_kwh or 0.0
        counts.strangers += turn.strangers
        self.show_counts()
        watermark_ms = max((position.watermark_ms for position in closed.positions), default=closed.end_ms)
        seen = turn.window.measured_w[turn.window.measured_w > 0]
        changes: dict[str, Any] = {
            "cycle_count": closed.index + 1,
            "window_index": closed.index,
            "window_end_ms": closed.end_ms,
            "origin_ms": closed.origin_ms,
            "watermark_ms": watermark_ms,
            "lag_ms": watermark_ms - closed.end_ms,
            "power_w": float(seen.mean()) if len(seen) else None,
            "predicted_power_w": None if turn.metrics.mean_power_kw is None else turn.metrics.mean_power_kw * 1000.0,
            "last_metrics": dict(entry.metrics),
            "window_baseline_score": entry.score,
            "topology_version": entry.topology_version,
            "slo_version": entry.slo_version,
            "trust_level": trust_level,
            "window_best_score": _best_score(turn),
        }
        changes |= self._in_force.news(closed.index + 1)
        if turn.candidates:
            last = turn.candidates[0]
            changes["last_proposal"] = last.proposal.model_dump(mode="json") | {"decision": asdict(last.decision)}
        self._state.update(changes)


def _best_score(turn: Turn) -> float | None:
    """Least score among what was certified."""
    certified = [one for one in turn.candidates if one.certificate is not None and one.certificate.is_certified]
    scores = [one.effect.score.changed for one in certified if one.effect is not None]
    return min((score for score in scores if score is not None), default=None)

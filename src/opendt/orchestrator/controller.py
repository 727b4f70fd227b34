"""One datacenter that is followed: windows come in, the loop turns, the ledger records, results go out.

`OpenDTOrchestrator` holds what belongs to one datacenter; `follower` feeds many of them from one source. A window is recorded with its
predictions and offsets in one transaction, and derived again, not counted again, when the process was killed after that: what
was recorded is then compared, and a difference stops the process.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

import orjson

from opendt.model.errors import InputError, LedgerError, shown
from opendt.model.proposal import Proposal
from opendt.optimization.plugins import modules_of_plugins
from opendt.orchestrator import event_types as events
from opendt.orchestrator.buffer import SimulationResultsBuffer
from opendt.orchestrator.certificate_store import CertificateStore
from opendt.orchestrator.cycle import Cycle, Turn
from opendt.orchestrator.cycle import Settings as CycleSettings
from opendt.orchestrator.decisions import Requests, human_proposal
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.factory import decision_settings, make_optimizers, reconnect
from opendt.orchestrator.in_force import InForce
from opendt.orchestrator.intake import window_of
from opendt.orchestrator.patience import Stopping
from opendt.orchestrator.records import entry_of
from opendt.orchestrator.settings_model import Mode
from opendt.orchestrator.snapshots import SnapshotStore
from opendt.orchestrator.state import LiveState
from opendt.orchestrator.teller import Teller
from opendt.orchestrator.versions import FileWatchers
from opendt.telemetry.source import Partition
from opendt.telemetry.windows import WindowAssembler
from opendt.verification.ledger_lease import LeaseGoneError
from opendt.verification.ledger_rows import EventRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.orchestrator.settings_model import DatacenterSettings, Settings
    from opendt.telemetry.source import Record, Sink
    from opendt.telemetry.windows import SettingChange, WindowInput
    from opendt.verification.ledger import Ledger
    from opendt.verification.ledger_rows import DocumentRow, PositionRow, WindowEntry, WindowRow

__all__ = ["ACCEPT", "PROPOSE", "REJECT", "OpenDTOrchestrator"]

TICK_MS: Final = 30_000
_SNAPSHOT_SHARE: Final = 0.03
"""Most of the time that goes to taking snapshots; what came after the last one is computed again after a kill."""

PROPOSE: Final = "proposal"
ACCEPT: Final = "proposal.accept"
REJECT: Final = "proposal.reject"
REQUESTS: Final = frozenset({PROPOSE, ACCEPT, REJECT})
"""Keys of ``sys.config`` by which people take part in decisions."""

_EXCHANGE: Final = "llm_exchange"


@dataclass(slots=True)
class _Progress:
    """How far this datacenter is."""

    recorded: int = -1  # last window in the ledger when we began
    index: int = -1  # last window that was turned


class OpenDTOrchestrator:
    """Follows one datacenter.

    Parameters
    ----------
    settings : Settings
        Of the process.
    datacenter : str
        Name: the key of its messages. The only one of the settings unless given.
    ledger : Ledger
        Where windows are recorded.
    sink : Sink, optional
        Where results and dead letters go.
    bus : EventBus, optional
        Told of everything that happens.
    watchers : FileWatchers, optional
        Looks at the files of topology and objectives; its own unless given.
    clock_s : callable
        Monotonic clock, s: when windows follow each other faster than in life, snapshots are written less often.
    """

    def __init__(
        self,
        settings: Settings,
        datacenter: str | None = None,
        *,
        ledger: Ledger,
        sink: Sink | None = None,
        bus: EventBus | None = None,
        watchers: FileWatchers | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.config = _section(settings, datacenter)
        self.datacenter = self.config.name
        self.ledger = ledger
        self.sink = sink
        self.bus = bus or EventBus()
        self.state = LiveState()
        self.cycle: Cycle | None = None
        self.mode: Mode = settings.mode
        self._recorded_windows: Iterator[WindowRow] | None = None  # those that are derived again
        self._again: WindowRow | None = None
        self._is_whole = True  # not in the midst of a window, where the twin is ahead of what is recorded
        self._watchers = watchers or FileWatchers()
        self._stack = ExitStack()
        self._progress = _Progress()
        self._clock_s = clock_s
        self._snapshot_due_s = -float("inf")
        self._snapshot_index = -1  # window of the last snapshot
        plugins = modules_of_plugins(settings.optimizers)
        self._snapshots = SnapshotStore(settings.state_dir / "snapshots" / self.datacenter, self.datacenter, plugins)
        self._certificates = CertificateStore(
            settings.certificates_directory / self.datacenter, settings.gate.certificates_mib << 20
        )
        self.assembler = WindowAssembler(
            self.datacenter,
            window_ms=settings.window_ms,
            lateness_ms=settings.lateness_ms,
            power_patience_ms=settings.power_patience_ms,
        )
        self.buffer = SimulationResultsBuffer(
            settings.state_dir / "results" / self.datacenter,
            datacenter=self.datacenter,
            memory_windows=settings.results.memory_windows,
            retention_ms=None if settings.results.retention_s is None else settings.results.retention_s * 1000,
            retention_bytes=None if settings.results.retention_mib is None else settings.results.retention_mib << 20,
            is_durable=False,
            on_event=self.bus.publish,
        )
        self._in_force = InForce(settings, self.config, ledger, self.bus)
        self._teller = Teller(
            self.datacenter, settings.window_ms, self._in_force, self.state, self.buffer, self.bus, sink
        )

    @property
    def topology(self) -> Topology | None:
        """As it is in the twin; None until it is known."""
        return self._in_force.topology

    @property
    def slo(self) -> Slo | None:
        """Objectives in force; None until they are known."""
        return self._in_force.slo

    # -- beginning ---------------------------------------------------------------------------------------------------

    def start(self, *, wait_s: float = 0.0) -> None:
        """Take the datacenter over: lease, versions, the newest snapshot.

        Parameters
        ----------
        wait_s : float
            How long to wait for another process that has it, s.

        Raises
        ------
        LedgerError
            When another process follows this datacenter.
        InputError
            When topology or objectives do not validate and there is no earlier version.
        """
        self.state.update(
            datacenter=self.datacenter,
            status="starting",
            environment=self.settings.environment,
            mode=self.settings.mode,
        )
        try:
            self._stack.enter_context(self.ledger.lease(self.datacenter, wait_s=wait_s))
        except LedgerError as error:
            self.bus.publish(events.LeaseRefused(datacenter=self.datacenter, holder=str(error)))
            raise
        self.load_initial_topology()
        self.load_initial_slo()
        last = self.ledger.last_window(self.datacenter)
        self._progress = _Progress(recorded=-1 if last is None else last.index)
        self._restore()
        window = self._progress.index + 1
        self.bus.publish(
            events.Started(
                datacenter=self.datacenter,
                environment=self.settings.environment,
                mode=self.settings.mode,
                window=window,
            )
        )
        self.state.update(self._in_force.news(window), status="running", cycle_count=window)

    @property
    def is_catching_up(self) -> bool:
        """Whether the next window is one that was recorded before, and is derived again."""
        return self._progress.index < self._progress.recorded

    def resume_offsets(self) -> dict[Partition, int]:
        """Where each partition is to be read from to go on after the last window."""
        return {
            Partition(position.topic, position.partition): position.resume_offset
            for position in self.assembler.position()
        }

    def load_initial_topology(self) -> Topology | None:
        """Give the topology to begin with: the first version that was recorded, else that of the file, else None."""
        return self._in_force.load_topology()

    def load_initial_slo(self) -> Slo | None:
        """Give the objectives to begin with: the first version that was recorded, else those of the file, else None."""
        return self._in_force.load_slo()

    def start_topology_watcher(self) -> None:
        """Look out for edits of the topology file; they take effect with the next window."""
        if self.config.topology is not None:
            self._watchers.add(self._in_force.topology_file)
            self._stack.callback(self._watchers.remove, self._in_force.topology_file)

    def start_slo_watcher(self) -> None:
        """Look out for edits of the objectives; they take effect with the next window."""
        if self.config.slo is not None:
            self._watchers.add(self._in_force.slo_file)
            self._stack.callback(self._watchers.remove, self._in_force.slo_file)

    def _restore(self) -> None:
        if self._progress.recorded < 0:
            return
        snapshot, reasons = self._snapshots.newest(self._progress.recorded)
        if snapshot is None:
            reason = "; ".join(reasons) or "none was written yet"
            self.bus.publish(events.SnapshotRebuilt(datacenter=self.datacenter, reason=reason))
            return
        for reason in reasons:
            self.bus.publish(events.SnapshotRebuilt(datacenter=self.datacenter, reason=reason))
        self.cycle = snapshot.state["cycle"]
        reconnect(self.cycle.decisions.optimizers, self.settings)
        self.assembler.restore(snapshot.state["assembler"])
        self._in_force.resume(snapshot.index + 1)
        self._progress.index = snapshot.index
        self._teller.counts = snapshot.state["counts"]
        self._teller.show_counts()
        self.mode = snapshot.state["mode"]
        for window in snapshot.state["results"]:
            self.buffer.append(window)
        self._snapshot_index = snapshot.index
        self.bus.publish(events.SnapshotRestored(datacenter=self.datacenter, window=snapshot.index))

    # -- windows -----------------------------------------------------------------------------------------------------

    def run_consumer(self, *, drain: bool = False) -> None:
        """Follow this datacenter alone, from the transport of the settings, until the process is told to stop.

        Parameters
        ----------
        drain : bool
            Process what is there, then stop.
        """
        from opendt.orchestrator.follower import Follower
        from opendt.orchestrator.transports import open_source

        source = open_source(self.settings, self.bus)
        Follower(self.settings, lambda _: self, [self.datacenter], self.ledger, source, bus=self.bus).run(drain=drain)

    def take(self, records: Sequence[Record]) -> None:
        """Take records of this datacenter, in order within each partition."""
        self.assembler.add(records)

    def turn_windows(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Run the loop for every window that can close; gives how many did.

        Raises
        ------
        LeaseGoneError
            When another process has taken the datacenter over; nothing of the window is recorded.
        """
        count = 0
        while not should_stop():
            closed = self.assembler.next(self._positions_before())
            if closed is None:
                break
            try:
                self.run_simulation(closed)
            except LeaseGoneError as error:
                self.bus.publish(events.LeaseLost(datacenter=self.datacenter, holder=error.holder))
                raise
            count += 1
        if count and self.sink is not None:
            self.sink.flush()  # nobody waits for results until the next snapshot
        return count

    def _positions_before(self) -> tuple[PositionRow, ...] | None:
        """How far the next window took each stream when it was recorded; None when it is new."""
        index = self._progress.index + 1
        if index > self._progress.recorded:
            return None
        if self._recorded_windows is None:
            self._recorded_windows = self.ledger.windows(self.datacenter, index, self._progress.recorded)
        if self._again is None or self._again.index != index:
            self._again = next(self._recorded_windows)
        return self._again.positions

    def run_simulation(self, closed: WindowInput) -> Turn:
        """Turn the loop once: take the window, simulate, learn, score, propose, record, publish."""
        self._is_whole = False
        is_new = closed.index > self._progress.recorded  # otherwise the ledger knows what follows from it
        if is_new and self.cycle is not None:
            self._in_force.plan(closed)
        cycle = self._cycle_of(closed)
        recorded = self._recorded(closed)
        requests = self._requests(closed, recorded)
        next_index = closed.index + 1
        turn = cycle.turn(window_of(closed, TICK_MS), requests, is_moving=self._in_force.is_moving(next_index))
        topology_version, slo_version = self._in_force.versions(closed.index)
        entry = entry_of(
            closed,
            turn,
            cycle,
            topology_version=topology_version,
            slo_version=slo_version,
            extra_events=self._exchanges(closed, cycle, recorded),
        )
        self._keep_inputs(turn)
        was_added = self.ledger.record_window(entry)
        # Only now: what is decided again after a kill is what the ledger holds, whoever proposed it.
        is_next_new = next_index > self._progress.recorded
        if is_next_new:
            self._in_force.plan_decided(next_index, turn.candidates)
        self._in_force.apply(closed, cycle, is_new=is_next_new)
        self._take_settings(closed)
        self._progress.index = closed.index
        self._teller.publish(closed, turn, self.assembler.take_dead(), is_new=was_added)
        self._teller.show(closed, turn, entry, cycle.decisions.trust.level)
        self._is_whole = True
        is_due = closed.index - self._snapshot_index >= self.settings.snapshot_every_windows
        if is_due and self._clock_s() >= self._snapshot_due_s:
            self.write_snapshot()
        return turn

    def _cycle_of(self, closed: WindowInput) -> Cycle:
        if self.cycle is not None:
            return self.cycle
        topology, slo = self._in_force.begin(closed)
        self.cycle = Cycle(
            self._in_force.with_carbon(topology),
            slo,
            start_epoch_ms=closed.origin_ms,
            tick_ms=TICK_MS,
            settings=CycleSettings(
                window_ms=self.settings.window_ms, futures=self.settings.futures, seed=self.settings.seed
            ),
            decisions=decision_settings(self.settings),
            optimizers=make_optimizers(self.settings, topology),
        )
        self.cycle.decisions.mode = self.mode
        return self.cycle

    def _recorded(self, closed: WindowInput) -> WindowEntry | None:
        """The window as it was recorded when it was derived before, where somebody proposes who would not say the same again."""
        optimizers = [] if self.cycle is None else self.cycle.decisions.optimizers
        repeats = all(getattr(one, "is_deterministic", True) for one in optimizers)
        if repeats or closed.index > self._progress.recorded:
            return None
        return next(self.ledger.entries(self.datacenter, closed.index, closed.index)).entry

    def _requests(self, closed: WindowInput, recorded: WindowEntry | None) -> Requests:
        """What people asked for on ``sys.config``, and what was proposed here when the window was derived before."""
        proposals: list[Proposal] = []
        accepted: list[str] = []
        rejected: list[str] = []
        for change in closed.settings:
            if change.key in (ACCEPT, REJECT):
                if not self._is_waiting(str(change.value)):
                    reason = f"found {shown(change.value)}, expected the id of a proposal that waits for a person"
                    self._refuse_setting(change, reason)
                    continue
                (accepted if change.key == ACCEPT else rejected).append(str(change.value))
            elif change.key == PROPOSE:
                try:
                    proposals.append(human_proposal(change.value, closed.end_ms - closed.origin_ms))
                except InputError as error:
                    self._refuse_setting(change, str(error))
        before = None if recorded is None else tuple(_proposal_of(document) for document in recorded.proposals)
        said = () if recorded is None else recorded.events
        exchanges = tuple(dict(event.content) for event in said if event.kind == _EXCHANGE)
        return Requests(tuple(proposals), tuple(accepted), tuple(rejected), before, exchanges)

    def _is_waiting(self, proposal_id: str) -> bool:
        return self.cycle is not None and proposal_id in self.cycle.decisions.gate.waiting

    def _exchanges(self, closed: WindowInput, cycle: Cycle, recorded: WindowEntry | None) -> list[EventRow]:
        """What language models were asked and answered in this window: now, or when it was derived before."""
        said = cycle.decisions.take_exchanges()
        if recorded is not None:
            return [event for event in recorded.events if event.kind == _EXCHANGE]
        return [EventRow(_EXCHANGE, closed.end_ms, content) for content in said]

    def _take_settings(self, closed: WindowInput) -> None:
        """Take settings that came on ``sys.config``; they hold from the next window on."""
        for change in closed.settings:
            where, when = self.datacenter, change.timestamp_ms
            if change.key in REQUESTS:
                continue
            if change.key == "mode" and change.value in get_args(Mode):
                self.mode = change.value
                if self.cycle is not None:
                    self.cycle.decisions.mode = self.mode
                self.state.update(mode=self.mode)
                event: events.Event = events.SettingChanged(
                    datacenter=where, time_ms=when, key=change.key, value=str(change.value)
                )
            else:
                expected = f"mode, one of {', '.join(get_args(Mode))}: all else is set by file and takes a restart"
                reason = f"found {shown(change.value)}, expected {expected}"
                self._refuse_setting(change, reason)
                continue
            self.bus.publish(event)

    def _refuse_setting(self, change: SettingChange, reason: str) -> None:
        self.bus.publish(
            events.SettingRefused(
                datacenter=self.datacenter, time_ms=change.timestamp_ms, key=change.key, reason=reason
            )
        )

    def _keep_inputs(self, turn: Turn) -> None:
        """Keep what this window's certificates rest on, before they are recorded."""
        for one in turn.candidates:
            if one.certificate is None or one.inputs is None:
                continue
            try:
                self._certificates.keep(one.certificate.hash, one.inputs)
            except OSError as error:
                reason = f"certificate {one.certificate.number}: {error}; it can be checked, but not decided again"
                self.bus.publish(events.ResultsTrouble(datacenter=self.datacenter, reason=reason))

    # -- after a turn ---------------------------------------------------------------------------------------------------

    def write_snapshot(self) -> None:
        """Take the state after the last window, so that a restart goes on from here; a thread writes it."""
        index = self._progress.index
        if self.cycle is None or index < 0 or not self._is_whole or index == self._snapshot_index:
            return
        if self.sink is not None:
            self.sink.flush()  # before: what a snapshot is behind is not derived again, and must have been told
        began_s = self._clock_s()
        state = {
            "cycle": self.cycle,
            "assembler": self.assembler.state(),
            "counts": self._teller.counts,
            "mode": self.mode,
            "results": self.buffer.unwritten(),
        }
        self._snapshot_index = index
        self._snapshots.write_behind(index, state, lambda found: self._tell_snapshot(index, found))
        now_s = self._clock_s()
        self._snapshot_due_s = now_s + (now_s - began_s) / _SNAPSHOT_SHARE

    def _tell_snapshot(self, index: int, found: int | OSError) -> None:
        event: events.Event
        if isinstance(found, OSError):
            self._snapshot_index = -1  # the next one is due as soon as may be
            event = events.ResultsTrouble(datacenter=self.datacenter, reason=f"snapshot: {found}")
        else:
            event = events.SnapshotWritten(datacenter=self.datacenter, window=index, size_bytes=found)
        self.bus.publish(event)

    def simulation_timeseries(
        self, since_ms: int | None = None, until_ms: int | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Series of the windows that are known, as columns, from `since_ms` until `until_ms`, ms since the epoch."""
        return self.buffer.timeseries(since_ms, until_ms)

    def stop(self, reason: str) -> None:
        """Give the datacenter up: a last snapshot, the lease back."""
        last = self._progress.index
        try:
            with suppress(Stopping):  # what could not be told is told after the next start, from an earlier snapshot
                self.write_snapshot()
        finally:
            self._snapshots.wait()
            self.buffer.close()
            self._stack.close()
            self.state.update(status="stopped")
            self.bus.publish(
                events.Stopped(datacenter=self.datacenter, reason=reason, window=last if last >= 0 else None)
            )


def _proposal_of(document: DocumentRow) -> Proposal:
    content = {name: value for name, value in document.content.items() if name != "simulated_effect"}
    return Proposal.model_validate_json(orjson.dumps(content))


def _section(settings: Settings, datacenter: str | None) -> DatacenterSettings:
    from opendt.orchestrator.settings_model import DEFAULT_DATACENTER, DatacenterSettings

    if datacenter is None:
        if len(settings.datacenter) > 1:
            names = ", ".join(settings.datacenter)
            raise InputError("datacenter", "none named", f"one of {names}")
        datacenter = next(iter(settings.datacenter), DEFAULT_DATACENTER)
    found = settings.datacenter.get(datacenter)
    return DatacenterSettings(name=datacenter) if found is None else found

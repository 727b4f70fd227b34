"""One datacenter that is followed: windows come in, the loop turns, the ledger records, results go out.

`OpenDTOrchestrator` holds what belongs to one datacenter; `follower` feeds many of them from one source. A window is recorded with its
predictions and offsets in one transaction, and derived again, not counted again, when the process was killed after that: what
was recorded is then compared, and a difference stops the process.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import orjson

from opendt.formats.opendc_topology_writer import topology_json
from opendt.model.base import Model
from opendt.model.errors import InputError, LedgerError, shown
from opendt.model.proposal import Proposal
from opendt.optimization.plugins import modules_of_plugins
from opendt.orchestrator import event_types as events
from opendt.orchestrator.actuator import is_same
from opendt.orchestrator.buffer import SimulationResultsBuffer, WindowSeries, series_columns
from opendt.orchestrator.certificate_store import CertificateStore
from opendt.orchestrator.cycle import Cycle, Turn
from opendt.orchestrator.cycle import Settings as CycleSettings
from opendt.orchestrator.decisions import Requests, human_proposal
from opendt.orchestrator.environment import with_carbon, with_carbon_of
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.factory import decision_settings, make_actuator, make_optimizers, reconnect
from opendt.orchestrator.intake import window_of
from opendt.orchestrator.patience import Stopping
from opendt.orchestrator.plan_of_versions import ANNOUNCED, DECIDED, VersionPlan, slo_plan, topology_plan
from opendt.orchestrator.records import entry_of, events_of, proposals_of, result_of, topology_of
from opendt.orchestrator.settings_model import Mode
from opendt.orchestrator.slo import default_slo, slo_file
from opendt.orchestrator.snapshots import SnapshotStore
from opendt.orchestrator.state import LiveState
from opendt.orchestrator.topology import read_topology_version, topology_file
from opendt.orchestrator.versions import FileWatchers, VersionedFile
from opendt.telemetry.deadletter import encode_dead_letter
from opendt.telemetry.messages import DEAD_LETTERS, PROPOSALS, RESULTS, SIM_TOPOLOGY, encode
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
    from opendt.orchestrator.version_store import VersionStore
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

T = TypeVar("T", bound=Model)


@dataclass(slots=True)
class _Counts:
    late: int = 0
    duplicate: int = 0
    dead: int = 0
    energy_kwh: float = 0.0
    strangers: int = 0


@dataclass(slots=True)
class _Progress:
    """How far this datacenter is."""

    recorded: int = -1  # last window in the ledger when we began
    index: int = -1  # last window that was turned
    counts: _Counts = field(default_factory=_Counts)


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
        self.slo: Slo | None = None
        self.topology: Topology | None = None
        self.mode: Mode = settings.mode
        self._told_topology: int | None = None
        self._recorded_windows: Iterator[WindowRow] | None = None  # those that are derived again
        self._again: WindowRow | None = None
        self._is_whole = True  # not in the midst of a window, where the twin is ahead of what is recorded
        self._watchers = watchers or FileWatchers()
        self._stack = ExitStack()
        self._progress = _Progress()
        self._topology_file = topology_file(
            self.config.topology, settings.state_dir, self.datacenter, on_event=self.bus.publish
        )
        self._actuator = make_actuator(settings, self.config, self._topology_file.store)
        self._unwritten: tuple[Topology, Topology] | None = None  # what the file is to say, and what it said before
        self._told_trouble = ""
        self._slo_file = slo_file(
            self.config.slo, settings.state_dir, self.datacenter, window_s=settings.window_s, on_event=self.bus.publish
        )
        self._topologies = topology_plan(ledger, self.datacenter)
        self._slos = slo_plan(ledger, self.datacenter)
        self._clock_s = clock_s
        self._shown_versions: tuple[int | None, int | None] = (None, None)
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
        self.topology = self.load_initial_topology()
        self.slo = self.load_initial_slo()
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
        self.state.update(self._in_force(window), status="running", cycle_count=window)

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
        found = self._topology_file.load_initial()
        value, origin = (None, "") if found is None else (found.value, _name(found.origin))
        self._unwritten = self._topologies.load(value, origin, self._was_in_file)
        return self._topologies.first

    def _was_in_file(self, topology: Topology) -> bool:
        """Whether the file has said this at some time."""
        store = self._topology_file.store
        return any(is_same(_backup(store, number, self.config.topology), topology) for number in store.numbers())

    def load_initial_slo(self) -> Slo | None:
        """Give the objectives to begin with: the first version that was recorded, else those of the file, else None."""
        found = self._slo_file.load_initial()
        self._slos.load(None if found is None else found.value, "" if found is None else _name(found.origin))
        return self._slos.first

    def start_topology_watcher(self) -> None:
        """Look out for edits of the topology file; they take effect with the next window."""
        if self.config.topology is not None:
            self._watchers.add(self._topology_file)
            self._stack.callback(self._watchers.remove, self._topology_file)

    def start_slo_watcher(self) -> None:
        """Look out for edits of the objectives; they take effect with the next window."""
        if self.config.slo is not None:
            self._watchers.add(self._slo_file)
            self._stack.callback(self._watchers.remove, self._slo_file)

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
        self.topology = self._topologies.value_at(snapshot.index + 1)
        self.slo = self._slos.value_at(snapshot.index + 1)
        self._progress.index = snapshot.index
        self._progress.counts = snapshot.state["counts"]
        self._show_counts()
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
        self._plan_versions(closed)
        cycle = self._cycle_of(closed)
        recorded = self._recorded(closed)
        requests = self._requests(closed, recorded)
        is_moving = self._topologies.value_from(closed.index + 1) is not None and not self._is_decided(closed.index + 1)
        turn = cycle.turn(window_of(closed, TICK_MS), requests, is_moving=is_moving)
        entry = entry_of(
            closed,
            turn,
            cycle,
            topology_version=self._topologies.number_at(closed.index),
            slo_version=self._slos.number_at(closed.index),
            extra_events=self._exchanges(closed, cycle, recorded),
        )
        self._keep_inputs(turn)
        is_new = self.ledger.record_window(entry)
        # Only now: what is decided again after a kill is what the ledger holds, whoever proposed it.
        self._plan_decided(closed, turn)
        self._apply_versions(closed, cycle)
        self._take_settings(closed)
        self._progress.index = closed.index
        self._publish(closed, turn, is_new=is_new)
        self._show(closed, turn, entry)
        self._is_whole = True
        is_due = closed.index - self._snapshot_index >= self.settings.snapshot_every_windows
        if is_due and self._clock_s() >= self._snapshot_due_s:
            self.write_snapshot()
        return turn

    def _cycle_of(self, closed: WindowInput) -> Cycle:
        if self.cycle is not None:
            return self.cycle
        if self.topology is None:
            self.topology = self._topologies.begin_with(self._announced(closed), ANNOUNCED)
        if self.slo is None:
            self.slo = self._slos.begin_with(default_slo(self.topology, self.settings.window_s), "default")
        self.cycle = Cycle(
            self._with_carbon(self.topology),
            self.slo,
            start_epoch_ms=closed.origin_ms,
            tick_ms=TICK_MS,
            settings=CycleSettings(
                window_ms=self.settings.window_ms, futures=self.settings.futures, seed=self.settings.seed
            ),
            decisions=decision_settings(self.settings),
            optimizers=make_optimizers(self.settings, self.topology),
        )
        self.cycle.decisions.mode = self.mode
        return self.cycle

    def _announced(self, closed: WindowInput) -> Topology:
        """Topology that came on ``dc.topology``."""
        if closed.topology is not None:
            self._topology_file.offer(orjson.dumps(closed.topology.topology), ANNOUNCED)
        found = self._topology_file.take()
        if found is None:
            raise InputError(
                f"datacenter.{self.datacenter}.topology",
                "no usable topology",
                "a file, or a message on dc.topology before the first task",
                "The twin cannot simulate what it does not know.",
            )
        return found.value

    # -- versions of topology and objectives ---------------------------------------------------------------------------

    def _plan_versions(self, closed: WindowInput) -> None:
        """Settle what is in force from the next window on, before anything of this one is recorded."""
        index = closed.index + 1
        if closed.index <= self._progress.recorded or self.cycle is None:
            return  # the ledger knows; an edit that came after this window was recorded is for the next
        if closed.topology is not None:
            self._topology_file.offer(orjson.dumps(closed.topology.topology), ANNOUNCED)
        _plan(self._topologies, self._topology_file, index)
        _plan(self._slos, self._slo_file, index)

    def _plan_decided(self, closed: WindowInput, turn: Turn) -> None:
        """Let the gate's decision take effect with the next window, as a version of the topology."""
        if closed.index + 1 <= self._progress.recorded:
            return  # the ledger knows
        for one in turn.candidates:
            source = f"{DECIDED}{one.proposal.id}"
            is_new = self._topologies.source_from(closed.index + 1) != source
            if is_new and one.topology is not None and self.topology is not None:
                topology = with_carbon_of(one.topology, self.topology)
                self._topologies.plan(closed.index + 1, topology, source)

    def _is_decided(self, index: int) -> bool:
        """Whether the version that a window begins with was decided here: when derived again it is decided again."""
        return self._topologies.source_from(index).startswith(DECIDED)

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

    def _apply_versions(self, closed: WindowInput, cycle: Cycle) -> None:
        """Let what is in force from the next window on take effect."""
        index = closed.index + 1
        slo = self._slos.value_from(index)
        if slo is not None:
            self.slo = slo
            cycle.follow(slo)
        topology = self._topologies.value_from(index)
        if topology is None or self.topology is None:
            self._act()
            return
        before = self.topology
        try:
            old, new = self._with_carbon(self.topology), self._with_carbon(topology)
            applied = self._topologies.source_from(index).removeprefix(DECIDED) if self._is_decided(index) else ""
            cycle.change(closed.end_ms - closed.origin_ms, old, new, applied=applied)
            self.topology = topology
            is_to_act = self._is_decided(index) and index > self._progress.recorded
            self._unwritten = (topology, before) if is_to_act else None
            self._act()
        except InputError as error:
            self.bus.publish(
                events.TopologyRefused(
                    datacenter=self.datacenter,
                    file=self._topologies.source_from(index),
                    reason=str(error),
                    version=self._topologies.number_at(closed.index),
                )
            )

    def _act(self) -> None:
        """Let the topology file say what was decided; what cannot be written now is tried again with every window."""
        if self._actuator is None or self._unwritten is None:
            return
        topology, before = self._unwritten
        trouble = ""
        try:
            if not self._actuator.apply(topology, before):
                trouble = "it was edited meanwhile and is left as it is; the edit takes effect with the next window"
            self._unwritten = None
        except OSError as error:
            trouble = f"{error}; the twin has taken what was decided, the file has not, and it is tried again"
        if trouble and trouble != self._told_trouble:
            reason = f"{self.config.topology}: {trouble}"
            self.bus.publish(events.ActuatorTrouble(datacenter=self.datacenter, reason=reason))
        self._told_trouble = trouble

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

    def _with_carbon(self, topology: Topology) -> Topology:
        """Use the carbon intensities beside the topology file where it names none, as `opendt demo` does."""
        file = self.config.topology
        return topology if file is None else with_carbon(topology, file.parent / "carbon.parquet")

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

    def _publish(self, closed: WindowInput, turn: Turn, *, is_new: bool) -> None:
        dead = self.assembler.take_dead()
        if is_new:
            for event in events_of(closed, turn):
                self.bus.publish(event)
            for letter in dead:
                self.bus.publish(
                    events.DeadLetter(
                        datacenter=self.datacenter,
                        time_ms=letter.timestamp_ms,
                        topic=letter.topic,
                        partition=letter.partition,
                        offset=letter.offset,
                        reason=letter.reason,
                    )
                )
        for one in turn.confirmed:
            observed = one.observed
            names = [cluster.name for cluster in self.topology.clusters] if self.topology is not None else []
            columns = series_columns(observed.series, names, origin_ms=closed.origin_ms)
            columns["measured_w"] = one.measured_w
            index = observed.end_ms // self.settings.window_ms - 1
            origin_ms = closed.origin_ms
            self.buffer.append(WindowSeries(index, observed.start_ms + origin_ms, observed.end_ms + origin_ms, columns))
        if self.sink is None:
            return
        # What follows a snapshot is derived again after a kill: results are told at least once, known by their window.
        self.sink.send(RESULTS, encode(result_of(closed, turn)), key=self.datacenter)
        for proposal in proposals_of(closed, turn):
            self.sink.send(PROPOSALS, encode(proposal), key=self.datacenter)
        self._tell_topology(closed)
        for letter in dead:
            self.sink.send(DEAD_LETTERS, encode_dead_letter(letter), key=self.datacenter)

    def _tell_topology(self, closed: WindowInput) -> None:
        """Tell which topology is in force in the twin from the next window on, when that is news."""
        version = self._topologies.number_at(closed.index + 1)
        if self.sink is None or self.topology is None or version == self._told_topology:
            return
        self._told_topology = version
        source = self._topologies.source_at(closed.index + 1)
        self.sink.send(SIM_TOPOLOGY, encode(topology_of(closed, self.topology, version, source)), key=self.datacenter)

    def _show_counts(self) -> None:
        counts = self._progress.counts
        self.state.update(
            late_count=counts.late,
            duplicate_count=counts.duplicate,
            dead_letter_count=counts.dead,
            energy_kwh=counts.energy_kwh,
        )

    def _show(self, closed: WindowInput, turn: Turn, entry: WindowEntry) -> None:
        counts = self._progress.counts
        counts.late += closed.counts.get("late", 0)
        counts.duplicate += closed.counts.get("duplicate", 0)
        counts.dead += closed.counts.get("dead", 0)
        counts.energy_kwh += turn.metrics.energy_kwh or 0.0
        counts.strangers += turn.strangers
        self._show_counts()
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
        }
        changes |= self._in_force(closed.index + 1)
        if turn.candidates:
            last = turn.candidates[0]
            changes["last_proposal"] = last.proposal.model_dump(mode="json") | {"decision": asdict(last.decision)}
        if self.cycle is not None:
            changes["trust_level"] = self.cycle.decisions.trust.level
        certified = [one for one in turn.candidates if one.certificate is not None and one.certificate.is_certified]
        scores = [one.effect.score.changed for one in certified if one.effect is not None]
        changes["window_best_score"] = min((score for score in scores if score is not None), default=None)
        self.state.update(changes)

    def _in_force(self, index: int) -> dict[str, Any]:
        """Topology (without carbon traces) and objectives of a window, for the state; nothing when they are shown already."""
        versions = (self._topologies.number_at(index), self._slos.number_at(index))
        if versions == self._shown_versions or self.topology is None or self.slo is None:
            return {}
        self._shown_versions = versions
        return {
            "current_topology": topology_json(self.topology, {}),
            "slo_targets": self.slo.model_dump(mode="json", exclude_none=True),
        }

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
            "counts": self._progress.counts,
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


def _plan(plan: VersionPlan[T], file: VersionedFile[T], index: int) -> None:
    missed, edited = plan.take_edit(), file.take()
    if edited is not None:
        plan.plan(index, edited.value, _name(edited.origin))
    elif missed is not None:
        plan.plan(index, *missed)


def _proposal_of(document: DocumentRow) -> Proposal:
    content = {name: value for name, value in document.content.items() if name != "simulated_effect"}
    return Proposal.model_validate_json(orjson.dumps(content))


def _backup(store: VersionStore, number: int, file: Path | None) -> Topology | None:
    """Read a backup, unless it no longer validates."""
    try:
        return read_topology_version(store, number, file)
    except InputError:
        return None


def _name(origin: str) -> str:
    """Name a file without its folder: the ledger's export must not depend on where a file lies."""
    return Path(origin).name


def _section(settings: Settings, datacenter: str | None) -> DatacenterSettings:
    from opendt.orchestrator.settings_model import DEFAULT_DATACENTER, DatacenterSettings

    if datacenter is None:
        if len(settings.datacenter) > 1:
            names = ", ".join(settings.datacenter)
            raise InputError("datacenter", "none named", f"one of {names}")
        datacenter = next(iter(settings.datacenter), DEFAULT_DATACENTER)
    found = settings.datacenter.get(datacenter)
    return DatacenterSettings(name=datacenter) if found is None else found

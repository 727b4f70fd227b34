"""The process that follows datacenters: one source, many orchestrators, in one thread.

Records are handed to the orchestrator of their datacenter; windows close when their streams allow; a partition that is far ahead
is paused, so that memory stays bounded whatever the producers do. The offsets that count are in the ledger; the transport is told
of them afterwards, for its own tools.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import TransportError
from opendt.orchestrator import event_types as events
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.health import HealthFile, Pulse
from opendt.orchestrator.logs import log
from opendt.orchestrator.patience import Patience, Stopping
from opendt.orchestrator.settings_model import DEFAULT_DATACENTER
from opendt.telemetry.messages import CONFIG, FRAGMENTS, POWER, TASKS, TOPOLOGY, WORKLOAD
from opendt.telemetry.source import Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from opendt.orchestrator.controller import OpenDTOrchestrator
    from opendt.orchestrator.settings_model import Settings
    from opendt.telemetry.source import Record, Source
    from opendt.verification.ledger import Ledger
    from opendt.verification.ledger_rows import PositionRow

__all__ = ["TOPICS", "Follower"]

TOPICS: Final = (WORKLOAD, POWER, TASKS, FRAGMENTS, TOPOLOGY, CONFIG)
_CONTROL: Final = frozenset((TOPOLOGY, CONFIG))
_AHEAD: Final = 48
_POLL_S: Final = 0.2
_QUIET_POLLS: Final = 2
_SILENT_S: Final = _QUIET_POLLS * _POLL_S
_JOIN_S: Final = 15.0
_LEASE_WAIT_S: Final = 30.0


class Follower:
    """Feeds orchestrators from one source.

    Parameters
    ----------
    settings : Settings
        Of the process.
    make : callable
        Makes the orchestrator of a datacenter, by name.
    names : collection of str
        Datacenters that are followed when their records come.
    ledger : Ledger
        Tells where the streams of each datacenter have been read to.
    source : Source
        Where records come from.
    bus : EventBus
        Told of what befalls the process.
    patience : Patience, optional
        How to wait for what is away; knows whether the process is to stop.
    pulse : Pulse, optional
        Gives signs of life.
    clock_s : callable
        Monotonic clock, s.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[str], OpenDTOrchestrator],
        names: Collection[str],
        ledger: Ledger,
        source: Source,
        *,
        bus: EventBus | None = None,
        patience: Patience | None = None,
        pulse: Pulse | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.names = tuple(names)
        self.running: dict[str, OpenDTOrchestrator] = {}
        self._any_key = next((name for name, one in settings.datacenter.items() if one.any_key), "")
        self._make = make
        self._ledger = ledger
        self.source = source
        self.bus = bus or EventBus()
        self._clock_s = clock_s
        self._pulse = pulse or Pulse(HealthFile(settings.health_path), clock_s=clock_s)
        self._pulse.values = lambda: _values(self.running)
        self.patience = patience or Patience(self.bus, on_wait=self._pulse.wait)
        self._assigned: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._strangers: set[str] = set()
        self._committed: dict[Partition, int] = {}
        self._heard_s: dict[Partition, float] = {}

    def stop(self, reason: str) -> None:
        """Ask the process to end after the window it is at; may be called from a signal handler."""
        self.patience.stop(reason)

    def run(self, *, drain: bool = False) -> None:
        """Follow until told to stop, or with `drain` until everything that is there has been processed.

        Raises
        ------
        OpenDTError
            When going on would be wrong: another process follows a datacenter, the ledger contradicts the streams, the
            topology is not known.
        """
        with ExitStack() as stack:
            stack.callback(self._end)
            self.source.subscribe(TOPICS, on_assigned=self._on_assigned, on_revoked=self._on_revoked)
            self._pulse.ready()
            with suppress(Stopping):
                self._follow(drain=drain)

    def _follow(self, *, drain: bool) -> None:
        quiet, began_s = 0, self._clock_s()
        while not self.patience.reason:
            # To drain is to take what is there now: transports know their ends, so that nothing has to rest for a moment.
            is_all = drain and self._is_everything_taken()
            records = self._poll(0.0 if is_all else _POLL_S)
            self._note_silent(records)
            count = self._turn(records)
            self._steer()
            self._pulse.beat()
            if records or count:
                quiet = 0
                continue
            quiet += 1
            if quiet < _QUIET_POLLS and not is_all:
                continue
            is_at_end = self._note_ends()
            count = self._turn_windows()
            has_joined = self._assigned or self.settings.transport == "log" or self._clock_s() - began_s > _JOIN_S
            if drain and is_at_end and has_joined and not count:
                self.stop("drained")

    def _is_everything_taken(self) -> bool:
        """Whether every partition that is ours is at its end, and there is one."""
        return bool(self._assigned) and all(map(self._is_at_end, self._assigned))

    # -- records -----------------------------------------------------------------------------------------------------

    def _poll(self, timeout_s: float) -> list[Record]:
        """Ask for records; a transport that is away is waited for."""
        return self.patience.run(lambda: self.source.poll(timeout_s=timeout_s))

    def _turn(self, records: Sequence[Record]) -> int:
        """Hand records out and close the windows that can close; gives how many did."""
        for name, some in self._by_datacenter(records).items():
            orchestrator = self.running.get(name) or self._begin(name, some[0])
            if orchestrator is not None:
                orchestrator.take(some)
        return self._turn_windows()

    def _by_datacenter(self, records: Sequence[Record]) -> dict[str, list[Record]]:
        """Part records by their datacenter, each part in the order of its partitions: a datacenter may have many keys."""
        parts: dict[str, list[Record]] = {}
        names: dict[tuple[str, str], str] = {}
        for record in records:
            key = (record.topic, record.key)
            name = names.get(key)
            if name is None:
                name = names[key] = self._datacenter_of(record.topic, record.key)
            part = parts.get(name)
            if part is None:
                parts[name] = [record]
            else:
                part.append(record)
        return parts

    def _turn_windows(self) -> int:
        count = 0
        for orchestrator in list(self.running.values()):
            count += orchestrator.turn_windows(lambda: bool(self.patience.reason))
        if count:
            self._commit()
            self._pulse.beat()
        return count

    def _datacenter_of(self, topic: str, key: str) -> str:
        """Producers of the older pair key their messages by task: they know of one datacenter only."""
        if key in self.names:
            return key
        if topic in (TASKS, FRAGMENTS):
            return self.names[0] if len(self.names) == 1 else DEFAULT_DATACENTER
        return self._any_key or key

    def _begin(self, name: str, first: Record) -> OpenDTOrchestrator | None:
        """Begin with a datacenter when its first record comes."""
        if name in self.names:
            return self._start(name)
        if name not in self._strangers:
            self._strangers.add(name)
            reason = f"records of {name!r}, expected one of {', '.join(self.names)}: they are left out"
            self.bus.publish(events.SourceGap(topic=first.topic, partition=first.partition, reason=reason))
        return None

    def _start(self, name: str) -> OpenDTOrchestrator:
        orchestrator = self._make(name)
        orchestrator.start(wait_s=_LEASE_WAIT_S if self.settings.transport == "kafka" else 0.0)
        self.running[name] = orchestrator
        self._heard_s.clear()  # it has been told of no silence yet
        self._declare()
        orchestrator.start_topology_watcher()
        orchestrator.start_slo_watcher()
        return orchestrator

    # -- partitions ----------------------------------------------------------------------------------------------------

    def _on_assigned(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Go on with the datacenters whose workload is in these partitions, each from its last snapshot."""
        self._assigned.update(partitions)
        offsets: dict[Partition, int] = {}
        has_new = False
        for name in self.names:
            positions = self._ledger.positions(name)
            has_new |= not positions
            if name not in self.running and not any(_stream(position) in self._assigned for position in positions):
                continue
            orchestrator = self.running.get(name) or self._start(name)
            for partition, offset in orchestrator.resume_offsets().items():
                offsets[partition] = min(offset, offsets.get(partition, offset))
        self._declare()
        if has_new and len(self.names) > 1:
            offsets = {}  # somebody has read nothing yet: its first records may lie before those of the others
        for partition in partitions:
            offset = offsets.get(partition, 0)
            self.bus.publish(events.PartitionAssigned(topic=partition.topic, partition=partition.number, offset=offset))
        return {partition: offset for partition, offset in offsets.items() if partition in set(partitions)}

    def _declare(self) -> None:
        """Let windows wait until control topics are known to be read, also those that have said nothing yet."""
        for partition in self._assigned:
            if partition.topic in _CONTROL:
                for orchestrator in self.running.values():
                    orchestrator.assembler.declare(partition)

    def _on_revoked(self, partitions: Collection[Partition]) -> None:
        """Give up the datacenters whose workload another process reads from now on."""
        gone = set(partitions)
        self._assigned -= gone
        self._paused -= gone
        for partition in partitions:
            self.bus.publish(events.PartitionRevoked(topic=partition.topic, partition=partition.number))
        for name, orchestrator in list(self.running.items()):
            if orchestrator.resume_offsets().keys() & gone:
                del self.running[name]
                orchestrator.stop("another process reads its streams")

    def _steer(self) -> None:
        """Pause partitions that are far ahead of the windows that can close; resume them when these have caught up."""
        for partition in self._assigned:
            ahead = [one.assembler.ahead(partition) for one in self.running.values()]
            least = min((count for count in ahead if count), default=0)
            if least > _AHEAD and partition not in self._paused:
                self._paused.add(partition)
                self.source.pause([partition])
            elif least <= _AHEAD // 2 and partition in self._paused:
                self._paused.discard(partition)
                self.source.resume([partition])

    def _note_silent(self, records: Sequence[Record]) -> None:
        """Tell orchestrators of control topics that have nothing more, although others never rest.

        Windows take what is there of these, and wait for nothing: only the streams that they wait for must all be silent before
        any of them is given up. What windows found there that are derived again is there already.
        """
        now_s = self._clock_s()
        is_new = not all(one.is_catching_up for one in self.running.values())
        silent_s = _SILENT_S if is_new else 0.0
        speaking = {Partition(record.topic, record.partition) for record in records if record.topic in _CONTROL}
        self._heard_s.update(dict.fromkeys(speaking, now_s))
        for partition in self._assigned - self._paused - speaking:
            if partition.topic not in _CONTROL:
                continue
            heard_s = self._heard_s.setdefault(partition, now_s)
            if heard_s + silent_s <= now_s and self._is_at_end(partition):
                self._heard_s[partition] = float("inf")  # told until it speaks again
                for orchestrator in self.running.values():
                    orchestrator.assembler.note_end(partition)

    def _note_ends(self) -> bool:
        """Tell orchestrators which partitions have nothing more; gives whether none has.

        One look serves both: a partition that is found at its end only at a second one has not been told of.
        """
        is_at_end = True
        for partition in self._assigned - self._paused:
            if self._is_at_end(partition):
                for orchestrator in self.running.values():
                    orchestrator.assembler.note_end(partition)
            else:
                is_at_end = False
        if not any(partition.topic == POWER for partition in self._assigned):
            for orchestrator in self.running.values():
                orchestrator.assembler.note_end(Partition(POWER, 0))  # nobody has sent a reading yet
        return is_at_end

    def _is_at_end(self, partition: Partition) -> bool:
        try:
            return self.source.is_at_end(partition)
        except TransportError:
            return False  # whatever it is, the next poll says so

    def _commit(self) -> None:
        offsets: dict[Partition, int] = {}
        for orchestrator in self.running.values():
            for partition, offset in orchestrator.resume_offsets().items():
                offsets[partition] = min(offset, offsets.get(partition, offset))
        mine = {
            partition: offset
            for partition, offset in offsets.items()
            if partition in self._assigned and self._committed.get(partition) != offset
        }
        if mine:
            try:
                self.source.commit(mine)
            except TransportError as error:  # they are for tools; those that count are in the ledger
                log().warning("offsets could not be committed", reason=str(error))
            self._committed.update(mine)

    # -- signs of life -------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._pulse.end()
        ending, self.running = self.running, {}
        self._pulse.values = lambda: _values(ending)
        with ExitStack() as stack:
            stack.callback(self._pulse.write, "stopped")
            stack.callback(self.source.close)
            for orchestrator in ending.values():
                stack.callback(orchestrator.stop, self.patience.reason or "failed")


def _stream(position: PositionRow) -> Partition:
    return Partition(position.topic, position.partition)


def _values(running: Mapping[str, OpenDTOrchestrator]) -> dict[str, Any]:
    """What the health file says of datacenters."""
    return {"datacenters": {name: _brief(one.state.as_dict()) for name, one in running.items()}}


def _brief(state: dict[str, Any]) -> dict[str, Any]:
    names = (
        "status",
        "cycle_count",
        "window_index",
        "window_end_ms",
        "watermark_ms",
        "lag_ms",
        "power_w",
        "energy_kwh",
    )
    counts = ("late_count", "duplicate_count", "dead_letter_count", "topology_version", "slo_version", "last_error")
    return {name: state[name] for name in (*names, *counts)}

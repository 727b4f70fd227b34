"""One process: what the settings name is opened, datacenters are followed, everything is closed again."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from opendt.model.errors import InputError, LedgerError
from opendt.orchestrator import event_types as events
from opendt.orchestrator.controller import OpenDTOrchestrator
from opendt.orchestrator.event_rows import event_row
from opendt.orchestrator.events import EventBus, Notice
from opendt.orchestrator.follower import Follower
from opendt.orchestrator.health import HealthFile, Pulse
from opendt.orchestrator.logs import configure_logging, log, log_event
from opendt.orchestrator.patience import Patience, PatientSink, Stopping
from opendt.orchestrator.pid_file import PID_FILE, health_beside, pid_file
from opendt.orchestrator.settings_model import DEFAULT_DATACENTER
from opendt.orchestrator.slo import slo_file
from opendt.orchestrator.topology import topology_file
from opendt.orchestrator.transports import open_sink, open_source
from opendt.orchestrator.versions import FileWatchers
from opendt.verification.ledger import Ledger
from opendt.verification.ledger_patience import Patience as LedgerPatience

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from types import FrameType

    from opendt.orchestrator.settings_model import Settings

__all__ = ["Beside", "rare_collections", "run"]

Beside = Callable[["Settings", Ledger, EventBus], AbstractContextManager[object]]

_NEW_OBJECTS: Final = 50_000
"""Objects made before the collector of cycles looks at them; thousands of records are held at a time, and none is in a cycle."""
_KEPT_KINDS: Final = frozenset(
    {
        events.Started.kind,
        events.Stopped.kind,
        events.TopologyLoaded.kind,
        events.TopologyChanged.kind,
        events.TopologyRefused.kind,
        events.SloLoaded.kind,
        events.SloChanged.kind,
        events.SloRefused.kind,
        events.SnapshotRestored.kind,
        events.SnapshotRebuilt.kind,
        events.SourceGap.kind,
        events.TornEnd.kind,
        events.TransportTrouble.kind,
        events.TransportRecovered.kind,
        events.DeadLetter.kind,
        events.LeaseLost.kind,
        events.ResultsDamaged.kind,
        events.ResultsDropped.kind,
        events.ResultsTrouble.kind,
    }
)


def run(settings: Settings, *, drain: bool = False, beside: Beside | None = None) -> None:
    """Follow the datacenters of the settings until a signal comes, or with `drain` until the streams are at their end.

    Parameters
    ----------
    settings : Settings
        What to follow, and how.
    drain : bool
        Stop when all that is there was processed.
    beside : callable, optional
        Entered before anything is followed and left after: what else the process does, such as serving a fleet. Where the settings
        name no datacenter, it is all that the process does.

    Raises
    ------
    OpenDTError
        When a datacenter is followed by another process, the ledger contradicts the streams, or something needed is missing.
    """
    configure_logging(settings.log_level, settings.log_format)
    bus = EventBus()
    bus.subscribe(log_event)
    _make_state_dir(settings)
    _check_files(settings)
    with ExitStack() as stack:
        settings = _with_health_of_its_own(settings, stack.enter_context(pid_file(settings.state_dir)), stack)
        pulse = Pulse(HealthFile(settings.health_path))
        patience = Patience(bus, on_wait=pulse.wait)
        stack.enter_context(_signals(patience))
        ledger = stack.enter_context(_ledger(settings, bus, patience))
        bus.subscribe(_recorder(ledger), _KEPT_KINDS)
        if beside is not None:
            stack.enter_context(beside(settings, ledger, bus))
            if not settings.datacenter:
                stack.enter_context(rare_collections())
                _rest_until_stopped(patience, pulse)
                return
        watchers = FileWatchers()
        stack.callback(watchers.stop)
        sink = PatientSink(open_sink(settings, bus), patience)
        stack.callback(sink.close)
        source = open_source(settings, bus)

        def make(name: str) -> OpenDTOrchestrator:
            return OpenDTOrchestrator(settings, name, ledger=ledger, sink=sink, bus=bus, watchers=watchers)

        names = tuple(settings.datacenter) or (DEFAULT_DATACENTER,)
        _refuse_second_process(settings, names, ledger, bus)
        follower = Follower(settings, make, names, ledger, source, bus=bus, patience=patience, pulse=pulse)
        _say_what_follows(settings, names)
        stack.enter_context(rare_collections())
        follower.run(drain=drain)


def _rest_until_stopped(patience: Patience, pulse: Pulse) -> None:
    pulse.ready()
    pulse.write("running")
    with suppress(Stopping):
        patience.rest(math.inf, "requests")
    pulse.end()
    pulse.write("stopped")


def _make_state_dir(settings: Settings) -> None:
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "state_dir", f"{settings.state_dir} ({reason})", "a folder that can be made and written"
        ) from error


def _check_files(settings: Settings) -> None:
    """Refuse at once what would be refused when the first record comes: files that do not validate and have no good version."""
    for one in settings.datacenters:
        topology = topology_file(one.topology, settings.state_dir, one.name)
        slo = slo_file(one.slo, settings.state_dir, one.name, window_s=settings.window_s)
        for key, file in (("topology", topology), ("slo", slo)):
            if file.store.numbers():
                continue  # the last good version stays, whatever the file holds
            try:
                file.load_initial()
            except InputError as error:
                hint = error.hint or f"Correct it, or datacenter.{one.name}.{key} in the settings."
                raise InputError(error.place, error.found, error.expected, hint, file=error.file) from error


def _with_health_of_its_own(settings: Settings, pid_path: Path, stack: ExitStack) -> Settings:
    """Let the second process of a state directory, which may only wait for the first one to end, write a file of its own."""
    if pid_path.name == PID_FILE:
        return settings
    path = health_beside(settings.health_path, os.getpid())
    stack.callback(path.unlink, missing_ok=True)
    return settings.model_copy(update={"health_file": path})


def _say_what_follows(settings: Settings, names: Collection[str]) -> None:
    where = settings.kafka.bootstrap_servers if settings.transport == "kafka" else str(settings.log_directory)
    log().info(
        f"waits for records of {', '.join(names)}",
        transport=settings.transport,
        at=where,
        state=str(settings.state_dir),
    )


def _ledger(settings: Settings, bus: EventBus, patience: Patience) -> Ledger:
    """Open the ledger; while it is away the process waits, as long as nobody tells it to stop."""
    line = _LedgerLine(bus, patience)
    limitless = LedgerPatience(limit_s=math.inf)
    return Ledger.open(settings.ledger_address, patience=limitless, on_trouble=line.tell, sleep=line.rest)


def _refuse_second_process(settings: Settings, names: Collection[str], ledger: Ledger, bus: EventBus) -> None:
    """Say at once who follows a datacenter already, where no consumer group hands datacenters out.

    Raises
    ------
    LedgerError
        Names the process.
    """
    if settings.transport == "kafka" and (len(names) > 1 or not ledger.is_file):
        return  # members of the group share the datacenters, or stand by
    for name in names:
        try:
            with ledger.lease(name):
                pass
        except LedgerError as error:
            bus.publish(events.LeaseRefused(datacenter=name, holder=str(error)))
            raise


class _LedgerLine:
    """Tells when the ledger goes away and when it is back, which come in turns, and waits for it with signs of life."""

    def __init__(self, bus: EventBus, patience: Patience, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._patience = patience
        self._clock_s = clock_s
        self._since_s: float | None = None
        self._words = ""

    def tell(self, words: str) -> None:
        if self._since_s is None:
            self._since_s, self._words = self._clock_s(), words
            # At once, also when the ledger went away while an event was told to it.
            self._bus.publish(events.LedgerTrouble(reason=words), at_once=True)
        else:
            after_s, self._since_s = self._clock_s() - self._since_s, None
            self._bus.publish(events.LedgerRecovered(after_s=after_s), at_once=True)

    def rest(self, duration_s: float) -> None:
        what = (
            "a datacenter that another process still follows" if self._since_s is None else f"the ledger: {self._words}"
        )
        self._patience.rest(duration_s, what)


def _recorder(ledger: Ledger) -> Callable[[Notice], None]:
    """Keep what befalls the process in the ledger; windows carry events of their own."""

    def record(notice: Notice) -> None:
        ledger.record_event(event_row(notice), notice.event.datacenter)

    return record


@contextmanager
def rare_collections() -> Iterator[None]:
    """Keep the collector of cycles from going through modules and models, which stay, and through every thousand records."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _signals(patience: Patience) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the process after the window it is at."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        patience.stop(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

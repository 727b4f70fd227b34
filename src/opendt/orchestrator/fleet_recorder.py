"""What befalls a fleet, kept in the ledger for ``opendt events``: written by a thread of its own, so that nobody waits for it.

Plans, their ends and where their stages went are documents that stand in the ledger before anything is done (`fleet_book`); events
are for people. They are written in small batches some times a second, so that plans find the ledger free; a kill may cost the
last moments of them.
"""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opendt.model.errors import LedgerError
from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.event_rows import event_row
from opendt.orchestrator.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.orchestrator.events import EventBus, Notice
    from opendt.verification.ledger import Ledger
    from opendt.verification.ledger_rows import EventRow

__all__ = ["KEPT_KINDS", "recording"]

KEPT_KINDS: Final = frozenset(
    {
        events.ChaosObserved.kind,
        events.ClusterLost.kind,
        events.ClusterReached.kind,
        events.FleetAction.kind,
        events.FleetActionFailed.kind,
        events.LeaderChanged.kind,
        events.NodeDown.kind,
        events.NodeUp.kind,
        events.PlanAccepted.kind,
        events.PlanFinished.kind,
        events.PlanRefused.kind,
        events.PlanResumed.kind,
        events.PlanVerified.kind,
        events.SenseNote.kind,
        events.SenseTrouble.kind,
        events.StageFailedOver.kind,
        events.StageLost.kind,
    }
)
_GATHERED_S: Final = 0.05
"""Batches are small: a plan that is stored meanwhile waits for one of them."""
_TIDIED_S: Final = 1.0
_AT_ONCE: Final = 500
_WAITING: Final = 100_000
"""Events that may wait while the ledger is away; what comes on top of them is only logged."""


@contextmanager
def recording(ledger: Ledger, bus: EventBus) -> Iterator[None]:
    """Keep what befalls a fleet while the block runs; what was told by its end is written."""
    waiting: queue.Queue[Notice | None] = queue.Queue(_WAITING)
    ending = threading.Event()

    def hear(notice: Notice) -> None:
        try:
            waiting.put_nowait(notice)
        except queue.Full:
            log().warning("the ledger is behind: an event is not kept", event_kind=notice.event.kind)

    def write() -> None:
        tidied_s = time.monotonic()
        while (first := waiting.get()) is not None:
            ending.wait(_GATHERED_S)
            notices = [first, *_drained(waiting)]
            by_fleet: dict[str, list[EventRow]] = {}
            for notice in notices:
                by_fleet.setdefault(notice.event.datacenter, []).append(event_row(notice))
            for name, rows in by_fleet.items():
                try:
                    ledger.record_events(rows, name)
                except LedgerError as error:
                    log().warning("events are not kept", events=len(rows), reason=str(error))
            if time.monotonic() - tidied_s >= _TIDIED_S:
                ledger.tidy()
                tidied_s = time.monotonic()

    thread = threading.Thread(target=write, name="fleet-events", daemon=True)
    thread.start()
    end = bus.subscribe(hear, KEPT_KINDS)
    try:
        yield
    finally:
        end()
        ending.set()
        waiting.put(None)
        thread.join()


def _drained(waiting: queue.Queue[Notice | None]) -> Iterator[Notice]:
    """What waits by now; the end stays for whoever waits for it."""
    for _ in range(_AT_ONCE):
        try:
            notice = waiting.get_nowait()
        except queue.Empty:
            return
        if notice is None:
            waiting.put(None)
            return
        yield notice

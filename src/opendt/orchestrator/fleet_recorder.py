"""What befalls a fleet, kept in the ledger for ``opendt events``: written by a thread of its own, so that nobody waits for it.

Plans, their ends and where their stages went are documents that stand in the ledger before anything is done (`fleet_book`); events
are for people. A kill may cost the last moments of them.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import LedgerError
from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.logs import log
from opendt.verification.ledger_rows import EventRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.orchestrator.events import EventBus, Notice
    from opendt.verification.ledger import Ledger

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
_WAITING: Final = 100_000
"""Events that may wait while the ledger is away; what comes on top of them is only logged."""


@contextmanager
def recording(ledger: Ledger, bus: EventBus) -> Iterator[None]:
    """Keep what befalls a fleet while the block runs; what was told by its end is written."""
    waiting: queue.Queue[Notice | None] = queue.Queue(_WAITING)

    def hear(notice: Notice) -> None:
        try:
            waiting.put_nowait(notice)
        except queue.Full:
            log().warning("the ledger is behind: an event is not kept", event_kind=notice.event.kind)

    def write() -> None:
        while (notice := waiting.get()) is not None:
            try:
                ledger.record_event(_row(notice), notice.event.datacenter)
            except LedgerError as error:
                log().warning("an event is not kept", event_kind=notice.event.kind, reason=str(error))

    thread = threading.Thread(target=write, name="fleet-events", daemon=True)
    thread.start()
    end = bus.subscribe(hear, KEPT_KINDS)
    try:
        yield
    finally:
        end()
        waiting.put(None)
        thread.join()


def _row(notice: Notice) -> EventRow:
    event = notice.event
    content: dict[str, Any] = {
        name: value for name, value in event.as_dict().items() if name not in ("kind", "datacenter", "time_ms")
    }
    content["number"], content["process"] = notice.number, os.getpid()
    return EventRow(event.kind, notice.recorded_ms, content, event.level)

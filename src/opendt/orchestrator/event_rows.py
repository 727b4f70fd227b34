"""What is told, as the ledger keeps it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opendt.verification.ledger_rows import EventRow

if TYPE_CHECKING:
    from opendt.orchestrator.events import Notice

__all__ = ["event_row"]


def event_row(notice: Notice) -> EventRow:
    """Make a row of a notice; it says which process told it, and as its how manieth."""
    event = notice.event
    content: dict[str, Any] = {
        name: value for name, value in event.as_dict().items() if name not in ("kind", "datacenter", "time_ms")
    }
    content["number"], content["process"] = notice.number, os.getpid()
    return EventRow(event.kind, notice.recorded_ms, content, event.level)

"""What a process tells of its ledger: that it went away, and that it is back, in turns."""

from __future__ import annotations

from opendt.orchestrator.events import EventBus
from opendt.orchestrator.process import _tell_trouble


def test_trouble_and_recovery_are_events_of_their_own() -> None:
    bus = EventBus()
    tell = _tell_trouble(bus, iter([10.0, 12.5, 20.0]).__next__)
    for words in ("connection refused", "the ledger is back", "disk full"):
        tell(words)
    told = [notice.event for notice in bus.recent()]
    assert [event.kind for event in told] == ["ledger_trouble", "ledger_recovered", "ledger_trouble"]
    assert told[1].as_dict()["after_s"] == 2.5
    assert told[2].said == "ledger out of reach: disk full"

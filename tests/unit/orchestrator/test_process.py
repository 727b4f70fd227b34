"""What a process tells of its ledger: that it went away, and that it is back, in turns, and at once."""

from __future__ import annotations

from opendt.orchestrator.event_types import Started, Stopped
from opendt.orchestrator.events import EventBus, Notice
from opendt.orchestrator.patience import Patience
from opendt.orchestrator.process import _LedgerLine
from tests.unit.orchestrator.waiting import Clock


def test_trouble_and_recovery_are_events_of_their_own() -> None:
    bus = EventBus()
    line = _LedgerLine(bus, Patience(bus), iter([10.0, 12.5, 20.0]).__next__)
    for words in ("connection refused", "the ledger is back", "disk full"):
        line.tell(words)
    told = [notice.event for notice in bus.recent()]
    assert [event.kind for event in told] == ["ledger_trouble", "ledger_recovered", "ledger_trouble"]
    assert told[1].as_dict()["after_s"] == 2.5
    assert told[2].said == "ledger out of reach: disk full"


def test_trouble_is_told_before_the_event_with_which_it_came_is_recorded() -> None:
    bus = EventBus()
    told: list[str] = []
    line = _LedgerLine(bus, Patience(bus))

    def record(notice: Notice) -> None:
        if notice.event.kind == "started":
            line.tell("connection refused")
            told.append("waited")
            line.tell("the ledger is back")

    bus.subscribe(lambda notice: told.append(notice.event.kind))
    bus.subscribe(record)
    bus.publish(Started(environment="live", mode="observe"))
    bus.publish(Stopped(reason="done"))
    assert told == ["started", "ledger_trouble", "waited", "ledger_recovered", "stopped"]


def test_waiting_for_the_ledger_gives_signs_of_life_that_say_so() -> None:
    bus, clock = EventBus(), Clock()
    waits: list[str] = []
    line = _LedgerLine(bus, Patience(bus, on_wait=waits.append, clock_s=clock, sleep=clock.sleep), clock)
    line.rest(1.0)
    assert set(waits) == {"a datacenter that another process still follows"}
    waits.clear()
    line.tell("connection refused")
    line.rest(2.0)
    assert (set(waits), len(waits)) == ({"the ledger: connection refused"}, 10)

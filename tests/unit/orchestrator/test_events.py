"""Every event reaches everyone, one at a time and in one order; a listener that fails harms nobody else."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from opendt.model.errors import InputError
from opendt.orchestrator.event_types import (
    DeadLetter,
    Drift,
    Event,
    LateRecord,
    SettingChanged,
    SourceGap,
    Started,
    Stopped,
    SubscriberFailed,
    TopologyRefused,
    WindowClosed,
)
from opendt.orchestrator.events import EVENT_TYPES, EventBus, event_from_dict

EXAMPLES = {"int": 3, "float": 0.25, "str": "word", "bool": True, "int | None": 4, "float | None": 0.5}


def example(event_type):
    values = {f.name: EXAMPLES.get(f.type, "step") for f in dataclasses.fields(event_type)}
    return event_type(**values | {"datacenter": "surf", "time_ms": 1_665_100_800_000})


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_kind_survives_json_and_has_words(kind):
    event = example(EVENT_TYPES[kind])
    plain = json.loads(json.dumps(event.as_dict()))
    assert plain["kind"] == kind
    assert event_from_dict(plain) == event
    words = event.words()
    assert words.startswith("2022-10-07 00:00:00 surf: ")
    assert "\n" not in words
    assert len(words) > len("2022-10-07 00:00:00 surf: ")


def test_the_promised_kinds_are_there():
    assert {
        "window_closed", "forecast_issued", "prediction_verified", "drift", "rollback", "topology_loaded",
        "topology_changed", "topology_refused", "slo_loaded", "slo_changed", "slo_refused", "proposal_made", "dead_letter",
        "late_record", "source_gap", "transport_trouble", "transport_recovered", "ledger_trouble", "ledger_recovered",
        "snapshot_written", "snapshot_restored", "snapshot_rebuilt", "lease_refused", "lease_lost", "started", "stopped",
        "trust_changed", "decision",
    } <= EVENT_TYPES.keys()  # fmt: skip


def test_events_of_different_kinds_differ_and_none_can_be_changed():
    gap = SourceGap(topic="t", partition=0, reason="r")
    with pytest.raises(dataclasses.FrozenInstanceError):
        gap.reason = "other"
    assert WindowClosed(index=1, start_ms=0, end_ms=1) != WindowClosed(index=2, start_ms=0, end_ms=1)
    assert WindowClosed.is_deterministic
    assert not Started.is_deterministic


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"kind": "unheard_of"}, "kind"),
        ({}, "kind"),
        ({"kind": "drift"}, "change"),
        ({"kind": "started", "environment": "e", "mode": "m", "colour": 1}, "colour"),
    ],
)
def test_what_is_no_event_is_refused(values, place):
    with pytest.raises(InputError) as caught:
        event_from_dict(values)
    assert caught.value.place == place


def test_subscribers_are_told_what_they_asked_for_until_they_leave():
    bus, everything, drifts = EventBus(lambda: 7), [], []
    leave = bus.subscribe(everything.append)
    bus.subscribe(drifts.append, {"drift"})
    first = LateRecord(topic="t", partition=0, offset=1, late_ms=2)
    second = Drift(forecast="hour", change="step", since_ms=0, size_ratio=0.1)
    bus.publish(first)
    leave()
    leave()
    bus.publish(second)
    assert [(n.number, n.recorded_ms, n.event) for n in everything] == [(1, 7, first)]
    assert [n.event for n in drifts] == [second]
    assert [n.event for n in bus.recent()] == [first, second]
    assert [n.event for n in bus.recent(1)] == [second]
    assert bus.recent(0) == []
    assert everything[0].as_dict() == {"number": 1, "recorded_ms": 7, "event": first.as_dict()}


def test_a_failing_subscriber_is_reported_to_the_others_only():
    bus, before, after = EventBus(), [], []

    def broken(notice):
        raise ValueError("no room")

    bus.subscribe(before.append)
    bus.subscribe(broken)
    bus.subscribe(after.append)
    event = DeadLetter(datacenter="surf", topic="t", partition=0, offset=1, reason="r")
    bus.publish(event)
    for told in (before, after):
        assert told[0].event == event
        failed = told[1].event
        assert isinstance(failed, SubscriberFailed)
        assert (failed.datacenter, failed.event_kind, failed.reason) == ("surf", "dead_letter", "ValueError: no room")
        assert "broken" in failed.subscriber
        assert len(told) == 2


def test_two_failing_subscribers_do_not_report_each_other_without_end():
    bus = EventBus()

    def broken(notice):
        raise ValueError(notice.event.kind)

    def broken_too(notice):
        raise KeyError(notice.event.kind)

    bus.subscribe(broken)
    bus.subscribe(broken_too)
    bus.publish(Stopped(reason="r"))
    assert [n.event.kind for n in bus.recent()] == ["stopped", "subscriber_failed", "subscriber_failed"]


def test_an_event_published_while_telling_comes_after_for_everyone():
    bus, told = EventBus(), []

    def answers(notice):
        if notice.event.kind == "started":
            bus.publish(Stopped(reason="at once"))

    bus.subscribe(answers)
    bus.subscribe(lambda notice: told.append(notice.event.kind))
    bus.publish(Started(environment="replay", mode="observe"))
    assert told == ["started", "stopped"]


def test_ctrl_c_within_a_subscriber_reaches_the_loop_and_leaves_the_bus_usable():
    bus, told = EventBus(), []

    def interrupted(notice):
        if notice.event.kind == "started":
            raise KeyboardInterrupt

    bus.subscribe(interrupted)
    bus.subscribe(lambda notice: told.append(notice.event.kind))
    with pytest.raises(KeyboardInterrupt):
        bus.publish(Started(environment="replay", mode="observe"))
    bus.publish(Stopped(reason="interrupted"))
    assert told == ["stopped"]


def test_memory_is_bounded_and_what_was_dropped_is_told():
    bus, told = EventBus(recent=3, pending=4), []

    def floods(notice):
        if notice.event.kind == "started":
            for number in range(10):
                bus.publish(Stopped(reason=str(number)))

    bus.subscribe(floods)
    bus.subscribe(lambda notice: told.append(notice.event))
    bus.publish(Started(environment="replay", mode="observe"))
    assert [event.reason for event in told[1:5]] == ["0", "1", "2", "3"]
    assert (told[5].kind, told[5].count) == ("events_dropped", 6)
    assert len(told) == 6
    assert len(bus.recent()) == 3


def test_threads_publish_in_one_order():
    bus, one, other = EventBus(), [], []
    bus.subscribe(one.append)
    bus.subscribe(other.append)
    start = threading.Barrier(4)

    def publish(name):
        start.wait()
        for number in range(200):
            bus.publish(Stopped(datacenter=name, reason=str(number)))

    threads = [threading.Thread(target=publish, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one == other
    assert [n.number for n in one] == list(range(1, 801))
    for n in range(4):
        assert [x.event.reason for x in one if x.event.datacenter == f"t{n}"] == [str(i) for i in range(200)]


def test_words_tell_versions_and_moments():
    refused = TopologyRefused(datacenter="surf", file="t.json", reason="t.json: found -4", version=3)
    assert refused.words() == "surf: topology refused: t.json: found -4 (version 3 stays)"
    assert isinstance(refused, Event)


def test_the_value_of_a_secret_setting_is_in_no_event():
    changed = SettingChanged(key="openai.api_key", value="rosebud")
    assert "rosebud" not in changed.words() + str(changed.as_dict()) + repr(changed)
    assert SettingChanged(key="window_s", value="60").value == "60"

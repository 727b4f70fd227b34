"""A line of the log is one line, says where it belongs, and holds no secret."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime

import pytest
import structlog
from pydantic import SecretStr

from opendt.orchestrator.event_types import Drift, WindowClosed
from opendt.orchestrator.events import EVENT_TYPES, EventBus, Notice
from opendt.orchestrator.logs import bound, configure_logging, log, log_event
from opendt.orchestrator.settings import Settings

SECRET = "rosebud"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


@pytest.fixture
def lines():
    stream = io.StringIO()

    def configure(level="info", form="text"):
        configure_logging(level, form, stream=stream, now=lambda: MOMENT)
        return lambda: stream.getvalue().splitlines()

    yield configure
    structlog.reset_defaults()


def test_text_says_time_level_words_and_where(lines):
    said = lines()
    with bound(window=12, datacenter="surf", proposal=None):
        log().info("closed", tasks=3, reason="two words")
    log().warning("no")
    assert said() == [
        '2026-01-02T03:04:05.678Z info     closed  datacenter=surf window=12 tasks=3 reason="two words"',
        "2026-01-02T03:04:05.678Z warning  no",
    ]


def test_json_is_one_object_a_line(lines):
    said = lines(form="json")
    with bound(window=12), bound(proposal="p-1"):
        log().error("line\nbreak", values=[1, None, {"a": 2.5}])
    assert [json.loads(line) for line in said()] == [
        {
            "time": "2026-01-02T03:04:05.678Z",
            "level": "error",
            "event": "line\nbreak",
            "window": 12,
            "proposal": "p-1",
            "values": [1, None, {"a": 2.5}],
        }
    ]


def test_levels_below_are_left_out(lines):
    said = lines(level="warning")
    log().info("a")
    log().debug("b")
    log().warning("c")
    assert len(said()) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_logged(lines, form):
    said = lines(level="debug", form=form)
    settings = Settings(
        openai={"api_key": SECRET},
        kafka={"password": SECRET, "settings": {"sasl.password": SECRET}},
        ledger_url=f"postgresql://u:{SECRET}@h/d",
    )
    with bound(token=SECRET):
        log().info(
            "start",
            settings=settings,
            kafka=settings.kafka.client_settings(),
            key=SecretStr(SECRET),
            nested=[{"deep": (SecretStr(SECRET), {"api_key": SECRET})}],
            url=settings.ledger_address,
            error=OSError(f"cannot reach postgresql://u:{SECRET}@h/d"),
        )
        log().info(f"at postgresql://u:{SECRET}@h/d?password={SECRET}")
    assert SECRET not in "".join(said())
    assert "h/d" in said()[0]


def test_nobody_forges_a_line_of_text(lines):
    said = lines()
    log().info("a\n2026 error b", name="c\nd", escape="\x1b[31m")
    assert len(said()) == 1
    assert "\x1b" not in said()[0]


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_comes_with_its_place_and_without_secrets(lines, form):
    said = lines(form=form)
    try:
        raise ValueError(f"no postgresql://u:{SECRET}@h/d")
    except ValueError:
        log().exception("failed")
    text = "\n".join(said())
    assert "Traceback" in text
    assert "test_logs.py" in text
    assert SECRET not in text
    if form == "json":
        assert json.loads(text)["level"] == "error"


def test_events_are_logged_at_their_level(lines):
    said = lines(form="json")
    bus = EventBus()
    bus.subscribe(log_event)
    bus.publish(WindowClosed(datacenter="surf", index=3, start_ms=0, end_ms=1, tasks=2))
    bus.publish(Drift(datacenter="surf", time_ms=0, forecast="hour", change="step", since_ms=0, size_ratio=0.1))
    closed, drift = map(json.loads, said())
    assert (closed["level"], closed["kind"], closed["datacenter"], closed["index"]) == (
        "info",
        "window_closed",
        "surf",
        3,
    )
    assert (drift["level"], drift["event"]) == (
        "warning",
        "step of +10.0% against the calibration of hour",
    )


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_kind_of_event_can_be_logged(lines, kind):
    said = lines(level="debug")
    examples = {"int": 3, "float": 0.25, "bool": True}
    values = {f.name: examples.get(f.type, "word") for f in dataclasses.fields(EVENT_TYPES[kind])}
    event = EVENT_TYPES[kind](**values | {"datacenter": "surf", "time_ms": 0})
    log_event(Notice(1, 0, event))
    assert event.said in said()[0]
    assert {"datacenter=surf", f"kind={kind}"} <= set(said()[0].split())

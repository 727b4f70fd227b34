"""The health file is always whole, and systemd hears what it must."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from opendt.model.errors import TransportError
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.health import HealthFile, Pulse, sd_notify, watchdog_interval_s
from opendt.orchestrator.patience import Patience
from tests.unit.orchestrator.waiting import Clock


def test_the_file_says_how_the_process_is(tmp_path):
    health = HealthFile(tmp_path / "run" / "health.json", clock_ms=lambda: 42)
    assert health.read() is None
    assert health.write("running", {"lag_ms": 5}, window=7)
    assert health.read() == {"pid": os.getpid(), "time_ms": 42, "status": "running", "lag_ms": 5, "window": 7}
    assert health.write("stopped")
    assert health.read() == {"pid": os.getpid(), "time_ms": 42, "status": "stopped"}
    assert [path.name for path in health.path.parent.iterdir()] == ["health.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    health, done, broken = HealthFile(tmp_path / "health.json"), threading.Event(), []
    health.write("running", window=0, text="")

    def read():
        while not done.is_set():
            try:
                found = json.loads(health.path.read_text())
                if len(found["text"]) != found["window"]:
                    broken.append(found)
            except ValueError as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for window in range(500):
        health.write("running", window=window, text="x" * window)
    done.set()
    reader.join()
    assert broken == []


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    assert not HealthFile(tmp_path / "file" / "health.json").write("running")


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"@opendt-test-{os.getpid()}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name[0] == "@" else name)
        listener.settimeout(20)
        yield {"NOTIFY_SOCKET": name}, lambda: listener.recv(4096).decode()


def test_systemd_is_told(manager):
    environ, heard = manager
    assert sd_notify("READY=1", "STATUS=window 7,\nno lag", environ=environ)
    assert heard() == "READY=1\nSTATUS=window 7, no lag"
    assert sd_notify("STOPPING=1", environ=environ)
    assert heard() == "STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify", "@nobody-listens-here"])
def test_without_a_manager_nothing_is_sent(address):
    assert not sd_notify("READY=1", environ={"NOTIFY_SOCKET": address} if address else {})


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often_the_watchdog_wants_to_be_fed(environ, interval_s):
    assert watchdog_interval_s(environ) == interval_s


class Signs:
    """What a process says of itself, by whose clock time goes on."""

    def __init__(self, tmp_path):
        self.clock = Clock()
        self.told = []
        self.file = HealthFile(tmp_path / "health.json", clock_ms=lambda: round(1000 * self.clock()))
        self.pulse = Pulse(self.file, clock_s=self.clock, notify=lambda *words: self.told.append((self.clock(), words)))
        self.patience = Patience(EventBus(), on_wait=self.pulse.wait, clock_s=self.clock, sleep=self.clock.sleep)

    def fed(self):
        """When the watchdog was fed, s."""
        return [when for when, words in self.told if "WATCHDOG=1" in words]


def test_who_works_gives_a_sign_of_life_a_second(tmp_path):
    signs = Signs(tmp_path)
    signs.pulse.ready()
    signs.pulse.values = lambda: {"datacenters": {"d": {"window_index": signs.clock() // 1}}}
    for _ in range(40):  # ten seconds of work in steps of a quarter
        signs.pulse.beat()
        signs.clock.sleep(0.25)
    assert signs.fed() == [float(second) for second in range(10)]
    health = signs.file.read()
    assert (health["status"], health["time_ms"], health["datacenters"]) == (
        "running",
        9_000,
        {"d": {"window_index": 9}},
    )
    assert "waits_for" not in health


def test_who_waits_for_what_is_away_is_alive_and_says_what_for(tmp_path):
    signs = Signs(tmp_path)
    signs.pulse.ready()
    attempts = []

    def away():
        attempts.append(signs.file.read())
        if signs.clock() < 300:
            raise TransportError("no broker answers")
        return "here"

    assert signs.patience.run(away) == "here"
    pauses = [later - earlier for earlier, later in zip(signs.fed(), signs.fed()[1:], strict=False)]
    assert len(pauses) > 200
    assert max(pauses) < 1.5
    assert {health["status"] for health in attempts[1:]} == {"waiting"}
    assert {health["waits_for"] for health in attempts[1:]} == {"the streams: no broker answers"}
    states = [word for _, words in signs.told for word in words if word.startswith("STATUS=")]
    assert states == ["STATUS=waits for the streams: no broker answers"]
    signs.clock.sleep(1)
    signs.pulse.beat()
    assert signs.file.read()["status"] == "running"
    assert "STATUS=running" in signs.told[-1][1]


def test_who_is_stuck_gives_no_sign_of_life(tmp_path):
    signs = Signs(tmp_path)
    signs.pulse.ready()

    def stuck():
        if signs.clock() < 300:
            signs.clock.sleep(300)  # in a call that does not return
            raise TransportError("no broker answers")

    signs.patience.run(stuck)
    assert signs.fed() == [300]


def test_before_it_is_ready_a_process_that_waits_asks_for_more_time(tmp_path):
    signs = Signs(tmp_path)
    signs.pulse.beat()
    assert signs.told == []
    signs.clock.sleep(1)
    signs.patience.rest(2.0, "the ledger: connection refused")
    assert [words[0] for _, words in signs.told] == ["EXTEND_TIMEOUT_USEC=60000000"] * 2
    signs.pulse.ready()
    signs.patience.rest(2.0, "the ledger: connection refused")
    assert signs.told[2][1] == ("READY=1",)
    assert signs.told[-1][1] == ("WATCHDOG=1",)


def test_a_flush_that_a_broker_holds_up_gives_signs_of_life(tmp_path):
    waits, done = [], threading.Event()

    def on_wait(what):
        waits.append(what)
        done.set()

    Patience(EventBus(), on_wait=on_wait).bounded(lambda: done.wait(20), "results")
    assert waits == ["results"]

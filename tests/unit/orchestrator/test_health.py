"""The health file is always whole, and systemd hears what it must."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest

from opendt.orchestrator.health import HealthFile, sd_notify, watchdog_interval_s


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

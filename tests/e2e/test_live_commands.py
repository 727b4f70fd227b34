"""The commands around a process that follows a datacenter, as a person uses them: while it runs, when it has ended, and for nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from opendt.formats.synthetic import generate_week
from tests.command import FACE, opendt
from tests.live import NAME, Live


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    folder = tmp_path_factory.mktemp("live")
    trace = generate_week(5, folder / "week")
    live = Live(folder / "live", trace / "topology.json", log=folder / "log")
    live.replay(trace, "--hours", 3)
    live.drain()
    return live


def test_status_of_what_has_ended(live: Live) -> None:
    status = json.loads(live.command("status", "--json").stdout)
    one = status["datacenters"][NAME]
    assert (status["status"], status["processes"], one["window"]) == ("stopped", [], live.window())
    assert one["watermark_ms"] - one["window_end_ms"] == one["lag_ms"] >= 30_000
    assert one["power_w"] > 0
    assert {row["topic"] for row in one["positions"]} >= {"dc.workload", "dc.power"}
    assert f"{NAME}: window {live.window()} until " in live.command("status").stdout


def test_events_by_kind_and_time(live: Live) -> None:
    rows = [json.loads(line) for line in live.command("events", "--json").stdout.splitlines()]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert {"started", "stopped", "calibration"} <= {row["kind"] for row in rows}
    curves = [row["time_ms"] for row in rows if row["kind"] == "calibration"]
    since = live.command("events", "--json", "--kind", "calibration", "--since", curves[1]).stdout.splitlines()
    assert [json.loads(line)["time_ms"] for line in since] == curves[1:]
    assert len(live.command("events").stdout.splitlines()) == len(rows)


def test_events_are_followed_until_they_are_interrupted(live: Live) -> None:
    words = [*FACE, "events", "--follow", "--kind", "started", "--config", str(live.file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert "started" in follower.stdout.readline()
        live.drain()  # begins and ends once more
        assert "started" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=20)
    assert follower.returncode == 130
    assert "Traceback" not in said


def test_timeseries_in_every_form(live: Live, tmp_path: Path) -> None:
    found = json.loads(live.command("timeseries", "--json", "--columns", "power_w,measured_w").stdout)
    assert list(found) == ["time_ms", "power_w", "measured_w"]
    assert {later - earlier for earlier, later in zip(found["time_ms"], found["time_ms"][1:], strict=False)} == {30_000}
    since, until = found["time_ms"][3], found["time_ms"][7]
    part = live.command("timeseries", "--columns", "power_w", "--since", since, "--until", until).stdout.splitlines()
    assert [int(line.split(",")[0]) for line in part[1:]] == found["time_ms"][3:8]
    assert [float(line.split(",")[1]) for line in part[1:]] == found["power_w"][3:8]
    live.command("timeseries", "-o", tmp_path / "all.parquet")
    assert pq.read_metadata(tmp_path / "all.parquet").num_rows == len(found["time_ms"])
    live.command("timeseries", "-o", tmp_path / "all.csv")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == len(found["time_ms"]) + 1


def test_down_ends_it_in_order_and_says_so(live: Live) -> None:
    with live.started() as process:
        process.until(lambda: json.loads(live.command("status", "--json").stdout)["processes"], "a process file")
        process.until(lambda: "waits for records" in process.said(), "the first words")
        status = json.loads(live.command("status", "--json").stdout)
        assert [(one["pid"], one["is_alive"]) for one in status["processes"]] == [(process.pid, True)]
        down = live.command("down")
        assert f"process {process.pid} has ended" in down.stdout
        assert process.wait() == 0
    assert "nothing runs" in live.command("down").stderr


def test_down_removes_what_a_killed_process_left_behind(live: Live) -> None:
    with live.started() as process:
        process.until(lambda: "waits for records" in process.said(), "the first words")
        process.kill()
    assert json.loads(live.command("status", "--json").stdout)["status"] == "killed"
    assert "is gone; removed its file" in live.command("down").stderr
    assert not (live.state / "opendt.pid").exists()


def test_a_file_of_another_process_ends_nobody(live: Live) -> None:
    (live.state / "opendt.pid").write_text(f"{os.getpid()}\n")
    assert f"process {os.getpid()} is gone" in live.command("down").stderr  # its number is used again, by this test


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["events", "--kind", "nonsense"], "--kind: found nonsense, expected one of "),
        (["events", "--datacenter", "moon"], f"--datacenter: found moon, expected one of {NAME}"),
        (["timeseries", "--columns", "nonsense"], "--columns: found nonsense, expected some of time_ms"),
        (["timeseries", "-o", "x.txt"], "--output: found x.txt, expected a name that ends in .csv or .parquet"),
        (["timeseries", "--datacenter", "moon"], f"--datacenter: found moon, expected one of {NAME}"),
        (["timeseries", "--since", "1999-01-02", "--until", "1999-01-01"], "--until: found "),
        (["timeseries", "--until", "1999-01-01"], "found nothing between these times"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(live: Live, words: list[str], message: str) -> None:
    found = opendt(*words, "--config", live.file)
    assert (found.returncode, found.stdout) == (1, "")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["status", "events", "timeseries"])
def test_where_nothing_was_followed_a_line_says_so(tmp_path: Path, name: str) -> None:
    found = opendt(name, cwd=tmp_path)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[datacenter.a]\ntopology = "nowhere.json"\n', "nowhere.json: found no such file"),
        ('[datacenter.a]\ntopology = "opendt.toml"\n', "opendt.toml"),
        ('[datacenter.a]\nslo = "nowhere.json"\n', "nowhere.json: found no such file"),
        ('state_dir = "opendt.toml/state"\n', "state_dir: found "),
    ],
)
def test_run_refuses_at_once_what_it_could_not_do_later(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "opendt.toml").write_text(text)
    found = opendt("run", "--drain", cwd=tmp_path)
    assert found.returncode == 1
    assert message in found.stderr
    assert found.stderr.count("\n") == 1

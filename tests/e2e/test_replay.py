"""``opendt replay`` as a person runs it: into the embedded log, read back from there, interrupted, refused."""

from __future__ import annotations

import signal
import subprocess
import time

import pyarrow as pa

from opendt.telemetry.log import LogSource
from tests.command import FACE, opendt
from tests.small import fragments, tasks, topology, write_json, write_workload

ORIGIN = 1_665_093_600_000


def week(tmp_path):
    times = pa.array([ORIGIN, ORIGIN + 1_000, ORIGIN + 20_000_000], pa.int64())
    folder = write_workload(tmp_path / "week", tasks(submission_time=times), fragments())
    write_json(folder / "topology.json", topology())
    return folder


def read(log, topics=("dc.workload", "dc.topology")):
    source, found, mine = LogSource(log, "reader"), [], set()
    source.subscribe(topics, on_assigned=lambda some: (mine.update(some), {})[1], on_revoked=lambda _: None)
    while True:
        records = source.poll(timeout_s=0.05)
        found += records
        if mine and not records and all(map(source.is_at_end, mine)):
            source.close()
            return found


def test_a_replay_lies_in_the_log_and_is_not_sent_twice(tmp_path):
    folder, log = week(tmp_path), tmp_path / "log"
    first = opendt("replay", folder, "--log", log, "--datacenter", "east", cwd=tmp_path)
    assert (first.returncode, first.stdout) == (0, "")
    assert f"to the log in {log}: 3 tasks, 4 fragments, 0 readings of" in first.stderr
    records = read(log)
    assert {record.key for record in records} == {"east"}
    again = opendt("replay", folder, "--log", log, "--datacenter", "east", cwd=tmp_path)
    assert "sent 0 messages" in again.stderr
    assert read(log) == records


def test_an_interrupted_replay_says_what_was_sent_and_goes_on(tmp_path):
    folder, log = week(tmp_path), tmp_path / "log"
    progress = tmp_path / "progress.json"
    words = ["replay", folder, "--log", log, "--speed", "100", "--progress", progress]
    process = subprocess.Popen([*FACE, *map(str, words)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not progress.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "messages are sent; the same command goes on there" in said
    sent = len(read(log))
    assert sent > 0
    rest = opendt(*words[:4], "--progress", progress, cwd=tmp_path)
    assert rest.returncode == 0
    assert f"{sent} of" in rest.stderr
    values = [record.value for record in read(log)]
    assert len(values) == len(set(values)) > sent


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    missing = opendt("replay", tmp_path / "nowhere", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: ")
    assert opendt("replay", week(tmp_path), "--speed", "fast", cwd=tmp_path).returncode == 2


def test_the_log_of_a_replay_has_the_size_that_the_settings_give_it(tmp_path):
    folder, log = week(tmp_path), tmp_path / "log"
    settings = {"log": {"directory": str(log), "segment_mib": 1, "retention_mib": 1}}
    config = write_json(tmp_path / "opendt.json", settings)
    done = opendt("replay", folder, "--config", config, "--repeat", 20_000, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    segments = sorted((log / "topics" / "dc.workload").glob("*.log"))
    assert int(segments[0].stem) > 0  # the oldest are gone
    assert sum(path.stat().st_size for path in segments) < 3 << 20

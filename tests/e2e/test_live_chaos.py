"""What may break while a datacenter is followed, breaks: nothing is lost, nothing is counted twice, and it is said."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from random import Random

import psycopg
import pytest

from opendt.orchestrator.health import HealthFile
from opendt.telemetry.log import LogSink
from opendt.verification.ledger import Ledger
from tests import jumping_clock
from tests.command import FACE, opendt
from tests.live import IS_SOAK, NAME, Live, read_all, undisturbed, without_counts

AWAY_S = 60 if IS_SOAK else 2
DISK_MIB = 128 if IS_SOAK else 12

pytestmark = pytest.mark.timeout(3600 if IS_SOAK else 180)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


def log_with_replay(reference, folder, **options):
    live = Live(folder, reference.topology, log=folder / "log", **options)
    live.replay(reference.workload, *reference.stretch)
    return live


@contextmanager
def replaying(live, reference, speed):
    """Replay beside the test, at a speed at which things can happen meanwhile."""
    words = ["replay", reference.workload, *reference.stretch, "--speed", speed, "--config", live.file]
    child = subprocess.Popen([*FACE, *map(str, words)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield child
        _, said = child.communicate(timeout=600)
        assert child.returncode == 0, said
    finally:
        child.kill()
        child.communicate()


# -- servers ---------------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_killed_away_and_back_changes_nothing(reference, tmp_path, own_kafka_broker):
    live = Live(tmp_path, reference.topology, brokers=own_kafka_broker.bootstrap, settings={"power_patience_s": 86_400})
    with live.started() as process, replaying(live, reference, 9_000):
        process.until_window(reference.windows // 4)
        own_kafka_broker.kill()
        process.until(lambda: "transport_trouble" in process.kinds(), "word of the broker that is away")
        time.sleep(AWAY_S)
        own_kafka_broker.start()
        process.until(lambda: live.window() == reference.windows - 1, "the last window")
        assert "transport_recovered" in process.kinds()
        assert process.terminate() == 0, process.said()
    reference.assert_equal(live)


def test_with_the_broker_away_the_process_ends_when_told(reference, tmp_path, own_kafka_broker):
    live = Live(tmp_path, reference.topology, brokers=own_kafka_broker.bootstrap)
    live.replay(reference.workload, *reference.stretch)
    with live.started() as process:
        process.until_window(reference.windows // 4)
        own_kafka_broker.kill()
        process.until(lambda: "transport_trouble" in process.kinds(), "word of the broker that is away")
        assert process.terminate() == 0, process.said()
    own_kafka_broker.start()
    live.drain()
    reference.assert_equal(live)


def test_a_database_that_is_killed_away_and_back_changes_nothing(reference, tmp_path, own_postgres_server):
    live = log_with_replay(reference, tmp_path, ledger=own_postgres_server.create_database("live"))
    with live.started("--drain") as process:
        process.until_window(reference.windows // 4)
        own_postgres_server.kill()
        process.until(lambda: "ledger_trouble" in process.kinds(), "word of the database that is away")
        health = HealthFile(live.state / "health.json")
        process.until(lambda: health.read().get("waits_for", "").startswith("the ledger: "), "what is waited for")
        since_ms = health.read()["time_ms"]
        process.until(lambda: health.read()["time_ms"] > since_ms, "another sign of life")
        status = opendt("status", "--config", live.file)
        assert status.returncode == 1
        assert status.stdout.startswith("waiting for the ledger: postgresql")
        assert f"process {process.pid}" in status.stdout
        assert f"{NAME}: window " in status.stdout
        assert "Connection refused" in status.stderr
        time.sleep(AWAY_S)
        assert process.is_running
        own_postgres_server.start()
        assert process.wait() == 0, process.said()
        assert "ledger_recovered" in process.kinds()
    reference.assert_equal(live)


def test_with_the_database_away_the_process_ends_when_told(reference, tmp_path, own_postgres_server):
    live = log_with_replay(reference, tmp_path, ledger=own_postgres_server.create_database("live"))
    with live.started("--drain") as process:
        process.until_window(reference.windows // 4)
        own_postgres_server.kill()
        process.until(lambda: "ledger_trouble" in process.kinds(), "word of the database that is away")
        assert process.terminate() == 0, process.said()
    own_postgres_server.start()
    live.drain()
    reference.assert_equal(live)


# -- disks -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of a size that the streams fit into."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill_up(ballast):
    """Leave no byte."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.parametrize("signal_number", [None, signal.SIGTERM, signal.SIGKILL])
def test_a_full_disk_under_log_and_ledger_changes_nothing(reference, tmp_path, small_disk, signal_number):
    live = Live(tmp_path / "words", reference.topology, log=small_disk / "log", state=small_disk / "state")
    live.replay(reference.workload, *reference.stretch)
    ballast = small_disk / "ballast"
    with live.started("--drain") as process:
        process.until_window(reference.windows // 4)
        fill_up(ballast)
        process.until(lambda: {"ledger_trouble", "transport_trouble"} & {*process.kinds()}, "word of the full disk")
        if signal_number == signal.SIGTERM:
            assert process.terminate() == 0, process.said()
        elif signal_number == signal.SIGKILL:
            process.kill()
        else:
            ballast.unlink()
            assert process.wait() == 0, process.said()
            assert {"ledger_recovered", "transport_recovered"} & {*process.kinds()}
    ballast.unlink(missing_ok=True)
    live.drain()
    reference.assert_equal(live)


# -- streams ---------------------------------------------------------------------------------------------------------------

POISON = {
    "broken JSON": b'{"message_type":"task","timestamp":',
    "no object": b"[1, 2, 3]",
    "no number": b'{"message_type":"heartbeat","timestamp":NaN}',
    "wrong types": b'{"message_type":"task","timestamp":"noon","task":{"id":[],"submission_time":{},"cpu_count":-1}}',
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "unknown kind": b'{"message_type":"song","timestamp":1}',
    "too large": b'{"message_type":"heartbeat","timestamp":1e400}',
}
POISON_OF_POWER = {
    "no number": b'{"timestamp":1709510430000,"power_draw":NaN}',
    "wrong types": b'{"timestamp":1709510430000,"power_draw":"much"}',
    "broken JSON": b'{"timestamp":1709510430000,"power_draw"',
    "endless": b'{"timestamp":1709510430000,"power_draw":Infinity}',
}


def test_poisoned_messages_are_put_aside_and_nothing_else_changes(reference, tmp_path):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log")
    messages = reference.messages()
    random = Random(5)
    poison = [("dc.workload", value) for value in POISON.values()]
    poison += [("dc.power", value) for value in POISON_OF_POWER.values()]
    places = sorted(random.sample(range(len(messages) - 100), len(poison)))
    random.shuffle(poison)
    sink = LogSink(live.log)
    for number, message in enumerate(messages):
        while places and places[0] == number:
            topic, value = poison[len(places) - 1]
            sink.send(topic, value, key=NAME)
            places.pop(0)
        sink.send(message.topic, message.value, key=message.key)
    sink.close()
    events = live.drain()
    assert without_counts(live.export()) == without_counts(reference.export)
    letters = [json.loads(record.value) for record in read_all(live.source("letters"), ["dc.deadletter"])]
    assert len(letters) == len(poison) == sum(event.get("kind") == "dead_letter" for event in events)
    assert all(letter["reason"] for letter in letters)
    dead = sum(line["content"]["metrics"]["dead_count"] for line in lines(live.export(), "window"))
    assert dead == len(poison)


def test_what_people_sent_is_taken_again_by_the_windows_that_took_it(reference, tmp_path):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log")
    messages, sent = reference.messages(), 0
    original = json.loads(reference.topology.read_text())

    def send_and_drain(count):
        nonlocal sent
        live.send(messages[sent : sent + count])
        sent += count
        return [event.get("kind") for event in live.drain()]

    def say(sink, time_ms, mode, hosts):
        original["clusters"][0]["hosts"][0]["count"] = hosts
        setting = {"setting_key": "mode", "new_value": mode, "timestamp": time_ms, "source": "test"}
        sink.send("sys.config", json.dumps(setting).encode(), key=NAME)
        topology = {"topology": original, "timestamp": time_ms, "source": "test"}
        sink.send("dc.topology", json.dumps(topology).encode(), key=NAME)

    part = len(messages) // 4
    send_and_drain(part)
    first_ms, reached_ms = messages[0].time_ms, messages[part].time_ms
    with closing(LogSink(live.log)) as sink:  # long late, and long before its time
        say(sink, first_ms + 1, "observe", 60)
        say(sink, messages[3 * part].time_ms, "advise", 50)
    kinds = send_and_drain(part)
    assert kinds.count("setting_changed") == 1
    no_snapshot((live.state / "snapshots" / NAME).glob("*.twin"))
    assert "snapshot_rebuilt" in send_and_drain(part)  # a difference to what is recorded would end it
    send_and_drain(len(messages) - sent)
    with Ledger.open(live.ledger_url, read_only=True) as ledger:
        taken = [
            window.index for window in ledger.windows(NAME) if window.input_hash and window.metrics["merged_count"]
        ]
        begins = [version.row.from_index for version in ledger.topology_versions(NAME)]
        assert len(begins) == 3
        assert begins[1] > (reached_ms - first_ms) // 300_000 - 2
        assert ledger.last_window(NAME).index == reference.windows - 1
        assert begins[1] - 1 in taken
    export = live.export()
    no_snapshot((live.state / "snapshots" / NAME).glob("*.twin"))
    live.drain()
    assert live.export() == export


def lines(export, kind):
    return [line for line in map(json.loads, export.splitlines()) if line.get("line") == kind]


def test_a_torn_end_of_the_log_is_cut_off_and_said(reference, tmp_path):
    live = log_with_replay(reference, tmp_path)
    with live.started("--drain") as process:
        process.until_window(reference.windows // 4)
        assert process.terminate() == 0  # so that there are results, of which the end can be torn
    for topic in ("sim.results", "dc.workload", "dc.power"):
        folder = live.log / "topics" / topic
        newest = max(folder.glob("*.log"))
        whole = newest.read_bytes()
        newest.write_bytes(whole + whole[: min(len(whole) - 7, 1_000)])  # a frame that began well
    with live.started("--drain") as process:
        assert process.wait() == 0, process.said()
        torn = {event["topic"]: event for event in process.events() if event.get("kind") == "torn_end"}
    assert set(torn) == {"sim.results", "dc.workload", "dc.power"}
    assert {event["dropped_bytes"] for event in torn.values()} == {1_000}
    kept = [json.loads(line) for line in live.command("events", "--json", "--kind", "torn_end").stdout.splitlines()]
    for topic, event in torn.items():
        (content,) = {json.dumps(row["content"]) for row in kept if row["content"]["topic"] == topic}
        assert json.loads(content).items() >= {name: event[name] for name in ("partition", "offset")}.items()
    # Whoever writes next to the others cuts them as well, and what is there is untouched.
    sink = LogSink(live.log)
    sink.send("dc.workload", b"{}", key="nobody")
    sink.send("dc.power", b"{}", key="nobody")
    sink.close()
    live.drain()
    reference.assert_equal(live)


def test_the_wall_clock_decides_nothing(reference, tmp_path):
    live = log_with_replay(reference, tmp_path)
    launcher = [sys.executable, jumping_clock.__file__, "7"]
    environment = {**os.environ, "TZ": "Pacific/Chatham"}
    with live.started(launcher=launcher, env=environment) as process:
        process.until_window(reference.windows // 2)
        process.kill()
    with live.started("--drain", launcher=launcher, env=environment) as process:
        assert process.wait() == 0, process.said()
    with closing(sqlite3.connect(live.state / "ledger.sqlite")) as ledger:
        first_ms, last_ms = ledger.execute("SELECT min(recorded_ms), max(recorded_ms) FROM windows").fetchone()
    assert last_ms - first_ms > 365 * 86_400_000  # the clock did jump
    reference.assert_equal(live)


# -- two of them -----------------------------------------------------------------------------------------------------------


def is_refused(live, process):
    with live.started("--drain") as second:
        assert second.wait() == 1
        assert f"is followed by process {process.pid}" in second.said()
        assert "lease_refused" in second.kinds()


def test_a_second_process_on_the_same_file_is_refused_by_name(reference, tmp_path):
    live = log_with_replay(reference, tmp_path)
    with live.started() as process:
        process.until_window(3)
        is_refused(live, process)
        process.until_window(reference.windows - 1)
        assert process.terminate() == 0
    reference.assert_equal(live)


def test_a_second_process_on_the_same_database_is_refused_by_name(reference, tmp_path, postgres):
    live = log_with_replay(reference, tmp_path / "one", ledger=postgres)
    other = Live(tmp_path / "other", reference.topology, log=live.log, group="other", ledger=postgres)
    with live.started() as process:
        process.until_window(3)
        is_refused(other, process)
        process.until_window(reference.windows - 1)
        assert process.terminate() == 0
    reference.assert_equal(live)


def end_sessions(url, pid):
    """Let the server end what a process has open there, as when it, or the network, went away and came back."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        words = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE split_part(application_name, ' ', 3) = %s"
        assert connection.execute(words, [str(pid)]).fetchall() == [(True,)]


def test_a_process_whose_datacenter_was_taken_over_says_so_and_records_nothing_more(reference, tmp_path, postgres):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log", ledger=postgres)
    messages = reference.messages()
    live.send(messages[: len(messages) // 2])
    with live.started() as process, Ledger.open(postgres) as other:
        process.until_window(reference.windows // 4)
        os.kill(process.pid, signal.SIGSTOP)
        live.send(messages[len(messages) // 2 :])  # so that there is something left to record
        end_sessions(postgres, process.pid)
        with other.lease(NAME, wait_s=30):
            window = live.window()
            os.kill(process.pid, signal.SIGCONT)
            assert process.wait() == 1
            assert live.window() == window
        kinds = process.kinds()
        assert kinds.index("ledger_trouble") < kinds.index("lease_lost")
        assert f"is followed by process {os.getpid()}" in process.said()
    (lost,) = map(json.loads, live.command("events", "--json", "--kind", "lease_lost").stdout.splitlines())
    assert (lost["datacenter"], lost["level"]) == (NAME, "error")
    assert f"process {os.getpid()} on " in lost["content"]["holder"]
    live.drain()
    reference.assert_equal(live)


def test_a_process_whose_sessions_were_ended_goes_on_when_nobody_took_over(reference, tmp_path, postgres):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log", ledger=postgres)
    messages = reference.messages()
    live.send(messages[: len(messages) // 2])
    with live.started() as process:
        process.until_window(reference.windows // 4)
        end_sessions(postgres, process.pid)
        live.send(messages[len(messages) // 2 :])
        process.until_window(reference.windows - 1)
        assert process.terminate() == 0
        assert "ledger_recovered" in process.kinds()
        assert "lease_lost" not in process.kinds()
    reference.assert_equal(live)


# -- snapshots -------------------------------------------------------------------------------------------------------------


def no_snapshot(snapshots):
    for path in snapshots:
        path.unlink()


def torn_snapshot(snapshots):
    for path in snapshots:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped_snapshot(snapshots):
    for path in snapshots:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)


def older_snapshot(snapshots):
    for path in snapshots:
        header, body = path.read_bytes().split(b"\n", 1)
        path.write_bytes(json.dumps(json.loads(header) | {"engine": -1}).encode() + b"\n" + body)


def foreign_snapshot(snapshots):
    for path in snapshots:
        path.write_bytes(b"not one of ours")


@pytest.mark.parametrize("harm", [no_snapshot, torn_snapshot, flipped_snapshot, older_snapshot, foreign_snapshot])
def test_without_a_usable_snapshot_the_twin_is_rebuilt_from_the_streams(reference, tmp_path, harm):
    live = log_with_replay(reference, tmp_path)
    with live.started("--drain") as process:
        process.until_window(reference.windows // 3)
        assert process.terminate() == 0
    snapshots = list((live.state / "snapshots" / NAME).glob("*.twin"))
    assert snapshots
    harm(snapshots)
    kinds = [event.get("kind") for event in live.drain()]
    assert "snapshot_rebuilt" in kinds
    assert "snapshot_restored" not in kinds
    reference.assert_equal(live)


# -- edits -----------------------------------------------------------------------------------------------------------------


def test_edits_take_effect_in_the_next_window_and_broken_ones_change_nothing(reference, tmp_path):
    topology, slo = tmp_path / "topology.json", tmp_path / "slo.json"
    original = json.loads(reference.topology.read_text())
    for cluster in original["clusters"]:
        cluster.pop("powerSource", None)
    topology.write_text(json.dumps(original))
    slo.write_text(json.dumps({"version": 1, "energy": {"target_kwh": 9.0}}))
    live = Live(tmp_path, topology, log=tmp_path / "log", settings={"power_patience_s": 86_400})

    def versions():
        with Ledger.open(live.ledger_url, read_only=True) as ledger:
            return len(ledger.topology_versions(NAME)), len(ledger.slo_versions(NAME))

    with live.started() as process, replaying(live, reference, 3_600):
        process.until_window(5)
        edited = json.loads(topology.read_text())
        edited["clusters"][0]["hosts"][0]["count"] += 2
        replace(topology, json.dumps(edited))
        process.until(lambda: versions() == (2, 1), "the second version of the topology")
        replace(topology, '{"clusters": [{"name": "C01", "hosts": [{"count": "many"}]}]}')
        process.until(lambda: "topology_refused" in process.kinds(), "word of the broken topology")
        replace(slo, json.dumps({"version": 1, "energy": {"target_kwh": 0.1}}))
        process.until(lambda: versions() == (2, 2), "the second version of the objectives")
        replace(slo, "{")
        process.until(lambda: "slo_refused" in process.kinds(), "word of the broken objectives")
        index = live.window()
        process.until_window(index + 2)
        process.kill()
    live.drain()
    assert versions() == (2, 2)
    export = live.export()
    with Ledger.open(live.ledger_url, read_only=True) as ledger:
        begins = [version.row.from_index for version in ledger.topology_versions(NAME)]
        slo_begins = [version.row.from_index for version in ledger.slo_versions(NAME)]
        for window in ledger.windows(NAME):
            assert window.topology_version == (1 if window.index < begins[1] else 2)
            assert window.slo_version == (1 if window.index < slo_begins[1] else 2)
        count = ledger.last_window(NAME).index + 1
    assert (begins[0], slo_begins[0], count) == (0, 0, reference.windows)
    # Derived again from the streams alone, every window must be the one that is recorded, else the process ends.
    no_snapshot((live.state / "snapshots" / NAME).glob("*.twin"))
    assert "snapshot_rebuilt" in [event.get("kind") for event in live.drain()]
    assert live.export() == export


def replace(path, text):
    """Edit a file as editors do: by renaming a new one over it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)

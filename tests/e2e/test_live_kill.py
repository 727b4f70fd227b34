"""However often and wherever the process is killed: the ledger's export, results and series are those of an undisturbed run.

CI kills at a seeded sample of moments over half a day that never was; ``make soak`` at twenty over a day of SURF, for three
seeds. OPENDT_SEED=N begins with another seed than 1.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests import killed_at
from tests.command import FACE
from tests.live import IS_SOAK, SEED, Live, Reference, kill_at_random, undisturbed, without_counts

KILLS = 20 if IS_SOAK else 4
SEEDS = range(SEED, SEED + 3) if IS_SOAK else (SEED,)
TIMEOUT_S = 3600 if IS_SOAK else 180

pytestmark = pytest.mark.timeout(TIMEOUT_S)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


def disturbed(reference: Reference, live: Live, seed: int) -> None:
    """Kill a run again and again, let it come to its end, and compare."""
    hits = kill_at_random(live, seed, KILLS, reference.windows)
    assert hits >= KILLS - 1, "hardly any kill hit the process at work"
    live.drain()
    reference.assert_equal(live)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_change_nothing_with_the_log_and_sqlite(reference, tmp_path, seed):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log")
    live.replay(reference.workload, *reference.stretch)
    disturbed(reference, live, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_change_nothing_with_the_log_and_postgresql(reference, tmp_path, postgres, seed):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log", ledger=postgres)
    live.replay(reference.workload, *reference.stretch)
    disturbed(reference, live, 10 + seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_change_nothing_with_kafka_and_sqlite(reference, tmp_path, empty_kafka_broker, fresh_name, seed):
    live = Live(tmp_path, reference.topology, brokers=empty_kafka_broker.bootstrap, group=fresh_name("group"))
    live.replay(reference.workload, *reference.stretch)
    disturbed(reference, live, 20 + seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_change_nothing_with_kafka_and_postgresql(
    reference, tmp_path, empty_kafka_broker, postgres, fresh_name, seed
):
    brokers, group = empty_kafka_broker.bootstrap, fresh_name("group")
    live = Live(tmp_path, reference.topology, brokers=brokers, group=group, ledger=postgres)
    live.replay(reference.workload, *reference.stretch)
    disturbed(reference, live, 30 + seed)


# Where two things are to happen and one has: (function, before or after, which call of it).
SEAMS = (
    ("opendt.verification.ledger:Ledger.record_topology_version", "after", 1),
    ("opendt.verification.ledger:Ledger.record_window", "before", 1),
    ("opendt.verification.ledger:Ledger.record_window", "after", 1),
    ("opendt.verification.migrations.session:Session.drop", "before", 1),
    ("opendt.orchestrator.teller:Teller.publish", "before", 9),
    ("opendt.orchestrator.teller:Teller.publish", "after", 4),
    ("opendt.orchestrator.buffer:SimulationResultsBuffer._write", "after", 1),
    # How often a snapshot is taken depends on what it costs; the last one of a run always is.
    ("opendt.orchestrator.snapshots:SnapshotStore._put", "before", 1),
    ("opendt.orchestrator.snapshots:SnapshotStore._put", "after", 1),
    ("opendt.telemetry.log_writer:_TopicWriter._write", "after", 1),
    ("os:fsync", "before", 3),
    ("pathlib:Path.replace", "before", 3),
    ("pathlib:Path.unlink", "before", 2),
    ("opendt.orchestrator.follower:Follower._commit", "before", 1),
    ("opendt.orchestrator.controller:OpenDTOrchestrator.stop", "after", 1),
)


def test_a_kill_between_any_two_steps_changes_nothing(reference, tmp_path):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log")
    seams, messages = SEAMS if IS_SOAK else SEAMS[::2], reference.messages()
    part = len(messages) // len(seams)  # each kill finds windows that are new
    missed = []
    for number, (place, when, call) in enumerate(seams):
        live.send(messages[number * part : (number + 1) * part])
        launcher = [sys.executable, killed_at.__file__, place, when, str(call)]
        with live.started("--drain", launcher=launcher) as process:
            if process.wait() != -signal.SIGKILL:
                missed.append((place, process.said()[-1_000:]))
    assert missed == []
    live.send(messages[len(seams) * part :])
    live.drain()
    reference.assert_equal(live)


def test_a_replay_that_is_killed_and_given_again_loses_nothing(reference, tmp_path):
    live = Live(tmp_path, reference.topology, log=tmp_path / "log")
    words = [*FACE, "replay", str(reference.workload), *reference.stretch, "--config", str(live.file)]
    sent = tmp_path / "log" / "topics" / "dc.workload"
    # At this speed it flushes now and then, and is found in the midst of it.
    child = subprocess.Popen([*words, "--speed", "20000"], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 30
    while not any(path.stat().st_size for path in sent.glob("*")) and time.monotonic() < deadline_s:
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    live.replay(reference.workload, *reference.stretch, "--speed", "max")
    live.drain()
    assert without_counts(live.export()) == without_counts(reference.export)

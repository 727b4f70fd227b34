"""Two processes in one consumer group share two datacenters; when one is killed the other takes over, and nothing differs."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from opendt.formats.synthetic import generate_week
from opendt.orchestrator.transports import INPUTS, OUTPUTS
from opendt.telemetry.kafka import ensure_topics
from opendt.telemetry.messages import SIM_TOPOLOGY
from tests.command import FACE
from tests.live import Live, Process

NAMES = ("east", "west")  # their keys fall into the first and the second of two partitions
HOURS = 6
LAST = HOURS * 12 - 1

pytestmark = pytest.mark.timeout(170)


def followed(process: Process) -> set[str]:
    """Datacenters of which a process has closed a window."""
    return {event["datacenter"] for event in process.events() if event.get("kind") == "window_closed"}


def replaying(live: Live, workload: Path, name: str, speed: int) -> subprocess.Popen[bytes]:
    words = ["replay", workload, "--hours", HOURS, "--datacenter", name, "--speed", speed, "-q", "--config", live.file]
    return subprocess.Popen([*FACE, *map(str, words)], stdin=subprocess.DEVNULL)


def test_two_processes_share_two_datacenters_and_one_takes_over(tmp_path, empty_kafka_broker, postgres, fresh_name):
    workload = generate_week(3, tmp_path / "week")
    brokers = empty_kafka_broker.bootstrap
    ensure_topics(brokers, (*INPUTS, *OUTPUTS, SIM_TOPOLOGY), partitions=2)
    group = fresh_name("group")
    shared, live = tmp_path / "state", {}
    for folder in ("one", "two"):
        place = tmp_path / folder
        topology = workload / "topology.json"
        live[folder] = Live(place, topology, brokers=brokers, group=group, ledger=postgres, names=NAMES, state=shared)
    with ExitStack() as stack:
        processes = [stack.enter_context(one.started()) for one in live.values()]
        for process in processes:
            process.until(lambda process=process: "partition_assigned" in process.kinds(), "partitions for each")
        replays = [replaying(live["one"], workload, name, HOURS * 3600 // 20) for name in NAMES]
        for replay in replays:
            stack.callback(replay.kill)
        processes[0].until(lambda: all(live["one"].window(name) >= 15 for name in NAMES), "windows of both")
        shares = [followed(process) for process in processes]
        assert sorted(map(len, shares)) == [1, 1], shares
        assert shares[0] | shares[1] == set(NAMES)
        processes[0].kill()
        survivor = processes[1]
        survivor.until(lambda: all(live["two"].window(name) == LAST for name in NAMES), "all windows by one")
        assert [replay.wait(60) for replay in replays] == [0, 0]
        assert followed(survivor) == set(NAMES)
        assert survivor.terminate() == 0
    undisturbed = Live(
        tmp_path / "alone", workload / "topology.json", brokers=brokers, group=fresh_name("group"), names=NAMES
    )
    undisturbed.drain()
    assert live["two"].export() == undisturbed.export()
    for name in NAMES:  # told by three processes by now, and each time the same
        assert sorted(live["two"].results(name)) == list(range(LAST + 1))

"""Decisions in a live system: what the gate applies is in the topology file and in the next windows, also when the process is killed
around it; people propose, accept and take back by command; what breaks its sensors is trusted less.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from opendt.formats.opendc import read_topology
from opendt.formats.synthetic import generate_week
from opendt.verification.ledger import Ledger
from tests import killed_at
from tests.command import opendt
from tests.live import IS_SOAK, NAME, Live, read_all

SLO = {
    "version": 1,
    "window_s": 300,
    "energy": {"target_kwh": 0.5},
    "runtime": {"task_wait_p95": {"target_s": 300}, "task_slowdown_p95": {"target_ratio": 1.5}},
}
HOURS = 3
TAKE_TWENTY = {
    "changes": [{"type": "remove_hosts", "hosts": {"type": "group", "group": "memory"}, "count": 20}],
    "reason": "the memory hosts are hardly used at night",
}

pytestmark = pytest.mark.timeout(600 if IS_SOAK else 120)


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    return generate_week(3, tmp_path_factory.mktemp("decisions") / "week")


def live(folder: Path, week: Path, mode: str, slo=SLO, **settings) -> Live:
    """A live system with files of its own: they are written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("topology.json", "carbon.parquet"):
        shutil.copy(week / name, folder / name)
    (folder / "slo.json").write_text(json.dumps(slo))
    options = {"environment": "live", "mode": mode, **settings}
    return Live(folder, folder / "topology.json", log=folder / "log", settings=options)


def decisions(one: Live) -> list[dict]:
    """All decisions, in order of time."""
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        found = [recorded.document.content for recorded in ledger.documents("decisions", NAME)]
    return sorted(found, key=lambda content: (content["time_ms"], content["proposal_id"]))


def applied(one: Live) -> list[dict]:
    return [decision for decision in decisions(one) if decision["verdict"] == "applied"]


def hosts_up(one: Live) -> dict[int, float]:
    """Hosts in service at the end of each window, by that end."""
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        return {row.end_ms: row.metrics["hosts_up"] for row in ledger.windows(NAME)}


def versions(one: Live) -> list[tuple[int, str]]:
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        return [(recorded.row.from_index, recorded.row.source) for recorded in ledger.topology_versions(NAME)]


@dataclass
class Undisturbed:
    """A run in mode auto in which a change was applied."""

    one: Live
    export: bytes
    file: bytes
    window: int  # in which it was decided


@pytest.fixture(scope="module")
def undisturbed(week, tmp_path_factory):
    one = live(tmp_path_factory.mktemp("auto"), week, "auto")
    one.replay(week, "--hours", HOURS)
    one.drain()
    ((index, source), *_) = [version for version in versions(one) if version[1].startswith("decision ")]
    assert source == f"decision {applied(one)[0]['proposal_id']}"
    return Undisturbed(one, one.export(), one.topology.read_bytes(), index - 1)


def test_a_certified_change_is_applied_and_the_file_says_so(undisturbed):
    one = undisturbed.one
    (decision,) = applied(one)
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        (certificate,) = ledger.documents("certificates", NAME, proposal_id=decision["proposal_id"])
        decided = json.dumps(ledger.topology_versions(NAME)[1].row.content["clusters"][0]["hosts"][0]["count"])
    assert certificate.document.content["decision"] == "certified"
    assert certificate.document.content["spending"]["alpha"] == 0.001
    there = read_topology(one.topology)
    assert there.host_count < 120
    assert int(decided) == there.clusters[0].hosts[0].count
    up = hosts_up(one)
    assert {count for end_ms, count in up.items() if end_ms <= decision["time_ms"]} == {120}
    later = [count for end_ms, count in up.items() if end_ms > decision["time_ms"]]
    assert later[-1] == there.host_count
    assert all(there.host_count <= count < 120 for count in later)  # busy ones finish their tasks first


def test_what_a_change_brought_is_told_after_its_horizon(undisturbed):
    """What is replayed does not obey: nothing was saved, and the ledger, the stream and the command say so."""
    one, (decision,) = undisturbed.one, applied(undisturbed.one)
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        ((event),) = ledger.events(kinds=["change_judged"])
    judged = event.event.content
    assert (judged["proposal"], judged["readings"]) == (decision["proposal_id"], 120)
    assert (judged["start_ms"], judged["end_ms"]) == (decision["time_ms"], decision["time_ms"] + 3_600_000)
    assert judged["verdict"] == "less"
    assert abs(judged["realised_w"]) < judged["error_w"] < judged["predicted_w"]
    told = [json.loads(record.value) for record in read_all(one.source("proposals"), ["sim.proposals"])]
    (after,) = (row for row in told if row["outcome"] and "after_the_fact" in row["outcome"])
    assert (after["id"], after["outcome"]["after_the_fact"]) == (decision["proposal_id"], judged)
    assert "after the fact, over 1 h: less: " in one.command("proposals", "show", decision["proposal_id"]).stdout
    assert b'"change_judged"' in undisturbed.export


def test_anybody_can_decide_a_live_certificate_again(undisturbed, tmp_path):
    """From the ledger and what is kept beside it; damage is told, and what is let go leaves the chain."""
    one = undisturbed.one
    said = json.loads(one.command("certificate", "verify", "--json").stdout)
    assert (said["problems"], said["certificates"]) == ([], said["decided_again"])
    assert said["certificates"] >= 1
    assert one.command("certificate", "show", "--number", 0).stdout.startswith("certificate 0: ")
    other = tmp_path / "other"
    shutil.copytree(one.folder, other)
    file = other / "opendt.json"
    file.write_text(one.file.read_text().replace(str(one.folder), str(other)))
    kept = sorted((other / "state" / "certificates" / NAME).iterdir())
    assert len(kept) == said["certificates"]
    data = bytearray(kept[0].read_bytes())
    data[len(data) // 2] ^= 255
    kept[0].write_bytes(data)
    damaged = opendt("certificate", "verify", "--config", file)
    assert damaged.returncode == 1
    assert kept[0].name in damaged.stderr
    for path in kept:
        path.unlink()
    assert "; 0 decided again" in opendt("certificate", "verify", "--config", file).stdout
    none = opendt("certificate", "verify", "--number", 0, "--config", file)
    assert none.returncode == 1
    assert "belongs to a certificate" in none.stderr


PLACES = (
    "opendt.verification.ledger:Ledger.record_window",
    "opendt.verification.ledger:Ledger.record_topology_version",
    "opendt.orchestrator.actuator:TopologyFileActuator.apply",
    "opendt.orchestrator.actuator:TopologyFileActuator._write",
    "opendt.orchestrator.in_force:InForce.plan_decided",
    "opendt.orchestrator.in_force:InForce.apply",
    "opendt.orchestrator.teller:Teller.publish",
    "opendt.orchestrator.version_store:VersionStore.keep",
)
SEEDS = range(24 if IS_SOAK else 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_around_a_decision_change_nothing(undisturbed, week, tmp_path, seed):
    """Three kills each, at seeded places just before, in and just after the window of the decision."""
    random = Random(seed)
    one = live(tmp_path, week, "auto")
    one.replay(week, "--hours", HOURS)
    hits = 0
    for kill in range(3):
        place = random.choice(PLACES) if kill else PLACES[0]  # a rare place may not be reached
        rare = not place.endswith(("record_window", "plan_decided", "InForce.apply", "Teller.publish"))
        number = random.randint(1, 2) if rare else max(1, undisturbed.window - one.window() + random.randint(-1, 2))
        words = [sys.executable, killed_at.__file__, place, random.choice(("before", "after")), str(number)]
        with one.started("--drain", launcher=words) as process:
            hits += process.wait() == -signal.SIGKILL
    assert hits
    one.drain()
    assert one.export() == undisturbed.export
    assert one.topology.read_bytes() == undisturbed.file


def test_a_file_that_cannot_be_written_is_told_and_the_twin_goes_on(undisturbed, week, tmp_path):
    """No folder can be written to by its name alone for a while: here the backups' folder is a file."""
    one = live(tmp_path, week, "auto")
    one.replay(week, "--hours", HOURS)
    original = one.topology.read_bytes()
    words = [sys.executable, killed_at.__file__, PLACES[2], "before", "1"]
    with one.started("--drain", launcher=words) as process:
        assert process.wait() == -signal.SIGKILL
    folder = one.state / "topology" / NAME
    folder.rename(tmp_path / "kept")
    folder.write_text("in the way")
    with one.started("--drain") as process:
        process.wait()
        said = process.events()
    folder.unlink()
    (tmp_path / "kept").rename(folder)
    if one.topology.read_bytes() == original:  # else it could not even start: then nothing was lost either
        assert any(event.get("kind") == "actuator_trouble" for event in said) or one.window() < undisturbed.window + 2
    one.drain()
    assert one.export() == undisturbed.export
    assert read_topology(one.topology) == read_topology(undisturbed.one.topology)


def test_people_propose_accept_and_take_back_by_command(week, tmp_path):
    """By hand in mode approve: it waits, is accepted, is in the file and the windows after, and is taken back."""
    one = live(tmp_path, week, "approve", {"version": 1, "window_s": 300, "energy": {"target_kwh": 5.0}})
    one.replay(week, "--hours", 2)
    one.drain()
    patch = tmp_path / "patch.json"
    patch.write_text(json.dumps(TAKE_TWENTY))
    said = json.loads(one.command("propose", patch, "--json").stdout)
    assert said["time_ms"] == max(hosts_up(one)) + 1
    one.replay(week, "--hours", 3)
    one.drain()
    (waiting,) = (
        row
        for row in json.loads(one.command("proposals", "list", "--waiting", "--json").stdout)
        if row["source"] == "human"
    )
    assert waiting["reason"] == TAKE_TWENTY["reason"]
    assert waiting["certificate"] == "certified"
    assert not applied(one)
    one.command("proposals", "accept", waiting["id"])
    one.replay(week, "--hours", 4)
    one.drain()
    (decision,) = applied(one)
    assert (decision["proposal_id"], decision["by"]) == (waiting["id"], "person")
    assert read_topology(one.topology).host_count == 100
    assert hosts_up(one)[max(hosts_up(one))] == 100
    shown = one.command("proposals", "show", waiting["id"]).stdout
    assert "applied by person" in shown
    assert json.loads(one.command("rollback", "--json").stdout)["undone"] == waiting["id"]
    one.replay(week, "--hours", 5)
    one.drain()
    assert read_topology(one.topology).host_count == 120
    assert hosts_up(one)[max(hosts_up(one))] == 120
    one.export()


def test_what_a_person_rejects_is_not_applied(week, tmp_path):
    one = live(tmp_path, week, "approve")
    one.replay(week, "--hours", 2)
    one.drain()
    (waiting,) = json.loads(one.command("proposals", "list", "--waiting", "--json").stdout)
    one.command("proposals", "reject", waiting["id"])
    one.replay(week, "--hours", 3)
    one.drain()
    verdicts = [one["verdict"] for one in decisions(one) if one["proposal_id"] == waiting["id"]]
    assert verdicts == ["waiting", "rejected"]
    assert read_topology(one.topology).host_count == 120

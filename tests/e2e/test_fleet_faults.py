"""What breaks under a fleet breaks no plan: servers, nodes, files and processes go, and every stage is run once, somewhere.

Times are those of the events that the service itself recorded, so that a slow test changes none of them.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from scripts.fleet.api import MERGE
from tests.faulty_server import Faults, faulty_server
from tests.fleet import ControlPlane, eventually, merged_kubeconfig
from tests.played_fleet import PODS, Played, Service, add_played_nodes, job_of, pods_in, untaint

IS_SOAK = os.environ.get("OPENDT_SOAK") == "1"
AWAY_S = 60.0 if IS_SOAK else 6.0
FAILOVER_MS = 5000
RECOVERY_MS = 10_000

Planes = dict[str, ControlPlane]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def planes(two_planes: Planes) -> Planes:
    for name, plane in two_planes.items():
        add_played_nodes(plane, 3, name)
    return two_planes


@pytest.fixture
def kubeconfig(planes: Planes, tmp_path: Path) -> Path:
    return merged_kubeconfig(planes, tmp_path / "kubeconfig")


@pytest.fixture
def played(kubeconfig: Path, tmp_path: Path) -> Played:
    return Played(tmp_path / "fleet", kubeconfig, {"strategy": "resilient"})


def pods_of(planes: Planes, plan_id: str) -> list[tuple[str, str, bool]]:
    """Cluster, stage and whether it is a shadow, of each pod that there is of a plan."""
    found = []
    for cluster, plane in planes.items():
        for pod in pods_in(plane):
            labels = pod["metadata"]["labels"]
            if labels["opendt.io/plan-id"] == plan_id and "deletionTimestamp" not in pod["metadata"]:
                found.append((cluster, labels["opendt.io/stage"], labels["opendt.io/role"] == "shadow"))
    return sorted(found)


def one_pod_a_stage(planes: Planes, plan_id: str, stages: int) -> bool:
    """Whether each stage has exactly one pod in the whole fleet."""
    count = Counter(stage for _, stage, _ in pods_of(planes, plan_id))
    return len(count) == stages and set(count.values()) == {1}


def events_of(played: Played, kind: str) -> list[dict[str, Any]]:
    """Recorded events of a kind, oldest first."""
    lines = played.command("events", "--kind", kind, "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def moments(played: Played, plan_id: str, first: str, second: str) -> tuple[int, int]:
    """When a kind of event was told first, and when the last pod of a plan was asked for after it, ms since the epoch."""
    begun = events_of(played, first)[0]["recorded_ms"]
    done = [one["recorded_ms"] for one in events_of(played, second) if one["content"]["plan"] == plan_id]
    return begun, next(moment for moment in done if moment >= begun)


def running(planes: Planes, cluster: str, plan_id: str) -> bool:
    """Whether a pod of a plan runs in a cluster."""
    return any(
        pod["status"]["phase"] == "Running" and pod["metadata"]["labels"]["opendt.io/plan-id"] == plan_id
        for pod in pods_in(planes[cluster])
    )


def where(plan: dict[str, Any], stage: str = "s0") -> tuple[str, str]:
    """Cluster and node of a stage."""
    place = plan["placements"][stage]
    return place["cluster"], place["node_name"]


def set_down(plane: ControlPlane, node: str, *, is_down: bool) -> None:
    """Have KWOK make a node not ready, or ready again."""
    labels = {"metadata": {"labels": {"kwok.opendt.io/down": "true" if is_down else None}}}
    with plane.client() as client:
        client.request("PATCH", f"/api/v1/nodes/{node}", labels, MERGE)
        if not is_down:

            def ready() -> bool:
                conditions = client.get(f"/api/v1/nodes/{node}")["status"]["conditions"]
                return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

            eventually(ready, f"{node} is ready")
            untaint(client, node)


def test_an_api_server_that_is_away_costs_no_plan(planes: Planes, played: Played) -> None:
    with played.running() as service:
        plan = service.plan(job_of("away", stages=2, seconds=AWAY_S + 5))
        cluster, _ = where(plan)
        assert plan["shadow_plan"]["s0"]["cluster"] != cluster
        eventually(lambda: running(planes, cluster, plan["plan_id"]), "the first stage runs")
        planes[cluster].stop_part("kube-apiserver")
        began_s = time.monotonic()
        try:
            other = next(name for name in planes if name != cluster)
            eventually(lambda: running(planes, other, plan["plan_id"]), "its shadow runs", 30)
            while_away = service.plan(job_of("while-away", stages=1, seconds=1.0))
            assert where(while_away)[0] == other
            service.wait_over(while_away["plan_id"])
            # Waited out, so that it is away as long as said, also when all went on at once.
            eventually(lambda: time.monotonic() - began_s >= AWAY_S, "it was away long enough", AWAY_S + 10)
        finally:
            planes[cluster].start_part("kube-apiserver")
        service.wait_over(plan["plan_id"], seconds=2 * AWAY_S + 120)
        eventually(lambda: one_pod_a_stage(planes, plan["plan_id"], 2), "what was left behind is removed")
        # The cluster is used again.
        eventually(lambda: service.get("/health")["clusters"][cluster], "the cluster answers again")
    begun, done = moments(played, plan["plan_id"], "cluster_lost", "fleet_action")
    assert done - begun < FAILOVER_MS
    lost = [one["content"]["stage"] for one in events_of(played, "stage_lost")]
    assert lost in (["s0"], ["s0", "s1"]), "the second may begin when the cluster is back"
    assert [one["content"]["stage"] for one in events_of(played, "stage_failed_over")] == lost
    assert any(one["content"]["cluster"] == cluster for one in events_of(played, "cluster_reached"))


def test_a_node_that_is_not_ready_loses_its_stage_to_the_shadow(planes: Planes, played: Played) -> None:
    with played.running() as service:
        plan = service.plan(job_of("not-ready", stages=2, seconds=4.0))
        cluster, node = where(plan)
        eventually(lambda: running(planes, cluster, plan["plan_id"]), "the first stage runs")
        set_down(planes[cluster], node, is_down=True)
        try:
            service.wait_over(plan["plan_id"])
        finally:
            set_down(planes[cluster], node, is_down=False)
        eventually(lambda: one_pod_a_stage(planes, plan["plan_id"], 2), "what was left behind is removed")
        record = service.get(f"/plan/{plan['plan_id']}")
        ran = {one["stage_id"]: one["node_name"] for one in record["observation"]["stages"]}
        assert ran["s0"] == plan["shadow_plan"]["s0"]["node_name"]
    begun, done = moments(played, plan["plan_id"], "node_down", "fleet_action")
    assert done - begun < FAILOVER_MS
    assert "is down: it is not ready" in played.command("events", "--kind", "node_down").stdout


def test_a_node_deleted_under_its_pod_loses_it_to_the_shadow(planes: Planes, played: Played) -> None:
    with played.running() as service:
        plan = service.plan(job_of("deleted", stages=1, seconds=4.0))
        cluster, node = where(plan)
        eventually(lambda: running(planes, cluster, plan["plan_id"]), "the stage runs")
        with planes[cluster].client() as client:
            client.request("DELETE", f"/api/v1/nodes/{node}")
        service.wait_over(plan["plan_id"])
        eventually(lambda: one_pod_a_stage(planes, plan["plan_id"], 1), "what was left behind is removed")
    begun, done = moments(played, plan["plan_id"], "node_down", "fleet_action")
    assert done - begun < FAILOVER_MS
    assert "it was removed" in played.command("events", "--kind", "node_down").stdout


def test_a_pod_that_somebody_deletes_is_made_at_its_shadow(planes: Planes, played: Played) -> None:
    with played.running() as service:
        plan = service.plan(job_of("pod-deleted", stages=1, seconds=4.0))
        cluster, _ = where(plan)
        eventually(lambda: running(planes, cluster, plan["plan_id"]), "the stage runs")
        with planes[cluster].client() as client:
            (name,) = [
                pod["metadata"]["name"]
                for pod in pods_in(planes[cluster])
                if pod["metadata"]["labels"]["opendt.io/plan-id"] == plan["plan_id"]
            ]
            client.request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")
        service.wait_over(plan["plan_id"])
        assert one_pod_a_stage(planes, plan["plan_id"], 1)
    assert "its pod was deleted" in played.command("events", "--kind", "stage_lost").stdout


def test_a_kubeconfig_that_breaks_while_it_is_used_stops_nothing(
    planes: Planes, played: Played, kubeconfig: Path
) -> None:
    content = kubeconfig.read_text(encoding="utf-8")
    with played.running() as service:
        kubeconfig.write_text("clusters: [{name: ", encoding="utf-8")
        eventually(lambda: bool(events_of(played, "sense_trouble")), "it is said")
        plan = service.plan(job_of("broken-config", stages=2, seconds=0.5))
        service.wait_over(plan["plan_id"])
        kubeconfig.write_text(content, encoding="utf-8")
        again = service.plan(job_of("mended-config", stages=1, seconds=0.5))
        service.wait_over(again["plan_id"])
        assert one_pod_a_stage(planes, plan["plan_id"], 2)
    said = played.command("events", "--kind", "sense_trouble").stdout
    assert "What it said before goes on being used" in said


def test_conflicts_and_throttling_are_waited_out(planes: Planes, kubeconfig: Path, tmp_path: Path) -> None:
    faults, seen = Faults(), Counter[str]()

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        """Refuse each write twice: once as a conflict, once as too many requests."""
        if method != "PATCH":
            return None
        seen[path] += 1
        return {1: (409, "Conflict"), 2: (429, "TooManyRequests")}.get(seen[path])

    content = json.loads(kubeconfig.read_text(encoding="utf-8"))
    with faulty_server(kubeconfig, "left", faults) as url:
        next(one for one in content["clusters"] if one["name"] == "left")["cluster"] = {"server": url}
        through = tmp_path / "through"
        through.write_text(json.dumps(content), encoding="utf-8")
        played = Played(tmp_path / "fleet", through, {"clusters": ["left"]})
        with played.running() as service:
            faults.refuse = refuse
            plan = service.plan(job_of("refused", stages=2, seconds=0.5))
            service.wait_over(plan["plan_id"])
            faults.refuse = lambda method, _path: (429, "TooManyRequests") if method == "PATCH" else None
            later = service.plan(job_of("throttled", stages=1, seconds=0.5))
            eventually(lambda: bool(events_of(played, "fleet_action_failed")), "it is said that it failed", 40)
            assert service.status(later["plan_id"]) in ("planned", "acting")
            faults.refuse = lambda _method, _path: None
            service.wait_over(later["plan_id"])
    assert {status for _, _, status in faults.refused} == {409, 429}
    assert one_pod_a_stage(planes, plan["plan_id"], 2)
    assert one_pod_a_stage(planes, later["plan_id"], 1)


SEAMS = [
    ("opendt.orchestrator.fleet_book:PlanBook.store", "after", 1),
    ("opendt.orchestrator.fleet_hands:KubernetesHands.create", "before", 1),
    ("opendt.orchestrator.fleet_hands:KubernetesHands.create", "after", 1),
    ("opendt.orchestrator.fleet_hands:KubernetesHands.create", "after", 2),
    ("opendt.orchestrator.fleet_keeper:FleetKeeper._finish", "before", 1),
    ("opendt.orchestrator.fleet_keeper:FleetKeeper._finish", "after", 1),
]


@pytest.mark.parametrize(
    ("place", "when", "number"), SEAMS, ids=[f"{when}-{n}-{p.split('.')[-1]}" for p, when, n in SEAMS]
)
def test_a_kill_loses_no_plan_and_makes_no_pod_twice(
    planes: Planes, played: Played, place: str, when: str, number: int
) -> None:
    job = job_of(f"killed-{SEAMS.index((place, when, number))}", stages=2, seconds=0.5)
    with played.running(place, when, number) as service:
        with suppress(OSError, HTTPException):  # it may die before it answers
            service.ask("POST", "/plan", {"job": job})
        assert service.child.wait(60) == -9, played.said()
    with played.running() as service:
        plan = service.plan(job)  # the one that is there, or it had not been accepted
        service.wait_over(plan["plan_id"])
        assert one_pod_a_stage(planes, plan["plan_id"], 2)
        record = service.get(f"/plan/{plan['plan_id']}")
        assert [one["phase"] for one in record["observation"]["stages"]] == ["succeeded", "succeeded"]
        # Events are kept a moment after they are told, and this process is killed, too.
        eventually(lambda: bool(events_of(played, "plan_resumed")), "it is kept that the plan was resumed")
    resumed = events_of(played, "plan_resumed")
    assert [one["content"]["plan"] for one in resumed] == [plan["plan_id"]]
    accepted = [one for one in events_of(played, "plan_accepted") if one["content"]["plan"] == plan["plan_id"]]
    assert len(accepted) <= 1, "it was accepted once"
    actions = [one["recorded_ms"] for one in events_of(played, "fleet_action")]
    later = [moment for moment in actions if moment >= resumed[0]["recorded_ms"]]
    if later:
        assert later[0] - resumed[0]["recorded_ms"] < RECOVERY_MS


def test_of_two_controllers_one_acts_and_the_other_takes_over(planes: Planes, kubeconfig: Path, tmp_path: Path) -> None:
    shared = {"ledger_url": f"sqlite:///{tmp_path / 'ledger.sqlite'}"}
    fleet = {"lease_cluster": "left"}
    first = Played(tmp_path / "first", kubeconfig, fleet, settings=shared)
    second = Played(tmp_path / "second", kubeconfig, fleet, settings=shared)
    with first.running(wait=False) as one, second.running(wait=False) as other:
        for service in (one, other):
            service.wait_ready()

        def leaders() -> list[Service]:
            return [service for service in (one, other) if service.get("/health")["is_acting"]]

        eventually(lambda: len(leaders()) == 1, "one leads")
        (leader,) = leaders()
        standby = other if leader is one else one
        job = job_of("led", stages=3, seconds=3.0)
        status, said = standby.ask("POST", "/plan", {"job": job})
        assert (status, said["type"]) == (503, "urn:opendt:problem:not-leading")
        assert standby.ask("POST", "/plan", {"job": job, "dry_run": True})[0] == 200
        plan = leader.plan(job)
        eventually(lambda: standby.status(plan["plan_id"]) in ("planned", "running"), "the other one knows of it")
        eventually(lambda: leader.status(plan["plan_id"]) == "running", "it runs")
        leader.child.kill()
        leader.child.wait()
        eventually(lambda: bool(standby.get("/health")["is_acting"]), "the other one leads", 20)
        standby.wait_over(plan["plan_id"])
        assert one_pod_a_stage(planes, plan["plan_id"], 3)
        assert len(events_of(standby.played, "leader_changed")) >= 2

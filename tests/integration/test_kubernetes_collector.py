"""The twin's picture of real API servers is right: after churn, outages, expired watches, and nodes that vanish."""

from __future__ import annotations

import importlib.util
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from opendt.kubernetes.client import ClusterClient
from opendt.kubernetes.cluster_manager import ClusterManager, discover
from opendt.kubernetes.collector import Collector, MetricsSettings
from opendt.kubernetes.health import HealthSettings
from opendt.kubernetes.kubeconfig import api_client
from opendt.kubernetes.leader import LeaderElection, LeaseSettings
from opendt.kubernetes.reflector import Reflector, ReflectorSettings, Sink
from opendt.twin.state import FleetState
from tests.fleet import add_kwok_nodes, create_pod, eventually, merged_kubeconfig
from tests.unit.kubernetes.http_server import kubeconfig

MERGE = "application/merge-patch+json"
PODS = "/api/v1/namespaces/default/pods"
REPORT = '{"started_ms": 1795341600250, "finished_ms": 1795341601500, "cpu_seconds": 0.75, "memory_peak_mib": 12.5}'
PLAN = {"opendt.io/plan-id": "plan-1", "opendt.io/job": "job-1", "opendt.io/stage": "s1"}


@pytest.fixture(scope="module")
def bench():
    """benches/fleet_sense.py, whose comparison with the API servers shares no code with the collector."""
    file = Path(__file__).parents[2] / "benches" / "fleet_sense.py"
    spec = importlib.util.spec_from_file_location("fleet_sense", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def planes(two_planes):
    for plane in two_planes.values():
        add_kwok_nodes(plane, 4)
    return two_planes


@contextmanager
def following(planes, folder, **more):
    """Follow both clusters; gives state, collector, manager, events and observations."""
    events, observed = [], []
    contexts = discover([merged_kubeconfig(planes, folder / "kubeconfig")])
    settings = HealthSettings(interval_s=0.2, deadline_s=1.0)
    manager = ClusterManager(contexts, settings=settings, tell=events.append)
    state = FleetState()
    collector = Collector(
        manager,
        state,
        metrics=MetricsSettings(has_metrics_api=False),
        observe=lambda pod, observation: observed.append((pod.name, observation)),
        **more,
    )
    manager.start()
    collector.start()
    try:
        assert collector.wait_synced(30)
        yield SimpleNamespace(state=state, collector=collector, manager=manager, events=events, observed=observed)
    finally:
        collector.stop()
        manager.stop()


def kinds(run, cluster):
    return [event.kind for event in run.events if event.cluster == cluster]


def until_equal(bench, run):
    """Hold the snapshot against both API servers, object by object."""
    servers = {cluster.name: cluster.client.get for cluster in run.manager}
    found = []

    def is_equal():
        found[:] = bench.compare(run.state.snapshot, servers)
        return found[0] == []

    eventually(is_equal, "the snapshot equals the API servers")
    return found[1:]


def delete_pods(plane):
    with plane.client() as client:
        client.request("DELETE", PODS)
        eventually(lambda: client.get(PODS)["items"] == [], "all pods are gone")


@pytest.mark.timeout(300)
def test_after_churn_the_snapshot_equals_the_api_servers(kubernetes_programs, bench):
    result = bench.measure(clusters=2, nodes=300, pods=1000, churn_s=4.0, rate=100.0)
    assert result["differences"] == []
    assert (result["nodes"], result["changes"]) == (300, 400)
    assert result["pods"] > 950
    assert result["stamps"] > 300
    assert set(result["lists"].values()) == {2}
    assert result["memory_mib"] < 600


def test_a_list_in_many_pages_is_whole(planes, bench, tmp_path):
    for number in range(23):
        create_pod(planes["left"], f"paged-{number}", "node-00001")
    with following(planes, tmp_path, reflector=ReflectorSettings(page=5)) as run:
        nodes, pods = until_equal(bench, run)
    assert (nodes, pods) == (8, 23)
    delete_pods(planes["left"])


def test_the_life_of_a_pod_is_observed(planes, tmp_path):
    with following(planes, tmp_path) as run:
        create_pod(
            planes["left"],
            "short",
            "node-00000",
            annotations={"kwok.opendt.io/seconds": "1s", "kwok.opendt.io/message": REPORT},
            labels=PLAN,
        )
        create_pod(
            planes["right"], "broken", "node-00000", annotations={"kwok.opendt.io/fail-after": "1s"}, labels=PLAN
        )
        create_pod(planes["right"], "cut", "node-00000", labels=PLAN)

        def phases(name):
            return [each.phase for pod, each in run.observed if pod == name]

        eventually(lambda: phases("short")[-1:] == ["succeeded"], "it succeeds")
        eventually(lambda: phases("broken")[-1:] == ["failed"], "it fails")
        eventually(lambda: phases("cut")[-1:] == ["running"], "it runs")
        with planes["right"].client() as client:
            client.request("DELETE", f"{PODS}/cut?gracePeriodSeconds=0")
        eventually(lambda: phases("cut")[-1:] == ["lost"], "it is lost")
        last = dict(run.observed)
    assert (last["short"].stage_id, last["short"].cluster, last["short"].node_name) == ("s1", "left", "node-00000")
    assert (last["short"].started_ms, last["short"].finished_ms) == (1795341600250, 1795341601500)
    assert (last["short"].cpu_seconds, last["short"].memory_peak_mib) == (0.75, 12.5)
    assert last["broken"].finished_ms - last["broken"].started_ms >= 1000
    assert run.state.pod("right", "default", "broken").exit_code == 1
    assert "deleted before it ended" in last["cut"].reason
    for plane in planes.values():
        delete_pods(plane)


def test_a_node_deleted_under_running_pods_is_gone_and_they_are_as_the_api_server_says(planes, bench, tmp_path):
    (name,) = add_kwok_nodes(planes["left"], 1, prefix="doomed")
    create_pod(planes["left"], "orphan", name, labels=PLAN)
    with following(planes, tmp_path) as run, planes["left"].client() as client:
        pod = lambda: run.state.pod("left", "default", "orphan")  # noqa: E731
        eventually(lambda: pod().phase == "Running", "the pod runs")
        version = run.state.version
        client.request("DELETE", f"/api/v1/nodes/{name}")
        eventually(lambda: run.state.node("left", name) is None, "the node is gone")
        assert [(before.name, after) for before, after in run.state.changes_since(version).nodes] == [(name, None)]
        assert pod().node == name
        until_equal(bench, run)
        client.request("DELETE", f"{PODS}/orphan?gracePeriodSeconds=0")
        eventually(lambda: run.observed[-1][1].phase == "lost", "the stage is lost")


def test_a_node_that_goes_down_and_labels_that_make_no_sense_are_seen(planes, tmp_path):
    with following(planes, tmp_path) as run, planes["right"].client() as client:

        def label(**labels):
            body = {"metadata": {"labels": labels}}
            client.request("PATCH", "/api/v1/nodes/node-00003", body, MERGE)

        node = lambda: run.state.node("right", "node-00003")  # noqa: E731
        label(**{"kwok.opendt.io/down": "true"})
        eventually(lambda: not node().is_ready, "the node is not ready")
        label(
            **{
                "kwok.opendt.io/down": None,
                "dt.hardware.mhz": "fast",
                "dt.hardware.max_w": "75",
                "dt.cluster.type": "phone",
            }
        )
        eventually(lambda: node().is_ready and node().max_w == 75.0, "the node is ready again")
        eventually(lambda: run.state.cluster("right").type == "phone", "the cluster is of that type")
        assert node().core_speed_mhz == 2400.0
        label(more="labels")
        eventually(lambda: "more" in node().labels, "another change is seen")
        problems = [event for event in run.events if event.kind == "label_invalid"]
        label(**{"dt.hardware.mhz": None, "dt.hardware.max_w": None, "dt.cluster.type": None, "more": None})
        eventually(lambda: "more" not in node().labels, "all is as before")
    assert [(event.cluster, event.subject) for event in problems] == [("right", "node-00003")]
    assert problems[0].message.startswith("dt.hardware.mhz: found 'fast', expected a number")


def test_a_cluster_that_dies_holds_up_no_other_and_is_caught_up_with(planes, bench, tmp_path):
    """For 60 s with OPENDT_SOAK=1."""
    right = planes["right"]
    with following(planes, tmp_path) as run:
        right.stop_part("kube-apiserver")
        try:
            eventually(lambda: not run.state.cluster("right").is_reachable, "the cluster counts as away")
            seen_ms = run.state.cluster("right").last_seen_ms
            create_pod(planes["left"], "meanwhile", "node-00000")
            eventually(lambda: run.state.pod("left", "default", "meanwhile") is not None, "the other one is followed")
            assert len([key for key in run.state.snapshot().nodes if key[0] == "right"]) == 4
            if os.environ.get("OPENDT_SOAK") == "1":
                threading.Event().wait(60)
            assert run.state.cluster("right").last_seen_ms == seen_ms
        finally:
            right.start_part("kube-apiserver")
        create_pod(right, "after", "node-00000")
        eventually(lambda: run.state.pod("right", "default", "after") is not None, "it is caught up with", seconds=10)
        eventually(lambda: run.state.cluster("right").is_reachable, "the cluster is back", seconds=10)
        until_equal(bench, run)
    assert [kind for kind in kinds(run, "right") if kind.startswith("cluster")] == ["cluster_away", "cluster_back"]
    assert kinds(run, "left") == []
    for plane in planes.values():
        delete_pods(plane)


def test_a_watch_that_expired_is_listed_anew(planes, bench, tmp_path):
    """While we are cut off, pods change and the API server starts anew: it no longer knows where we were (410)."""
    left = planes["left"]
    create_pod(left, "stays", "node-00000")
    create_pod(left, "goes", "node-00000", labels=PLAN)
    with following(planes, tmp_path) as run:
        cluster, follower = run.manager["left"], run.collector._followers["left"]
        eventually(lambda: run.state.pod("left", "default", "goes").phase == "Running", "the pods run")
        nowhere = discover([kubeconfig(tmp_path / "nowhere", {"left": "http://127.0.0.1:9"})])["left"]
        client, cluster._client = cluster._client, ClusterClient("left", api_client(nowhere))
        follower.pods.interrupt()
        eventually(lambda: "watch_broken" in kinds(run, "left"), "we are cut off")
        with left.client() as other:
            other.request("DELETE", f"{PODS}/goes?gracePeriodSeconds=0")
            create_pod(left, "comes", "node-00001")
            eventually(lambda: len(other.get(PODS)["items"]) == 2, "the pods changed")
        left.stop_part("kube-apiserver")
        left.start_part("kube-apiserver")
        assert run.state.pod("left", "default", "goes") is not None
        cluster._client = client
        eventually(lambda: run.state.pod("left", "default", "comes") is not None, "it is caught up with", seconds=10)
        until_equal(bench, run)
        eventually(lambda: run.state.cluster("left").is_reachable, "the cluster is back", seconds=10)
        assert run.state.pod("left", "default", "goes") is None
        assert run.observed[-1][1].phase == "lost"
        assert "watch_expired" in kinds(run, "left")
        lists = run.collector.lists()
        assert lists["left"] in (3, 4)  # nodes were cut off, too, by the API server's new start
        assert lists["right"] == 2
    delete_pods(left)


def test_bookmarks_move_a_quiet_watch_on(planes, tmp_path):
    """Other pods change; a watch of those that do not must not fall behind until it expires."""
    contexts = discover([merged_kubeconfig(planes, tmp_path / "kubeconfig")])
    manager = ClusterManager(contexts)
    told = []
    sink = Sink(dict, told.append, lambda *change: told.append(change), told.append, told.append, told.append)
    settings, query = ReflectorSettings(watch_s=4), {"labelSelector": "app=nobody-has-it"}
    reflector = Reflector(lambda: manager["left"].client, "/api/v1/pods", sink, settings, query)
    thread = threading.Thread(target=reflector.run)
    thread.start()
    try:
        assert reflector.is_synced.wait(10)
        before = int(reflector.version)
        create_pod(planes["left"], "noise", "node-00000")
        eventually(lambda: int(reflector.version) > before, "a bookmark came")
    finally:
        reflector.stop()
        thread.join()
        manager.stop()
    assert told == [[]]
    delete_pods(planes["left"])


def test_of_two_controllers_started_at_once_one_leads_and_the_other_takes_over(planes, tmp_path):
    contexts = discover([merged_kubeconfig(planes, tmp_path / "kubeconfig")])
    managers = [ClusterManager(contexts) for _ in range(2)]
    settings = LeaseSettings(namespace="default", duration_s=2, renew_s=1.5, retry_s=0.1)
    both, told = [], []
    elections = [
        LeaderElection(
            lambda manager=manager: manager["left"].client,
            f"controller-{number}",
            settings,
            changed=lambda leading, _why, number=number: told.append((number, leading)),
        )
        for number, manager in enumerate(managers)
    ]
    for election in elections:
        election.start()

    def leaders():
        found = [number for number, election in enumerate(elections) if election.is_leading]
        both.append(len(found) > 1)
        return found

    try:
        eventually(lambda: len(leaders()) == 1, "one leads")
        (first,) = leaders()
        elections[first]._stopping.set()  # it dies: no release, no renewal
        eventually(lambda: leaders() == [1 - first], "the other takes over", seconds=10)
    finally:
        for election in elections:
            election.stop()
        for manager in managers:
            manager.stop()
    assert not any(both)
    assert told[:1] == [(first, True)]

"""Nodes scored for kube-scheduler by what the twin knows of them."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from opendt.model.errors import InputError
from opendt.model.fleet import ClusterState, PodState, Reading
from opendt.orchestrator.fleet_extender import FleetExtender, node_scores
from opendt.orchestrator.fleet_planner import FleetPlanner
from opendt.twin.fleet_view import NodeLoad
from opendt.twin.state import FleetState, FleetUpdate
from tests.small_fleet import NOW_MS, node

POD = PodState("a", "default", "p", "u", "", "Pending", 1000, 512)


def scores(*loads: NodeLoad, cluster: ClusterState | None = None) -> tuple[dict[str, float], dict[str, str]]:
    known = {load.node.name: load for load in loads}
    found = node_scores(POD, list(known), known, cluster)
    return dict(found.scores), dict(found.reasons)


def test_the_faster_node_is_better_and_of_equals_the_emptier() -> None:
    fast = NodeLoad(node("a", "fast", core_speed_mhz=3000.0), cpu_millicores=2000)
    slow = NodeLoad(node("a", "slow", core_speed_mhz=1500.0))
    full = NodeLoad(node("a", "full", core_speed_mhz=3000.0), cpu_millicores=3000)
    found, _ = scores(fast, slow, full)
    assert found["fast"] > found["full"] > found["slow"]
    assert found["slow"] == pytest.approx(0.5)


def test_what_the_metrics_say_counts_where_it_is_more_than_what_was_asked_for() -> None:
    busy = NodeLoad(node("a", "busy", cpu_usage_millicores=Reading(3500.0, NOW_MS)))
    found, _ = scores(busy)
    assert found["busy"] == pytest.approx(0.5), "half of the core that it asks for is free"


def test_nodes_that_fail_are_worse() -> None:
    idle = NodeLoad(node("a", "idle"))
    assert scores(idle, cluster=ClusterState("a", failure_rate_per_h=0.5))[0]["idle"] == pytest.approx(
        0.60653, abs=1e-5
    )


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (NodeLoad(node("a", "n", is_ready=False)), "it is not ready"),
        (NodeLoad(node("a", "n", is_cordoned=True)), "it is cordoned"),
        (NodeLoad(node("a", "n", max_pods=0)), "it has 0 pods, which is its most"),
        (NodeLoad(node("a", "n"), cpu_millicores=3500), "500 millicores are free, 1000 are asked for"),
        (NodeLoad(node("a", "n"), memory_mib=8000), "192 MiB are free, 512 are asked for"),
    ],
)
def test_a_node_that_cannot_take_it_says_why(load: NodeLoad, reason: str) -> None:
    assert scores(load) == ({}, {"n": reason})


def test_each_cluster_s_scheduler_is_known_by_the_nodes_it_names() -> None:
    state = FleetState(clock_ms=lambda: NOW_MS)
    for cluster, mhz in (("a", 2000.0), ("b", 3000.0)):
        nodes = (
            node(cluster, f"{cluster}-1", core_speed_mhz=mhz),
            node(cluster, f"{cluster}-2", core_speed_mhz=1000.0),
        )
        state.apply(FleetUpdate(cluster, nodes=nodes, state=ClusterState(cluster)))
    planner = FleetPlanner(state, futures=100, tail_ratio=0.1, seed=0, clock_ms=lambda: NOW_MS)
    asked = FleetExtender(state, planner)
    thing = {
        "metadata": {
            "name": "p",
            "namespace": "default",
            "uid": "u",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
    }
    body = orjson.dumps({"Pod": thing, "Nodes": None, "NodeNames": ["b-2", "b-1", "b-9"]})
    kept = orjson.loads(asked.handle("filter", body))
    assert kept["NodeNames"] == ["b-2", "b-1"]
    assert kept["FailedNodes"] == {"b-9": "the twin has not seen it yet"}
    ranked = {one["Host"]: one["Score"] for one in orjson.loads(asked.handle("prioritize", body))}
    assert ranked["b-1"] == 10
    assert ranked["b-2"] < 10
    with pytest.raises(InputError, match="expected ExtenderArgs of kube-scheduler"):
        asked.handle("filter", b"nothing")
    asked.close()


def test_reservations_count_as_used() -> None:
    held = replace(NodeLoad(node("a", "n")), cpu_millicores=3600)
    assert "400 millicores are free" in scores(held)[1]["n"]

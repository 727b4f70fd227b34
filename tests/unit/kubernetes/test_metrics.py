"""What nodes and pods use, from each of the sources, with the time at which it was measured."""

from __future__ import annotations

import pytest

from opendt.kubernetes.client import ApiError
from opendt.kubernetes.cluster_manager import ClusterManager, discover
from opendt.kubernetes.collector import Collector, MetricsSettings
from opendt.kubernetes.exposition import read_exposition
from opendt.kubernetes.metrics import CounterRates, from_samples, read_metrics_api, read_node, read_prometheus
from opendt.kubernetes.pods import decode_pod, milliseconds
from opendt.model.fleet import Reading
from opendt.twin.state import FleetState, FleetUpdate
from tests.unit.kubernetes.http_server import Script, kubeconfig, scripted_server, status
from tests.unit.kubernetes.objects import pod_object

RESOURCE = """\
# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total {cpu} {time_ms}
node_memory_working_set_bytes 1.048576e+09 {time_ms}
container_cpu_usage_seconds_total{{container="worker",namespace="opendt",pod="p1"}} 99 {time_ms}
pod_cpu_usage_seconds_total{{namespace="opendt",pod="p1"}} {cpu} {time_ms}
pod_memory_working_set_bytes{{namespace="opendt",pod="p1"}} 3.3554432e+07 {time_ms}
scrape_error 0
"""
CADVISOR = """\
container_cpu_usage_seconds_total{container="",id="/kubepods/x",namespace="opendt",pod="p1",cpu="total"} 2.5 5000
container_cpu_usage_seconds_total{container="worker",id="/kubepods/x/y",namespace="opendt",pod="p1",cpu="total"} 2.25 5000
container_cpu_usage_seconds_total{container="POD",id="/kubepods/x/z",namespace="opendt",pod="p1",cpu="total"} 0.25 5000
container_cpu_usage_seconds_total{container="worker",id="/kubepods/w",namespace="opendt",pod="p2",cpu="total"} 1 5000
container_cpu_usage_seconds_total{container="",id="/",namespace="",pod="",cpu="total"} 100 5000
container_memory_working_set_bytes{container="",id="/kubepods/x",namespace="opendt",pod="p1"} 2097152 5000
"""
KEPLER = """\
kepler_container_joules_total{container_name="worker",container_namespace="opendt",pod_name="p1",mode="dynamic"} 30.5
kepler_container_joules_total{container_name="worker",container_namespace="opendt",pod_name="p1",mode="idle"} 4.5
kepler_node_platform_joules_total{instance="n1",mode="dynamic"} 1000
kepler_node_platform_joules_total{instance="n1",mode="idle"} 500
"""


@pytest.fixture
def clients(tmp_path):
    """Call with a script; gives the manager of one cluster that answers so."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(script, **more):
            address = stack.enter_context(scripted_server(script))
            manager = ClusterManager(discover([kubeconfig(tmp_path / "kubeconfig", {"a": address})]), **more)
            stack.callback(manager.stop)
            return manager

        yield make


def test_lines_are_read_and_what_is_none_is_left_out():
    text = 'a{x="1",y="q\\"{}\\\\ \\n"} 1.5\nb 2\na NaN\na{x="2"} oops\na +Inf 7\n# a 3\nab 4\na'
    found = [tuple(sample) for sample in read_exposition(text, {"a"})]
    assert found == [("a", {"x": "1", "y": 'q"{}\\ \n'}, 1.5, None), ("a", {}, float("inf"), 7)]


def test_a_kubelet_says_cpu_seconds_memory_and_from_the_second_time_on_use(clients):
    first = RESOURCE.format(cpu=10, time_ms=1000)
    second = RESOURCE.format(cpu=11, time_ms=3000)
    script = Script((200, {}, first), (200, {}, second))
    client = clients(script)["a"].client
    rates = CounterRates()
    before = read_node(client, "n1", "/x/{node}/y", rates, now_ms=9, deadline_s=3)
    after = read_node(client, "n1", "/x/{node}/y", rates, now_ms=9, deadline_s=3)
    assert script.requests[0][1] == "/api/v1/nodes/n1/proxy/x/n1/y"
    assert before.nodes["n1"].cpu_usage_millicores is None
    assert after.nodes["n1"].cpu_usage_millicores == Reading(500.0, 3000)
    assert after.nodes["n1"].memory_usage_mib == Reading(1000.0, 3000)
    pod = after.pods["opendt", "p1"]
    assert (pod.cpu_seconds, pod.memory_usage_mib) == (11.0, Reading(32.0, 3000))
    assert pod.cpu_usage_millicores == Reading(500.0, 3000)


def test_cadvisor_counts_a_pod_as_a_whole_before_its_containers():
    measured = from_samples(read_exposition(CADVISOR, ALL), CounterRates(), node="n1", now_ms=1)
    assert measured.pods["opendt", "p1"].cpu_seconds == 2.5
    assert measured.pods["opendt", "p1"].memory_usage_mib == Reading(2.0, 5000)
    assert measured.pods["opendt", "p2"].cpu_seconds == 1.0
    assert set(measured.pods) == {("opendt", "p1"), ("opendt", "p2")}


def test_keplers_joules_are_sums_over_modes():
    measured = from_samples(read_exposition(KEPLER, ALL), CounterRates(), node="", now_ms=7)
    assert measured.pods["opendt", "p1"].energy_j == Reading(35.0, 7)
    assert measured.nodes["n1"].energy_j == Reading(1500.0, 7)


def test_prometheus_is_asked_for_keplers_names(clients):
    def vector(name, value, **labels):
        return {"metric": {"__name__": name, **labels}, "value": [1700.5, value]}

    results = [
        vector("kepler_pod_cpu_joules_total", "12.5", pod_name="p1", pod_namespace="opendt"),
        vector("kepler_node_cpu_joules_total", "90", instance="n1:9100"),
        vector("kepler_node_cpu_joules_total", "NaN", instance="n2:9100"),
    ]
    script = Script((200, {}, {"status": "success", "data": {"resultType": "vector", "result": results}}))
    measured = read_prometheus(clients(script)["a"].client, "/proxy", deadline_s=3)
    assert measured.pods["opendt", "p1"].energy_j == Reading(12.5, 1_700_500)
    assert measured.nodes["n1"].energy_j == Reading(90.0, 1_700_500)
    assert set(measured.nodes) == {"n1"}
    assert script.requests[0][1].startswith(
        "/proxy/api/v1/query?query=%7B__name__%3D~%22kepler_container_joules_total%7C"
    )
    refusing = Script((200, {}, {"status": "error", "errorType": "timeout", "error": "too slow"}))
    with pytest.raises(ApiError, match="too slow"):
        read_prometheus(clients(refusing)["a"].client, "/proxy", deadline_s=3)


def test_the_metrics_api_says_when_it_measured(clients):
    stamp = "2026-11-22T10:00:05Z"
    node = {"metadata": {"name": "n1"}, "timestamp": stamp, "usage": {"cpu": "156340521n", "memory": "1024Mi"}}
    containers = [{"usage": {"cpu": "100m", "memory": "1Mi"}}, {"usage": {"cpu": "1500u", "memory": "512Ki"}}]
    pod = {"metadata": {"name": "p1", "namespace": "opendt"}, "timestamp": stamp, "containers": containers}
    script = Script((200, {}, {"items": [node]}), (200, {}, {"items": [pod]}))
    measured = read_metrics_api(clients(script)["a"].client, deadline_s=3)
    assert measured.nodes["n1"].cpu_usage_millicores == Reading(156.340521, milliseconds(stamp))
    assert measured.pods["opendt", "p1"].cpu_usage_millicores == Reading(101.5, milliseconds(stamp))
    assert measured.pods["opendt", "p1"].memory_usage_mib == Reading(1.5, milliseconds(stamp))


def test_a_source_that_is_away_is_told_of_once_and_once_when_it_is_back(clients):
    told = []
    empty = (200, {}, {"items": []})
    script = Script(status(503, "ServiceUnavailable"), status(503, "ServiceUnavailable"), empty, empty, empty)
    manager = clients(script, tell=told.append)
    collector = Collector(manager, FleetState())
    for _ in range(4):
        collector.read_metrics("a")
    assert [(event.kind, event.subject) for event in told] == [
        ("metrics_away", "metrics.k8s.io"),
        ("metrics_back", "metrics.k8s.io"),
    ]


def test_only_nodes_that_run_pods_of_plans_are_asked(clients):
    script = Script((200, {}, RESOURCE.format(cpu=10, time_ms=1000)))
    manager = clients(script)
    state = FleetState()
    running = {"phase": "Running"}
    ours = decode_pod("a", pod_object("p1", metadata={"labels": {"opendt.io/plan-id": "x"}}, status=running))
    other = decode_pod("a", pod_object("p2", spec={"nodeName": "n2"}, status=running))
    state.apply(FleetUpdate("a", pods=(ours, other)))
    settings = MetricsSettings(has_metrics_api=False, node_paths=("/metrics/resource", "/metrics/cadvisor"))
    measured = Collector(manager, state, metrics=settings).read_metrics("a")
    assert [path for _, path, _ in script.requests] == [
        "/api/v1/nodes/n1/proxy/metrics/resource",
        "/api/v1/nodes/n1/proxy/metrics/cadvisor",
    ]
    assert measured.pods["opendt", "p1"].cpu_seconds == 10.0


def test_a_listener_that_raises_stops_nobody(clients):
    told, heard = [], []
    manager = clients(Script((200, {}, "ok")), tell=told.append)

    def broken(_pod, _observation):
        raise ZeroDivisionError("oops")

    collector = Collector(manager, FleetState(), observe=broken)
    collector.subscribe(heard.append)
    pod = decode_pod("a", pod_object(metadata={"labels": {"opendt.io/plan-id": "x", "opendt.io/stage": "s"}}))
    collector.take(FleetUpdate("a", pods=(pod,)))
    assert [after.name for _, after in heard[0].pods] == ["p1"]
    assert [(event.kind, event.message[:23]) for event in told] == [("listener_failed", "ZeroDivisionError: oops")]


def test_counters_of_pods_that_are_no_more_are_forgotten():
    rates = CounterRates()
    rates.millicores("old", 1000, 1.0)
    rates.millicores("new", 1_000_000, 1.0)
    rates.forget(older_ms=600_000)
    assert rates.millicores("old", 1_000_500, 2.0) is None
    assert rates.millicores("new", 1_001_000, 2.0) == 1000.0
    assert rates.millicores("new", 1_001_000, 3.0) is None


ALL = frozenset(
    (
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "kepler_container_joules_total",
        "kepler_node_platform_joules_total",
    )
)

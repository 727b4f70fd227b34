"""The local fleet for real: clusters in namespaces, round trips as the matrix says, and pods that do work."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.fleet.echo import measure_round_trips
from scripts.fleet.plan import RunPlan
from scripts.fleet.status import outside_client
from scripts.fleet.supervisor import sweep
from tests.fleet import eventually, require_real_nodes, worker_pod

if TYPE_CHECKING:
    from scripts.fleet.api import ApiClient

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
FLEET = """
latency_matrix: matrix.yaml
clusters:
  - name: dc-core
    type: datacenter
    region: north
    zone: north-a
    resiliency_ratio: 0.999
    failure_rate_per_h: 0.0001
    failure_domain: north
    node_classes:
      - {name: standard, count: 3, arch: amd64, cores: 64, mhz: 2600, memory_mib: 262144, idle_w: 110, max_w: 420}
      - {name: gpu, count: 1, arch: amd64, cores: 48, mhz: 2800, memory_mib: 393216, idle_w: 260, max_w: 1500,
         gpus: 4, gpu_model: A100, gpu_memory_mib: 40960}
    real_nodes:
      - {name: dc-core-real-1, arch: amd64, cores: 0.9, mhz: 2600, memory_mib: 1024, idle_w: 110, max_w: 420}
  - name: phone-pan-1
    type: phone
    region: west
    zone: west-1
    resiliency_ratio: 0.8
    failure_rate_per_h: 0.1
    failure_domain: cell
    node_classes:
      - {name: phone, count: 2, arch: arm64, cores: 8, mhz: 2200, memory_mib: 6144, idle_w: 0.5, max_w: 6}
    real_nodes:
      - {name: phone-pan-1-real-1, arch: arm64, cores: 0.3, mhz: 2200, memory_mib: 512, idle_w: 0.5, max_w: 6}
"""
MATRIX = "latencies: [{from: dc-core, to: phone-pan-1, latency_ms: 60}]\n"


def fleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.fleet", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def traces_of(plan: RunPlan) -> list[str]:
    places = [*Path("/run/netns").glob(f"{plan.id}*"), *Path("/sys/fs/cgroup").glob(f"*/{plan.id}")]
    places += Path("/proc/sys/fs/binfmt_misc").glob(f"{plan.id}*")
    return [str(place) for place in places]


@pytest.fixture(scope="module")
def running():
    require_real_nodes()
    # A short path: that of a socket may hold 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="odt-"))
    (folder / "fleet.yaml").write_text(FLEET)
    (folder / "matrix.yaml").write_text(MATRIX)
    run = folder / "run"
    try:
        done = fleet(
            "up", "--folder", str(run), "--clusters", "2", "--kwok", "6", "--description", f"{folder}/fleet.yaml"
        )
        assert done.returncode == 0, done.stderr
        plan = RunPlan.read(run)
        yield plan
        assert fleet("down", "--folder", str(run)).stdout == "the fleet is down\n"
        assert traces_of(plan) == []
    finally:
        plan = RunPlan.read(run)
        if plan is not None:
            sweep(plan)
        shutil.rmtree(folder)


def test_round_trips_are_within_a_tenth_of_the_matrix(running):
    measured = measure_round_trips(running.namespaces())
    assert set(measured) == {("dc-core", "phone-pan-1"), ("phone-pan-1", "dc-core")}
    for times_ms in measured.values():
        assert statistics.median(times_ms) == pytest.approx(60, rel=0.1)


def test_every_node_is_ready_and_says_what_it_is(running):
    with outside_client(running, "dc-core") as client:
        nodes = {node["metadata"]["name"]: node for node in client.get("/api/v1/nodes")["items"]}
    assert len(nodes) == 7
    gpu = nodes["dc-core-gpu-0000"]
    assert gpu["metadata"]["labels"]["dt.hardware.gpu_model"] == "A100"
    assert gpu["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    with outside_client(running, "phone-pan-1") as client:
        # Not only at first: a kubelet says its own architecture with every status, of which this awaits two.
        await_heartbeats(client, 2)
        phone = client.get("/api/v1/nodes/phone-pan-1-real-1")
    assert phone["metadata"]["labels"]["kubernetes.io/arch"] == "arm64"
    assert phone["metadata"]["labels"]["dt.cluster.type"] == "phone"
    assert phone["status"]["allocatable"]["cpu"] == "300m"


def test_pods_of_every_format_do_the_same_work_and_report_it(running):
    places = {
        "amd64": ("dc-core", "dc-core-real-1"),
        "riscv64": ("dc-core", "dc-core-real-1"),
        "wasm": ("dc-core", "dc-core-real-1"),
        "arm64": ("phone-pan-1", "phone-pan-1-real-1"),
    }
    work = ("--kind", "sorting", "--cpu-seconds", "0.1", "--memory-mib", "24")
    for exec_format, (cluster, node) in places.items():
        with outside_client(running, cluster) as client:
            pod = worker_pod(exec_format, node, exec_format, *work)
            client.request("POST", "/api/v1/namespaces/default/pods", pod)
    reports = {name: ended_report(running, cluster, name) for name, (cluster, _) in places.items()}
    assert {name: report["arch"] for name, report in reports.items()} == {name: name for name in places}
    assert len({report["checksum"] for report in reports.values()}) == 1
    for report in reports.values():
        assert report["done_ratio"] == 1
        assert report["cpu_seconds"] > 0.03
        assert report["finished_ms"] > report["started_ms"] > 1_700_000_000_000
    assert 20 < reports["amd64"]["memory_peak_mib"] <= 26


def test_the_metrics_api_says_what_nodes_and_pods_use(running):
    usage = {"kwok.x-k8s.io/usage-cpu": "250m", "kwok.x-k8s.io/usage-memory": "100Mi"}
    played = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "played", "annotations": usage},
        "spec": {"nodeName": "dc-core-gpu-0000", "containers": [{"name": "main", "image": "none"}]},
    }
    with outside_client(running, "dc-core") as client:
        client.request("POST", "/api/v1/namespaces/default/pods", played)

        def measured(kind: str) -> dict[str, Any]:
            try:
                items = client.get(f"/apis/metrics.k8s.io/v1beta1/{kind}")["items"]
            except RuntimeError:  # nothing has been measured yet
                return {}
            return {item["metadata"]["name"]: item for item in items}

        both = {"dc-core-real-1", "dc-core-gpu-0000"}
        eventually(lambda: both <= set(measured("nodes")), "both kinds of nodes are measured", 90)
        eventually(lambda: "played" in measured("pods"), "the pod is measured", 90)
        (container,) = measured("pods")["played"]["containers"]
        assert container["usage"]["memory"] == "100Mi"


def test_what_a_killed_fleet_leaves_behind_is_ended_with_the_next_word(running):
    # The run of the other tests: it is the last test that uses it, and `down` must find nothing in its way.
    identity = json.loads((running.path / "supervisor.json").read_text())
    subprocess.run(["kill", "-KILL", str(identity["pid"])], check=True)
    status = fleet("status", "--folder", running.folder)
    assert status.returncode == 1
    assert "make fleet-down" in status.stdout
    assert traces_of(running) != []


def heartbeat(client: ApiClient) -> str:
    """When the kubelet last wrote the node's status."""
    conditions = client.get("/api/v1/nodes/phone-pan-1-real-1")["status"]["conditions"]
    return str(next(one["lastHeartbeatTime"] for one in conditions if one["type"] == "Ready"))


def await_heartbeats(client: ApiClient, count: int) -> None:
    """Wait until the kubelet has written the node's status that many times more."""
    seen = {heartbeat(client)}

    def are_enough() -> bool:
        seen.add(heartbeat(client))
        return len(seen) > count

    eventually(are_enough, f"{count} statuses of the kubelet", 60)


def ended_report(plan: RunPlan, cluster: str, name: str) -> dict[str, object]:
    with outside_client(plan, cluster) as client:
        found: dict[str, object] = {}

        def has_ended() -> bool:
            pod = client.get(f"/api/v1/namespaces/default/pods/{name}")
            for container in pod["status"].get("containerStatuses", ()):
                found.update(container["state"].get("terminated", {}))
            return bool(found)

        eventually(has_ended, f"pod {name} ends", 120)
    assert found["exitCode"] == 0, found
    return json.loads(str(found["message"]))

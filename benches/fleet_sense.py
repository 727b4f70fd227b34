"""Sense seven clusters of KWOK nodes while their pods change: whether the snapshot is right, and how late it is.

    python benches/fleet_sense.py [--clusters 7] [--nodes 5000] [--pods 20000] [--churn-s 60] [--rate 140]

The control planes are real (etcd, kube-apiserver, KWOK). What senses runs in a process of its own, so its memory is that of
sensing alone. A writer changes pods and nodes and stamps each changed pod with the time in ms, taken before it asks the
API server; the lag is from then to the moment at which readers can see it. In the end nodes and pods are listed once more by
other code and compared with the snapshot, object by object. Results are JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.fleet.api import MERGE, ApiClient
from scripts.fleet.control_plane import ControlPlane, write_merged_kubeconfig
from scripts.fleet.deadline import Deadline
from scripts.fleet.kwok_nodes import kwok_node
from scripts.fleet.programs import control_plane_program

if TYPE_CHECKING:
    from opendt.model.fleet import FleetSnapshot, NodeState, PodState
    from opendt.twin.state import FleetChanges

PODS = "/api/v1/namespaces/default/pods"
WRITERS = 4
PATIENCE_S = 60.0


# -- what senses: the child


def sense(kubeconfig: Path) -> None:
    """Follow the clusters of a kubeconfig file; answer each line on stdin with a line of JSON."""
    from opendt.kubernetes.cluster_manager import ClusterManager, discover
    from opendt.kubernetes.collector import Collector
    from opendt.twin.state import FleetState

    lags_ms: list[int] = []
    events: list[str] = []
    manager = ClusterManager(discover([kubeconfig]), tell=lambda event: events.append(event.kind))
    state = FleetState()
    collector = Collector(manager, state)
    collector.subscribe(lambda changes: _take_lags(changes, lags_ms))
    began = time.monotonic()
    manager.start()
    collector.start()
    try:
        synced = collector.wait_synced(PATIENCE_S)
        _say({"synced": synced, "sync_s": time.monotonic() - began})
        for line in sys.stdin:
            if line.strip() == "begin":
                lags_ms.clear()
                _say({"cpu_s": time.process_time()})
            else:
                result: dict[str, Any] = {"memory_mib": _memory_mib("VmHWM"), "cpu_s": time.process_time()}
                result |= {"lags_ms": list(lags_ms), "events": sorted(set(events)), "lists": collector.lists()}
                servers = {cluster.name: cluster.client.get for cluster in manager}
                _say(result | _until_equal(state.snapshot, servers))
    finally:
        collector.stop()
        manager.stop()


def _take_lags(changes: FleetChanges, lags_ms: list[int]) -> None:
    now_ms = time.time_ns() // 1_000_000
    for before, after in changes.pods:
        if after is not None and after.stamp_ms > 0 and (before is None or before.stamp_ms != after.stamp_ms):
            lags_ms.append(now_ms - after.stamp_ms)


def _until_equal(snapshot: Any, servers: Mapping[str, Any]) -> dict[str, Any]:
    """Compare until nothing differs: KWOK may still be moving pods along."""
    deadline = Deadline(PATIENCE_S)
    while True:
        differences, nodes, pods = compare(snapshot, servers)
        if not differences or not deadline.wait(0.5):
            return {"differences": differences[:10], "nodes": nodes, "pods": pods}


def compare(snapshot: Any, servers: Mapping[str, Any]) -> tuple[list[str], int, int]:
    """Hold the snapshot against a plain list of each API server; say what differs, and count what was compared."""
    listed = {name: (get("/api/v1/nodes")["items"], get("/api/v1/pods")["items"]) for name, get in servers.items()}
    seen: FleetSnapshot = snapshot()
    nodes = {(name, each["metadata"]["name"]): each for name, (found, _) in listed.items() for each in found}
    pods = {
        (name, each["metadata"]["namespace"], each["metadata"]["name"]): each
        for name, (_, found) in listed.items()
        for each in found
    }
    differences = [f"node {key}: only on one side" for key in nodes.keys() ^ seen.nodes.keys()]
    differences += [f"pod {key}: only on one side" for key in pods.keys() ^ seen.pods.keys()]
    for key in nodes.keys() & seen.nodes.keys():
        differences += _unlike(f"node {key}", _expected_node(nodes[key]), _found_node(seen.nodes[key]))
    for pod_key in pods.keys() & seen.pods.keys():
        differences += _unlike(f"pod {pod_key}", _expected_pod(pods[pod_key]), _found_pod(seen.pods[pod_key]))
    return differences, len(nodes), len(pods)


def _unlike(what: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{what}: {key}: {found[key]!r}, not {expected[key]!r}" for key in expected if expected[key] != found[key]]


def _expected_node(thing: Mapping[str, Any]) -> dict[str, Any]:
    gives = thing["status"]["allocatable"]
    ready = [each["status"] for each in thing["status"].get("conditions", []) if each["type"] == "Ready"]
    return {
        "version": thing["metadata"]["resourceVersion"],
        "labels": thing["metadata"]["labels"],
        "cpu": _thousandths(gives["cpu"]),
        "memory": _mib(gives["memory"]),
        "ready": ready == ["True"],
        "cordoned": thing["spec"].get("unschedulable", False),
        "taints": {(each["key"], each["effect"]) for each in thing["spec"].get("taints", [])},
    }


def _found_node(node: NodeState) -> dict[str, Any]:
    return {
        "version": node.resource_version,
        "labels": dict(node.labels),
        "cpu": node.cpu_millicores,
        "memory": node.memory_mib,
        "ready": node.is_ready,
        "cordoned": node.is_cordoned,
        "taints": {(taint.key, taint.effect) for taint in node.taints},
    }


def _expected_pod(thing: Mapping[str, Any]) -> dict[str, Any]:
    asks = thing["spec"]["containers"][0]["resources"].get("requests", {})
    return {
        "version": thing["metadata"]["resourceVersion"],
        "uid": thing["metadata"]["uid"],
        # Labels of ours are fields of the pod.
        "labels": {key: said for key, said in thing["metadata"].get("labels", {}).items() if "opendt.io/" not in key},
        "node": thing["spec"].get("nodeName", ""),
        "phase": thing["status"]["phase"],
        "cpu": _thousandths(asks.get("cpu", "0")),
        "memory": _mib(asks.get("memory", "0")),
        "stamp": int(thing["metadata"].get("annotations", {}).get("opendt.io/written-ms", -1)),
        "deleting": "deletionTimestamp" in thing["metadata"],
    }


def _found_pod(pod: PodState) -> dict[str, Any]:
    return {
        "version": pod.resource_version,
        "uid": pod.uid,
        "labels": dict(pod.labels),
        "node": pod.node,
        "phase": pod.phase,
        "cpu": pod.cpu_millicores,
        "memory": pod.memory_mib,
        "stamp": pod.stamp_ms,
        "deleting": pod.is_deleting,
    }


def _thousandths(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


def _mib(text: str) -> int:
    factors = {"Gi": Fraction(1024), "Mi": Fraction(1), "Ki": Fraction(1, 1024)}
    return int(Fraction(text[:-2]) * factors[text[-2:]]) if text != "0" else 0


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def _say(values: Mapping[str, Any]) -> None:
    print(json.dumps(values), flush=True)


# -- the clusters and who writes to them: the parent


def pod_object(name: str, node: str) -> dict[str, Any]:
    """A pod on a node, stamped with now."""
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    metadata = {"name": name, "labels": {"app": "bench"}, "annotations": _stamp()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [container]},
    }


def fill(plane: ControlPlane, nodes: int, pods: int) -> None:
    """Create nodes, then pods on them in turn."""
    names = [f"node-{number:05}" for number in range(nodes)]
    labels = {"dt.cluster.type": "datacenter", "dt.hardware.mhz": "2400"}
    _in_parallel(plane, "/api/v1/nodes", (kwok_node(name, labels) for name in names))
    _in_parallel(plane, PODS, (pod_object(f"pod-{number:05}", names[number % nodes]) for number in range(pods)))


def _in_parallel(plane: ControlPlane, path: str, things: Iterable[dict[str, Any]]) -> None:
    waiting = iter(things)
    taking = threading.Lock()

    def create() -> None:
        with plane.client() as client:
            while True:
                with taking:
                    thing = next(waiting, None)
                if thing is None:
                    return
                client.request("POST", path, thing)

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(create) for _ in range(WRITERS)]:
            done.result()


def churn(plane: ControlPlane, nodes: int, pods: int, seconds: float, rate: float, seed: int) -> int:
    """Change pods and nodes at a rate: 8 of 10 changes stamp a pod, the others delete, create and cordon; return how many."""
    chance = random.Random(seed)
    alive = [f"pod-{number:05}" for number in range(pods)]
    began, count = time.monotonic(), 0
    with plane.client() as client:
        while count < seconds * rate:
            _change(client, chance, alive, nodes, count)
            count += 1
            late_s = count / rate - (time.monotonic() - began)
            if late_s > 0:
                time.sleep(late_s)
    return count


def _change(client: ApiClient, chance: random.Random, alive: list[str], nodes: int, count: int) -> None:
    dice = chance.randrange(20)
    place = chance.randrange(len(alive))
    node = f"node-{chance.randrange(nodes):05}"
    if dice < 16:
        client.request("PATCH", f"{PODS}/{alive[place]}", {"metadata": {"annotations": _stamp()}}, MERGE)
    elif dice == 16:
        alive[place], alive[-1] = alive[-1], alive[place]
        client.request("DELETE", f"{PODS}/{alive.pop()}?gracePeriodSeconds=0")
    elif dice < 19:
        alive.append(f"more-{count:06}")
        client.request("POST", PODS, pod_object(alive[-1], node))
    else:
        client.request("PATCH", f"/api/v1/nodes/{node}", {"spec": {"unschedulable": chance.random() < 0.5}}, MERGE)


def _stamp() -> dict[str, str]:
    return {"opendt.io/written-ms": str(time.time_ns() // 1_000_000)}


def measure(clusters: int, nodes: int, pods: int, churn_s: float, rate: float) -> dict[str, Any]:
    """Start, fill, churn and compare; sizes and rate (changes/s) are of all clusters together."""
    program = control_plane_program().build()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opendt-sense-")))
        planes = [ControlPlane(program, folder / f"c{number}", f"c{number}") for number in range(clusters)]
        sizes = [(_share(nodes, number, clusters), _share(pods, number, clusters)) for number in range(clusters)]
        began = time.monotonic()
        for plane, size in zip(planes, sizes, strict=True):
            stack.enter_context(plane)
            fill(plane, *size)
        filled_s = time.monotonic() - began
        kubeconfig = write_merged_kubeconfig({each.name: each.kubeconfig() for each in planes}, folder / "kubeconfig")
        command = [sys.executable, __file__, "--sense", str(kubeconfig)]
        child = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        synced = _answer(child)
        before = _answer(child, "begin")
        with ThreadPoolExecutor(clusters) as pool:
            jobs = [
                pool.submit(churn, plane, *size, churn_s, rate / clusters, seed)
                for seed, (plane, size) in enumerate(zip(planes, sizes, strict=True))
            ]
            changes = sum(job.result() for job in jobs)
        after = _answer(child, "compare")
        lags = sorted(after.pop("lags_ms"))
        result = {
            "clusters": clusters,
            "filled_s": round(filled_s, 1),
            "changes": changes,
            "stamps": len(lags),
            **after,
        }
        result |= {"sync_s": round(synced["sync_s"], 2), "cpu_share": (after["cpu_s"] - before["cpu_s"]) / churn_s}
        return result | {f"lag_p{share}_ms": _quantile(lags, share / 100) for share in (50, 99, 100)}


def _answer(child: subprocess.Popen[str], question: str = "") -> dict[str, Any]:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the process that senses has no pipes")
    if question:
        child.stdin.write(f"{question}\n")
        child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise RuntimeError("the process that senses ended: see above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _share(total: int, number: int, parts: int) -> int:
    return total // parts + (number < total % parts)


def _quantile(values: list[int], share: float) -> float:
    return float(values[min(int(share * len(values)), len(values) - 1)]) if values else float("nan")


def main() -> None:
    """Measure with sizes from the command line, or sense as the child of that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clusters", 7), ("nodes", 5000), ("pods", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, seconds in (("churn-s", 60.0), ("rate", 140.0)):
        parser.add_argument(f"--{name}", type=float, default=seconds)
    parser.add_argument("--sense", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.sense is not None:
        sense(chosen.sense)
    else:
        _say(measure(chosen.clusters, chosen.nodes, chosen.pods, chosen.churn_s, chosen.rate))


if __name__ == "__main__":
    main()

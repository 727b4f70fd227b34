"""A real kube-scheduler asks our extender and puts each pod on the node that the twin scores highest."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from opendt.kubernetes.extender import Extender, NodeScores
from tests.fleet import add_kwok_nodes, control_plane, create_pod, eventually

SAMPLE = Path(__file__).parents[2] / "deploy" / "extender" / "scheduler.yaml"
PODS = int(os.environ.get("OPENDT_EXTENDER_PODS", "200"))
NODES = 120  # above 100 a scheduler samples unless told not to
FULL = "node-00007"


def score(pod, node):
    """A preference that nothing in Kubernetes could arrive at by itself."""
    return int.from_bytes(hashlib.sha256(f"{pod}/{node}".encode()).digest()[:6], "big")


def scorer(pod, names):
    return NodeScores({name: score(pod.name, name) for name in names if name != FULL}, {FULL: "kept free by a test"})


@pytest.fixture
def served():
    """The extender behind a plain HTTP server, where the API would be; gives (address, what was told)."""
    told = []
    extender = Extender("one", scorer, deadline_s=4.0, told=told.append)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = extender.handle(self.path.rpartition("/")[2], body)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/scheduler", told
    server.shutdown()
    thread.join()
    server.server_close()
    extender.close()


@pytest.mark.timeout(300)
def test_the_scheduler_places_every_pod_on_the_node_of_the_highest_score(kubernetes_programs, served):
    address, told = served
    sample = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    (ours,) = sample["extenders"]
    assert (ours["nodeCacheCapable"], sample["percentageOfNodesToScore"]) == (True, 100)
    # The controllers take the taint of nodes that are not Ready yet away again.
    parts = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
    with (
        tempfile.TemporaryDirectory(prefix="opendt-extender-") as folder,
        control_plane(Path(folder), "one", parts, [{**ours, "urlPrefix": address, "ignorable": False}]) as plane,
        plane.client() as client,
    ):
        nodes = add_kwok_nodes(plane, NODES)
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        eventually(lambda: client.get(accounts)["items"], "pods may be made")

        def are_open():
            return not any(
                node["spec"].get("taints") for node in client.get("/api/v1/nodes?resourceVersion=0")["items"]
            )

        eventually(are_open, "pods may come to all nodes")
        names = [f"pod-{number:04}" for number in range(PODS)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: create_pod(plane, name, requests={"cpu": "10m"}), names))

        def bound():
            items = client.get("/api/v1/pods?resourceVersion=0")["items"]
            return {item["metadata"]["name"]: item["spec"].get("nodeName") for item in items}

        eventually(lambda: len(bound()) == PODS and all(bound().values()), "all pods are bound", seconds=200)
        placed = bound()
    best = {name: max((node for node in nodes if node != FULL), key=lambda node: score(name, node)) for name in names}
    assert placed == best
    assert {each.source for each in told} == {"scorer"}
    assert {each.verb for each in told} == {"filter", "prioritize"}

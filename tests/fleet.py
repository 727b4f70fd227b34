"""Real Kubernetes control planes for tests; the fixtures that share and end them are in conftest.py.

A plane listens on 127.0.0.1. What runs on its nodes is played by KWOK: see the annotations in deploy/kwok/cluster.yaml.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.fleet.control_plane import LIGHT_PARTS, ControlPlane, write_merged_kubeconfig
from scripts.fleet.deadline import Deadline
from scripts.fleet.images import WORKER
from scripts.fleet.kwok_nodes import ALLOCATABLE, create_nodes, kwok_node
from scripts.fleet.node import missing_for_real_nodes
from scripts.fleet.programs import control_plane_program
from tests.parts import do_without, require_part

__all__ = [
    "ControlPlane",
    "add_kwok_nodes",
    "control_plane",
    "create_pod",
    "eventually",
    "merged_kubeconfig",
    "require_kubernetes",
    "require_real_nodes",
    "worker_pod",
]


def require_kubernetes() -> Path:
    """Path of the program that is every part of Kubernetes; skip (or fail, with OPENDT_REQUIRE_PARTS=1) without it.

    It is not built here: that takes minutes. ``make parts`` does.
    """
    require_part("openssl")
    found = control_plane_program().find()
    if found is None:
        do_without("Kubernetes" if shutil.which("go") else "Kubernetes (and Go, which builds it)")
    return found


def require_real_nodes() -> None:
    """Skip (or fail, as above) unless network namespaces, control groups and containers can be made here."""
    require_kubernetes()
    missing = missing_for_real_nodes()
    missing += [name for name in ("qemu-aarch64-static", "qemu-riscv64-static") if shutil.which(name) is None]
    missing += [] if Path("/dev/net/tun").exists() else ["/dev/net/tun"]
    if missing:
        do_without(", ".join(missing))


def control_plane(
    folder: Path,
    name: str,
    parts: Sequence[str] = LIGHT_PARTS,
    scheduler_extenders: Sequence[Mapping[str, Any]] = (),
) -> ControlPlane:
    """Return a control plane that is yet to be started, on free ports; use it with ``with``, or `stop` it."""
    return ControlPlane(require_kubernetes(), folder / name, name, parts=parts, scheduler_extenders=scheduler_extenders)


def merged_kubeconfig(planes: Mapping[str, ControlPlane], path: Path) -> Path:
    """Write one kubeconfig file with a context named after each cluster; the first one is the current one."""
    return write_merged_kubeconfig({name: plane.kubeconfig() for name, plane in planes.items()}, path)


def add_kwok_nodes(
    plane: ControlPlane,
    n: int,
    labels: Mapping[str, str] | None = None,
    allocatable: Mapping[str, str] = ALLOCATABLE,
    prefix: str = "node",
) -> list[str]:
    """Create nodes and wait until they are Ready; return their names, ``node-00000`` and so on."""
    names = [f"{prefix}-{number:05}" for number in range(n)]
    with plane.client() as client:
        create_nodes(client, (kwok_node(name, labels or {}, allocatable) for name in names))
        wanted = set(names)

        def are_ready() -> bool:
            nodes = client.get("/api/v1/nodes?resourceVersion=0")["items"]
            return wanted <= {node["metadata"]["name"] for node in nodes if _is_ready(node)}

        eventually(are_ready, "nodes are Ready")
    return names


def worker_pod(name: str, node: str, exec_format: str, *arguments: str, memory: str = "64Mi") -> dict[str, Any]:
    """Return a pod that runs the worker on a real node, with as few rights as it needs.

    `exec_format` is the tag of the worker's image: amd64, arm64, riscv64 or wasm.
    """
    container = {
        "name": "worker",
        "image": f"{WORKER}:{exec_format}",
        "imagePullPolicy": "Never",
        "args": list(arguments),
        "resources": {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    nobody = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec: dict[str, Any] = {
        "nodeName": node,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": nobody,
        "containers": [container],
    }
    if exec_format == "wasm":
        spec["runtimeClassName"] = "wasm"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def create_pod(
    plane: ControlPlane,
    name: str,
    node: str | None = None,
    annotations: Mapping[str, str] | None = None,
    requests: Mapping[str, str] | None = None,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
) -> None:
    """Create a pod of one container, on a node or for the scheduler."""
    container = {"name": "main", "image": "none", "resources": {"requests": dict(requests or {})}}
    spec = {"containers": [container], **({"nodeName": node} if node else {})}
    metadata = {"name": name, "annotations": dict(annotations or {}), "labels": dict(labels or {})}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    with plane.client() as client:
        client.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)


def eventually(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll until something holds; fail saying what did not."""
    deadline = Deadline(seconds)
    while not holds():
        if not deadline.wait(0.05):
            pytest.fail(f"not within {seconds:g} s: {what}")


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

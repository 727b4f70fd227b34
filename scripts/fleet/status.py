"""What a running fleet looks like from this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.fleet.api import ApiClient

if TYPE_CHECKING:
    from scripts.fleet.plan import RunPlan

__all__ = ["cluster_lines", "outside_client"]


def outside_client(plan: RunPlan, name: str, timeout_s: float = 30.0) -> ApiClient:
    """Return a connection to a cluster's API server through its port of this machine."""
    names = [cluster.name for cluster in plan.fleet().clusters]
    folder = plan.path / name
    kubeconfig = json.loads((folder / "kubeconfig").read_text(encoding="utf-8"))
    token = kubeconfig["users"][0]["user"]["token"]
    return ApiClient(plan.ports[names.index(name)], folder / "pki" / "ca.crt", token, timeout_s)


def cluster_lines(plan: RunPlan) -> Iterator[str]:
    """Say for each cluster what it is and how many nodes and pods it has."""
    yield "cluster          type         port   nodes ready   real   pods running   machine's use of its group, CPU s"
    for cluster, port in zip(plan.fleet().clusters, plan.ports, strict=True):
        head = f"{cluster.name:<16} {cluster.type:<11} {port:>5}"
        try:
            with outside_client(plan, cluster.name, 5.0) as client:
                nodes = client.get("/api/v1/nodes?resourceVersion=0")["items"]
                pods = client.get("/api/v1/pods?resourceVersion=0")["items"]
        except (OSError, RuntimeError) as error:
            yield f"{head}   does not answer: {error}"
            continue
        ready = sum(_is_ready(node) for node in nodes)
        real = [node["metadata"]["name"] for node in nodes if node["metadata"]["labels"].get("type") != "kwok"]
        running = sum(pod["status"].get("phase") == "Running" for pod in pods)
        used = ", ".join(f"{_used_s(plan, name):.1f}" for name in real)
        yield f"{head} {ready:>6} of {len(nodes):<6} {len(real):>3} {running:>6} of {len(pods):<6} {used}"


def _used_s(plan: RunPlan, node: str) -> float:
    root = Path("/sys/fs/cgroup")
    one, two = root / "cpuacct" / plan.id / node / "cpuacct.usage", root / plan.id / node / "cpu.stat"
    if one.exists():
        return int(one.read_text()) / 1e9
    if two.exists():
        return int(two.read_text().split()[1]) / 1e6
    return 0.0


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

"""Nodes that KWOK plays: objects of an API server without a machine behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.fleet.api import ApiClient

__all__ = ["ALLOCATABLE", "create_nodes", "kwok_node"]

ALLOCATABLE: Mapping[str, str] = {"cpu": "32", "memory": "256Gi", "pods": "110"}


def kwok_node(name: str, labels: Mapping[str, str], allocatable: Mapping[str, str] = ALLOCATABLE) -> dict[str, Any]:
    """Return a node as an object: what it offers is all it has, and it measures itself for the Metrics API."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {
                "kwok.x-k8s.io/node": "fake",
                "metrics.k8s.io/resource-metrics-path": f"/metrics/nodes/{name}/metrics/resource",
            },
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "type": "kwok",
                **labels,
            },
        },
        "status": {
            "allocatable": dict(allocatable),
            "capacity": dict(allocatable),
            "nodeInfo": _node_info(labels.get("kubernetes.io/arch", "amd64")),
        },
    }


def create_nodes(client: ApiClient, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Create nodes; KWOK makes them Ready soon after."""
    for node in nodes:
        client.request("POST", "/api/v1/nodes", node)


def _node_info(architecture: str) -> dict[str, str]:
    unknown = dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion", "kubeProxyVersion"), "")
    return {
        **unknown,
        "architecture": architecture,
        "operatingSystem": "linux",
        "osImage": "KWOK",
        "containerRuntimeVersion": "kwok://0",
        "kubeletVersion": "kwok",
    }

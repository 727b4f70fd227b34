"""Delay and loss between clusters by the kernel's own netem, for clusters on machines that have it: a DaemonSet.

    python3 -m scripts.fleet netem CLUSTER --to OTHER=ADDRESS[,ADDRESS...] ... | kubectl --context CLUSTER apply -f -

Every node of a cluster delays what it sends to the nodes of another one by half the round trip of the matrix, so that with the
same in the other cluster a round trip takes all of it. The local fleet needs none of this (``link/``).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.fleet.description import Route

__all__ = ["daemon_set", "shaping_script"]

_IMAGE = "alpine:3"
_RATE = "10gbit"  # a class must have one; none of the links is meant to be limited


def shaping_script(
    cluster: str, addresses: Mapping[str, Sequence[str]], routes: Mapping[tuple[str, str], Route], device: str = "eth0"
) -> str:
    """Return the shell commands that shape what a node sends.

    Parameters
    ----------
    cluster : str
        The cluster of the node.
    addresses : mapping of str to sequence of str
        Other cluster -> addresses of its nodes, or networks.
    routes : mapping
        (from, to) -> what packets meet.
    device : str
        Network device of the node.

    Raises
    ------
    ValueError
        When the matrix does not know one of the clusters.
    """
    dev = shlex.quote(device)
    lines = [
        f"tc qdisc replace dev {dev} root handle 1: htb default 1",
        f"tc class replace dev {dev} parent 1: classid 1:1 htb rate {_RATE}",
    ]
    for number, (other, places) in enumerate(addresses.items(), start=2):
        if (cluster, other) not in routes:
            raise ValueError(f"the latency matrix has no entry between {cluster} and {other}: add one")
        route = routes[cluster, other]
        impaired = f"delay {route.round_trip_ms / 2:g}ms"
        impaired += f" {route.jitter_ms:g}ms distribution normal" if route.jitter_ms else ""
        impaired += f" loss {route.loss_ratio * 100:g}%" if route.loss_ratio else ""
        lines.append(f"tc class replace dev {dev} parent 1: classid 1:{number:x} htb rate {_RATE}")
        lines.append(f"tc qdisc replace dev {dev} parent 1:{number:x} handle {number:x}0: netem limit 10000 {impaired}")
        lines += [
            f"tc filter add dev {dev} parent 1: protocol ip u32 match ip dst {shlex.quote(place)} flowid 1:{number:x}"
            for place in places
        ]
    return "\n".join(lines)


def daemon_set(script: str, image: str = _IMAGE) -> dict[str, Any]:
    """Return the DaemonSet that runs a shaping script on each node and takes the shaping away when it ends."""
    commands = (
        "set -eu\n"
        "command -v tc >/dev/null || apk add --no-cache iproute2-tc >/dev/null\n"
        'trap "tc qdisc del dev eth0 root; exit 0" TERM\n'
        f"{script}\n"
        "while :; do sleep 3600 & wait $!; done\n"
    )
    labels = {"app.kubernetes.io/name": "opendt-netem"}
    container = {
        "name": "netem",
        "image": image,
        "command": ["sh", "-c", commands],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "opendt-netem", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": True,
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 5,
                    "containers": [container],
                },
            },
        },
    }

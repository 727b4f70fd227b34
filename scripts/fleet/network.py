"""One network namespace for each cluster, and a TUN device in each through which the others are reached.

What is between the devices, with its delay and loss, is the program in ``link/``. A namespace has no other way out: nothing in
it reaches this machine's network, nor is reached from it, but for the ports that the program carries.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.fleet.description import Route

__all__ = ["DEVICE", "Namespace", "link_config", "make_namespace", "pod_network", "remove_namespace"]

DEVICE = "dt0"
_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Namespace:
    """Where a cluster's packets live.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    name : str
        The namespace's name, as `ip netns` lists it.
    number : int
        From 1; picks its addresses.
    node_numbers : tuple of int
        Numbers of its real nodes, unique in the fleet; pick the addresses of their pods.
    """

    cluster: str
    name: str
    number: int
    node_numbers: tuple[int, ...] = ()

    @property
    def path(self) -> Path:
        """File by which it is entered."""
        return _NAMESPACES / self.name

    @property
    def address(self) -> str:
        """Its address to the other clusters."""
        return f"10.77.{self.number}.1"

    @property
    def networks(self) -> list[str]:
        """All addresses that are in it."""
        return [f"10.77.{self.number}.0/24", *(pod_network(number) for number in self.node_numbers)]

    def enter(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs a command in it.

        Not ``ip netns exec``: that puts a new /sys over the old, without the control groups.
        """
        return ["nsenter", f"--net={self.path}", "--", *command]


def pod_network(number: int) -> str:
    """Return the network of the pods of a real node."""
    return f"10.88.{number}.0/24"


def make_namespace(space: Namespace) -> None:
    """Make a namespace with its device and the routes to all others.

    Raises
    ------
    RuntimeError
        When the kernel refuses; with what `ip` said.
    """
    _ip("netns", "add", space.name)
    inside = ("-n", space.name)
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "tuntap", "add", "dev", DEVICE, "mode", "tun")
    _ip(*inside, "addr", "add", f"{space.address}/24", "dev", DEVICE)
    # Room for a second of traffic: what waits here waits for us, not for the path.
    _ip(*inside, "link", "set", DEVICE, "txqueuelen", "10000", "up")
    _ip(*inside, "route", "add", "10.77.0.0/16", "dev", DEVICE)
    _ip(*inside, "route", "add", "10.88.0.0/16", "dev", DEVICE)


def remove_namespace(name: str) -> None:
    """Remove a namespace with all devices in it; one that is not there is fine."""
    if (_NAMESPACES / name).exists():
        _ip("netns", "delete", name)


def link_config(
    spaces: Sequence[Namespace],
    routes: Mapping[tuple[str, str], Route],
    forwards: Iterable[tuple[int, Namespace, int]],
    ready: Path,
) -> str:
    """Return the configuration of the link: who is where, what is between them, and which ports lead into them.

    Parameters
    ----------
    spaces : sequence of Namespace
        One for each cluster.
    routes : mapping
        (from, to) -> what packets meet; one way takes half the round trip.
    forwards : iterable of (port of this machine, namespace, port in it)
        On 127.0.0.1 both.
    ready : Path
        File that says that it serves.
    """
    pairs = [(a.cluster, b.cluster) for a in spaces for b in spaces if a is not b]
    config: dict[str, Any] = {
        "Ready": str(ready),
        "Clusters": [
            {"Name": space.cluster, "Netns": str(space.path), "Device": DEVICE, "Networks": space.networks}
            for space in spaces
        ],
        "Paths": [{"From": a, "To": b, **_one_way(routes[a, b])} for a, b in pairs],
        "Forwards": [
            {"Listen": f"127.0.0.1:{outer}", "Netns": str(space.path), "To": f"127.0.0.1:{inner}"}
            for outer, space, inner in forwards
        ],
    }
    return json.dumps(config, indent=1)


def _one_way(route: Route) -> dict[str, float]:
    return {
        "DelayUs": round(route.round_trip_ms / 2 * 1000),
        "JitterUs": route.jitter_ms * 1000,
        "LossRatio": route.loss_ratio,
    }


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

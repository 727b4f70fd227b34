"""What a run of the fleet is going to make, written down before any of it is made, so that all of it can be found and ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.fleet.description import MOST_REAL_CORES, Cluster, Fleet, read_fleet, shares
from scripts.fleet.network import Namespace
from scripts.fleet.node import NodeSpec
from scripts.processes import free_port

__all__ = ["MARKER", "RunPlan", "default_folder"]

MARKER = "OPENDT_FLEET"
"""Variable that every process of a fleet carries in its environment, with the run's id: by it they are found."""

API_SERVER_PORT = 6443
_FILE = "plan.json"


def default_folder() -> Path:
    """Folder of the run that `make fleet` starts, outside the checkout."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "opendt" / "fleet"


@dataclass(frozen=True)
class RunPlan:
    """One run.

    Attributes
    ----------
    folder : str
        Where its state lives.
    description : str
        The YAML that describes the fleet.
    clusters : int
        How many of them, the first ones.
    kwok : int or None
        KWOK nodes of each cluster; None for the description's own numbers.
    real : int
        Real nodes of each cluster at most.
    parts : tuple of str
        Parts of each control plane.
    ports : tuple of int
        For each cluster, the port of 127.0.0.1 by which its API server is reached.
    """

    folder: str
    description: str
    clusters: int
    kwok: int | None
    real: int
    parts: tuple[str, ...]
    ports: tuple[int, ...]

    @classmethod
    def make(
        cls, folder: Path, description: Path, clusters: int, kwok: int | None, real: int, parts: tuple[str, ...]
    ) -> RunPlan:
        """Choose ports and write the plan into its folder.

        Raises
        ------
        ValueError
            When the description does not allow it; with what does.
        """
        ports: list[int] = []
        while len(ports) < clusters:
            port = free_port()
            if port not in ports:
                ports.append(port)
        plan = cls(str(folder.resolve()), str(description.resolve()), clusters, kwok, real, parts, tuple(ports))
        cores = sum(node.cores for _, node in plan.real_nodes())
        if cores > MOST_REAL_CORES:
            raise ValueError(
                f"{description}: the quotas of the real nodes add up to {cores:g} cores, expected at most "
                f"{MOST_REAL_CORES:g}: ask for fewer with REAL or CLUSTERS, or lower them"
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / _FILE).write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
        return plan

    @classmethod
    def read(cls, folder: Path) -> RunPlan | None:
        """Read the plan of a folder; None when there is none."""
        try:
            raw = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(**{**raw, "parts": tuple(raw["parts"]), "ports": tuple(raw["ports"])})

    def forget(self) -> None:
        """Remove the plan: all it speaks of is gone."""
        (self.path / _FILE).unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """Folder where its state lives."""
        return Path(self.folder)

    @property
    def id(self) -> str:
        """Name of the run among those of this machine; a folder has the same one each time."""
        return "odt" + hashlib.sha256(self.folder.encode()).hexdigest()[:6]

    def fleet(self) -> Fleet:
        """Return the clusters of this run."""
        return read_fleet(Path(self.description)).first(self.clusters)

    def real_nodes(self) -> Iterator[tuple[Cluster, NodeSpec]]:
        """Go through the real nodes with their clusters; their numbers are unique in the fleet."""
        number = 0
        for cluster in self.fleet().clusters:
            for node in cluster.real_nodes[: self.real]:
                number += 1
                group = f"{self.id}/{node.name}"
                yield cluster, NodeSpec(node.name, number, node.cores, node.memory_mib, cluster.labels(node), group)

    def namespaces(self) -> list[Namespace]:
        """Return the namespace of each cluster."""
        numbers: dict[str, list[int]] = {}
        for cluster, node in self.real_nodes():
            numbers.setdefault(cluster.name, []).append(node.number)
        return [
            Namespace(cluster.name, f"{self.id}-{place}", place, tuple(numbers.get(cluster.name, ())))
            for place, cluster in enumerate(self.fleet().clusters, start=1)
        ]

    def kwok_counts(self, cluster: Cluster) -> list[int]:
        """Return how many nodes of each class KWOK plays."""
        counts = [each.count for each in cluster.node_classes]
        return counts if self.kwok is None else shares(self.kwok, counts)

    @property
    def kubeconfig(self) -> Path:
        """File with a context for each cluster, for use on this machine."""
        return self.path / "kubeconfig"

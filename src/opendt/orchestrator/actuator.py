"""What the gate acts with: the topology file, which whoever runs the datacenter follows."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.formats.opendc_dialect import RUNNER, SDK
from opendt.formats.opendc_topology_writer import topology_json

if TYPE_CHECKING:
    from opendt.model.topology import Topology

__all__ = ["TopologyFileActuator"]

_CARBON_KEYS: Final = (RUNNER.carbon, SDK.carbon)


class TopologyFileActuator:
    """Writes a topology file: whole or not at all, with what it says of carbon traces kept.

    Parameters
    ----------
    path : Path
        The file. Links are followed, so that a mounted one keeps its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def apply(self, topology: Topology) -> None:
        """Let the file say another topology.

        Raises
        ------
        OSError
            When it cannot be written; the old one stays.
        """
        target = self.path.resolve()
        old = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
        record = topology_json(topology, {})
        _keep_carbon(old, record)
        content = json.dumps(record, indent=4, ensure_ascii=False) + "\n"
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if target.exists():
                partial.chmod(target.stat().st_mode & 0o777)
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _keep_carbon(old: Any, new: dict[str, Any]) -> None:
    """Copy the names of carbon traces, which are not part of the model, from the old file."""
    if not isinstance(old, dict):
        return
    sources = {
        str(cluster.get("name")): cluster["powerSource"]
        for cluster in old.get("clusters", ())
        if isinstance(cluster, dict) and isinstance(cluster.get("powerSource"), dict)
    }
    for cluster in new.get("clusters", ()):
        found = sources.get(str(cluster.get("name")), {})
        cluster.setdefault("powerSource", {}).update({key: found[key] for key in _CARBON_KEYS if key in found})

"""What the gate acts with: the topology file, which whoever runs the datacenter follows."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.formats.opendc_dialect import RUNNER, SDK, OpenDCReading
from opendt.formats.opendc_topology import read_topology
from opendt.formats.opendc_topology_writer import topology_json
from opendt.model.errors import InputError
from opendt.orchestrator.environment import without_carbon

if TYPE_CHECKING:
    from opendt.model.topology import Topology
    from opendt.orchestrator.version_store import VersionStore

__all__ = ["TopologyFileActuator", "is_same"]

_CARBON_KEYS: Final = (RUNNER.carbon, SDK.carbon)


class TopologyFileActuator:
    """Writes a topology file: whole or not at all, with what it says of carbon traces kept.

    Parameters
    ----------
    path : Path
        The file. Links are followed, so that a mounted one keeps its place.
    store : VersionStore
        Takes a backup of what it said and of what it says from then on.
    """

    def __init__(self, path: Path, store: VersionStore) -> None:
        self.path = path
        self.store = store

    def apply(self, topology: Topology, before: Topology) -> bool:
        """Let the file say another topology than before.

        Returns
        -------
        bool
            False when the file says neither: somebody has edited it since, and it is left as it is.

        Raises
        ------
        OSError
            When it cannot be written; the old one stays.
        """
        found = self._read()
        if not is_same(found, topology):
            if not is_same(found, before):
                return False
            self.store.keep(self.path.read_bytes())
            self._write(topology)
        self.store.keep(self.path.read_bytes())
        return True

    def _read(self) -> Topology | None:
        reading = OpenDCReading(working_directory=self.path.absolute().parent)
        try:
            return read_topology(self.path, reading=reading)
        except InputError:
            return None

    def _write(self, topology: Topology) -> None:
        target = self.path.resolve()
        old = json.loads(target.read_text(encoding="utf-8"))
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
            partial.chmod(target.stat().st_mode & 0o777)
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def is_same(one: Topology | None, other: Topology) -> bool:
    """Whether two topologies describe the same hosts; carbon intensities are no part of what is acted on."""
    return one is not None and without_carbon(one) == without_carbon(other)


def _keep_carbon(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Copy the names of carbon traces, which are not part of the model, from the old file."""
    sources = {
        str(cluster.get("name")): cluster["powerSource"]
        for cluster in old.get("clusters", ())
        if isinstance(cluster.get("powerSource"), dict)
    }
    for cluster in new.get("clusters", ()):
        found = sources.get(str(cluster.get("name")), {})
        cluster.setdefault("powerSource", {}).update({key: found[key] for key in _CARBON_KEYS if key in found})

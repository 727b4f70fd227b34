"""One copy of what many datacenters have alike.

A carbon trace of four years is 35,000 records, 20 MB of them: by far the largest part of a datacenter in memory, and the same for
all that draw from one grid.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.model.topology import CarbonPoint, Topology

__all__ = ["with_shared_carbon"]

_KEPT: Final = 64
_traces: OrderedDict[bytes, tuple[CarbonPoint, ...]] = OrderedDict()
_lock: Final = Lock()


def with_shared_carbon(topology: Topology) -> Topology:
    """Give an equal topology whose carbon traces are those of equal topologies seen before."""
    clusters = tuple(
        cluster.model_copy(
            update={
                "power_source": cluster.power_source.model_copy(update={"carbon": _shared(cluster.power_source.carbon)})
            }
        )
        if cluster.power_source.carbon
        else cluster
        for cluster in topology.clusters
    )
    return topology.model_copy(update={"clusters": clusters})


def _shared(trace: tuple[CarbonPoint, ...]) -> tuple[CarbonPoint, ...]:
    times = array("q", [point.timestamp_ms for point in trace])
    intensities = array("d", [point.intensity_g_per_kwh for point in trace])
    key = times.tobytes() + intensities.tobytes()
    with _lock:
        found = _traces.setdefault(key, trace)
        _traces.move_to_end(key)
        if len(_traces) > _KEPT:
            _traces.popitem(last=False)
    return found

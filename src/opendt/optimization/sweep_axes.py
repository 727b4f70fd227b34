"""What each axis of a sweep does to a configuration.

==================== ===========================================================================================
``topology``         path of a topology file
``workload``         path of a workload folder
``allocation``       a prefab of OpenDC (``Mem``, ``CoreMem``, ...), or a policy as in the options
``power_model``      ``linear``, ``sqrt``, ``square`` or ``cubic`` between each group's own power at rest and at full
                     load, or one power model for all groups
``host_ratio``       hosts of every group, rounded, at least one where there was one
``core_ratio``       cores of every host, rounded, at least one; dynamic power scales with them
``core_speed_ratio`` clock of every host: capacity times r, dynamic power times r ** ``frequency_exponent``
``memory_ratio``     memory of every host, rounded
``hosts.GROUP.KEY``  a key of a host group (as ``hosts.node.power_model.idle_w``), the same in every cluster
``options.KEY``      a key of the options (as ``options.failures.interarrival_hours.mean``)
==================== ===========================================================================================

Ratios act on the topology as read, after keys of groups and power models are set; what they mean for power is what
`opendt.model.change` says of the same changes made to a running system.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from opendt.model.errors import ModelError, shown
from opendt.model.options import Allocation, Options
from opendt.model.power import ConstantPower, CubicPower, CurvePower, LinearPower, PowerModel, SqrtPower, SquarePower
from opendt.model.topology import HostGroup, Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue

    from opendt.optimization.sweep_design import Row
    from opendt.optimization.sweep_spec import SweepSpec

__all__ = ["AXES", "Resolved", "Resolver"]

_RATIOS: Final = ("host_ratio", "core_ratio", "core_speed_ratio", "memory_ratio")
AXES: Final = ("topology", "workload", "allocation", "power_model", *_RATIOS)
"""Axes with names of their own."""
_SHAPES: Final = {"linear": LinearPower, "sqrt": SqrtPower, "square": SquarePower, "cubic": CubicPower}
_SET_ELSEWHERE: Final = ("seed", "start_epoch_ms")


@dataclass(frozen=True)
class Resolved:
    """A configuration with nothing left open but the start, which is that of the workload."""

    topology: Topology
    topology_path: str
    options: Options
    workload_path: str


class Resolver:
    """Rows of a sweep made configurations; each file is read once.

    Parameters
    ----------
    spec : SweepSpec
        The sweep.
    folder : Path
        What its paths are relative to.
    read : callable
        Reads a topology.

    Raises
    ------
    ModelError
        When there is no such axis.
    """

    def __init__(self, spec: SweepSpec, folder: Path, read: Callable[[Path], Topology]) -> None:
        for axis in spec.axes:
            if axis not in AXES and not axis.startswith(("hosts.", "options.")):
                hint = f"The axes are {', '.join(AXES)}, hosts.GROUP.KEY and options.KEY."
                raise ModelError(f"axis {axis}", "no such axis", "the name of an axis", hint)
            if axis.startswith("options.") and axis.split(".")[1] in _SET_ELSEWHERE:
                raise ModelError(f"axis {axis}", "what seeds and workload say", "another key of the options")
        self._spec, self._folder, self._read = spec, folder, read
        self._topologies: dict[str, Topology] = {}

    def topology(self, path: str) -> Topology:
        """Topology of a file."""
        if path not in self._topologies:
            self._topologies[path] = self._read(self._folder / path)
        return self._topologies[path]

    def resolve(self, row: Row) -> Resolved:
        """Give the configuration of a row.

        Raises
        ------
        ModelError
            Naming row and axis, when a value is not one for its axis.
        FormatError
            When a topology cannot be read.
        """
        settings = row.settings
        path = _path(row, "topology", settings.get("topology", self._spec.topology))
        workload = _path(row, "workload", settings.get("workload", self._spec.workload))
        topology = self.topology(path)
        # Keys first and ratios last: a ratio of what is set, whatever stands first in the spec.
        ordered = sorted(settings.items(), key=lambda item: _rank(item[0]))
        for axis, value in ordered:
            if axis.startswith("hosts.") or axis in _RATIOS or axis == "power_model":
                topology = _within(row, axis, value, partial(_changed, topology, axis, value))
        options = self._spec.options
        for axis, value in ordered:
            if axis == "allocation":
                allocation = _within(row, axis, value, partial(_allocation, value))
                options = options.model_copy(update={"allocation": allocation})
            elif axis.startswith("options."):
                options = _within(row, axis, value, partial(_options, options, axis, value))
        return Resolved(topology, path, options.model_copy(update={"seed": row.seed}), workload)


def _rank(axis: str) -> int:
    return _RATIOS.index(axis) + 2 if axis in _RATIOS else int(axis.startswith(("hosts.", "options.")))


def _path(row: Row, axis: str, value: JsonValue) -> str:
    if not isinstance(value, str) or not value:
        raise ModelError(f"row {row.index}: {axis}", value, "a path")
    return value


def _within(row: Row, axis: str, value: JsonValue, change: Callable[[], Any]) -> Any:
    """Make a change; what is wrong with it is said of the row and the axis."""
    try:
        return change()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise ModelError(f"row {row.index}: {axis}", value, message) from error
    except _NotForAxisError as error:
        raise ModelError(f"row {row.index}: {axis}", value, str(error)) from error


class _NotForAxisError(Exception):
    """A value is not one for its axis; says what is expected."""


def _changed(topology: Topology, axis: str, value: JsonValue) -> Topology:
    """Apply an axis to the hosts of a topology."""
    if axis in _RATIOS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
            raise _NotForAxisError("a number above 0 and up to 1000")
        return _each_group(topology, lambda group: _RATIO_CHANGES[axis](group, float(value)))
    if axis == "power_model":
        if isinstance(value, str) and value not in _SHAPES:
            raise _NotForAxisError(f"one of {', '.join(_SHAPES)}, or a power model")
        return _each_group(topology, lambda group: _copy(group, power_model=_power_model(group, value)))
    names = {group.name for cluster in topology.clusters for group in cluster.hosts}
    rest = axis.removeprefix("hosts.")
    # The longest name that fits: names of groups may hold points.
    name = max((name for name in names if rest.startswith(f"{name}.")), key=len, default=None)
    if name is None:
        raise _NotForAxisError(f"an axis hosts.GROUP.KEY with one of the groups {', '.join(sorted(names))}")
    keys = rest[len(name) + 1 :].split(".")
    if keys[0] == "name":
        raise _NotForAxisError("another key than the name, by which hosts are found")

    def changed(group: HostGroup) -> HostGroup:
        if group.name != name:
            return group
        return HostGroup.model_validate(_with_key(group.model_dump(), keys, value))

    return _each_group(topology, changed)


def _each_group(topology: Topology, change: Callable[[HostGroup], HostGroup]) -> Topology:
    """Change host groups; carbon traces, which may be long, are neither copied nor validated again."""
    clusters = tuple(
        cluster.model_copy(update={"hosts": tuple(change(group) for group in cluster.hosts)})
        for cluster in topology.clusters
    )
    return topology.model_copy(update={"clusters": clusters})


def _copy(group: HostGroup, **keys: Any) -> HostGroup:
    return HostGroup.model_validate({**group.model_dump(), **keys})


def _scaled(count: int, ratio: float) -> int:
    """Count times ratio, halves up, and at least one where there was one."""
    return max(math.floor(count * ratio + 0.5), min(count, 1))


def _with_cores(group: HostGroup, ratio: float) -> HostGroup:
    cores = _scaled(group.core_count, ratio)
    return _copy(group, core_count=cores, power_model=_dynamic_times(group.power_model, cores / group.core_count))


def _with_clock(group: HostGroup, ratio: float) -> HostGroup:
    power_model = _dynamic_times(group.power_model, ratio**group.frequency_exponent)
    return _copy(group, core_speed_mhz=group.core_speed_mhz * ratio, power_model=power_model)


_RATIO_CHANGES: Final[dict[str, Callable[[HostGroup, float], HostGroup]]] = {
    "host_ratio": lambda group, ratio: _copy(group, count=_scaled(group.count, ratio)),
    "core_ratio": _with_cores,
    "core_speed_ratio": _with_clock,
    "memory_ratio": lambda group, ratio: _copy(group, memory_mib=_scaled(group.memory_mib, ratio)),
}


def _dynamic_times(power: PowerModel, factor: float) -> PowerModel:
    """Scale what a power model adds to the power at rest."""
    if isinstance(power, ConstantPower):
        return power
    if isinstance(power, CurvePower):
        rest_w = power.power_w[0]
        return power.model_copy(update={"power_w": tuple(rest_w + (w - rest_w) * factor for w in power.power_w)})
    return power.model_copy(update={"max_w": power.idle_w + (power.max_w - power.idle_w) * factor})


def _power_model(group: HostGroup, value: JsonValue) -> PowerModel:
    if isinstance(value, str):
        idle_w, max_w = group.power_model.watts_at(0.0), group.power_model.watts_at(1.0)
        shaped: PowerModel = _SHAPES[value](idle_w=idle_w, max_w=max_w)
        return shaped
    made: PowerModel = TypeAdapter(PowerModel).validate_python(value)
    return made


def _allocation(value: JsonValue) -> Allocation:
    from opendt.formats.opendc_policies import prefab

    if isinstance(value, str):
        try:
            return prefab(value)
        except KeyError:
            raise _NotForAxisError("a prefab of OpenDC, as Mem or CoreMem, or a policy") from None
    made: Allocation = TypeAdapter(Allocation).validate_python(value)
    return made


def _options(options: Options, axis: str, value: JsonValue) -> Options:
    return Options.model_validate(_with_key(options.model_dump(), axis.split(".")[1:], value))


def _with_key(tree: Mapping[str, Any], keys: list[str], value: JsonValue) -> dict[str, Any]:
    """Copy nested mappings with the value at a path of keys that is there."""
    first, *rest = keys
    if not isinstance(tree, dict) or first not in tree:
        known = ", ".join(tree) if isinstance(tree, dict) else f"none below {shown(tree)}"
        raise _NotForAxisError(f"an axis of known keys, which {first!r} is not: {known}")
    return {**tree, first: _with_key(tree[first], rest, value) if rest else value}

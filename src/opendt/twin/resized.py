"""The power model of hosts whose clock or cores were changed, as a file has to say it.

At r = f/f0 the engine scales the dynamic power of a host by r^k, with the power at rest unchanged, and by the share of its cores. A file
holds one power model for the hosts as they are: what the engine does to a running host, the file says by a model that is scaled alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from opendt.model.power import ConstantPower, CurvePower, PowerModel

if TYPE_CHECKING:
    from opendt.model.topology import HostGroup

__all__ = ["is_same_power", "resized_power"]

_SAME = 1e-9  # relative; there and back again is not quite the same number


def resized_power(group: HostGroup, core_count: int, core_speed_mhz: float) -> PowerModel:
    """Power model of a group's hosts with other cores or another clock.

    Examples
    --------
    >>> from opendt.model.power import LinearPower
    >>> from opendt.model.topology import HostGroup
    >>> power = LinearPower(idle_w=100.0, max_w=200.0)
    >>> node = HostGroup(name="n", count=1, core_count=8, core_speed_mhz=2000.0, memory_mib=1, power_model=power)
    >>> resized_power(node, 8, 1000.0).max_w  # a quarter of the dynamic power, with an exponent of 2
    125.0
    """
    factor = core_count / group.core_count * (core_speed_mhz / group.core_speed_mhz) ** group.frequency_exponent
    power = group.power_model
    if isinstance(power, ConstantPower) or factor == 1.0:
        return power
    if isinstance(power, CurvePower):
        rest_w = power.power_w[0]
        return power.model_copy(update={"power_w": tuple(rest_w + (w - rest_w) * factor for w in power.power_w)})
    most_w = power.idle_w + (power.max_w - power.idle_w) * factor
    return cast("PowerModel", power.model_copy(update={"max_w": most_w}))


def is_same_power(one: PowerModel, other: PowerModel) -> bool:
    """Whether two power models are the same but for the last digits."""
    return _is_close(one.model_dump(), other.model_dump())


def _is_close(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[name], other[name]) for name in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_SAME)
    return one == other

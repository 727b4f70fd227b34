"""Clusters of hosts, their power and the network between them.

The records mirror ``crates/opendt-engine/src/spec.rs`` field by field: ``model_dump_json()`` is what the engine reads.
Units are in the names.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from opendt.model.base import (
    MAX_I64,
    Count,
    Model,
    NonNegative,
    NonNegativeInt,
    Positive,
    Ratio,
    Real,
    Size,
)
from opendt.model.power import LinearPower, PowerModel

__all__ = [
    "Battery",
    "BatteryPolicy",
    "BestEffort",
    "CarbonPoint",
    "Cluster",
    "ConstantOverhead",
    "DoubleThreshold",
    "EqualShare",
    "FirstFit",
    "FixedShare",
    "Gpu",
    "GpuOverhead",
    "HostGroup",
    "Link",
    "MaxMinFairness",
    "NoOverhead",
    "PowerSource",
    "RunningMean",
    "RunningMeanPlus",
    "RunningMedian",
    "RunningQuartiles",
    "ShareBasedOverhead",
    "Sharing",
    "SingleThreshold",
    "Topology",
]

Name = Annotated[str, Field(min_length=1)]


class NoOverhead(Model):
    """Virtualisation takes nothing."""

    type: Literal["none"] = "none"


class ConstantOverhead(Model):
    """Virtualisation takes a constant share of the supply."""

    type: Literal["constant"] = "constant"
    ratio: Ratio


class ShareBasedOverhead(Model):
    """The supply is divided by the number of tasks on the host's devices."""

    type: Literal["share_based"] = "share_based"


GpuOverhead = Annotated[NoOverhead | ConstantOverhead | ShareBasedOverhead, Field(discriminator="type")]
"""Share of a GPU's supply that is lost to virtualisation."""


class MaxMinFairness(Model):
    """Water filling: each gets what it asks, or an equal part of what is left."""

    type: Literal["max_min_fairness"] = "max_min_fairness"


class FirstFit(Model):
    """In order of arrival."""

    type: Literal["first_fit"] = "first_fit"


class EqualShare(Model):
    """The same for each, whatever it asks."""

    type: Literal["equal_share"] = "equal_share"


class FixedShare(Model):
    """A fixed share of the capacity for each."""

    type: Literal["fixed_share"] = "fixed_share"
    share_ratio: Annotated[float, Field(strict=True, gt=0, le=1)]


class BestEffort(Model):
    """Round-robin from a slot that rotates every `update_interval_ms`."""

    type: Literal["best_effort"] = "best_effort"
    update_interval_ms: Annotated[int, Field(strict=True, ge=1, le=MAX_I64)]


Sharing = Annotated[
    MaxMinFairness | FirstFit | EqualShare | FixedShare | BestEffort,
    Field(discriminator="type"),
]
"""How a supplier that is asked for more than it has divides it."""


class Gpu(Model):
    """Accelerators of one host: `count` equal devices behind one distributor."""

    count: Count
    core_count: Size
    core_speed_mhz: Positive
    memory_mib: NonNegativeInt | None = None
    overhead: GpuOverhead = Field(default_factory=NoOverhead)
    power_model: PowerModel = Field(default_factory=LinearPower)
    sharing: Sharing = Field(default_factory=MaxMinFairness)


class HostGroup(Model):
    """`count` equal hosts, named `name`, `name-0`, `name-1`, … in definition order.

    `core_count` counts the cores of all CPUs of one host. At frequency ratio r, dynamic power scales by
    r ** `frequency_exponent`.
    """

    name: Name
    count: Count
    core_count: Size
    core_speed_mhz: Positive
    memory_mib: NonNegativeInt
    arch: str | None = None
    power_model: PowerModel = Field(default_factory=LinearPower)
    cpu_sharing: Sharing = Field(default_factory=MaxMinFairness)
    gpu: Gpu | None = None
    frequency_exponent: NonNegative = 2.0
    embodied_carbon_kg: NonNegative = 1000.0
    lifetime_years: Positive = 5.0

    @property
    def capacity_mhz(self) -> float:
        """CPU capacity of one host in MHz."""
        return self.core_count * self.core_speed_mhz


class CarbonPoint(Model):
    """Intensity from `timestamp_ms` (since the epoch, UTC) to the next point."""

    timestamp_ms: Annotated[int, Field(strict=True, ge=-MAX_I64, le=MAX_I64)]
    intensity_g_per_kwh: NonNegative


class PowerSource(Model):
    """Grid connection of a cluster. `carbon` rises in time; empty means an intensity of 0."""

    name: Name = "PowerSource"
    max_power_w: NonNegative | None = None
    carbon: tuple[CarbonPoint, ...] = ()

    @model_validator(mode="after")
    def _carbon_rises_in_time(self) -> PowerSource:
        for row, (a, b) in enumerate(pairwise(self.carbon)):
            if b.timestamp_ms <= a.timestamp_ms:
                raise ValueError(f"carbon[{row + 1}].timestamp_ms ({b.timestamp_ms}) must be after {a.timestamp_ms}")
        return self


class SingleThreshold(Model):
    """Discharge at or above `carbon_threshold` (g/kWh), charge below it."""

    type: Literal["single"] = "single"
    carbon_threshold: Real


class DoubleThreshold(Model):
    """Discharge above `upper_threshold`, charge below `lower_threshold` (g/kWh)."""

    type: Literal["double"] = "double"
    lower_threshold: Real
    upper_threshold: Real

    @model_validator(mode="after")
    def _lower_not_above_upper(self) -> DoubleThreshold:
        if self.lower_threshold > self.upper_threshold:
            raise ValueError(f"lower_threshold ({self.lower_threshold:g}) must not exceed {self.upper_threshold:g}")
        return self


class RunningMean(Model):
    """Threshold = mean of the last `window_size` intensities, seeded with `starting_threshold` (g/kWh)."""

    type: Literal["running_mean"] = "running_mean"
    starting_threshold: Real
    window_size: Size


class RunningMeanPlus(Model):
    """As `RunningMean`, but charging starts only while the intensity does not fall."""

    type: Literal["running_mean_plus"] = "running_mean_plus"
    starting_threshold: Real
    window_size: Size


class RunningMedian(Model):
    """Threshold = median of the last `window_size` intensities, seeded with `starting_threshold` (g/kWh)."""

    type: Literal["running_median"] = "running_median"
    starting_threshold: Real
    window_size: Size


class RunningQuartiles(Model):
    """Discharge above the third quartile of the last `window_size` intensities, charge below the first."""

    type: Literal["running_quartiles"] = "running_quartiles"
    starting_threshold: Real
    window_size: Size


BatteryPolicy = Annotated[
    SingleThreshold | DoubleThreshold | RunningMean | RunningMeanPlus | RunningMedian | RunningQuartiles,
    Field(discriminator="type"),
]
"""When a battery charges and discharges, from the carbon intensity."""


class Battery(Model):
    """Battery between a source and its cluster; charging draws exactly `charging_w` besides the load."""

    name: Name
    capacity_kwh: NonNegative
    charging_w: NonNegative
    initial_charge_kwh: NonNegative = 0.0
    policy: BatteryPolicy
    embodied_carbon_kg: NonNegative = 0.0
    lifetime_years: NonNegative = 0.0

    @model_validator(mode="after")
    def _charge_fits(self) -> Battery:
        if self.initial_charge_kwh > self.capacity_kwh:
            raise ValueError(
                f"initial_charge_kwh ({self.initial_charge_kwh:g}) must not exceed capacity_kwh ({self.capacity_kwh:g})"
            )
        return self


class Cluster(Model):
    """A pool of hosts behind one power source; the order of the groups breaks ties of the scheduler."""

    name: Name
    hosts: tuple[HostGroup, ...]
    power_source: PowerSource = Field(default_factory=PowerSource)
    battery: Battery | None = None

    @property
    def host_count(self) -> int:
        """Number of hosts."""
        return sum(group.count for group in self.hosts)


class Link(Model):
    """Network between two clusters, both ways; absent bandwidth is unlimited."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    latency_ms: NonNegative
    bandwidth_mib_per_s: Positive | None = None


class Topology(Model):
    """Clusters and the links between them; pairs without a link transfer without delay."""

    clusters: tuple[Cluster, ...]
    links: tuple[Link, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> Topology:
        names = [cluster.name for cluster in self.clusters]
        repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if repeated:
            raise ValueError(f"cluster names must be unique, {', '.join(repeated)} is given twice")
        pairs: set[frozenset[str]] = set()
        for row, link in enumerate(self.links):
            for end in (link.from_, link.to):
                if end not in names:
                    raise ValueError(f"links[{row}] names cluster {end!r}; the clusters are {', '.join(names)}")
            pair = frozenset((link.from_, link.to))
            if len(pair) == 1 or pair in pairs:
                raise ValueError(f"links[{row}] from {link.from_!r} to {link.to!r} is given twice or leads to itself")
            pairs.add(pair)
        return self

    @property
    def host_count(self) -> int:
        """Number of hosts in all clusters."""
        return sum(cluster.host_count for cluster in self.clusters)

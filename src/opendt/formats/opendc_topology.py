"""OpenDC topologies, in both dialects, read into the model.

Beyond OpenDC, both dialects may say: power model ``curve`` with ``utilization`` and ``power``; ``frequencyExponent``,
``embodiedCarbon`` (kg) and ``expectedLifetime`` (years) of a host; and ``links`` of ``from``, ``to``, ``latency``
(time) and ``bandwidth`` (MiB/s) beside ``clusters``.

Corrected here against the reference: a cluster's ``count`` is honoured in both dialects, battery policies
``runningMedian`` and ``runningQuartiles`` are read, and properties of a sharing policy belong to the host that has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from opendt.formats.json_cursor import Cursor, Keys
from opendt.formats.opendc_dialect import (
    RUNNER,
    SDK,
    Dialect,
    OpenDCReading,
    as_format_error,
    dialect_of_topology,
    reference,
    unique,
)
from opendt.formats.opendc_topology_writer import topology_json, write_topology
from opendt.model import topology as model
from opendt.model.power import (
    AsymptoticPower,
    ConstantPower,
    CubicPower,
    CurvePower,
    LinearPower,
    MsePower,
    PowerModel,
    SqrtPower,
    SquarePower,
)
from opendt.model.units import parse_data_mib, parse_frequency_mhz, parse_power_w, parse_time_ms

__all__ = ["read_topology", "topology_from", "topology_json", "write_topology"]

_PLAIN_POWER: Final = {"linear": LinearPower, "sqrt": SqrtPower, "square": SquarePower, "cubic": CubicPower}
_POWER_TYPES: Final = {name: name for name in ("constant", *_PLAIN_POWER, "mse", "asymptotic", "curve")}
_SHARING: Final = {
    "MAX_MIN_FAIRNESS": "max_min_fairness",
    "BEST_EFFORT": "best_effort",
    "EQUAL_SHARE": "equal_share",
    "FIRST_FIT": "first_fit",
    "FIXED_SHARE": "fixed_share",
}
_OVERHEAD: Final = {"NONE": "none", "CONSTANT": "constant", "SHARE_BASED": "share_based"}
_DEFAULT_OVERHEAD_RATIO: Final = 0.05
_WINDOWED: Final = {
    "runningMean": model.RunningMean,
    "runningMeanPlus": model.RunningMeanPlus,
    "runningMedian": model.RunningMedian,
    "runningQuartiles": model.RunningQuartiles,
}
_LARGEST_COUNT: Final = 2**32 - 1
_LARGEST_CLUSTER_COUNT: Final = 10_000


def read_topology(
    path: Path | str,
    *,
    strict: bool = False,
    reading: OpenDCReading | None = None,
) -> model.Topology:
    """Read a topology file of either dialect, with the carbon traces it names.

    Parameters
    ----------
    path : Path or str
        JSON file.
    strict : bool
        Refuse unknown keys, instead of adding a line to ``reading.warnings``.
    reading : OpenDCReading, optional
        Where warnings go and how traces are read.

    Raises
    ------
    FormatError
        Naming file and key.
    """
    reading = reading or OpenDCReading(strict=strict)
    return topology_from(Cursor.at_file(Path(path), reading), reading)


def topology_from(cursor: Cursor, reading: OpenDCReading, dialect: Dialect | None = None) -> model.Topology:
    """Read a topology that the cursor stands on; the dialect is told by its keys unless given."""
    return _TopologyReader(reading, dialect or dialect_of_topology(cursor.value)).topology(cursor)


class _TopologyReader:
    """One read of one topology: the dialect, and the names already taken."""

    def __init__(self, reading: OpenDCReading, dialect: Dialect) -> None:
        self.reading = reading
        self.dialect = dialect
        self.cluster_names: set[str] = set()
        self.source_names: set[str] = set()
        self.battery_names: set[str] = set()

    def topology(self, cursor: Cursor) -> model.Topology:
        before, self.reading.imports = self.reading.imports, self.dialect is SDK
        try:
            keys = cursor.open()
            clusters = [copy for item in keys.need("clusters").items() for copy in self.clusters(item)]
            links = [self.link(item) for item in keys.items("links")]
            keys.close()
        finally:
            self.reading.imports = before
        if not clusters:
            raise keys.need("clusters").error("at least one cluster", found="none")
        with as_format_error(cursor):
            return model.Topology(clusters=tuple(clusters), links=tuple(links))

    def clusters(self, cursor: Cursor) -> list[model.Cluster]:
        keys = cursor.open()
        name = keys.text("name", "Cluster")
        count = keys.integer("count", 1, most=_LARGEST_CLUSTER_COUNT)
        hosts = tuple(self.host_group(item) for item in keys.need("hosts").items())
        if not hosts:
            raise keys.need("hosts").error("at least one host", found="none")
        source = self.power_source(keys.get("powerSource"))
        battery = self.battery(keys.get("battery"))
        keys.close()
        return [
            model.Cluster(
                name=unique(name, self.cluster_names),
                hosts=hosts,
                power_source=source.model_copy(update={"name": unique(source.name, self.source_names)}),
                battery=battery and battery.model_copy(update={"name": unique(battery.name, self.battery_names)}),
            )
            for _ in range(count)
        ]

    def power_source(self, cursor: Cursor | None) -> model.PowerSource:
        if cursor is None:
            return model.PowerSource()
        keys = cursor.open()
        carbon = keys.get(self.dialect.carbon)
        path = None if carbon is None else reference(carbon) if self.dialect is SDK else carbon.text()
        with as_format_error(cursor):
            source = model.PowerSource(
                name=keys.text("name", "PowerSource"),
                max_power_w=keys.quantity("maxPower", parse_power_w, None, 0),  # type: ignore[arg-type]
                carbon=() if path is None or carbon is None else self.reading.carbon(carbon, path),
            )
        keys.close()
        return source

    def battery(self, cursor: Cursor | None) -> model.Battery | None:
        if cursor is None:
            return None
        keys = cursor.open()
        with as_format_error(cursor):
            battery = model.Battery(
                name=keys.text("name", "Battery"),
                capacity_kwh=keys.number("capacity", least=0),
                charging_w=keys.quantity("chargingSpeed", parse_power_w, least=0),
                initial_charge_kwh=keys.number("initialCharge", 0.0, 0),
                policy=_battery_policy(keys.need(self.dialect.battery_policy)),
                embodied_carbon_kg=keys.number("embodiedCarbon", 0.0, 0),
                lifetime_years=keys.number("expectedLifetime", 0.0, 0),
            )
        keys.close()
        return battery

    def host_group(self, cursor: Cursor) -> model.HostGroup:
        keys = cursor.open()
        core_count, core_speed_mhz, arch = self.cpu(keys.need("cpu"))
        with as_format_error(cursor):
            group = model.HostGroup(
                name=keys.text("name", "Host"),
                count=keys.integer("count", 1, most=_LARGEST_COUNT),
                core_count=core_count,
                core_speed_mhz=core_speed_mhz,
                memory_mib=self.memory(keys.need("memory")),
                arch=arch,
                power_model=self.power_model(keys.get("cpuPowerModel")),
                cpu_sharing=_sharing(keys.get(self.dialect.cpu_sharing)),
                gpu=self.gpu(keys),
                frequency_exponent=keys.number("frequencyExponent", 2.0, 0),
                embodied_carbon_kg=keys.number("embodiedCarbon", 1000.0, 0),
                lifetime_years=keys.number("expectedLifetime", 5.0, above=0),
            )
        keys.close()
        return group

    def cpu(self, cursor: Cursor) -> tuple[int, float, str | None]:
        keys = cursor.open()
        cores = keys.integer("coreCount", least=1, most=_LARGEST_COUNT)
        count = keys.integer("count", 1, least=1, most=_LARGEST_COUNT // cores)
        speed_mhz = keys.quantity("coreSpeed", parse_frequency_mhz, above=0)
        arch = keys.text(self.dialect.arch, "")
        keys.ignore("vendor", "modelName")
        keys.close()
        return cores * count, speed_mhz, None if arch in ("", "unknown") else arch

    def memory(self, cursor: Cursor) -> int:
        keys = cursor.open()
        size_mib = keys.quantity(self.dialect.memory_size, parse_data_mib, least=0)
        keys.ignore("memorySpeed", "speed", "vendor", "modelName", "arch", "architecture")
        keys.close()
        return _whole_mib(size_mib)

    def gpu(self, host: Keys) -> model.Gpu | None:
        power_model, sharing = host.get("gpuPowerModel"), host.get(self.dialect.gpu_sharing)
        cursor = host.get("gpu")
        if cursor is None:
            return None
        keys = cursor.open()
        memory_mib = keys.quantity(self.dialect.gpu_memory, parse_data_mib, -1.0)
        gpu = model.Gpu(
            count=keys.integer("count", 1, most=_LARGEST_COUNT),
            core_count=keys.integer("coreCount", least=1, most=_LARGEST_COUNT),
            core_speed_mhz=keys.quantity("coreSpeed", parse_frequency_mhz, above=0),
            memory_mib=None if memory_mib < 0 else _whole_mib(memory_mib),
            overhead=_overhead(keys.get(self.dialect.overhead)),
            power_model=self.power_model(power_model),
            sharing=_sharing(sharing),
        )
        keys.ignore("memoryBandwidth", "vendor", "modelName", "arch", "architecture")
        keys.close()
        return gpu

    def power_model(self, cursor: Cursor | None) -> PowerModel:
        if cursor is None:
            return LinearPower()
        keys = cursor.open()
        kind = keys.choice(self.dialect.power_type, _POWER_TYPES)
        with as_format_error(cursor):
            power = _power_model(kind, keys)
        if self.dialect is RUNNER:  # one record for all kinds: keys of the others may stand there
            keys.ignore("power", "maxPower", "idlePower", "calibrationFactor", "asymUtil", "dvfs")
        keys.close()
        return power

    def link(self, cursor: Cursor) -> model.Link:
        keys = cursor.open()
        bandwidth = keys.get("bandwidth")
        link = model.Link(
            from_=keys.text("from"),
            to=keys.text("to"),
            latency_ms=keys.quantity("latency", parse_time_ms, least=0),
            bandwidth_mib_per_s=None if bandwidth is None else bandwidth.number(above=0),
        )
        keys.close()
        return link


def _power_model(kind: str, keys: Keys) -> PowerModel:
    if kind == "constant":
        return ConstantPower(power_w=keys.quantity("power", parse_power_w, 400.0, 0))
    if kind == "curve":
        return CurvePower(
            utilization=tuple(item.number(0, most=1) for item in keys.need("utilization").items()),
            power_w=tuple(item.quantity(parse_power_w, 0) for item in keys.need("power").items()),
        )
    idle_w = keys.quantity("idlePower", parse_power_w, least=0)
    max_w = keys.quantity("maxPower", parse_power_w, least=0)
    if max_w < idle_w:
        raise keys.need("maxPower").error(f"at least idlePower ({idle_w:g} W)")
    if kind == "mse":
        factor = keys.number("calibrationFactor", 1.0, above=0)
        return MsePower(idle_w=idle_w, max_w=max_w, calibration_factor=factor)
    if kind == "asymptotic":
        asym_util, dvfs = keys.number("asymUtil", 0.0, 0), keys.flag("dvfs", True)
        return AsymptoticPower(idle_w=idle_w, max_w=max_w, asym_util=asym_util, dvfs=dvfs)
    plain: PowerModel = _PLAIN_POWER[kind](idle_w=idle_w, max_w=max_w)
    return plain


def _sharing(cursor: Cursor | None) -> model.Sharing:
    if cursor is None:
        return model.MaxMinFairness()
    keys = cursor.open()
    kind = keys.choice("type", _SHARING)
    sharing: model.Sharing
    if kind == "fixed_share":
        sharing = model.FixedShare(share_ratio=keys.number("shareRatio", 1.0, above=0, most=1))
    elif kind == "best_effort":
        interval_ms = 1000.0
        for key in ("updateIntervalLength", "updateIntervalMs", "updateInterval"):
            interval_ms = keys.quantity(key, parse_time_ms, interval_ms, 1)
        sharing = model.BestEffort(update_interval_ms=round(interval_ms))
    elif kind == "equal_share":
        sharing = model.EqualShare()
    elif kind == "first_fit":
        sharing = model.FirstFit()
    else:
        sharing = model.MaxMinFairness()
    keys.close()
    return sharing


def _overhead(cursor: Cursor | None) -> model.GpuOverhead:
    if cursor is None:
        return model.NoOverhead()
    keys = cursor.open()
    kind = keys.choice("type", _OVERHEAD)
    ratio = keys.get("percentageOverhead")
    keys.close()
    if kind == "constant":
        return model.ConstantOverhead(ratio=_DEFAULT_OVERHEAD_RATIO if ratio is None else ratio.number(0, most=1))
    return model.ShareBasedOverhead() if kind == "share_based" else model.NoOverhead()


def _battery_policy(cursor: Cursor) -> model.BatteryPolicy:
    keys = cursor.open()
    kind = keys.choice("type", {name: name for name in ("single", "double", *_WINDOWED)})
    policy: model.BatteryPolicy
    with as_format_error(cursor):
        if kind == "single":
            policy = model.SingleThreshold(carbon_threshold=keys.number("carbonThreshold"))
        elif kind == "double":
            lower, upper = keys.number("lowerThreshold"), keys.number("upperThreshold")
            policy = model.DoubleThreshold(lower_threshold=lower, upper_threshold=upper)
        else:
            start, size = keys.number("startingThreshold"), keys.integer("windowSize", least=1, most=_LARGEST_COUNT)
            policy = _WINDOWED[kind](starting_threshold=start, window_size=size)
    keys.close()
    return policy


def _whole_mib(size_mib: float) -> int:
    return min(int(size_mib), 2**63 - 1)

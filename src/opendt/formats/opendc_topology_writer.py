"""OpenDC topologies from the model, in both dialects; `opendt.formats.opendc_topology` reads what is written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from opendt.formats.opendc_dialect import RUNNER, SDK, Dialect
from opendt.model import topology as model
from opendt.model.power import AsymptoticPower, ConstantPower, CurvePower, MsePower, PowerModel

__all__ = ["topology_json", "write_topology"]

_HOST_DEFAULTS: Final = {"frequencyExponent": 2.0, "embodiedCarbon": 1000.0, "expectedLifetime": 5.0}


def topology_json(
    topology: model.Topology, carbon_paths: dict[str, str] | None = None, *, dialect: Dialect = RUNNER
) -> dict[str, Any]:
    """Show a topology in a dialect, with OpenDT's additions only where they say something.

    Parameters
    ----------
    topology : Topology
        What to show.
    carbon_paths : dict of str to str, optional
        Cluster name -> path of its carbon trace, which is not part of the file.
    dialect : Dialect
        `RUNNER` or `SDK`.
    """
    paths = carbon_paths or {}
    shown: dict[str, Any] = {
        "clusters": [_cluster_json(cluster, paths.get(cluster.name), dialect) for cluster in topology.clusters]
    }
    if topology.links:
        shown["links"] = [
            {"from": link.from_, "to": link.to, "latency": f"{link.latency_ms!r} ms"}
            | ({} if link.bandwidth_mib_per_s is None else {"bandwidth": link.bandwidth_mib_per_s})
            for link in topology.links
        ]
    return shown


def write_topology(
    topology: model.Topology,
    path: Path | str,
    carbon_paths: dict[str, str] | None = None,
    *,
    dialect: Dialect = RUNNER,
) -> None:
    """Write a topology; see `topology_json`."""
    text = json.dumps(topology_json(topology, carbon_paths, dialect=dialect), indent=4, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _cluster_json(cluster: model.Cluster, carbon_path: str | None, dialect: Dialect) -> dict[str, Any]:
    source: dict[str, Any] = {"name": cluster.power_source.name}
    if cluster.power_source.max_power_w is not None:
        source["maxPower"] = cluster.power_source.max_power_w
    if carbon_path is not None:
        uri = {"type": "uri", "uri": quote(carbon_path)}
        source[dialect.carbon] = uri if dialect is SDK else carbon_path
    hosts = [_host_json(group, dialect) for group in cluster.hosts]
    shown = {"name": cluster.name, "hosts": hosts, "powerSource": source}
    if cluster.battery is not None:
        shown["battery"] = _battery_json(cluster.battery, dialect)
    return shown


def _battery_json(battery: model.Battery, dialect: Dialect) -> dict[str, Any]:
    policy = {_camel(name): value for name, value in battery.policy.model_dump().items()}
    return {
        "name": battery.name,
        "capacity": battery.capacity_kwh,
        "chargingSpeed": battery.charging_w,
        "initialCharge": battery.initial_charge_kwh,
        dialect.battery_policy: policy | {"type": _camel(battery.policy.type)},
        "embodiedCarbon": battery.embodied_carbon_kg,
        "expectedLifetime": battery.lifetime_years,
    }


def _host_json(group: model.HostGroup, dialect: Dialect) -> dict[str, Any]:
    arch = {} if group.arch is None else {dialect.arch: group.arch}
    shown: dict[str, Any] = {
        "name": group.name,
        "count": group.count,
        "cpu": {"coreCount": group.core_count, "coreSpeed": group.core_speed_mhz} | arch,
        "memory": {dialect.memory_size: group.memory_mib},
        "cpuPowerModel": _power_json(group.power_model, dialect),
        dialect.cpu_sharing: _sharing_json(group.cpu_sharing, dialect),
    }
    values = (group.frequency_exponent, group.embodied_carbon_kg, group.lifetime_years)
    additions = zip(_HOST_DEFAULTS.items(), values, strict=True)
    shown |= {name: value for (name, default), value in additions if value != default}
    if group.gpu is not None:
        shown["gpu"] = _gpu_json(group.gpu, dialect)
        shown["gpuPowerModel"] = _power_json(group.gpu.power_model, dialect)
        shown[dialect.gpu_sharing] = _sharing_json(group.gpu.sharing, dialect)
    return shown


def _gpu_json(gpu: model.Gpu, dialect: Dialect) -> dict[str, Any]:
    overhead: dict[str, Any] = {"type": _constant(gpu.overhead.type, dialect)}
    if isinstance(gpu.overhead, model.ConstantOverhead):
        overhead["percentageOverhead"] = gpu.overhead.ratio
    return {
        "count": gpu.count,
        "coreCount": gpu.core_count,
        "coreSpeed": gpu.core_speed_mhz,
        dialect.gpu_memory: -1 if gpu.memory_mib is None else gpu.memory_mib,
        dialect.overhead: overhead,
    }


def _power_json(power: PowerModel, dialect: Dialect) -> dict[str, Any]:
    kind = {dialect.power_type: power.type}
    if isinstance(power, ConstantPower):
        return kind | {"power": power.power_w}
    if isinstance(power, CurvePower):
        return kind | {"utilization": list(power.utilization), "power": list(power.power_w)}
    shown: dict[str, Any] = kind | {"idlePower": power.idle_w, "maxPower": power.max_w}
    if isinstance(power, MsePower):
        shown["calibrationFactor"] = power.calibration_factor
    elif isinstance(power, AsymptoticPower):
        shown |= {"asymUtil": power.asym_util, "dvfs": power.dvfs}
    return shown


def _sharing_json(sharing: model.Sharing, dialect: Dialect) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": _constant(sharing.type, dialect)}
    if isinstance(sharing, model.FixedShare):
        shown["shareRatio"] = sharing.share_ratio
    elif isinstance(sharing, model.BestEffort):
        shown["updateIntervalMs" if dialect is SDK else "updateIntervalLength"] = sharing.update_interval_ms
    return shown


def _constant(name: str, dialect: Dialect) -> str:
    """Write a name of a choice as the dialect does: ``FIRST_FIT`` or ``firstFit``."""
    return _camel(name) if dialect is SDK else name.upper()


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)

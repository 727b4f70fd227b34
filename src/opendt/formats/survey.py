"""Reading any input wholly, and saying in a few numbers what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opendt.formats.any_workload import WORKLOAD_KINDS, read_any_workload
from opendt.formats.detect import Kind, detect

if TYPE_CHECKING:
    from opendt.model.topology import Topology

__all__ = ["Fact", "Survey", "survey"]

Fact = int | float | str


@dataclass(frozen=True)
class Survey:
    """What an input is and holds: `facts` maps names, with units, to values; `warnings` are keys that are ignored."""

    kind: Kind
    facts: dict[str, Fact]
    warnings: tuple[str, ...] = field(default=())


def survey(path: Path | str, *, strict: bool = False) -> Survey:
    """Read an input wholly, whatever it is, with every file that it refers to.

    Parameters
    ----------
    path : Path or str
        File or folder.
    strict : bool
        Refuse unknown keys, instead of adding them to the warnings.

    Raises
    ------
    FormatError
        The first thing that is wrong, naming file and row, line or key.
    """
    path, kind = Path(path), detect(path)
    if kind is Kind.EXPERIMENT:
        return _experiment(path, strict)
    if kind is Kind.TOPOLOGY:
        return _topology(path, strict)
    if kind in WORKLOAD_KINDS:
        return Survey(kind, _workload(path, kind))
    return Survey(kind, _OTHERS[kind](path))


def _experiment(path: Path, strict: bool) -> Survey:
    from opendt import _engine
    from opendt.formats.opendc import read_experiment

    experiment = read_experiment(path, strict=strict)
    sources = {id(scenario.workload): scenario.workload for scenario in experiment.scenarios}.values()
    folders = {source.path for source in sources if source.path is not None}
    tasks = sum(len(_engine.read_workload(folder)) for folder in sorted(folders))
    tasks += sum(len(source.inline) for source in sources if source.inline is not None)
    facts: dict[str, Fact] = {
        "dialect": experiment.dialect,
        "scenarios": len(experiment.scenarios),
        "runs": experiment.runs,
        "topologies": len({id(scenario.topology) for scenario in experiment.scenarios}),
        "workloads": len(sources),
        "tasks": tasks,
    }
    return Survey(Kind.EXPERIMENT, facts, experiment.warnings)


def _topology(path: Path, strict: bool) -> Survey:
    from opendt.formats.json_cursor import load_json
    from opendt.formats.opendc_dialect import OpenDCReading, dialect_of_topology
    from opendt.formats.opendc_topology import read_topology

    reading = OpenDCReading(strict=strict)
    topology = read_topology(path, reading=reading)
    facts: dict[str, Fact] = {"dialect": dialect_of_topology(load_json(path)).name, **_hosts(topology)}
    return Survey(Kind.TOPOLOGY, facts, tuple(reading.warnings))


def _hosts(topology: Topology) -> dict[str, Fact]:
    groups = [group for cluster in topology.clusters for group in cluster.hosts]
    return {
        "clusters": len(topology.clusters),
        "hosts": topology.host_count,
        "cores": sum(group.count * group.core_count for group in groups),
        "gpus": sum(group.count * group.gpu.count for group in groups if group.gpu is not None),
    }


def _workload(path: Path, kind: Kind) -> dict[str, Fact]:
    import numpy as np

    read = read_any_workload(path, kind)
    workload = read.workload
    facts: dict[str, Fact] = {
        "tasks": len(workload),
        "fragments": workload.fragment_count,
        "dependencies": 0 if workload.parents is None else len(workload.parents),
        "span_ms": workload.span_ms,
        "core_hours": workload.core_seconds / 3600.0,
        "cores_of_the_largest": int(np.max(workload.cpu_count)) if len(workload) else 0,
        "dropped_tasks": read.dropped,
    }
    if read.makespan_s is not None:
        facts["measured_makespan_ms"] = round(read.makespan_s * 1000)
    return facts


def _nodes(path: Path) -> dict[str, Fact]:
    from opendt.formats.openb import read_openb_nodes

    return _hosts(read_openb_nodes(path))


def _slo(path: Path) -> dict[str, Fact]:
    from opendt.model.slo import read_slo

    slo = read_slo(path)
    targets = ("energy", "carbon", "peak_power", "runtime", "utilization")
    set_targets = [name for name in targets if getattr(slo, name) is not None]
    return {"window_s": slo.window_s, "targets": ", ".join(set_targets) or "none"}


def _carbon(path: Path) -> dict[str, Fact]:
    from opendt.formats.carbon import read_carbon

    points = read_carbon(path)
    mean = sum(point.intensity_g_per_kwh for point in points) / len(points)
    span_ms = points[-1].timestamp_ms - points[0].timestamp_ms
    return {"samples": len(points), "span_ms": span_ms, "mean_g_per_kwh": mean}


def _failures(path: Path) -> dict[str, Fact]:
    from opendt.formats.failures import read_failures

    events = read_failures(path)
    span_ms = sum(event.interval_ms + event.duration_ms for event in events)
    return {"failures": len(events), "span_ms": span_ms}


def _power(path: Path) -> dict[str, Fact]:
    from opendt.formats.power import read_power

    power = read_power(path)
    if not len(power.power_w):
        return {"samples": 0}
    span_ms = int(power.timestamp_ms[-1] - power.timestamp_ms[0])
    return {"samples": len(power.power_w), "span_ms": span_ms, "mean_power_w": float(power.power_w.mean())}


def _specpower(path: Path) -> dict[str, Fact]:
    from opendt.formats.specpower import read_specpower

    return {"servers": len(read_specpower(path))}


def _latency(path: Path) -> dict[str, Fact]:
    from opendt.formats.latency import read_latency

    pairs = read_latency(path)
    return {"sites": len({site for pair in pairs for site in pair}), "pairs": len(pairs)}


def _lanl(path: Path) -> dict[str, Fact]:
    from opendt.formats.failures import read_lanl_outages

    return {"outages": len(read_lanl_outages(path))}


def _fta(path: Path) -> dict[str, Fact]:
    from opendt.formats.failures import read_fta_outages

    return {"outages": len(read_fta_outages(path))}


_OTHERS: Final[dict[Kind, Callable[[Path], dict[str, Fact]]]] = {
    Kind.OPENB_NODES: _nodes,
    Kind.SLO: _slo,
    Kind.CARBON: _carbon,
    Kind.FAILURES: _failures,
    Kind.POWER: _power,
    Kind.SPECPOWER: _specpower,
    Kind.LATENCY: _latency,
    Kind.LANL: _lanl,
    Kind.FTA: _fta,
}

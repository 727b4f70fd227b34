"""Small systems for the tests of the engine."""

from __future__ import annotations

from opendt import Cluster, HostGroup, LinearPower, Options, Simulation, Topology, workload_from_tasks


def host_group(name: str = "node", **changes) -> HostGroup:
    """One host: four cores of 1000 MHz, 1000 MiB; 100 W at rest, 200 W at full load."""
    fields = {
        "name": name,
        "count": 1,
        "core_count": 4,
        "core_speed_mhz": 1000.0,
        "memory_mib": 1000,
        "power_model": LinearPower(idle_w=100.0, max_w=200.0),
    }
    return HostGroup(**(fields | changes))


def simulate(*groups, tasks=(), links=(), sample_interval_ms=None, clusters=None, **options) -> Simulation:
    """A simulation with its tasks submitted; the groups are those of the cluster ``dc`` unless clusters are given."""
    given = clusters or (Cluster(name="dc", hosts=groups or (host_group(),)),)
    topology = Topology(clusters=given, links=links)
    options = {"scheduling_quantum_ms": 1} | options
    simulation = Simulation(topology, Options(**options), sample_interval_ms=sample_interval_ms)
    if tasks:
        simulation.submit(workload_from_tasks(tasks))
    return simulation


def task(number, duration_ms=10_000, cpu_mhz=1000.0, **more):
    """A task of one fragment."""
    return {"id": number, "fragments": [(duration_ms, cpu_mhz)], **more}


def column(simulation: Simulation, name: str) -> dict:
    """One column of the results, by task; takes the results."""
    results = simulation.take_results()
    return dict(zip(results["id"].tolist(), results[name].tolist(), strict=True))

"""A datacenter small enough to compute by hand: hosts of 4 cores at 1 GHz, 100 W at rest and 200 W at full load."""

from __future__ import annotations

from opendt.engine import Simulation
from opendt.model.options import Options
from opendt.model.power import LinearPower
from opendt.model.tasks import workload_from_tasks
from opendt.model.topology import CarbonPoint, Cluster, HostGroup, PowerSource, Topology

MINUTE_MS = 60_000
CORE_MHZ = 1000.0


def group(name="node", count=2, cores=4, idle_w=100.0):
    power = LinearPower(idle_w=idle_w, max_w=idle_w + 100.0)
    return HostGroup(
        name=name, count=count, core_count=cores, core_speed_mhz=CORE_MHZ, memory_mib=1000, power_model=power
    )


def topology(*groups):
    source = PowerSource(carbon=(CarbonPoint(timestamp_ms=0, intensity_g_per_kwh=500.0),))
    return Topology(clusters=(Cluster(name="c", hosts=groups, power_source=source),))


def simulation(tasks, *groups, sampling_ms=30_000):
    """Simulate tasks of (submission in minutes, length in minutes, cores), each with full demand."""
    made = Simulation(topology(*(groups or (group(),))), Options(start_epoch_ms=0), sample_interval_ms=sampling_ms)
    made.submit(
        workload_from_tasks(
            {
                "id": number,
                "submission_ms": int(submitted * MINUTE_MS),
                "cpu_count": cores,
                "memory_mib": 1,
                "fragments": [(int(length * MINUTE_MS), cores * CORE_MHZ)],
            }
            for number, (submitted, length, cores) in enumerate(tasks)
        )
    )
    return made

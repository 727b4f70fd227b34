"""A small datacenter in the middle of its day, for tests of certificates: some hosts are idle, some tasks run, more will come."""

from __future__ import annotations

import numpy as np

from opendt import Cluster, HostGroup, LinearPower, Simulation, Topology, workload_from_tasks
from opendt.model.options import Options
from opendt.model.proposal import Proposal
from opendt.model.slo import DurationTarget, EnergyTarget, RuntimeTargets, Slo, SlowdownTarget
from opendt.twin.futures import FutureSampler

HOUR_MS = 3_600_000
WINDOW_MS = 300_000

NODE = HostGroup(
    name="node",
    count=20,
    core_count=8,
    core_speed_mhz=2000.0,
    memory_mib=65_536,
    power_model=LinearPower(idle_w=80.0, max_w=240.0),
)
EDGE = NODE.model_copy(update={"name": "edge", "count": 4, "power_model": LinearPower(idle_w=40.0, max_w=120.0)})
TOPOLOGY = Topology(clusters=(Cluster(name="dc", hosts=(NODE,)), Cluster(name="rim", hosts=(EDGE,))))
SLO = Slo(
    version=1,
    window_s=3600,
    energy=EnergyTarget(target_kwh=3.0),
    runtime=RuntimeTargets(
        task_wait_p95=DurationTarget(target_s=120), task_slowdown_p95=SlowdownTarget(target_ratio=1.5)
    ),
)


def plant(seed=5, hours=3, per_hour=40):
    """The system after some hours, and what was learned of its tasks in them."""
    simulation = at_first(seed, hours, per_hour)
    sampler = FutureSampler(seed)
    before = 0
    for end_ms in range(WINDOW_MS, hours * HOUR_MS + 1, WINDOW_MS):
        simulation.advance(end_ms)
        submitted = simulation.counts["submitted"]
        sampler.observe(simulation.take_results(), submitted - before, end_ms)
        before = submitted
    simulation.take_series()
    return simulation, sampler.model(simulation.now_ms)


def at_first(seed=5, hours=3, per_hour=40):
    """The system before these hours, which it knows."""
    rng = np.random.default_rng(seed)
    simulation = Simulation(TOPOLOGY, Options(start_epoch_ms=0), sample_interval_ms=60_000, settled=True)
    times = np.sort(rng.integers(0, hours * HOUR_MS, per_hour * hours))
    simulation.submit(
        workload_from_tasks(
            {
                "id": number,
                "submission_ms": int(time),
                "cpu_count": (cores := int(rng.integers(2, 8))),
                "fragments": [(int(rng.integers(120_000, 2_400_000)), cores * float(rng.uniform(500, 2000)))],
            }
            for number, time in enumerate(times)
        )
    )
    return simulation


def proposal(*changes, time_ms=0, bounds=None):
    return Proposal.of("human", time_ms, "test", "because a test asks", changes, bounds)

"""Randomness comes from the seed."""

from __future__ import annotations

from opendt.model import ConstantDistribution, CustomFailures, ExponentialDistribution
from tests.unit.engine.systems import column, host_group, simulate, task

HOUR_MS = 3_600_000


def test_drawn_failures_go_on_until_the_tasks_end():
    hours = ConstantDistribution(value=1.0)
    failures = CustomFailures(interarrival_hours=hours, duration_hours=hours, host_ratio=hours)
    simulation = simulate(tasks=[task(1, 2 * HOUR_MS)], failures=failures, max_failures=3)
    simulation.run()
    # Struck at 1, 3 and 5 hours.
    assert simulation.now_ms == 5 * HOUR_MS
    assert column(simulation, "failures") == {1: 3}


def test_victims_follow_the_seed():
    def failed(seed):
        failures = CustomFailures(
            interarrival_hours=ExponentialDistribution(mean=0.1),
            duration_hours=ConstantDistribution(value=0.01),
            host_ratio=ConstantDistribution(value=0.5),
        )
        tasks = [task(number, HOUR_MS, cpu_count=4) for number in range(8)]
        simulation = simulate(host_group(count=8), tasks=tasks, failures=failures, seed=seed, max_failures=99)
        simulation.advance(HOUR_MS)
        return simulation.hosts()["energy_j"].tolist()

    assert failed(1) == failed(1)
    assert failed(1) != failed(2)

"""Yardstick: the SURF week in SimPy, as one would write it: a process per task, an event per fragment.

Hosts are a store; a task takes one, sets its power fragment by fragment and gives it back. A further process sums the
hosts' power every 30 s. Prints one JSON object: seconds of the loop and of the whole program, energy and samples.

    python benches/yardstick_simpy.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import simpy
from data import CAPACITY_MHZ, HOSTS, IDLE_W, MAX_W, SAMPLE_MS, Week, load_week

Process = Generator[simpy.Event, Any, None]


class Meter:
    """Power of each host now, and the cluster's energy up to now."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.power_w = [IDLE_W] * HOSTS
        self.since_ms = [0.0] * HOSTS
        self.energy_j = 0.0

    def set_usage(self, host: int, usage_mhz: float) -> None:
        """Change a host's power: idle + (max - idle)(2u - u^4)."""
        now = self.env.now
        self.energy_j += self.power_w[host] * (now - self.since_ms[host]) / 1000
        self.since_ms[host] = now
        u = min(usage_mhz / CAPACITY_MHZ, 1.0)
        self.power_w[host] = IDLE_W + (MAX_W - IDLE_W) * (2 * u - u * u * u * u)


def simulate(week: Week) -> dict[str, float]:
    """Run the week to its end."""
    env = simpy.Environment()
    meter = Meter(env)
    hosts = simpy.Store(env, capacity=HOSTS)
    hosts.items.extend(range(HOSTS))
    submission_ms, offset = week.submission_ms.tolist(), week.offset.tolist()
    duration_ms, usage_mhz = week.duration_ms.tolist(), week.usage_mhz.tolist()
    samples_w: list[float] = []

    def task(index: int) -> Process:
        yield env.timeout(submission_ms[index])
        host = yield hosts.get()
        for fragment in range(offset[index], offset[index + 1]):
            meter.set_usage(host, usage_mhz[fragment])
            yield env.timeout(duration_ms[fragment])
        meter.set_usage(host, 0.0)
        hosts.put(host)

    def sample() -> Process:
        while True:
            yield env.timeout(SAMPLE_MS)
            samples_w.append(sum(meter.power_w))

    tasks = [env.process(task(index)) for index in range(len(submission_ms))]
    env.process(sample())
    env.run(env.all_of(tasks))
    for host in range(HOSTS):
        meter.set_usage(host, 0.0)
    return {"energy_j": meter.energy_j, "samples": len(samples_w), "sampled_w": sum(samples_w)}


def main() -> None:
    """Load, simulate, print."""
    started = time.perf_counter()
    week = load_week(Path(sys.argv[1]))
    loaded = time.perf_counter()
    result = simulate(week)
    ended = time.perf_counter()
    print(json.dumps({"loop_s": ended - loaded, "total_s": ended - started, **result}))


if __name__ == "__main__":
    main()

"""What theory says, the engine computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt import (
    Cluster,
    HostGroup,
    LinearPower,
    MsePower,
    Options,
    Simulation,
    ThrottleHosts,
    Topology,
    Workload,
    workload_from_tasks,
)
from opendt.model.options import ComputeFilter, FilterAllocation, VCpuFilter


def one_host(power_model, **changes) -> Topology:
    fields = {"name": "node", "count": 1, "core_count": 4, "core_speed_mhz": 1000.0, "memory_mib": 0}
    return Topology(clusters=(Cluster(name="dc", hosts=(HostGroup(**(fields | changes), power_model=power_model),)),))


FRAGMENTS = st.lists(
    st.tuples(st.integers(1, 100_000), st.floats(0, 9000, allow_subnormal=False)), min_size=1, max_size=8
)


@given(FRAGMENTS, st.floats(0, 300), st.floats(0, 300), st.sampled_from([1.0, 1.4, 3.0]))
def test_energy_of_a_single_task(fragments, idle_w, dynamic_w, factor):
    model = MsePower(idle_w=idle_w, max_w=idle_w + dynamic_w, calibration_factor=factor)
    simulation = Simulation(one_host(model), Options())
    simulation.submit(workload_from_tasks([{"id": 1, "fragments": fragments}]))
    simulation.run()
    expected = math.fsum(ms / 1000 * model.watts_at(min(mhz / 4000, 1)) for ms, mhz in fragments)
    assert simulation.now_ms == sum(ms for ms, _ in fragments)
    assert simulation.energy_j == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert simulation.take_results()["energy_j"][0] == pytest.approx(simulation.energy_j, rel=1e-12)


@given(st.integers(1, 1_000_000), st.sampled_from([0.1, 0.25, 0.5, 0.8, 1.0]), st.sampled_from([1.0, 2.0, 2.4, 3.0]))
def test_frequency_stretches_time_and_scales_dynamic_power(duration_ms, ratio, exponent):
    """Work at full load takes d / r and dynamic power r^k; the end is rounded down to whole milliseconds."""
    topology = one_host(LinearPower(idle_w=90.0, max_w=290.0), frequency_exponent=exponent)
    simulation = Simulation(topology, Options())
    simulation.submit(workload_from_tasks([{"id": 1, "fragments": [(duration_ms, 4000.0)]}]))
    simulation.apply(ThrottleHosts(speed_ratio=ratio))
    simulation.run()
    assert duration_ms / ratio - 1.001 <= simulation.now_ms <= duration_ms / ratio + 0.001
    power_w = 90 + 200 * ratio**exponent
    assert simulation.energy_j == pytest.approx(power_w * simulation.now_ms / 1000, rel=1e-9)


def erlang_c_wait_s(servers: int, arrivals_per_s: float, service_per_s: float) -> float:
    """Mean wait in an M/M/c queue (Kleinrock, Queueing Systems I, 3.5)."""
    load = arrivals_per_s / service_per_s
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last) / (servers * service_per_s - arrivals_per_s)


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.5), (3, 0.7), (8, 0.8)])
def test_waits_are_those_of_erlang_c(servers, utilization):
    count, service_s = 60_000, 10.0
    arrivals_per_s = servers * utilization / service_s
    random = np.random.default_rng(servers)
    submission_ms = np.cumsum(random.exponential(1000 / arrivals_per_s, count)).astype(np.int64)
    duration_ms = np.maximum(random.exponential(1000 * service_s, count).round(), 1).astype(np.uint32)
    workload = Workload.from_columns(
        {
            "ids": np.arange(count),
            "submission_ms": submission_ms,
            "duration_ms": duration_ms.astype(np.int64),
            "cpu_count": np.ones(count, dtype=np.uint32),
            "cpu_capacity_mhz": np.zeros(count),
            "memory_mib": np.zeros(count, dtype=np.int64),
            "fragment_offset": np.arange(count + 1, dtype=np.uint32),
            "fragment_duration_ms": duration_ms,
            "fragment_cpu_mhz": np.full(count, 1000.0),
        }
    )
    allocation = FilterAllocation(filters=(ComputeFilter(), VCpuFilter()))
    topology = one_host(LinearPower(), core_count=1, count=servers)
    options = Options(scheduling_quantum_ms=1, allocation=allocation, start_epoch_ms=int(submission_ms[0]))
    simulation = Simulation(topology, options)
    simulation.submit(workload)
    simulation.run()
    waits_s = simulation.take_results()["scheduling_delay_ms"] / 1000
    # Waits in a queue are correlated: the error of the mean comes from the means of long batches.
    batches = waits_s.reshape(30, -1).mean(axis=1)
    error_s = batches.std(ddof=1) / math.sqrt(len(batches))
    assert waits_s.mean() == pytest.approx(erlang_c_wait_s(servers, arrivals_per_s, 1 / service_s), abs=4 * error_s)
    assert error_s < 0.1 * waits_s.mean()

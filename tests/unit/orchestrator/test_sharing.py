"""Equal carbon traces are kept once, different ones apart."""

from __future__ import annotations

from opendt.model.power import LinearPower
from opendt.model.topology import CarbonPoint, Cluster, HostGroup, PowerSource, Topology
from opendt.orchestrator.sharing import with_shared_carbon


def topology(*intensities: float) -> Topology:
    carbon = tuple(CarbonPoint(timestamp_ms=900_000 * i, intensity_g_per_kwh=v) for i, v in enumerate(intensities))
    node = HostGroup(
        name="node",
        count=1,
        core_count=1,
        core_speed_mhz=1000.0,
        memory_mib=1024,
        power_model=LinearPower(idle_w=1.0, max_w=2.0),
    )
    return Topology(clusters=(Cluster(name="dc", hosts=(node,), power_source=PowerSource(carbon=carbon)),))


def test_equal_traces_are_one_and_nothing_else_changes():
    one, other = topology(3.0, 5.5), topology(3.0, 5.5)
    shared = [with_shared_carbon(one), with_shared_carbon(other)]
    assert shared == [one, other]
    first, second = (each.clusters[0].power_source.carbon for each in shared)
    assert first is second


def test_traces_that_differ_stay_apart():
    low, high = with_shared_carbon(topology(3.0, 5.5)), with_shared_carbon(topology(3.0, 5.6))
    assert low.clusters[0].power_source.carbon[1].intensity_g_per_kwh == 5.5
    assert high.clusters[0].power_source.carbon[1].intensity_g_per_kwh == 5.6


def test_a_topology_without_a_trace_stays_as_it_is():
    assert with_shared_carbon(topology()) == topology()

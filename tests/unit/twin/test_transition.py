"""A running system becomes another topology by changes, or the edit is refused with the reason and nothing has changed."""

from __future__ import annotations

import pytest

from opendt.engine.simulation import Simulation
from opendt.model.change import AddHosts, RemoveHosts, ResizeHosts, SetPowerCap, SetPowerModel
from opendt.model.errors import ModelError
from opendt.model.power import LinearPower
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.twin.transition import transition


def group(name="node", **changed):
    values = {
        "count": 4,
        "core_count": 8,
        "core_speed_mhz": 2000.0,
        "memory_mib": 1000,
        "power_model": LinearPower(idle_w=100.0, max_w=200.0),
    }
    return HostGroup(name=name, **{**values, **changed})


def topology(*groups, **changed):
    return Topology(clusters=(Cluster(name="dc", hosts=groups or (group(),), **changed),))


def led(old, new):
    """Changes, and the hosts of the system that took them: (group, cores, MHz) of each that is up."""
    simulation = Simulation(old)
    changes = transition(old, new, simulation)
    simulation.apply(*changes)
    hosts = simulation.hosts()
    rows = zip(hosts["group"], hosts["core_count"], hosts["capacity_mhz"], hosts["status"], strict=True)
    there = [row[:3] for row in rows if row[3] not in ("removed", "draining")]
    return changes, sorted((name, cores, capacity / cores) for name, cores, capacity in there)


def test_the_same_topology_needs_no_change():
    assert led(topology(), topology())[0] == []


@pytest.mark.parametrize(
    ("new", "kinds", "hosts"),
    [
        (group(count=6), [AddHosts], [("node", 8, 2000.0)] * 6),
        (group(count=1), [RemoveHosts], [("node", 8, 2000.0)]),
        (group(core_count=4), [ResizeHosts], [("node", 4, 2000.0)] * 4),
        (group(core_speed_mhz=1500.0), [ResizeHosts], [("node", 8, 1500.0)] * 4),
        (group(core_speed_mhz=1500.0, count=5), [ResizeHosts, AddHosts], [("node", 8, 1500.0)] * 5),
        (group(power_model=LinearPower(idle_w=1.0, max_w=2.0)), [SetPowerModel], [("node", 8, 2000.0)] * 4),
    ],
)
def test_sizes_and_numbers_are_changed(new, kinds, hosts):
    changes, found = led(topology(), topology(new))
    assert [type(change) for change in changes] == kinds
    assert found == hosts


def test_groups_come_and_go():
    changes, found = led(topology(group("a"), group("b", count=2)), topology(group("b", count=2), group("c", count=1)))
    assert {type(change) for change in changes} == {RemoveHosts, AddHosts}
    assert found == [("b", 8, 2000.0)] * 2 + [("c", 8, 2000.0)]


def test_a_second_edit_counts_hosts_as_they_are():
    first, second, third = topology(group(count=2)), topology(group(count=5)), topology(group(count=3))
    simulation = Simulation(first)
    simulation.apply(*transition(first, second, simulation))
    simulation.apply(*transition(second, third, simulation))
    status = simulation.hosts()["status"]
    assert len([one for one in status if one not in ("removed", "draining")]) == 3


def test_a_power_cap_is_changed():
    old = topology()
    source = old.clusters[0].power_source.model_copy(update={"max_power_w": 500.0})
    changes = transition(old, topology(power_source=source), Simulation(old))
    assert changes == [SetPowerCap(cluster="dc", max_power_w=500.0)]


@pytest.mark.parametrize(
    ("new", "place"),
    [
        (Topology(clusters=(Cluster(name="other", hosts=(group(),)),)), "clusters"),
        (topology(group(), group()), "dc.hosts"),
        (topology(group(frequency_exponent=3.0)), "dc.node.frequency_exponent"),
    ],
)
def test_what_a_running_system_cannot_become_is_refused(new, place):
    old = topology()
    with pytest.raises(ModelError) as refused:
        transition(old, new, Simulation(old))
    assert refused.value.place == place
    assert refused.value.hint

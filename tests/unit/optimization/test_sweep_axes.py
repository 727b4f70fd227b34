"""What an axis does to a configuration, and that it means for power what the same change of a running system means."""

from __future__ import annotations

from pathlib import Path

import pytest

from opendt.engine import Simulation
from opendt.model.change import Change, ResizeHosts, ThrottleHosts
from opendt.model.errors import ModelError
from opendt.model.options import Options
from opendt.model.power import ConstantPower, CubicPower, CurvePower, LinearPower
from opendt.model.tasks import workload_from_tasks
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.optimization.sweep_axes import Resolver
from opendt.optimization.sweep_design import Row
from opendt.optimization.sweep_spec import SweepSpec
from tests.unit.optimization import small

CURVE = CurvePower(utilization=(0.0, 0.5, 1.0), power_w=(100.0, 180.0, 200.0))


def spec(*axes):
    return SweepSpec.model_validate(
        {"version": 1, "topology": "t", "workload": "w", "grid": {axis: [0] for axis in axes}}
    )


def resolved(topology=None, seed=0, **settings):
    named = {name.replace("__", "."): value for name, value in settings.items()}
    made = Resolver(spec(*named), Path(), lambda _path: topology or small.topology(small.group()))
    return made.resolve(Row(0, named, seed))


def group_of(found):
    return found.topology.clusters[0].hosts[0]


def test_ratios_round_and_keep_one():
    assert group_of(resolved(host_ratio=1.5)).count == 3
    assert group_of(resolved(host_ratio=0.1)).count == 1
    assert group_of(resolved(host_ratio=0.1, topology=small.topology(small.group(count=0)))).count == 0
    assert group_of(resolved(core_ratio=0.5)).core_count == 2
    assert group_of(resolved(memory_ratio=0.5)).memory_mib == 500


def test_keys_of_a_group_are_set_before_ratios():
    found = resolved(core_speed_ratio=0.5, hosts__node__core_speed_mhz=3000.0, hosts__node__power_model__idle_w=50.0)
    assert group_of(found).core_speed_mhz == 1500.0
    # 50 W at rest, and a quarter of 150 W above it at half the clock.
    assert group_of(found).power_model == LinearPower(idle_w=50.0, max_w=87.5)


def test_a_group_whose_name_has_points_is_found():
    hosts = (small.group("a"), small.group("a.count"))
    found = resolved(topology=small.topology(*hosts), hosts__a__count__count=7)
    assert [group.count for group in found.topology.clusters[0].hosts] == [2, 7]


def test_a_shape_of_power_keeps_both_ends_of_each_group():
    assert group_of(resolved(power_model="cubic")).power_model == CubicPower(idle_w=100.0, max_w=200.0)
    constant = {"type": "constant", "power_w": 5.0}
    assert group_of(resolved(power_model=constant)).power_model == ConstantPower(power_w=5.0)


def test_options_and_policies_are_those_of_the_row():
    found = resolved(allocation="Random", options__max_failures=3, seed=9).options
    assert (found.allocation.subset_size, found.max_failures, found.seed) == (0, 3, 9)
    narrowed = resolved(options__allocation__subset_size=4, allocation="Mem").options
    assert narrowed.allocation.subset_size == 4


def test_carbon_traces_stay():
    found = resolved(host_ratio=2).topology
    assert found.clusters[0].power_source == small.topology(small.group()).clusters[0].power_source


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host_ratio": 0}, "row 0: host_ratio: found 0, expected a number above 0"),
        ({"host_ratio": True}, "expected a number above 0"),
        ({"host_ratio": float("nan")}, "expected a number above 0"),
        ({"hosts.other.count": 1}, r"expected an axis hosts.GROUP.KEY with one of the groups node"),
        ({"hosts.node.cores": 1}, r"known keys, which 'cores' is not: name, count"),
        ({"hosts.node.name": "x"}, "another key than the name"),
        ({"hosts.node.count": -1}, "row 0: hosts.node.count: found -1"),
        ({"hosts.node.power_model.idle_w": 900.0}, "max_w .* must be at least idle_w"),
        ({"allocation": "Fastest"}, "row 0: allocation: found Fastest, expected a prefab"),
        ({"power_model": "line"}, "one of linear, sqrt, square, cubic"),
        ({"options.failures.type": "trace"}, "none below None"),
        ({"topology": 3}, "row 0: topology: found 3, expected a path"),
    ],
)
def test_a_value_that_is_none_for_its_axis_is_refused(settings, words):
    record = {"version": 1, "topology": "t", "workload": "w", "grid": {name: [0] for name in settings}}
    if "topology" in settings:
        del record["topology"]
    made = Resolver(SweepSpec.model_validate(record), Path(), lambda _path: small.topology(small.group()))
    with pytest.raises(ModelError, match=words):
        made.resolve(Row(0, settings, 0))


@pytest.mark.parametrize("axis", ["hostratio", "options.seed", "options.start_epoch_ms"])
def test_an_axis_that_is_none_is_refused(axis):
    with pytest.raises(ModelError, match=f"axis {axis}"):
        Resolver(spec(axis), Path(), lambda _path: small.topology(small.group()))


@pytest.mark.parametrize("power", [LinearPower(idle_w=100.0, max_w=300.0), CURVE, ConstantPower(power_w=70.0)])
@pytest.mark.parametrize(
    ("axis", "ratio", "change"),
    [
        ("core_speed_ratio", 0.5, ThrottleHosts(speed_ratio=0.5)),
        ("core_ratio", 0.5, ResizeHosts(core_count=4)),
    ],
)
def test_a_ratio_costs_what_the_same_change_of_a_running_system_costs(
    axis: str, ratio: float, change: Change, power, tmp_path
):
    node = HostGroup(
        name="node",
        count=1,
        core_count=8,
        core_speed_mhz=1000.0,
        memory_mib=100,
        power_model=power,
        frequency_exponent=3.0,
    )
    topology = Topology(clusters=(Cluster(name="c", hosts=(node,)),))
    tasks = [{"id": 1, "cpu_count": 2, "fragments": [(600_000, 6_000.0)]}]
    options = Options(scaling_policy="perfect")
    running = Simulation(topology, options)
    running.apply(change)
    running.submit(workload_from_tasks(tasks))
    running.run()

    found = resolved(topology=topology, **{axis: ratio})
    static = Simulation(found.topology, options)
    static.submit(workload_from_tasks(tasks))
    static.run()
    assert static.energy_j == pytest.approx(running.energy_j, rel=1e-12)
    assert static.now_ms == running.now_ms

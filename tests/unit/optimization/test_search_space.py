"""Points and typed changes are two names for the same configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.engine import Simulation
from opendt.model.change import (
    AddHosts,
    FailHosts,
    GroupHosts,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    SetAllocation,
    SetPowerCap,
    ThrottleHosts,
)
from opendt.model.options import ComputeFilter, FilterAllocation, Options
from opendt.model.slo import Slo
from opendt.model.topology import Cluster, Topology
from opendt.optimization.base import Context
from opendt.optimization.bounds import Limits
from opendt.optimization.search_space import SearchSpace, SpaceLimits
from opendt.twin.metrics import WindowMetrics
from tests.unit.optimization.small import MINUTE_MS, group, simulation, topology

ALL = SpaceLimits(reserve_ratio=0.0, reserve_hosts=0, max_core_ratio=2.0, core_speed_step_ratio=0.1)
FIRST = FilterAllocation(filters=(ComputeFilter(),))
METRICS = WindowMetrics(start_ms=0, end_ms=MINUTE_MS, peak_power_kw=1.0)


def context(sim, metrics=METRICS):
    return Context.of(sim, Slo(version=1), metrics)


def two_groups():
    return simulation([(0, 30, 4)], group("old", count=3), group("new", count=2, cores=8))


def space_of(sim, limits=ALL, **settings):
    return SearchSpace.of(context(sim), limits=limits, **settings)


SPACE = space_of(two_groups(), policies={"first": FIRST})


@st.composite
def points(draw):
    return SPACE.legal([draw(st.integers(0, len(gene.levels) - 1)) for gene in SPACE.genes])


def test_the_present_is_no_change():
    assert SPACE.changes(SPACE.now) == ()
    assert SPACE.nearest(()) == SPACE.now
    assert SPACE.words(SPACE.now) == "no change"


@given(points())
def test_changes_lead_back_to_their_point(point):
    expected = list(point)
    for position, gene in enumerate(SPACE.genes):
        # Nothing can be said of hosts of which none is left.
        if gene.kind in {"cores", "clock"} and SPACE.values(point).get(("hosts", gene.key)) == 0:
            expected[position] = gene.now
    assert SPACE.nearest(SPACE.changes(point)) == tuple(expected)


@given(points())
def test_every_point_can_be_applied_and_does_what_it_says(point):
    sim = two_groups()
    sim.apply(*SPACE.changes(point))
    hosts = sim.hosts()
    at = SPACE.values(point)
    for key, state in SPACE.groups.items():
        mine = [
            number
            for number, (name, status) in enumerate(zip(hosts["group"], hosts["status"], strict=True))
            if name == key[1] and status == "up"
        ]
        assert len(mine) == at[("hosts", key)]
        for number in mine:
            assert hosts["core_count"][number] == at[("cores", key)]
            mhz = hosts["capacity_mhz"][number] / hosts["core_count"][number]
            assert mhz == pytest.approx(at.get(("clock", key), state.core_speed_mhz))


@given(points())
def test_a_host_always_stays(point):
    assert SPACE.hosts(point) >= 1


def test_the_host_that_stays_fits_the_largest_task():
    sim = simulation([(0, 30, 8)], group("new", count=2, cores=8), group("old", count=3))
    sim.advance(MINUTE_MS)
    space = space_of(sim)
    left = space.values(space.legal([0] * len(space.genes)))
    assert (left["hosts", ("c", "new")], left["hosts", ("c", "old")]) == (1, 0)


def test_a_reserve_of_idle_hosts_stays():
    sim = simulation([(0, 30, 4), (0, 30, 4)], group(count=10))
    sim.advance(MINUTE_MS)
    limits = SpaceLimits(reserve_ratio=1.0, reserve_hosts=1)
    space = space_of(sim, limits)
    assert space.hosts(space.legal([0] * len(space.genes))) == 4, "two busy and as many in reserve"


@pytest.mark.parametrize(("ratio", "least"), [(1.0, 3), (0.5, 5), (0.25, 8), (0.01, 10)])
def test_no_more_hosts_go_at_once_than_may(ratio, least):
    """Of the ten hosts two are busy; beyond the ratio a proposal would be refused altogether."""
    sim = simulation([(0, 30, 4), (0, 30, 4)], group(count=10))
    sim.advance(MINUTE_MS)
    space = space_of(sim, SpaceLimits(reserve_ratio=0.0, reserve_hosts=1, max_removed_ratio=ratio))
    assert space.hosts(space.legal([0] * len(space.genes))) == least


def test_hosts_that_were_switched_off_can_be_switched_on():
    installed = topology(group(count=4))
    sim = simulation([(0, 30, 4)], group(count=4))
    sim.apply(RemoveHosts(count=3))
    space = space_of(sim, topology=installed)
    most = space.legal([len(gene.levels) for gene in space.genes])
    assert space.hosts(most) == 4
    (added, *_) = space.changes(most)
    assert isinstance(added, AddHosts)
    assert added.group.count == 3
    assert space.added_cores(most) == (4 * 8 - 1 * 4), "three hosts of four cores, and four more in each"


def test_a_group_that_is_all_off_can_be_switched_on():
    installed = topology(group("a", count=1), group("b", count=2))
    sim = simulation([(0, 30, 4)], group("a", count=1), group("b", count=2))
    sim.apply(RemoveHosts(hosts=GroupHosts(group="b")))
    space = space_of(sim, topology=installed)
    assert space.hosts(space.now) == 1
    assert space.hosts(space.legal([len(gene.levels) for gene in space.genes])) == 3


def test_failed_hosts_are_not_added_a_second_time():
    installed = topology(group(count=4))
    sim = simulation([(0, 30, 4)], group(count=4))
    sim.apply(FailHosts(hosts=NamedHosts(names=("node", "node-0"))))
    space = space_of(sim, topology=installed)
    assert space.hosts(space.legal([len(gene.levels) for gene in space.genes])) == 2


def test_added_hosts_are_like_those_that_are_there():
    installed = topology(group(count=4))
    sim = simulation([(0, 30, 4)], group(count=4))
    sim.apply(RemoveHosts(count=2), ResizeHosts(core_speed_mhz=500.0))
    space = space_of(sim, topology=installed)
    gene = next(index for index, one in enumerate(space.genes) if one.kind == "hosts")
    point = space.legal([*space.now[:gene], len(space.genes[gene].levels) - 1, *space.now[gene + 1 :]])
    sim.apply(*space.changes(point))
    hosts = sim.hosts()
    up = [status == "up" for status in hosts["status"]]
    assert hosts["capacity_mhz"][up].tolist() == [2000.0] * 4


def test_hosts_of_a_name_that_two_clusters_use_are_told_apart():
    node = group(count=2)
    both = Topology(clusters=(Cluster(name="c", hosts=(node,)), Cluster(name="d", hosts=(node,))))
    sim = Simulation(both, Options(start_epoch_ms=0), sample_interval_ms=30_000)
    space = space_of(sim, topology=both)
    gene = next(i for i, one in enumerate(space.genes) if one.kind == "hosts" and one.key == ("d", "node"))
    point = space.legal([*space.now[:gene], 0, *space.now[gene + 1 :]])
    sim.apply(*space.changes(point))
    hosts = sim.hosts()
    left = [name for name, status in zip(hosts["cluster"], hosts["status"], strict=True) if status == "up"]
    assert left == ["c", "c"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([RemoveHosts(hosts=NamedHosts(names=("old", "old-0")))], {("hosts", ("c", "old")): 1}),
        ([RemoveHosts(count=4)], {("hosts", ("c", "old")): 1, ("hosts", ("c", "new")): 0}),
        ([ThrottleHosts(hosts=GroupHosts(group="old"), speed_ratio=0.79)], {("clock", ("c", "old")): 800.0}),
        ([ResizeHosts(hosts=GroupHosts(group="new"), core_count=99)], {("cores", ("c", "new")): 16}),
        ([SetAllocation(allocation=FIRST)], {("allocation", ("", "")): "first"}),
        ([SetPowerCap(cluster="c", max_power_w=760.0)], {("power_cap", ("c", "")): 750.0}),
    ],
)
def test_changes_of_others_lead_to_the_nearest_point(changes, expected):
    point = SPACE.nearest(changes)
    at = SPACE.values(point)
    now = SPACE.values(SPACE.now)
    assert {key: value for key, value in at.items() if value != now[key]} == expected


def test_a_count_over_all_hosts_is_read_as_the_engine_applies_it():
    sim = two_groups()
    sim.apply(RemoveHosts(count=4))
    up = [name for name, status in zip(sim.hosts()["group"], sim.hosts()["status"], strict=True) if status == "up"]
    assert up == ["old"]


@pytest.mark.parametrize(
    "change", [RemoveHosts(evict=True), FailHosts(hosts=GroupHosts(group="old")), ResizeHosts(memory_mib=1)]
)
def test_what_is_not_searched_has_no_point(change):
    assert SPACE.nearest([change]) is None


@given(points())
def test_bounds_hold_for_every_point(point):
    bounds = SPACE.bounds()
    assert bounds.min_hosts <= SPACE.hosts(point) <= bounds.max_hosts
    at = SPACE.values(point)
    for (kind, _), value in at.items():
        if kind == "cores":
            assert bounds.min_core_count <= value <= bounds.max_core_count
        if kind == "clock":
            assert bounds.min_core_speed_mhz <= value <= bounds.max_core_speed_mhz


@pytest.mark.parametrize(
    "limits",
    [
        {"min_host_ratio": 2.0},
        {"min_core_ratio": -1.0},
        {"core_speed_step_ratio": 0.0},
        {"min_power_cap_ratio": float("nan")},
        {"reserve_hosts": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="expected"):
        SpaceLimits(**limits)


def test_a_space_within_limits_leaves_out_what_would_be_refused():
    limits = Limits(
        allowed=("remove_hosts", "resize_hosts"), protected_groups=("new",), max_removed_ratio=0.4, min_speed_ratio=0.8
    )
    space = space_of(two_groups(), SpaceLimits.within(limits), policies={"first": FIRST})
    assert {gene.key[1] for gene in space.genes} == {"old"}
    assert {gene.kind for gene in space.genes} == {"hosts", "clock"}
    (hosts,) = (gene for gene in space.genes if gene.kind == "hosts")
    assert hosts.levels == (2, 3)  # one of three is all that may go at once
    (clock,) = (gene for gene in space.genes if gene.kind == "clock")
    assert min(clock.levels) >= 0.8 * max(clock.levels)


def test_no_more_hosts_are_switched_on_at_once_than_may_be():
    installed = topology(group("old", count=10))
    few = simulation([(0, 30, 4)], group("old", count=4))
    for ratio, most in ((0.5, 6), (0.0, 4), (float("inf"), 10)):
        limits = SpaceLimits(reserve_ratio=0.0, reserve_hosts=0, max_added_ratio=ratio)
        space = space_of(few, limits, topology=installed)
        levels = next((gene.levels for gene in space.genes if gene.kind == "hosts"), (4,))
        assert max(levels) == most


@pytest.mark.parametrize(
    "limits", [{"max_removed_ratio": -0.1}, {"max_added_ratio": -1.0}, {"max_added_ratio": float("nan")}]
)
def test_ratios_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        SpaceLimits(**limits)

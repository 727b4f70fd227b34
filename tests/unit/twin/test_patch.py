"""Changes as a topology: counts, sizes and caps of groups are said; what no file can say is refused by name."""

from __future__ import annotations

import pytest

from opendt.model.change import (
    AddHosts,
    ClusterHosts,
    ConserveWork,
    GroupHosts,
    MigrateTask,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    SetAllocation,
    SetPowerCap,
    SetPowerModel,
    ThrottleHosts,
)
from opendt.model.errors import EngineError, ModelError
from opendt.model.options import MemorizingAllocation
from opendt.model.power import AsymptoticPower, ConstantPower, CurvePower, LinearPower, MsePower, SquarePower
from opendt.twin.patch import patched
from opendt.twin.transition import transition
from tests.unit.optimization.small import CORE_MHZ, group, simulation, topology

GROUPS = (group("node", count=4), group("big", count=2, cores=8))
TOPOLOGY = topology(*GROUPS)


def system(tasks=((0, 60, 4), (0, 60, 4))):
    made = simulation(tasks, *GROUPS)
    made.advance(60_000)
    return made


def sizes(one):
    return {host.name: (host.count, host.core_count, host.core_speed_mhz) for host in one.clusters[0].hosts}


AS_IT_IS = {"node": (4, 4, CORE_MHZ), "big": (2, 8, CORE_MHZ)}
SAID = {
    "count": ([RemoveHosts(hosts=GroupHosts(group="node"), count=2)], {"node": (2, 4, CORE_MHZ)}),
    "all of a group": ([RemoveHosts(hosts=GroupHosts(group="big"))], {"big": (0, 8, CORE_MHZ)}),
    "names": ([RemoveHosts(hosts=NamedHosts(names=("big-0",)))], {"big": (1, 8, CORE_MHZ)}),
    "speed": ([ThrottleHosts(speed_ratio=0.5)], {"node": (4, 4, CORE_MHZ / 2), "big": (2, 8, CORE_MHZ / 2)}),
    "cores": ([ResizeHosts(hosts=GroupHosts(group="node"), core_count=6)], {"node": (4, 6, CORE_MHZ)}),
    "more of one": ([AddHosts(cluster="c", group=group("node", count=3))], {"node": (7, 4, CORE_MHZ)}),
    "a new group": ([AddHosts(cluster="c", group=group("new", count=3))], {"new": (3, 4, CORE_MHZ)}),
    "one after the other": (
        [RemoveHosts(hosts=GroupHosts(group="node"), count=1), AddHosts(cluster="c", group=group("new", count=1))],
        {"node": (3, 4, CORE_MHZ), "new": (1, 4, CORE_MHZ)},
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_changes_is_said_and_all_else_stays(name):
    changes, expected = SAID[name]
    live = system()
    there = patched(TOPOLOGY, changes, live)
    assert sizes(there) == AS_IT_IS | expected
    assert there.clusters[0].power_source == TOPOLOGY.clusters[0].power_source
    assert live.counts == system().counts  # asked, not changed


LOADS = [(0, 60, 4), (0, 60, 8), (0, 90, 2), (10, 60, 3)]
RESIZED = {
    "half the clock": ThrottleHosts(speed_ratio=0.5),
    "a slower clock": ResizeHosts(core_speed_mhz=0.85 * CORE_MHZ),
    "more cores": ResizeHosts(hosts=GroupHosts(group="node"), core_count=6),
    "fewer and slower": ResizeHosts(hosts=GroupHosts(group="big"), core_count=8, core_speed_mhz=0.7 * CORE_MHZ),
}
POWERS = {
    "linear": LinearPower(idle_w=80.0, max_w=310.0),
    "square": SquarePower(idle_w=80.0, max_w=310.0),
    "mse": MsePower(idle_w=80.0, max_w=310.0, calibration_factor=1.4),
    "asymptotic": AsymptoticPower(idle_w=80.0, max_w=310.0, asym_util=0.3, dvfs=True),
    "curve": CurvePower(utilization=(0.0, 0.4, 1.0), power_w=(80.0, 200.0, 310.0)),
    "constant": ConstantPower(power_w=200.0),
}


def drawn_w(one):
    """Power of all hosts together, minute by minute."""
    watts = []
    for minute in range(1, 240):
        one.advance(minute * 60_000)
        watts.append(sum(one.hosts()["power_w"]))
    return watts


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("name", RESIZED)
def test_the_file_read_afresh_draws_what_the_changed_hosts_draw(name, power):
    """Whoever reads the file later, and has no host to throttle, simulates the same power; also after following it, and there and back."""
    groups = tuple(one.model_copy(update={"power_model": POWERS[power], "frequency_exponent": 2.4}) for one in GROUPS)
    before = topology(*groups)
    changed, back = simulation(LOADS, *groups), simulation(LOADS, *groups)
    there = patched(before, [RESIZED[name]], changed)
    followed, afresh = simulation(LOADS, *groups), simulation(LOADS, *there.clusters[0].hosts)
    changed.apply(RESIZED[name])
    followed.apply(*transition(before, there, followed))
    back.apply(*transition(before, there, back))
    back.apply(*transition(there, before, back))
    afresh.apply(ConserveWork())
    unchanged = simulation(LOADS, *groups)
    unchanged.apply(ConserveWork())
    expected = drawn_w(changed)
    assert len(set(expected)) > (1 if power != "constant" else 0)
    assert drawn_w(afresh) == pytest.approx(expected, rel=1e-9)
    assert drawn_w(followed) == pytest.approx(expected, rel=1e-9)
    assert drawn_w(back) == pytest.approx(drawn_w(unchanged), rel=1e-9)


def test_a_power_model_that_is_set_is_that_of_the_hosts_as_they_are():
    """What was learned of throttled hosts, or written for them, is not scaled once more."""
    one = simulation(LOADS, *GROUPS)
    one.apply(
        ResizeHosts(core_speed_mhz=0.5 * CORE_MHZ), SetPowerModel(power_model=LinearPower(idle_w=10.0, max_w=90.0))
    )
    one.advance(30 * 60_000)
    hosts = one.hosts()
    assert max(hosts["power_w"]) == pytest.approx(90.0)
    assert min(hosts["power_w"]) == pytest.approx(10.0)


@pytest.mark.parametrize("name", SAID)
def test_following_the_file_gives_the_system_that_was_decided(name):
    """The way back: the changes that lead to the file's topology leave as many hosts of the same size as the proposal did."""
    changes, _ = SAID[name]
    there = patched(TOPOLOGY, changes, system())
    decided, followed = system(), system()
    decided.apply(*changes)
    followed.apply(*transition(TOPOLOGY, there, followed))
    for one in (decided, followed):
        one.advance(2 * 3_600_000)
    up = [
        sorted(
            (group, cores, mhz)
            for group, cores, mhz, status in zip(
                hosts["group"], hosts["core_count"], hosts["capacity_mhz"], hosts["status"], strict=True
            )
            if status == "up"
        )
        for hosts in (decided.hosts(), followed.hosts())
    ]
    assert up[0] == up[1]


def test_a_power_cap_is_said_and_lifted():
    capped = patched(TOPOLOGY, [SetPowerCap(cluster="c", max_power_w=500.0)], system())
    assert capped.clusters[0].power_source.max_power_w == 500.0
    free = patched(capped, [SetPowerCap(cluster="c", max_power_w=None)], system())
    assert free == TOPOLOGY


def test_hosts_that_finish_their_tasks_first_are_gone_in_the_file():
    live = system(((0, 60, 4),) * 4)
    there = patched(TOPOLOGY, [RemoveHosts(hosts=GroupHosts(group="node"), count=4)], live)
    assert sizes(there)["node"][0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (SetAllocation(allocation=MemorizingAllocation(filters=())), r"changes\[0\]: found set_allocation"),
        (MigrateTask(task="0", host="node-0"), r"changes\[0\]: found migrate_task"),
        (ThrottleHosts(hosts=NamedHosts(names=("node-0",)), speed_ratio=0.5), r"c\.node: found hosts of 2 sizes"),
        (
            ResizeHosts(hosts=NamedHosts(names=("node-0",)), memory_mib=2000),
            r"c\.node: found another memory for 1 of 4 hosts",
        ),
    ],
)
def test_what_no_file_can_say_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        patched(TOPOLOGY, [change], system())


def test_memory_is_that_of_the_group_which_was_meant():
    there = patched(TOPOLOGY, [ResizeHosts(hosts=GroupHosts(group="node"), memory_mib=2000)], system())
    assert {host.name: host.memory_mib for host in there.clusters[0].hosts} == {"node": 2000, "big": 1000}


def test_what_the_engine_cannot_apply_is_refused():
    with pytest.raises(EngineError):
        patched(TOPOLOGY, [RemoveHosts(hosts=ClusterHosts(cluster="ghost"))], system())

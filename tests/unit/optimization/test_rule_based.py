from __future__ import annotations

import dataclasses
import json
import pickle

import pytest

from opendt.model.change import AddHosts, GroupHosts, NamedHosts, RemoveHosts, ResizeHosts
from opendt.model.errors import ModelError
from opendt.model.proposal import Compared, Proposal
from opendt.model.slo import Slo
from opendt.optimization.base import Context, GroupState, SystemState, TaskLoad, groups_of_topology
from opendt.optimization.effect import simulate_effect
from opendt.optimization.rule_based import RuleBasedOptimizer, rule_based_optimization
from opendt.optimization.rules import RULES, RuleSettings
from opendt.optimization.scoring import check_slo
from opendt.twin.metrics import Totals, WindowMetrics, window_metrics
from tests.unit.optimization.small import MINUTE_MS, group, simulation, topology

HOUR_MS = 3_600_000
TARGETS = {
    "version": 1,
    "energy": {"target_kwh": 2.0},
    "runtime": {"task_wait_p95": {"target_s": 100.0}, "makespan": {"target_s": 1000.0}},
}


def pool(idle, busy, *, name="node", cores=16, mhz=2000.0, idle_w=100.0, **more):
    hosts = [name, *(f"{name}-{i}" for i in range(idle + busy - 1))]
    return GroupState(
        cluster="c",
        group=name,
        core_count=cores,
        core_speed_mhz=mhz,
        busy=tuple(hosts[:busy]),
        idle=tuple(hosts[busy:]),
        free_cores=(cores,) * idle + (0,) * busy,
        idle_power_w=idle_w,
        **more,
    )


def context(*groups, now_ms=300_000, slo=TARGETS, load=None, **measured):
    """A window with utilisation 0.5, in which no rule applies unless it measured something else."""
    measured = {"utilization_ratio": 0.5, **measured}
    busy = sum(len(one.busy) for one in groups)
    state = SystemState(groups=groups, load=load or TaskLoad(running=busy, largest_core_count=16 if busy else 0))
    window = WindowMetrics(start_ms=now_ms - 300_000, end_ms=now_ms, **measured)
    return Context(now_ms=now_ms, slo=Slo.model_validate(slo), metrics=window, source=state)


def drafted(rule, situation, **settings):
    statuses = {status.name: status for status in check_slo(situation.slo, situation.metrics)}
    return RULES[rule](situation, statuses, RuleSettings(**settings), {})


def proposed(situation, **settings):
    return RuleBasedOptimizer(RuleSettings(**settings)).propose(situation)


# The rules, one by one.


@pytest.mark.parametrize(
    ("rule", "measured"),
    [
        ("scale_up", {"task_wait_p95_s": 124.9}),
        ("light_scale_up", {"task_wait_p95_s": 109.9}),
        ("massive_downscale", {"energy_kwh": 2.59}),
        ("lower_frequency", {"energy_kwh": 2.29}),
        ("consolidate", {"utilization_ratio": 0.4}),
    ],
)
def test_a_rule_is_silent_below_its_threshold(rule, measured):
    assert drafted(rule, context(pool(8, 2), **measured)) is None


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_when_it_knows_nothing(rule):
    assert drafted(rule, context(pool(8, 2), utilization_ratio=None)) is None


def test_runtime_far_over_target_asks_for_a_quarter_more_cores():
    draft = drafted("scale_up", context(pool(1, 1, cores=16), pool(1, 1, name="odd", cores=3), task_wait_p95_s=125.0))
    assert draft.changes == (
        ResizeHosts(hosts=GroupHosts(group="node"), core_count=20),
        ResizeHosts(hosts=GroupHosts(group="odd"), core_count=4),
    )
    assert draft.reason == "wait (p95) was 125 s, 25% above the target of 100: give each host 25% more cores"


def test_runtime_somewhat_over_target_asks_for_a_tenth_more_cores():
    draft = drafted("light_scale_up", context(pool(1, 1, cores=20), makespan_s=1100.0))
    assert draft.changes == (ResizeHosts(hosts=GroupHosts(group="node"), core_count=22),)


def test_the_worst_runtime_target_decides():
    assert proposed(context(pool(1, 1), task_wait_p95_s=111.0, makespan_s=1300.0)).rule == "scale_up"


def test_energy_far_over_target_takes_a_third_of_the_hosts_idle_ones_first():
    draft = drafted("massive_downscale", context(pool(2, 8), energy_kwh=2.6))
    assert draft.changes == (RemoveHosts(hosts=GroupHosts(group="node"), count=3, evict=False),)
    assert draft.reason == "energy was 2.6 kWh, 30% above the target of 2: take 3 of 10 hosts away, 2 of them idle"


def test_hosts_go_where_an_idle_core_costs_most_and_idle_ones_of_all_groups_first():
    thrifty, hungry = pool(4, 6, name="thrifty", idle_w=80.0), pool(2, 8, name="hungry", idle_w=160.0)
    draft = drafted("massive_downscale", context(thrifty, hungry, energy_kwh=3.0))
    taken = {change.hosts.group: change.count for change in draft.changes}
    assert taken == {"hungry": 2, "thrifty": 4}
    draft = drafted("massive_downscale", context(thrifty, hungry, energy_kwh=3.0), downscale_ratio=0.5)
    taken = {change.hosts.group: change.count for change in draft.changes}
    assert taken == {"hungry": 6, "thrifty": 4}


def test_a_host_for_the_largest_task_always_stays():
    large, small = pool(1, 0, name="large", cores=64, idle_w=900.0), pool(9, 0, name="small", cores=8, idle_w=10.0)
    situation = context(large, small, energy_kwh=9.0, load=TaskLoad(queued=1, largest_core_count=32))
    draft = drafted("massive_downscale", situation, downscale_ratio=0.9, max_removed_ratio=0.9)
    assert draft.changes == (RemoveHosts(hosts=GroupHosts(group="small"), count=9),)


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 5), (0.25, 2), (0.05, None)])
def test_no_more_goes_at_once_than_may(ratio, count):
    """What is more is left for the next proposal: one beyond the limit would be refused altogether."""
    for rule, measured in (("massive_downscale", {"energy_kwh": 9.0}), ("consolidate", {"utilization_ratio": 0.1})):
        situation = context(pool(10, 0), **measured)
        draft = drafted(rule, situation, downscale_ratio=0.9, max_removed_ratio=ratio)
        assert (None if draft is None else draft.changes[0].count) == count
    window = WindowMetrics(start_ms=0, end_ms=300_000, hosts_up=10, hosts_busy=0, utilization_ratio=0.1)
    counted = Context(now_ms=300_000, slo=Slo.model_validate(TARGETS), metrics=window, source=SystemState())
    draft = drafted("consolidate", counted, max_removed_ratio=ratio)
    assert (None if draft is None else draft.changes[0].count) == count


def test_every_cluster_keeps_a_host():
    """One without any is refused, however much its hosts take at rest."""
    edge = dataclasses.replace(pool(2, 0, name="edge", idle_w=900.0), cluster="rim")
    for rule, measured in (("massive_downscale", {"energy_kwh": 9.0}), ("consolidate", {"utilization_ratio": 0.1})):
        draft = drafted(rule, context(edge, pool(10, 5), **measured), reserve_hosts=0, reserve_ratio=0.0)
        assert {change.hosts.group: change.count for change in draft.changes}["edge"] == 1


def test_the_last_host_stays():
    assert drafted("massive_downscale", context(pool(1, 0), energy_kwh=9.0)) is None


def test_hosts_are_named_where_the_group_does_not_say_which():
    draft = drafted("massive_downscale", context(pool(2, 8, intact=False), energy_kwh=3.0))
    assert draft.changes == (RemoveHosts(hosts=NamedHosts(names=("node-8", "node-7", "node-6"))),)


def test_energy_over_target_lowers_the_clock():
    situation = context(pool(1, 1, mhz=2000.0), pool(1, 1, name="fast", mhz=3000.0, unique=False), energy_kwh=2.3)
    assert drafted("lower_frequency", situation).changes == (
        ResizeHosts(hosts=GroupHosts(group="node"), core_speed_mhz=1700.0),
        ResizeHosts(hosts=NamedHosts(names=("fast-0", "fast")), core_speed_mhz=2550.0),
    )


def test_consolidation_switches_off_idle_hosts_down_to_the_reserve():
    draft = drafted("consolidate", context(pool(20, 10), utilization_ratio=0.2), max_removed_ratio=1.0)
    assert draft.changes == (RemoveHosts(hosts=GroupHosts(group="node"), count=18),)
    assert draft.reason == "utilisation was 20%, below 40%: switch off 18 empty hosts of 30, leaving 2 in reserve"


def test_consolidation_leaves_room_for_the_queue():
    load = TaskLoad(running=10, queued=7, largest_core_count=16)
    draft = drafted("consolidate", context(pool(20, 10), utilization_ratio=0.2, load=load))
    assert draft.changes[0].count == 20 - 7 - 2


def test_consolidation_leaves_a_reserve_in_every_group():
    situation = context(pool(20, 10), pool(3, 0, name="rare"), utilization_ratio=0.2)
    draft = drafted("consolidate", situation, max_removed_ratio=1.0)
    assert {change.hosts.group: change.count for change in draft.changes} == {"node": 18, "rare": 2}


def test_consolidation_empties_no_host_that_works():
    assert drafted("consolidate", context(pool(2, 10), utilization_ratio=0.01)) is None


# Which rule is heard.


def test_nothing_is_proposed_when_all_is_well():
    assert proposed(context(pool(5, 5), energy_kwh=2.0, task_wait_p95_s=0.0, makespan_s=10.0)) is None


def test_runtime_wins_over_energy():
    situation = context(pool(5, 5), energy_kwh=9.0, task_wait_p95_s=200.0, utilization_ratio=0.1)
    assert proposed(situation).rule == "scale_up"


def test_no_capacity_is_taken_while_runtime_is_breached_even_when_none_can_be_added():
    slo = {**TARGETS, "runtime": {"task_wait_p95": {"target_s": 100.0, "tolerance_ratio": 0.05}}}
    situation = context(pool(5, 5), slo=slo, energy_kwh=9.0, task_wait_p95_s=106.0)
    assert proposed(situation) is None
    assert proposed(context(pool(5, 5), energy_kwh=9.0, task_wait_p95_s=200.0), max_core_ratio=1.0) is None


def test_a_target_without_weight_moves_nothing():
    slo = {"version": 1, "energy": {"target_kwh": 1.0, "weight": 0}}
    assert proposed(context(pool(5, 5), slo=slo, energy_kwh=9.0)) is None


def test_the_same_is_not_said_again_before_the_cool_down_is_over():
    optimizer = RuleBasedOptimizer()
    heard = [
        optimizer.propose(context(pool(20, 10), now_ms=minute * MINUTE_MS, utilization_ratio=0.2))
        for minute in range(5, 130, 5)
    ]
    assert [index for index, proposal in enumerate(heard) if proposal] == [0, 12, 24]


@pytest.mark.parametrize("restart_at", range(0, 26, 3))
def test_a_restart_forgets_neither_the_cool_down_nor_what_was_installed(restart_at):
    steady = RuleBasedOptimizer()
    restarted = RuleBasedOptimizer()
    cores = 16
    for step in range(26):
        if step == restart_at:
            restarted = pickle.loads(pickle.dumps(restarted))
        # Too slow at first, then idle: cores grow to twice what was installed, then hosts go.
        measured = {"makespan_s": 2000.0} if step < 20 else {"utilization_ratio": 0.1}
        situation = context(pool(20, 10, cores=cores), now_ms=step * 20 * MINUTE_MS, **measured)
        expected = steady.propose(situation)
        assert restarted.propose(situation) == expected
        if expected is not None and expected.rule == "scale_up":
            cores = expected.changes[0].core_count
    assert cores == 32


def test_only_what_is_more_urgent_is_heard_during_the_cool_down():
    optimizer = RuleBasedOptimizer()

    def at(minute, **measured):
        proposal = optimizer.propose(context(pool(20, 10), now_ms=minute * MINUTE_MS, **measured))
        return proposal and proposal.rule

    assert at(5, energy_kwh=2.4) == "lower_frequency"
    assert at(10, utilization_ratio=0.1) is None
    assert at(15, energy_kwh=2.7) == "massive_downscale"
    assert at(20, energy_kwh=2.4) is None
    assert at(25, task_wait_p95_s=300.0) == "scale_up"
    assert at(30, energy_kwh=9.0) is None
    assert at(85, energy_kwh=9.0) == "massive_downscale"


def test_cores_and_clock_stop_at_their_bounds():
    optimizer = RuleBasedOptimizer(RuleSettings(cooldown_ms=0))
    cores, mhz, speeds, sizes = 16, 2000.0, [], []
    for step in range(8):
        slow = optimizer.propose(context(pool(1, 9, mhz=mhz, cores=16), now_ms=HOUR_MS + step, energy_kwh=2.4))
        mhz = slow.changes[0].core_speed_mhz if slow else mhz
        speeds.append(mhz)
    for step in range(8):
        more = optimizer.propose(context(pool(1, 9, cores=cores), now_ms=2 * HOUR_MS + step, makespan_s=2000.0))
        cores = more.changes[0].core_count if more else cores
        sizes.append(cores)
    assert speeds == [1700.0, 1445.0, 1228.2, 1044.0, 1000.0, 1000.0, 1000.0, 1000.0]
    assert sizes == [20, 25, 32, 32, 32, 32, 32, 32]


def test_proposals_carry_their_bounds_and_are_the_same_in_every_run():
    first, second = (proposed(context(pool(20, 10), energy_kwh=3.0)) for _ in range(2))
    assert first == second
    assert (first.bounds.min_hosts, first.bounds.max_hosts) == (1, 30)
    assert (first.bounds.min_core_speed_mhz, first.bounds.max_core_count) == (1000.0, 32)


@pytest.mark.parametrize("wrong", [{"downscale_ratio": 1.0}, {"reserve_ratio": -0.1}, {"cooldown_ms": float("nan")}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RuleSettings(**wrong)


# On a live twin.


def closed_window(sim, until_min):
    start = Totals.of(sim)
    sim.advance(until_min * MINUTE_MS)
    window = window_metrics(sim.take_series(), sim.take_results(), start=start, end=Totals.of(sim), tasks=sim.tasks())
    return Context.of(sim, Slo.model_validate(TARGETS), window)


def test_consolidation_end_to_end():
    sim = simulation([(0, 120, 4), (0, 120, 4), (20, 10, 4)], group(count=10))
    situation = closed_window(sim, 10)
    proposal = RuleBasedOptimizer(RuleSettings(max_removed_ratio=0.7)).propose(situation)
    assert proposal.changes == (RemoveHosts(hosts=GroupHosts(group="node"), count=7),)
    before = sim.snapshot()
    effect = simulate_effect(sim, proposal, HOUR_MS, situation.slo)
    assert sim.snapshot() == before
    assert effect.energy_j.baseline - effect.energy_j.changed == pytest.approx(7 * 100.0 * 3600)
    assert effect.task_wait_p95_s.changed == 0.0, "the one host in reserve takes the task that comes"
    assert (effect.hosts_up.baseline, effect.hosts_up.changed) == (10, 3)
    assert effect.slos_lost == ()
    assert effect.score.changed < effect.score.baseline
    sim.apply(*proposal.changes)
    assert RuleBasedOptimizer().propose(closed_window(sim, 15)) is None


def test_the_effect_shows_what_a_bad_proposal_costs():
    sim = simulation([(0, 120, 4), (0, 120, 4), (20, 10, 4)], group(count=3))
    situation = closed_window(sim, 10)
    greedy = Proposal.of("human", sim.now_ms, "by hand", "save", (RemoveHosts(count=1),))
    effect = simulate_effect(sim, greedy, HOUR_MS, situation.slo)
    assert effect.slos_lost == ("makespan", "task_wait_p95")
    assert effect.tasks_pending.changed == 1
    assert effect.task_wait_p95_s.changed == 50 * 60
    assert effect.score.changed > 1


def test_the_effect_says_what_it_costs_where_there_are_prices():
    sim = simulation([(0, 180, 4)], group(count=2))
    sim.advance(MINUTE_MS)
    off = Proposal.of("human", sim.now_ms, "by hand", "save", (RemoveHosts(count=1),))
    assert simulate_effect(sim, off, HOUR_MS, Slo(version=1)).cost == Compared()
    prices = {"target_cost": 1.0, "currency": "EUR", "price_per_kwh": 0.5, "price_per_host_hour": 0.1}
    effect = simulate_effect(sim, off, HOUR_MS, Slo.model_validate({"version": 1, "cost": prices}))
    # 200 W and 100 W of two hosts for an hour, and then only the busy one.
    assert effect.cost.baseline == pytest.approx(0.3 * 0.5 + 2 * 0.1)
    assert effect.cost.changed == pytest.approx(0.2 * 0.5 + 0.1)
    assert (effect.row()["cost_baseline"], effect.row()["cost_changed"]) == (effect.cost.baseline, effect.cost.changed)


def test_energy_of_the_horizon_is_scaled_to_the_window_of_the_objectives():
    sim = simulation([(0, 180, 4)], group(count=2))
    sim.advance(MINUTE_MS)
    # 0.3 kW is 0.025 kWh in 5 minutes and 0.3 in an hour.
    slo = Slo.model_validate({"version": 1, "energy": {"target_kwh": 0.02}})
    off = Proposal.of("human", sim.now_ms, "by hand", "save", (RemoveHosts(count=1),))
    assert simulate_effect(sim, off, HOUR_MS, slo).slos_gained == ("energy",)


def test_the_state_is_that_of_the_moment_it_was_taken():
    sim = simulation([(0, 5, 3), (0, 60, 4), (20, 60, 4)], group(count=3), group(name="big", count=1, cores=8))
    situation = closed_window(sim, 4)
    sim.advance(30 * MINUTE_MS)
    assert situation.load == TaskLoad(running=2, queued=0, largest_core_count=4)
    names = {one.group: (len(one.idle), len(one.busy), sum(one.free_cores)) for one in situation.groups}
    assert sum(idle for idle, _, _ in names.values()) == 4 - sum(busy for _, busy, _ in names.values())
    assert sum(free for _, _, free in names.values()) == 3 * 4 + 8 - 7


def test_failed_and_removed_hosts_are_not_in_service():
    from opendt.model.change import FailHosts

    sim = simulation([(0, 60, 4)], group(count=5))
    sim.advance(MINUTE_MS)
    sim.apply(FailHosts(hosts=NamedHosts(names=("node-3",))), RemoveHosts(hosts=NamedHosts(names=("node-2",))))
    (nodes,) = SystemState.of(sim).groups
    assert nodes.host_count == 3
    assert {"node-3", "node-2"}.isdisjoint(nodes.idle + nodes.busy)
    assert not nodes.intact
    sim.apply(AddHosts(cluster="c", group=group(name="new", count=2)))
    assert [one.group for one in SystemState.of(sim).groups] == ["node", "new"]


def test_groups_of_one_name_in_two_clusters_are_told_apart():
    from opendt.engine import Simulation
    from opendt.model.topology import Cluster, Topology

    twins = Topology(clusters=tuple(Cluster(name=name, hosts=(group(count=2),)) for name in ("a", "b")))
    live = SystemState.of(Simulation(twins)).groups
    read = groups_of_topology(twins, hosts_busy=0)
    for groups in (live, read):
        assert [(one.cluster, one.unique) for one in groups] == [("a", False), ("b", False)]
    assert [one.idle for one in live] == [one.idle for one in read] == [("node", "node-0"), ("node-1", "node-2")]


# From dicts to a dict.

RESULTS = {"start_ms": 0, "end_ms": 300_000, "hosts_up": 10, "hosts_busy": 4, "utilization_ratio": 0.5}


def test_the_public_function_takes_and_gives_json():
    results = json.loads(json.dumps({**RESULTS, "energy_kwh": 3.0, "tasks_active": 4, "tasks_pending": 0}))
    present = topology(group(count=10)).model_dump(mode="json")
    found = rule_based_optimization(results, {"largest_core_count": 4}, TARGETS, present)
    assert found["action"] == "massive_downscale"
    assert json.loads(json.dumps(found)) == found | {
        "slo": found["slo"],
        "score": json.loads(json.dumps(found["score"])),
    }
    proposal = Proposal.model_validate(found["proposal"])
    assert proposal.changes == (RemoveHosts(hosts=GroupHosts(group="node"), count=3),)
    assert proposal.model_dump(mode="json") == found["proposal"]
    assert found["slo"][0]["met"] is False
    sim = simulation([(0, 1, 1)], group(count=10))
    sim.apply(*proposal.changes)
    assert sim.hosts()["status"].count("up") == 7


def test_the_public_function_keeps_what_is_well():
    found = rule_based_optimization(RESULTS, {}, TARGETS)
    assert (found["action"], found["proposal"]) == ("keep", None)


@pytest.mark.parametrize(
    ("measured", "changes"),
    [
        ({"energy_kwh": 3.0}, [{"type": "remove_hosts", "hosts": {"type": "all"}, "count": 3, "evict": False}]),
        ({"energy_kwh": 2.4}, [{"type": "throttle_hosts", "hosts": {"type": "all"}, "speed_ratio": 0.85}]),
        (
            {"utilization_ratio": 0.1},
            [{"type": "remove_hosts", "hosts": {"type": "all"}, "count": 5, "evict": False}],
        ),
    ],
)
def test_without_a_topology_hosts_are_counted_and_throttled(measured, changes):
    assert rule_based_optimization(RESULTS | measured, {}, TARGETS)["proposal"]["changes"] == changes


def test_without_a_topology_nobody_knows_how_many_cores_to_add():
    assert rule_based_optimization(RESULTS | {"makespan_s": 9000.0}, {}, TARGETS)["action"] == "keep"


@pytest.mark.parametrize(
    ("results", "batch", "targets", "present", "place"),
    [
        ({"end_ms": 1}, {}, TARGETS, None, "sim_results.start_ms"),
        (RESULTS | {"end_ms": 0}, {}, TARGETS, None, "sim_results.end_ms"),
        (RESULTS | {"energy_kw": 1.0}, {}, TARGETS, None, "sim_results.energy_kw"),
        (RESULTS | {"energy_kwh": "much"}, {}, TARGETS, None, "sim_results.energy_kwh"),
        (RESULTS | {"energy_kwh": float("nan")}, {}, TARGETS, None, "sim_results.energy_kwh"),
        (RESULTS, {"running": -1}, TARGETS, None, "batch_data.running"),
        (RESULTS, {}, {"version": 7}, None, "slo_targets.version"),
        (RESULTS, {}, TARGETS, {"clusters": [{"name": "c"}]}, "current_topology.clusters.0.hosts"),
    ],
)
def test_a_wrong_key_is_named(results, batch, targets, present, place):
    with pytest.raises(ModelError) as caught:
        rule_based_optimization(results, batch, targets, present)
    assert caught.value.place == place

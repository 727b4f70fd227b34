"""What changes of a running simulation do."""

from __future__ import annotations

import pytest

from opendt import (
    AddHosts,
    AllHosts,
    CancelTask,
    CarbonPoint,
    Cluster,
    ConserveWork,
    ConstantPower,
    DropFuture,
    EngineError,
    FailHosts,
    GroupHosts,
    LinearPower,
    Link,
    MigrateTask,
    NamedHosts,
    PastTimeError,
    RemoveHosts,
    RepairHosts,
    ResizeHosts,
    SetCarbon,
    SetLink,
    SetPowerCap,
    SetPowerModel,
    SetRemainingWork,
    ThrottleHosts,
    UnknownNameError,
    Work,
    workload_from_tasks,
)
from opendt.model import FailureEvent, TraceFailures
from tests.unit.engine.systems import column, host_group, simulate, task


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_half_the_frequency_takes_twice_as_long_at_r_to_the_k_of_the_dynamic_power(exponent):
    simulation = simulate(host_group(frequency_exponent=exponent), tasks=[task(1, 10_000, 4000.0)])
    simulation.apply(ThrottleHosts(speed_ratio=0.5))
    simulation.run()
    assert simulation.now_ms == 20_000
    assert simulation.energy_j == pytest.approx(20 * (100 + 100 * 0.5**exponent))


def test_frequency_of_a_group_acts_like_throttling():
    throttled, resized = (simulate(tasks=[task(1, 10_000, 4000.0)]) for _ in range(2))
    throttled.apply(ThrottleHosts(speed_ratio=0.8))
    resized.apply(ResizeHosts(core_speed_mhz=800.0))
    for simulation in (throttled, resized):
        simulation.run()
    assert throttled.now_ms == resized.now_ms == 12_500
    assert throttled.energy_j == pytest.approx(resized.energy_j, rel=1e-12)


def test_cores_scale_capacity_and_dynamic_power():
    simulation = simulate(tasks=[task(1, 10_000, 4000.0)])
    simulation.apply(ResizeHosts(core_count=2))
    simulation.run()
    assert simulation.now_ms == 20_000
    assert simulation.energy_j == pytest.approx(20 * (100 + 50))


def test_added_hosts_take_waiting_tasks():
    simulation = simulate(tasks=[task(1, cpu_count=4), task(2, cpu_count=4)])
    simulation.advance(2_000)
    simulation.apply(AddHosts(cluster="dc", group=host_group("spare")))
    simulation.run()
    assert column(simulation, "started_ms") == {1: 0, 2: 2_000}
    assert simulation.hosts()["name"] == ["node", "spare"]


def test_removed_hosts_finish_their_tasks_and_then_draw_nothing():
    simulation = simulate(
        host_group(count=2), tasks=[task(1, 10_000, 4000.0, cpu_count=4), task(2, 20_000, 4000.0, cpu_count=4)]
    )
    simulation.advance(1_000)
    simulation.apply(RemoveHosts(count=1))
    assert simulation.hosts()["status"].count("draining") == 1
    simulation.run()
    assert simulation.hosts()["status"].count("removed") == 1
    ends = column(simulation, "finished_ms")
    assert ends == {1: 10_000, 2: 20_000}
    drained = simulation.hosts()["status"].index("removed")
    assert simulation.hosts()["energy_j"][drained] in (pytest.approx(2000), pytest.approx(4000))


def test_evicted_tasks_go_on_elsewhere_where_they_were():
    simulation = simulate(host_group("a"), host_group("b"), tasks=[task(1, 10_000, 4000.0)])
    simulation.advance(4_000)
    simulation.apply(RemoveHosts(hosts=NamedHosts(names=("a",)), evict=True))
    simulation.run()
    results = simulation.take_results()
    assert results["finished_ms"].tolist() == [10_000]
    assert results["host"].tolist() == [1]
    assert results["pauses"].tolist() == [1]
    assert simulation.energy_j == pytest.approx(4 * 300 + 6 * 200)


def test_idle_hosts_are_removed_first():
    simulation = simulate(host_group(count=3), tasks=[task(1)])
    simulation.advance(1_000)
    simulation.apply(RemoveHosts(count=2))
    assert sorted(simulation.hosts()["status"]) == ["removed", "removed", "up"]
    simulation.run()
    assert column(simulation, "completed") == {1: True}


def test_failed_hosts_lose_progress_and_come_back():
    simulation = simulate(tasks=[task(1)])
    simulation.advance(4_000)
    simulation.apply(FailHosts(hosts=AllHosts()))
    assert simulation.counts["active"] == 0
    simulation.advance(7_000)
    assert simulation.counts == {"submitted": 1, "pending": 1, "active": 0, "completed": 0, "terminated": 0}
    simulation.apply(RepairHosts())
    simulation.run()
    results = simulation.take_results()
    assert (results["finished_ms"].tolist(), results["failures"].tolist()) == ([17_000], [1])


def test_a_run_ends_when_failed_hosts_never_come_back():
    simulation = simulate(tasks=[task(1)], sample_interval_ms=500)
    simulation.advance(4_000)
    simulation.apply(FailHosts(hosts=AllHosts()))
    simulation.run()
    assert column(simulation, "completed") == {1: False}
    assert simulation.now_ms == 4_000


def test_cancelled_tasks_end_as_terminated_whether_they_run_or_wait():
    simulation = simulate(tasks=[task(1, cpu_count=4), task(2, cpu_count=4), task(3, cpu_count=4, parents=[1])])
    simulation.advance(4_000)
    simulation.apply(CancelTask(task="2"))
    simulation.apply(CancelTask(task="1"))
    assert simulation.is_done
    results = simulation.take_results()
    assert results["id"].tolist() == [2, 1, 3]
    assert not results["completed"].any()
    assert results["energy_j"][1] == pytest.approx(4 * 125)
    assert simulation.counts == {"submitted": 3, "pending": 0, "active": 0, "completed": 0, "terminated": 3}


def test_cancelling_the_task_that_others_wait_behind_lets_them_start():
    tasks = [task(1, cpu_count=2), task(2, cpu_count=4), task(3, 1_000, cpu_count=2)]
    simulation = simulate(tasks=tasks)
    simulation.advance(4_000)
    simulation.apply(CancelTask(task="2"))
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 10_000, 2: 4_000, 3: 5_000}


def test_a_migrated_task_goes_on_where_it_was():
    simulation = simulate(host_group("a"), host_group("b"), tasks=[task(1, 10_000, 4000.0)])
    simulation.advance(4_000)
    simulation.apply(MigrateTask(task="1", host="b"))
    simulation.run()
    assert simulation.now_ms == 10_000
    assert simulation.hosts()["energy_j"].tolist() == pytest.approx([4 * 200 + 6 * 100, 4 * 100 + 6 * 200])
    with pytest.raises(UnknownNameError, match="live task"):
        simulation.apply(MigrateTask(task="1", host="a"))


def test_the_rest_of_a_task_can_be_replaced():
    simulation = simulate(tasks=[task(1), task(2)])
    simulation.advance(4_000)
    simulation.apply(
        SetRemainingWork(task="1", work=(Work(duration_ms=500, cpu_mhz=1.0), Work(duration_ms=1, cpu_mhz=0.0)))
    )
    simulation.apply(SetRemainingWork(task="2", work=()))
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 4_501, 2: 4_000}


def test_work_replaced_right_after_a_migration_is_done_whole():
    simulation = simulate(host_group("a"), host_group("b"), tasks=[task(1)])
    simulation.advance(4_000)
    work = (Work(duration_ms=500, cpu_mhz=1.0), Work(duration_ms=700, cpu_mhz=2.0))
    simulation.apply(MigrateTask(task="1", host="b"), SetRemainingWork(task="1", work=work))
    simulation.run()
    assert simulation.now_ms == 5_200


@pytest.mark.parametrize("changes", [(), (ConserveWork(),)])
def test_a_task_evicted_right_after_its_work_was_replaced_does_only_the_new(changes):
    simulation = simulate(host_group("a"), host_group("b"), tasks=[task(1)])
    simulation.advance(4_000)
    new = SetRemainingWork(task="1", work=(Work(duration_ms=500, cpu_mhz=1.0),))
    simulation.apply(*changes, new, RemoveHosts(hosts=NamedHosts(names=("a",)), evict=True))
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 4_500}


@pytest.mark.parametrize("cap_w", [200.0, 250.0, 310.0, 399.0])
def test_a_power_cap_holds_and_slows_tasks_down(cap_w):
    tasks = [task(number, 10_000, 4000.0, cpu_count=4) for number in (1, 2)]
    simulation = simulate(host_group(count=2), tasks=tasks, sample_interval_ms=100)
    simulation.apply(SetPowerCap(cluster="dc", max_power_w=cap_w))
    simulation.advance(9_000)
    power_w = simulation.take_series()["power_w"][1:]
    assert power_w.max() <= cap_w + 1e-9
    simulation.apply(SetPowerCap(cluster="dc", max_power_w=None))
    simulation.run()
    # Dynamic power is linear: done work is dynamic energy over 100 W.
    done_s = 9 * (cap_w - 200) / 200
    assert simulation.now_ms == pytest.approx(9_000 + 1000 * (10 - done_s), abs=2)


def test_a_run_ends_under_a_cap_below_idle_power():
    simulation = simulate(tasks=[task(1, 10_000, 4000.0)], sample_interval_ms=100)
    simulation.apply(SetPowerCap(cluster="dc", max_power_w=50.0))
    simulation.run()
    assert column(simulation, "completed") == {1: False}


def test_power_models_change_from_now_on():
    simulation = simulate(tasks=[task(1, 10_000, 4000.0)])
    simulation.advance(5_000)
    simulation.apply(SetPowerModel(hosts=GroupHosts(group="node"), power_model=ConstantPower(power_w=10.0)))
    simulation.run()
    assert simulation.energy_j == pytest.approx(5 * 200 + 5 * 10)


def test_carbon_changes_from_now_on():
    simulation = simulate(tasks=[task(1, 10_000, 4000.0)])
    simulation.advance(5_000)
    row = CarbonPoint(timestamp_ms=0, intensity_g_per_kwh=360.0)
    simulation.apply(SetCarbon(cluster="dc", carbon=(row,)))
    simulation.run()
    assert simulation.emission_g == pytest.approx(5 * 200 * 360 / 3.6e6)


def two_clusters():
    return tuple(Cluster(name=name, hosts=(host_group(f"{name}-host"),)) for name in ("a", "b"))


def test_data_of_parents_travels_between_clusters():
    link = Link(**{"from": "a", "to": "b"}, latency_ms=50.0, bandwidth_mib_per_s=64.0)
    tasks = [
        task(1, 1_000, pinned="a"),
        task(2, 1_000, pinned="b", parents={1: 128.0}),
        task(3, 1_000, pinned="a", parents={1: 128.0}),
    ]
    simulation = simulate(clusters=two_clusters(), links=(link,), tasks=tasks)
    quicker = simulation.fork()
    quicker.apply(SetLink(link=Link(**{"from": "b", "to": "a"}, latency_ms=0.0, bandwidth_mib_per_s=128.0)))
    simulation.run()
    quicker.run()
    assert column(simulation, "finished_ms") == {1: 1_000, 3: 2_000, 2: 1_000 + 50 + 2_000 + 1_000}
    assert column(quicker, "finished_ms") == {1: 1_000, 3: 2_000, 2: 1_000 + 1_000 + 1_000}


def test_a_pinned_task_runs_where_it_must_or_not_at_all():
    tasks = [task(1, pinned="b-host"), task(2, pinned="a"), task(3, pinned="a-host", cpu_count=9)]
    simulation = simulate(clusters=two_clusters(), tasks=tasks)
    simulation.run()
    assert column(simulation, "host") == {1: 1, 2: 0, 3: -1}
    with pytest.raises(UnknownNameError, match="no-such-host"):
        simulate(tasks=[task(1, pinned="no-such-host")])


def test_an_exec_format_lengthens_work():
    simulation = simulate(tasks=[task(1, slowdown=1.5), task(2)])
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 15_000, 2: 10_000}


def test_dropping_the_future_keeps_what_runs():
    simulation = simulate(tasks=[task(1), task(2, submission_ms=5_000)])
    simulation.advance(1_000)
    simulation.apply(DropFuture())
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 10_000}


def test_the_past_cannot_be_changed():
    simulation = simulate(tasks=[task(1)])
    simulation.advance(5_000)
    with pytest.raises(PastTimeError, match="5000"):
        simulation.advance(4_999)
    with pytest.raises(EngineError, match="task 2"):
        simulation.submit(workload_from_tasks([task(2, submission_ms=4_999)]))
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 10_000}


def test_work_for_devices_that_a_host_does_not_have_is_dropped():
    both = {"id": 1, "fragments": [(10_000, 1000.0, 500.0)]}
    simulation = simulate(tasks=[both], scaling_policy="perfect", sample_interval_ms=500)
    simulation.run()
    assert column(simulation, "finished_ms") == {1: 10_000}


def test_power_at_rest_stays_when_frequency_changes():
    simulation = simulate(host_group(power_model=LinearPower(idle_w=80.0, max_w=80.0)), tasks=[task(1)])
    simulation.apply(ThrottleHosts(speed_ratio=0.5))
    assert simulation.power_w == 80.0


def test_a_run_ends_when_hosts_are_down_whenever_they_are_needed():
    event = FailureEvent(interval_ms=500, duration_ms=1_500, host_ratio=1.0)
    failures = TraceFailures(events=(event,))
    simulation = simulate(
        tasks=[task(1, submission_ms=0), task(2, submission_ms=600)], failures=failures, max_failures=2
    )
    simulation.run()
    assert column(simulation, "completed") == {1: False, 2: False}
    never_up = TraceFailures(events=(FailureEvent(interval_ms=1, duration_ms=1_999, host_ratio=1.0),))
    simulation = simulate(tasks=[task(1, submission_ms=1)], failures=never_up, scheduling_quantum_ms=1_999)
    simulation.run()
    assert column(simulation, "completed") == {1: False}


def test_a_count_takes_hosts_that_are_up():
    simulation = simulate(host_group(count=3), tasks=[task(1, 3_600_000)])
    simulation.advance(0)
    last = simulation.hosts()["name"][2]
    simulation.apply(FailHosts(hosts=NamedHosts(names=(last,))), RemoveHosts(count=1))
    simulation.advance(1)
    assert list(simulation.hosts()["status"]) == ["up", "removed", "failed"]

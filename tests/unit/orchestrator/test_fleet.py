"""Plans of a fleet: stored first, carried out stage by stage, sent to their shadows, taken up again after a kill."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opendt.model.errors import InputError, LedgerError
from opendt.model.fleet import ClusterState, LatencyMatrix
from opendt.model.fleet_observation import FleetObservation
from opendt.model.plan import Infeasible, Plan
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.fleet import InfeasibleJob, JobConflict, UnknownPlan, may_act
from opendt.orchestrator.fleet_events import ChaosObserved
from opendt.orchestrator.fleet_ports import ActionError
from opendt.twin.state import FleetUpdate
from opendt.verification.ledger import Ledger
from tests.told_fleet import NOW_MS, SmallFleet, ToldPlanner, job, node

if TYPE_CHECKING:
    from opendt.orchestrator.events import Notice


def test_a_job_runs_stage_by_stage_and_is_verified(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    assert [pod.stage_id for pod in fleet.state.snapshot().pods.values()] == ["first"]
    assert fleet.service.record(plan.plan_id).status == "acting"
    fleet.finish("first")
    assert fleet.service.record(plan.plan_id).status == "running"
    fleet.finish("second")
    record = fleet.service.record(plan.plan_id)
    assert record.status == "succeeded"
    assert record.verdict is not None
    assert record.verdict.latency_ms.observed == 20_000
    assert record.verdict.latency_ms.within_tolerance is True
    assert record.verdict.energy_kwh.is_modelled is True
    assert record.verdict.energy_kwh.observed == pytest.approx(200.0 / 3.6e6)
    assert fleet.planner.learned == ["first", "second"]
    assert not fleet.planner.held
    assert fleet.kinds()[-2:] == ["plan_finished", "plan_verified"]


def test_the_same_job_again_is_the_same_plan_and_another_content_a_conflict(fleet: SmallFleet) -> None:
    first = fleet.service.plan(job())
    assert fleet.service.plan(job()) == first
    fleet.settle()
    assert len(fleet.hands.made) == 1
    with pytest.raises(JobConflict, match=r"job job-1 is planned already as job-1-[0-9a-f]{12}, with another content"):
        fleet.service.plan(job(deadline_ms=5))


def test_a_dry_run_is_explained_but_neither_stored_nor_acted_on(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = fleet.service.plan(job(), dry_run=True)
    fleet.settle()
    assert plan.plan_id.startswith("dry-")
    assert fleet.hands.made == []
    assert not fleet.planner.held
    assert fleet.service.explain(plan.plan_id) == "greedy: all on a"
    assert fleet.service.record(plan.plan_id).status == "dry_run"
    assert ledger.documents("plans", "fleet") == ()


def test_a_batch_is_planned_whole_or_not_at_all(fleet: SmallFleet, ledger: Ledger) -> None:
    fleet.planner.refuses.add("job-3")
    with pytest.raises(InfeasibleJob, match="job job-3 cannot be placed: ask for 4 cores in stage first"):
        fleet.service.plan_all([job("job-1"), job("job-2"), job("job-3")])
    assert ledger.documents("plans", "fleet") == ()
    assert not fleet.planner.held
    fleet.planner.refuses.clear()
    plans = fleet.service.plan_all([job("job-1"), job("job-2"), job("job-3")])
    assert [plan.job_id for plan in plans] == ["job-1", "job-2", "job-3"]


def test_advice_is_stored_and_not_acted_on(ledger: Ledger) -> None:
    fleet = SmallFleet(ledger, may_act=False)
    plan = fleet.service.plan(job())
    fleet.settle()
    assert fleet.hands.made == []
    assert fleet.service.record(plan.plan_id).status == "planned"


@pytest.mark.parametrize(
    ("environment", "mode", "expected"),
    [("live", "approve", True), ("live", "auto", True), ("live", "advise", False), ("shadow", "auto", False)],
)
def test_only_live_and_with_leave_is_anything_done(environment: str, mode: str, expected: bool) -> None:
    assert may_act(environment, mode) is expected  # type: ignore[arg-type]


def test_what_a_request_must_not_hold_is_named(fleet: SmallFleet) -> None:
    with pytest.raises(InputError, match=r"strategy: found 'best', expected one of greedy, resilient"):
        fleet.service.plan(job(), "best")
    with pytest.raises(InputError, match=r"job\.origin\.cluster: found 'c', expected one of a, b"):
        fleet.service.plan(job(origin={"cluster": "c"}))
    with pytest.raises(UnknownPlan, match="plan nothing is not known to fleet fleet"):
        fleet.service.record("nothing")


def test_a_node_that_goes_sends_its_stages_to_their_shadows(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.see("first", phase="Running", started_ms=NOW_MS)
    fleet.state.apply(FleetUpdate("a", nodes=(node("a", "a-1", is_ready=False),)))
    fleet.settle()
    assert fleet.kinds()[-6:].count("stage_failed_over") == 1
    assert fleet.pod("first-shadow", "b").node == "b-1"
    assert any(name.endswith("first") for name in fleet.hands.deleted)
    fleet.finish("first-shadow", "b")
    fleet.state.apply(FleetUpdate("a", nodes=(node("a", "a-1"),)))
    fleet.settle()
    fleet.finish("second")
    record = fleet.service.record(plan.plan_id)
    assert record.status == "succeeded"
    assert record.observation is not None
    assert {seen.stage_id: seen.cluster for seen in record.observation.stages} == {"first": "b", "second": "a"}


def test_a_stage_whose_node_went_before_it_was_made_goes_to_its_shadow_at_once(fleet: SmallFleet) -> None:
    fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first")
    fleet.state.apply(FleetUpdate("a", nodes=(node("a", "a-1", is_ready=False),)))
    fleet.settle()
    assert fleet.pod("second-shadow", "b").stage_id == "second"


def test_a_cluster_that_does_not_answer_loses_its_stages(fleet: SmallFleet) -> None:
    fleet.service.plan(job(needs=False))
    fleet.settle()
    fleet.state.apply(
        FleetUpdate("a", state=ClusterState("a", is_reachable=False, last_seen_ms=NOW_MS, message="refused"))
    )
    fleet.settle()
    kinds = fleet.kinds()
    assert kinds.count("cluster_lost") == 1
    assert kinds.count("stage_failed_over") == 2
    assert {pod.name[-6:] for pod in fleet.state.snapshot().pods.values() if pod.cluster == "b"} == {"shadow"}


def test_without_a_shadow_a_lost_stage_ends_the_plan(ledger: Ledger) -> None:
    fleet = SmallFleet(ledger, planner=ToldPlanner(with_shadows=False))
    plan = fleet.service.plan(job())
    fleet.settle()
    pod = fleet.pod("first")
    fleet.state.apply(FleetUpdate("a", gone_pods=((pod.namespace, pod.name),)))
    fleet.settle()
    record = fleet.service.record(plan.plan_id)
    assert record.status == "failed"
    assert record.observation is not None
    assert [(seen.phase, seen.reason) for seen in record.observation.stages] == [("lost", "its pod was deleted")]


def test_a_stage_that_fails_ends_the_plan_and_starts_nothing_more(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first", phase="Failed")
    assert fleet.service.record(plan.plan_id).status == "failed"
    assert len(fleet.hands.made) == 1


def test_what_a_cluster_refuses_is_tried_again_and_what_it_refuses_for_good_goes_elsewhere(fleet: SmallFleet) -> None:
    fleet.hands.refusal = ActionError("429 Too Many Requests")
    plan = fleet.service.plan(job())
    fleet.settle()
    assert fleet.service.record(plan.plan_id).status == "planned"
    assert fleet.kinds().count("fleet_action_failed") == 1, "not before it is time"
    fleet.hands.refusal = None
    fleet.now_ms += 1000
    fleet.settle()
    assert fleet.service.record(plan.plan_id).status == "acting"
    fleet.hands.refusal = ActionError("admission webhook denied it", is_final=True)
    other = fleet.service.plan(job("job-2"))
    fleet.settle()
    fleet.hands.refusal = None
    fleet.now_ms += 1000
    fleet.settle()
    run = fleet.keeper.run_of(other.plan_id)
    assert run is not None
    assert run.stages["first"].placement.cluster == "b"


def test_a_plan_is_taken_up_where_a_killed_process_left_it(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first")
    stored_only = fleet.service.plan(job("job-2"))
    fleet.keeper.close()
    later = SmallFleet(ledger, state=fleet.state)
    later.now_ms = fleet.now_ms
    assert later.service.resume() == 2
    later.settle()
    assert later.kinds().count("plan_resumed") == 2
    assert later.service.record(stored_only.plan_id).status == "acting"
    fleet_pods = [pod.name for pod in later.state.snapshot().pods.values() if pod.plan_id == plan.plan_id]
    assert len(fleet_pods) == len(set(fleet_pods)) == 2
    later.finish(f"{plan.plan_id}-second")
    record = later.service.record(plan.plan_id)
    assert record.status == "succeeded"
    assert record.verdict is not None
    third = SmallFleet(ledger, state=later.state)
    assert third.service.resume() == 1, "what is over is not taken up"
    assert third.service.record(plan.plan_id) == record


def test_a_plan_that_went_to_its_shadow_goes_on_there_after_a_kill(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.state.apply(FleetUpdate("a", nodes=(node("a", "a-1", is_ready=False),)))
    fleet.settle()
    fleet.keeper.close()
    later = SmallFleet(ledger, state=fleet.state)
    later.service.resume()
    later.settle()
    run = later.keeper.run_of(plan.plan_id)
    assert run is not None
    assert run.stages["first"].role == "shadow"
    assert run.stages["first"].phase == "pending"
    assert later.hands.made == [], "its pod is there"


def test_observations_of_nodes_are_taken_and_unknown_ones_refused(fleet: SmallFleet) -> None:
    fleet.service.plan(job())
    fleet.settle()
    down = {"type": "node_down", "cluster": "a", "node": "a-1"}
    fleet.service.observe(FleetObservation.model_validate(down))
    fleet.settle()
    assert fleet.kinds().count("stage_failed_over") == 1
    telemetry = {"type": "telemetry", "cluster": "b", "node": "b-1", "cpu_usage_millicores": 250.0}
    fleet.service.observe(FleetObservation.model_validate(telemetry))
    seen = fleet.state.node("b", "b-1")
    assert seen is not None
    assert seen.cpu_usage_millicores is not None
    assert seen.cpu_usage_millicores.value == 250.0
    with pytest.raises(InputError, match=r"node: found 'a-9', expected a node of the fleet"):
        fleet.service.observe(FleetObservation.model_validate(down | {"node": "a-9"}))


def test_events_of_a_plan_are_told_in_order_from_where_one_left(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    told = fleet.service.events(plan.plan_id)
    assert [notice.event.kind for notice in told] == ["plan_accepted", "fleet_action"]
    assert fleet.service.events(plan.plan_id, after=told[-1].number) == []
    assert [one.datacenter for one in (notice.event for notice in told)] == ["fleet", "fleet"]


def test_a_plan_is_over_once_all_was_told_of_it(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    tried = fleet.service.plan(job("job-2"), dry_run=True)
    seen = []
    fleet.bus.subscribe(lambda notice: seen.append((notice.event.kind, fleet.service.is_over(plan.plan_id))))
    fleet.settle()
    fleet.finish("first")
    fleet.finish("second")
    assert seen[-2:] == [("plan_finished", False), ("plan_verified", False)]
    assert fleet.service.is_over(plan.plan_id)
    assert fleet.service.is_over(tried.plan_id)
    with pytest.raises(UnknownPlan):
        fleet.service.is_over("nothing")


def test_a_plan_is_not_over_while_another_thread_has_yet_to_tell_of_its_end(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first")
    telling, goes_on = threading.Event(), threading.Event()

    def slow(notice: Notice) -> None:
        if notice.event.kind == "chaos_observed":
            telling.set()
            goes_on.wait(10)

    fleet.bus.subscribe(slow)
    thread = threading.Thread(target=fleet.service.tell, args=(ChaosObserved(what="power", target="rack-1"),))
    thread.start()
    telling.wait(5)
    fleet.finish("second")
    assert not fleet.service.is_over(plan.plan_id)
    goes_on.set()
    thread.join()
    assert fleet.service.is_over(plan.plan_id)
    assert fleet.service.events(plan.plan_id)[-1].event.kind == "plan_verified"


def test_the_verdict_is_there_when_the_end_is_told(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    seen = []
    fleet.bus.subscribe(lambda _: seen.append(fleet.service.record(plan.plan_id).verdict), {"plan_verified"})
    fleet.settle()
    fleet.finish("first")
    fleet.finish("second")
    assert seen == [fleet.service.record(plan.plan_id).verdict]
    assert seen[0] is not None


def test_who_no_longer_leads_says_what_the_ledger_says(ledger: Ledger) -> None:
    leader = [""]
    fleet = SmallFleet(ledger, leader=lambda: leader[0])
    plan = fleet.service.plan(job())
    fleet.settle()
    other = SmallFleet(ledger, state=fleet.state)
    other.service.resume()
    other.settle()
    other.finish("first")
    other.finish("second")
    assert not fleet.service.is_over(plan.plan_id)
    leader[0] = "another process"
    assert fleet.service.is_over(plan.plan_id)
    assert fleet.service.record(plan.plan_id).status == "succeeded"
    fleet.keeper.close()
    other.keeper.close()


def test_what_was_told_before_the_service_listened_keeps_no_plan_open(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first")
    fleet.finish("second")
    bus = EventBus(fleet.clock_ms)
    bus.publish(ChaosObserved(what="power", target="rack-1"))
    late = SmallFleet(fleet.ledger, state=fleet.state, leader=lambda: "another process", bus=bus)
    assert late.service.is_over(plan.plan_id)
    late.keeper.close()


def test_who_leads_again_holds_no_room_for_what_another_has_ended(fleet: SmallFleet, ledger: Ledger) -> None:
    fleet.service.plan(job())
    fleet.settle()
    assert fleet.planner.held
    other = SmallFleet(ledger, state=fleet.state)
    other.service.resume()
    other.settle()
    other.finish("first", phase="Failed")
    other.keeper.close()
    fleet.service.resume()
    assert not fleet.planner.held


def test_only_stages_that_wait_have_a_start_to_estimate(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.see("first", phase="Running", started_ms=NOW_MS)
    estimates = fleet.service.start_of(plan.plan_id)
    assert list(estimates) == ["second"]
    assert estimates["second"].quantiles_ms == {0.5: NOW_MS + 60_000}


def test_health_counts_what_there_is(fleet: SmallFleet) -> None:
    fleet.service.plan(job())
    fleet.settle()
    health = fleet.service.health()
    assert (health["nodes"], health["pods"], health["plans"]) == (2, 1, {"acting": 1})
    assert health["is_acting"] is True


def test_a_pod_of_somebody_else_changes_nothing(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    stranger = replace(fleet.pod("first"), name="stranger", plan_id="another-plan")
    fleet.state.apply(FleetUpdate("a", pods=(stranger,)))
    fleet.settle()
    assert fleet.service.record(plan.plan_id).status == "acting"


def test_what_a_lost_stage_left_is_removed_when_its_cluster_answers_again(fleet: SmallFleet) -> None:
    fleet.service.plan(job())
    fleet.settle()
    away = ClusterState("a", is_reachable=False, last_seen_ms=NOW_MS, message="refused")
    fleet.state.apply(FleetUpdate("a", state=away))
    fleet.settle()
    assert fleet.hands.deleted == [], "nothing is sent to a cluster that is away"
    fleet.state.apply(FleetUpdate("a", state=replace(away, is_reachable=True)))
    fleet.settle()
    assert len(fleet.hands.deleted) == 1
    assert [pod.role for pod in fleet.state.snapshot().pods.values()] == ["shadow"]


def test_pods_of_a_plan_that_is_over_go_after_an_hour(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first")
    fleet.finish("second")
    assert len(fleet.state.snapshot().pods) == 2
    fleet.now_ms += 3_600_000
    fleet.settle()
    assert len(fleet.state.snapshot().pods) == 0
    assert fleet.service.record(plan.plan_id).status == "succeeded"


def test_of_a_batch_those_that_can_be_placed_are_where_that_will_do(fleet: SmallFleet) -> None:
    fleet.planner.refuses.add("job-2")
    first, refused, third = fleet.service.plan_each([job("job-1"), job("job-2"), job("job-3")])
    assert isinstance(refused, Infeasible)
    assert [plan.job_id for plan in (first, third) if isinstance(plan, Plan)] == ["job-1", "job-3"]
    assert fleet.kinds().count("plan_accepted") == 2


def test_advice_holds_nothing(ledger: Ledger) -> None:
    fleet = SmallFleet(ledger, may_act=False)
    fleet.service.plan(job())
    assert not fleet.planner.held


def test_a_shadow_without_room_is_no_place_to_go(ledger: Ledger) -> None:
    fleet = SmallFleet(ledger, planner=ToldPlanner(full={"b"}))
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.state.apply(FleetUpdate("a", nodes=(node("a", "a-1", is_ready=False),)))
    fleet.settle()
    assert fleet.service.record(plan.plan_id).status == "failed"
    assert not any(pod.cluster == "b" for pod in fleet.state.snapshot().pods.values())


def test_a_pod_that_comes_after_its_stage_has_moved_is_removed(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    late = fleet.pod("first")
    away = ClusterState("a", is_reachable=False, last_seen_ms=NOW_MS, message="no answer")
    fleet.state.apply(FleetUpdate("a", state=away, gone_pods=((late.namespace, late.name),)))
    fleet.settle()
    assert fleet.pod("first-shadow", "b").stage_id == "first"
    fleet.state.apply(FleetUpdate("a", state=replace(away, is_reachable=True)))
    fleet.settle()
    removed = len(fleet.hands.deleted)
    # A request that hung while the cluster was away is carried out only now.
    fleet.state.apply(FleetUpdate("a", pods=(late,)))
    fleet.settle()
    assert len(fleet.hands.deleted) == removed + 1
    assert fleet.service.record(plan.plan_id).status == "acting"


def test_who_leads_again_goes_by_what_is_in_the_ledger(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    other = SmallFleet(ledger, state=fleet.state)
    other.service.resume()
    other.settle()
    other.finish("first")
    other.finish("second")
    assert other.service.record(plan.plan_id).status == "succeeded"
    assert fleet.service.resume() == 0
    fleet.settle()
    assert fleet.service.record(plan.plan_id) == other.service.record(plan.plan_id)


def test_what_was_decided_is_done_once_the_ledger_is_back(fleet: SmallFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.service.plan(job())
    fleet.settle()
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise LedgerError("the disk is full")

        patched.setattr(Ledger, "record_plans", fail)
        fleet.state.apply(FleetUpdate("a", nodes=(node("a", "a-1", is_ready=False),)))
        with pytest.raises(LedgerError, match="the disk is full"):
            fleet.keeper.step()
        fleet.keeper.drain()
        assert len(fleet.hands.made) == 1, "nothing is done that is not written"
    fleet.settle()
    assert fleet.pod("first-shadow", "b").stage_id == "first"


def test_a_stage_begins_when_its_inputs_would_be_there(fleet: SmallFleet) -> None:
    fleet.state.set_latency(LatencyMatrix({("a", "b"): 40.0, ("b", "a"): 40.0}, bandwidth_mb_per_s=100.0))
    far = job(origin={"cluster": "b"}, input_mb=10.0)
    fleet.service.plan(far)
    fleet.settle()
    assert fleet.hands.made == [], "half a round trip and 10 MB at 100 MB/s are 120 ms"
    fleet.now_ms += 119
    fleet.settle()
    assert fleet.hands.made == []
    fleet.now_ms += 2
    fleet.settle()
    assert len(fleet.hands.made) == 1


def test_of_a_job_that_is_no_gang_what_has_a_place_runs(fleet: SmallFleet) -> None:
    fleet.planner.leaves_out = {"second"}
    plan = fleet.service.plan(job(gang=False))
    fleet.settle()
    fleet.finish("first")
    record = fleet.service.record(plan.plan_id)
    assert record.status == "succeeded"
    assert list(record.plan.placements) == ["first"]

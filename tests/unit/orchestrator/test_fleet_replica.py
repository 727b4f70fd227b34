"""Stages that run a second time: the pod that succeeds first counts, the other is removed, and a lost place costs nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from opendt.model.fleet import ClusterState, LatencyMatrix
from opendt.model.plan import Placement
from opendt.orchestrator.fleet_ports import ActionError
from opendt.twin.state import FleetState, FleetUpdate
from tests.told_fleet import NOW_MS, SmallFleet, ToldPlanner, job, node

if TYPE_CHECKING:
    from opendt.model.fleet import PodRole
    from opendt.model.job import Job
    from opendt.model.plan import Plan
    from opendt.verification.ledger import Ledger


class ThirdPlace(ToldPlanner):
    """Knows of room in a cluster c; remembers what room was held where."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[str] = []

    def move(self, job: Job, plan: Plan, stage_id: str, placement: Placement) -> bool:
        self.moved.append(placement.cluster)
        return super().move(job, plan, stage_id, placement)

    def replacement(self, job: Job, plan: Plan, stage_id: str) -> Placement | None:
        del job, plan
        return Placement(stage_id=stage_id, node_name="c-1", cluster="c")


def three_clusters(ledger: Ledger, round_trip_ms: float = 0.0) -> SmallFleet:
    pairs = {(one, other): round_trip_ms for one in "abc" for other in "abc" if one != other}
    state = FleetState(LatencyMatrix(pairs), clock_ms=lambda: NOW_MS)
    made = SmallFleet(ledger, planner=ThirdPlace(), state=state)
    for name in "abc":
        up = ClusterState(name, last_seen_ms=NOW_MS)
        state.apply(FleetUpdate(name, nodes=(node(name, f"{name}-1"),), state=up))
    return made


def goes_away(fleet: SmallFleet, cluster: str) -> None:
    state = ClusterState(cluster, is_reachable=False, last_seen_ms=NOW_MS, message="no answer")
    fleet.state.apply(FleetUpdate(cluster, state=state))


def goes_down(fleet: SmallFleet, cluster: str) -> None:
    fleet.state.apply(FleetUpdate(cluster, nodes=(node(cluster, f"{cluster}-1", is_ready=False),)))


def refuses_one_removal(fleet: SmallFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, refused = fleet.hands.delete, []

    def refusing(plan: Plan, stage_id: str, cluster: str, *, role: PodRole) -> None:
        if role == "replica" and not refused:
            refused.append(cluster)
            raise ActionError("too many requests")
        delete(plan, stage_id, cluster, role=role)

    monkeypatch.setattr(fleet.hands, "delete", refusing)


def replicated(fleet: SmallFleet, *, needs: bool = True) -> Plan:
    """Plan a job whose first stage runs on a, and a second time on b."""
    plan = fleet.service.plan(job(needs=needs))
    fleet.settle()
    fleet.see("first", phase="Running", started_ms=fleet.now_ms)
    assert fleet.keeper.replicate(plan.plan_id, "first").cluster == "b"
    fleet.settle()
    assert (fleet.pod("first").node, fleet.pod("first-replica", "b").node) == ("a-1", "b-1")
    return plan


def names(fleet: SmallFleet) -> set[str]:
    """Ends of the names of the pods that are there."""
    return {pod.name.rpartition(pod.plan_id + "-")[2] for pod in fleet.state.snapshot().pods.values()}


def test_the_stage_goes_on_with_the_replica_where_that_succeeds_first(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    fleet.finish("first-replica", "b", took_ms=4000)
    assert names(fleet) == {"first-replica", "second"}
    fleet.finish("second")
    record = fleet.service.record(plan.plan_id)
    assert record.status == "succeeded"
    assert record.observation is not None
    assert [(seen.stage_id, seen.cluster) for seen in record.observation.stages] == [("first", "b"), ("second", "a")]
    assert record.verdict is not None
    assert record.verdict.latency_ms.observed == 14_000
    assert not fleet.planner.held
    assert fleet.kinds().count("stage_started") == 3  # of both pods, and of the second stage
    assert "stage_failed_over" not in fleet.kinds()  # nothing was lost
    # The pod that was removed ended nothing.
    assert fleet.kinds().count("stage_finished") == 2


def test_the_replica_is_removed_where_the_stage_succeeds_first(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    fleet.see("first-replica", "b", phase="Running", started_ms=fleet.now_ms)
    fleet.finish("first")
    assert names(fleet) == {"first", "second"}
    fleet.finish("second")
    record = fleet.service.record(plan.plan_id)
    assert record.status == "succeeded"
    assert record.observation is not None
    assert {seen.cluster for seen in record.observation.stages} == {"a"}
    assert not fleet.planner.held


def test_a_stage_that_loses_its_place_goes_on_with_the_replica_as_it_is(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    fleet.see("first-replica", "b", phase="Running", started_ms=fleet.now_ms)
    goes_down(fleet, "a")
    fleet.settle()
    assert fleet.hands.made.count(f"{plan.plan_id}-first-replica") == 1
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].placement.cluster, run.stages["first"].phase) == ("b", "running")
    fleet.finish("first-replica", "b")
    assert run.stages["first"].phase == "succeeded"


def test_a_stage_whose_pod_fails_goes_on_with_the_replica(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    fleet.finish("first", phase="Failed")
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].placement.cluster, run.status) == ("b", "acting")
    fleet.finish("first-replica", "b")
    fleet.finish("second")
    assert fleet.service.record(plan.plan_id).status == "succeeded"


@pytest.mark.parametrize("how", ["fails", "is deleted", "loses its node"])
def test_a_replica_that_is_lost_changes_nothing(fleet: SmallFleet, how: str) -> None:
    plan = replicated(fleet)
    if how == "fails":
        fleet.finish("first-replica", "b", phase="Failed")
    elif how == "is deleted":
        pod = fleet.pod("first-replica", "b")
        fleet.state.apply(FleetUpdate("b", gone_pods=((pod.namespace, pod.name),)))
    else:
        goes_down(fleet, "b")
    fleet.settle()
    assert names(fleet) == {"first"}
    fleet.finish("first")
    fleet.finish("second")
    assert fleet.service.record(plan.plan_id).status == "succeeded"
    assert not fleet.planner.held


def test_a_replica_that_its_cluster_does_not_make_is_asked_for_again_or_given_up(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.hands.refusing, fleet.hands.refusal = "b", ActionError("too many requests", is_final=False)
    fleet.keeper.replicate(plan.plan_id, "first")
    fleet.settle()
    assert names(fleet) == {"first"}
    fleet.hands.refusal = None
    fleet.now_ms += 1000
    fleet.settle()
    assert names(fleet) == {"first", "first-replica"}


def test_a_replica_that_its_cluster_refuses_for_good_is_given_up(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.hands.refusing, fleet.hands.refusal = "b", ActionError("forbidden", is_final=True)
    fleet.keeper.replicate(plan.plan_id, "first")
    fleet.settle()
    fleet.hands.refusal = None
    fleet.now_ms += 10_000
    fleet.settle()
    assert names(fleet) == {"first"}
    fleet.finish("first")
    assert fleet.kinds().count("stage_lost") == 0
    assert not fleet.planner.held


def test_a_replica_outlives_a_kill_and_is_made_once(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet)
    fleet.keeper.close()
    again = SmallFleet(ledger, state=fleet.state)
    again.service.resume()
    again.settle()
    assert names(again) == {"first", "first-replica"}
    again.finish("first-replica", "b")
    assert names(again) == {"first-replica", "second"}
    again.finish("second")
    assert again.service.record(plan.plan_id).status == "succeeded"
    again.keeper.close()


def test_a_replica_that_was_not_made_before_a_kill_is_made_after_it(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet)
    pod = fleet.pod("first-replica", "b")
    fleet.keeper.close()
    fleet.state.apply(FleetUpdate("b", gone_pods=((pod.namespace, pod.name),)))
    again = SmallFleet(ledger, state=fleet.state)
    again.service.resume()
    again.settle()
    assert again.hands.made.count(f"{plan.plan_id}-first-replica") == 1
    assert names(again) == {"first", "first-replica"}
    again.keeper.close()


def test_what_ended_before_a_kill_has_no_replica_after_it(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet)
    left = fleet.pod("first-replica", "b")
    fleet.finish("first")
    fleet.keeper.close()
    fleet.state.apply(FleetUpdate("b", pods=(left,)))  # as if it had not been removed in time
    again = SmallFleet(ledger, state=fleet.state)
    again.service.resume()
    again.settle()
    assert names(again) == {"first", "second"}
    run = again.keeper.run_of(plan.plan_id)
    assert run is not None
    assert run.stages["first"].placement.cluster == "a"
    again.keeper.close()


def test_a_stage_that_is_moved_by_hand_goes_to_its_replica(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    assert fleet.keeper.move(plan.plan_id, "first").cluster == "b"
    fleet.settle()
    assert names(fleet) == {"first-replica"}
    assert fleet.hands.made.count(f"{plan.plan_id}-first-replica") == 1


def test_what_cannot_be_replicated_says_why(ledger: Ledger) -> None:
    planner = ToldPlanner()
    fleet = SmallFleet(ledger, planner=planner)
    plan = fleet.service.plan(job())
    with pytest.raises(ActionError, match=r"stage none of job-1-\w+: found none under way"):
        fleet.keeper.replicate(plan.plan_id, "none")
    with pytest.raises(ActionError, match=r"stage second of .*: its own pod has not been seen yet. Ask again when"):
        fleet.keeper.replicate(plan.plan_id, "second")
    fleet.settle()
    planner.full.add("b")
    with pytest.raises(ActionError, match=r"stage first of .*: no other place has room for it"):
        fleet.keeper.replicate(plan.plan_id, "first")
    planner.full.clear()
    fleet.keeper.replicate(plan.plan_id, "first")
    with pytest.raises(ActionError, match=r"stage first of .*: it has been replicated already"):
        fleet.keeper.replicate(plan.plan_id, "first")
    fleet.keeper.close()


def test_a_stage_that_loses_its_replica_and_its_place_at_once_goes_elsewhere(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    pod = fleet.pod("first-replica", "b")
    fleet.state.apply(FleetUpdate("b", pods=(replace(pod, phase="Failed", finished_ms=fleet.now_ms),)))
    goes_away(fleet, "a")
    fleet.settle()
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].role, run.stages["first"].phase) == ("shadow", "pending")
    assert names(fleet) == {"first", "first-shadow"}  # what is in the cluster that is away cannot be removed yet


def test_removing_a_replica_late_spares_the_stage_that_went_there(
    fleet: SmallFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replicated(fleet)
    refuses_one_removal(fleet, monkeypatch)
    goes_down(fleet, "b")
    fleet.settle()
    fleet.state.apply(FleetUpdate("b", nodes=(node("b", "b-1"),)))
    fleet.settle()
    fleet.keeper.move(plan.plan_id, "first")
    fleet.settle()
    assert names(fleet) == {"first-replica", "first-shadow"}
    fleet.now_ms += 2000
    fleet.settle()
    assert names(fleet) == {"first-shadow"}
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert run.stages["first"].phase == "pending"


def test_a_replica_that_goes_late_does_not_end_the_stage_elsewhere(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = three_clusters(ledger)
    plan = replicated(fleet)
    refuses_one_removal(fleet, monkeypatch)
    goes_down(fleet, "b")
    fleet.settle()
    goes_down(fleet, "a")
    fleet.settle()
    fleet.see("first-shadow", "c", phase="Running", started_ms=fleet.now_ms)
    fleet.now_ms += 2000
    fleet.settle()
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].placement.cluster, run.stages["first"].phase) == ("c", "running")
    assert names(fleet) == {"first-shadow"}
    fleet.keeper.close()


@pytest.mark.parametrize("how", ["its node is lost", "by hand"])
def test_a_stage_whose_replica_is_out_of_reach_goes_to_another_place(ledger: Ledger, how: str) -> None:
    fleet = three_clusters(ledger)
    plan = replicated(fleet)
    goes_away(fleet, "b")
    fleet.settle()
    if how == "by hand":
        fleet.keeper.move(plan.plan_id, "first")
    else:
        goes_down(fleet, "a")
    fleet.settle()
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].placement.cluster, run.stages["first"].role) == ("c", "shadow")
    fleet.keeper.close()


def test_a_replica_that_was_given_up_is_not_made_again_after_a_kill(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet)
    fleet.finish("first-replica", "b", phase="Failed")
    fleet.keeper.close()
    again = SmallFleet(ledger, state=fleet.state)
    again.service.resume()
    again.settle()
    assert again.hands.made == []
    with pytest.raises(ActionError, match="it has been replicated already"):
        again.keeper.replicate(plan.plan_id, "first")
    again.keeper.close()


def test_a_plan_that_ends_leaves_no_replica(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet, needs=False)
    fleet.keeper.close()
    own, other = fleet.pod("first"), fleet.pod("second")
    failed = replace(other, phase="Failed", finished_ms=fleet.now_ms)
    fleet.state.apply(FleetUpdate("a", gone_pods=((own.namespace, own.name),), pods=(failed,)))
    again = SmallFleet(ledger, state=fleet.state)
    again.service.resume()
    again.settle()
    assert again.service.record(plan.plan_id).status == "failed"
    assert names(again) == {"second"}
    again.keeper.close()


def test_a_replica_begins_when_its_inputs_would_be_there(ledger: Ledger) -> None:
    fleet = three_clusters(ledger, round_trip_ms=60_000.0)
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.finish("first")
    fleet.see("second", phase="Running", started_ms=fleet.now_ms)
    fleet.keeper.replicate(plan.plan_id, "second")
    fleet.settle()
    assert names(fleet) == {"first", "second"}
    due_ms = fleet.keeper.due_ms()
    assert due_ms is not None
    assert due_ms > fleet.now_ms
    fleet.now_ms = due_ms
    fleet.settle()
    assert names(fleet) == {"first", "second", "second-replica"}
    fleet.keeper.close()


def test_room_for_a_replica_is_held_again_after_a_kill(ledger: Ledger) -> None:
    fleet = three_clusters(ledger)
    replicated(fleet)
    fleet.keeper.close()
    planner = ThirdPlace()
    again = SmallFleet(ledger, state=fleet.state, planner=planner)
    again.service.resume()
    assert planner.moved == ["b"]
    again.keeper.close()


def test_nothing_begins_for_a_plan_that_has_failed(fleet: SmallFleet) -> None:
    plan = fleet.service.plan(job(needs=False))
    fleet.settle()
    fleet.see("first", phase="Running", started_ms=fleet.now_ms)
    fleet.finish("second", phase="Failed")
    with pytest.raises(ActionError, match=r"stage first of .*: its plan has failed"):
        fleet.keeper.replicate(plan.plan_id, "first")


def test_a_pod_that_fails_beside_its_replica_is_learned_from(fleet: SmallFleet) -> None:
    replicated(fleet)
    fleet.finish("first", phase="Failed")
    assert fleet.planner.learned == ["first"]


def test_late_answers_to_whoever_led_before_change_nothing(ledger: Ledger) -> None:
    fleet = three_clusters(ledger)
    plan = replicated(fleet)
    old = fleet.keeper.run_of(plan.plan_id)
    assert old is not None
    assert old.stages["first"].replica is not None
    place = old.stages["first"].replica.placement
    fleet.service.resume()
    fleet.settle()
    late = ActionError("another process leads", is_final=True)
    fleet.keeper.refused(old, "first", place, "replica", late)
    fleet.keeper.refused(old, "first", old.stages["first"].placement, "stage", late)
    fleet.keeper.created(old, "first", place, "replica", "a pod")
    fleet.settle()
    assert names(fleet) == {"first", "first-replica"}
    fleet.finish("first-replica", "b", phase="Failed")
    assert names(fleet) == {"first"}
    fleet.keeper.close()


@pytest.mark.parametrize("own", ["is there", "is away"])
def test_a_replica_whose_cluster_was_not_seen_yet_is_waited_for(ledger: Ledger, own: str) -> None:
    before = SmallFleet(ledger)
    plan = replicated(before)
    before.see("first-replica", "b", phase="Running", started_ms=before.now_ms)
    before.keeper.close()
    there = before.state.snapshot()
    state = FleetState(LatencyMatrix({("a", "b"): 0.0, ("b", "a"): 0.0}), clock_ms=lambda: NOW_MS)
    fleet = SmallFleet(ledger, state=state)

    def appears(cluster: str, *, is_reachable: bool = True) -> None:
        nodes = tuple(one for one in there.nodes.values() if one.cluster == cluster)
        pods = tuple(one for one in there.pods.values() if one.cluster == cluster)
        told = ClusterState(cluster, is_reachable=is_reachable, last_seen_ms=NOW_MS)
        state.apply(FleetUpdate(cluster, nodes=nodes, pods=pods, state=told))

    state.apply(FleetUpdate("b", state=ClusterState("b", is_reachable=False, last_seen_ms=-1)))
    appears("a", is_reachable=own == "is there")
    fleet.service.resume()
    fleet.settle()
    appears("b")
    fleet.settle()
    assert "first-replica" in names(fleet)
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert run.stages["first"].role == ("stage" if own == "is there" else "replica")
    fleet.finish("first-replica", "b")
    assert run.stages["first"].phase == "succeeded"
    fleet.keeper.close()


def test_a_stage_that_loses_its_node_and_its_replica_in_one_look_goes_elsewhere(ledger: Ledger) -> None:
    fleet = three_clusters(ledger)
    plan = replicated(fleet)
    pod = fleet.pod("first-replica", "b")
    fleet.state.apply(FleetUpdate("b", pods=(replace(pod, phase="Failed", finished_ms=fleet.now_ms),)))
    goes_down(fleet, "a")
    fleet.settle()
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].role, run.stages["first"].phase) == ("shadow", "pending")
    fleet.keeper.close()


def test_all_that_a_replica_left_in_its_cluster_goes_with_the_plan(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = three_clusters(ledger)
    delete = fleet.hands.delete

    def refusing(plan: Plan, stage_id: str, cluster: str, *, role: PodRole) -> None:
        if role == "replica":
            raise ActionError("a webhook denied it", is_final=True)
        delete(plan, stage_id, cluster, role=role)

    monkeypatch.setattr(fleet.hands, "delete", refusing)
    replicated(fleet)
    fleet.finish("first")
    fleet.finish("second")
    assert "first-replica" in names(fleet)
    fleet.now_ms += 3_700_000
    fleet.settle()
    assert names(fleet) == set()
    fleet.keeper.close()


def test_moving_by_hand_to_nowhere_keeps_the_replica(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    goes_away(fleet, "b")
    fleet.settle()
    with pytest.raises(ActionError, match="no other place has room for it"):
        fleet.keeper.move(plan.plan_id, "first")
    fleet.state.apply(FleetUpdate("b", state=ClusterState("b", last_seen_ms=NOW_MS)))
    fleet.settle()
    assert names(fleet) == {"first", "first-replica"}

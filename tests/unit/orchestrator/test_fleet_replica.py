"""Stages that run a second time: the pod that succeeds first counts, the other is removed, and a lost place costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opendt.orchestrator.fleet_ports import ActionError
from opendt.twin.state import FleetUpdate
from opendt.verification.ledger import Ledger
from tests.told_fleet import SmallFleet, ToldPlanner, job, node

if TYPE_CHECKING:
    from opendt.model.plan import Plan


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def fleet(ledger: Ledger) -> Iterator[SmallFleet]:
    made = SmallFleet(ledger)
    yield made
    made.keeper.close()


def replicated(fleet: SmallFleet) -> Plan:
    """Plan a job whose first stage runs on a, and a second time on b."""
    plan = fleet.service.plan(job())
    fleet.settle()
    fleet.see("first", phase="Running", started_ms=fleet.now_ms)
    assert fleet.keeper.replicate(plan.plan_id, "first").cluster == "b"
    fleet.settle()
    assert (fleet.pod("first").node, fleet.pod("first-shadow", "b").node) == ("a-1", "b-1")
    return plan


def names(fleet: SmallFleet) -> set[str]:
    """Ends of the names of the pods that are there."""
    return {pod.name.rpartition(pod.plan_id + "-")[2] for pod in fleet.state.snapshot().pods.values()}


def test_the_stage_goes_on_with_the_replica_where_that_succeeds_first(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    fleet.finish("first-shadow", "b", took_ms=4000)
    assert names(fleet) == {"first-shadow", "second"}
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
    fleet.see("first-shadow", "b", phase="Running", started_ms=fleet.now_ms)
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
    fleet.see("first-shadow", "b", phase="Running", started_ms=fleet.now_ms)
    fleet.state.apply(FleetUpdate("a", nodes=(replace(node("a", "a-1"), is_ready=False),)))
    fleet.settle()
    assert fleet.hands.made.count(f"{plan.plan_id}-first-shadow") == 1
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].placement.cluster, run.stages["first"].phase) == ("b", "running")
    fleet.finish("first-shadow", "b")
    assert run.stages["first"].phase == "succeeded"


def test_a_stage_whose_pod_fails_goes_on_with_the_replica(fleet: SmallFleet) -> None:
    plan = replicated(fleet)
    fleet.finish("first", phase="Failed")
    run = fleet.keeper.run_of(plan.plan_id)
    assert run is not None
    assert (run.stages["first"].placement.cluster, run.status) == ("b", "acting")
    fleet.finish("first-shadow", "b")
    fleet.finish("second")
    assert fleet.service.record(plan.plan_id).status == "succeeded"


@pytest.mark.parametrize("how", ["fails", "is deleted", "loses its node"])
def test_a_replica_that_is_lost_changes_nothing(fleet: SmallFleet, how: str) -> None:
    plan = replicated(fleet)
    if how == "fails":
        fleet.finish("first-shadow", "b", phase="Failed")
    elif how == "is deleted":
        pod = fleet.pod("first-shadow", "b")
        fleet.state.apply(FleetUpdate("b", gone_pods=((pod.namespace, pod.name),)))
    else:
        fleet.state.apply(FleetUpdate("b", nodes=(replace(node("b", "b-1"), is_ready=False),)))
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
    assert names(fleet) == {"first", "first-shadow"}


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
    assert names(again) == {"first", "first-shadow"}
    again.finish("first-shadow", "b")
    assert names(again) == {"first-shadow", "second"}
    again.finish("second")
    assert again.service.record(plan.plan_id).status == "succeeded"
    again.keeper.close()


def test_a_replica_that_was_not_made_before_a_kill_is_made_after_it(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet)
    pod = fleet.pod("first-shadow", "b")
    fleet.keeper.close()
    fleet.state.apply(FleetUpdate("b", gone_pods=((pod.namespace, pod.name),)))
    again = SmallFleet(ledger, state=fleet.state)
    again.service.resume()
    again.settle()
    assert again.hands.made.count(f"{plan.plan_id}-first-shadow") == 1
    assert names(again) == {"first", "first-shadow"}
    again.keeper.close()


def test_what_ended_before_a_kill_has_no_replica_after_it(fleet: SmallFleet, ledger: Ledger) -> None:
    plan = replicated(fleet)
    left = fleet.pod("first-shadow", "b")
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
    assert names(fleet) == {"first-shadow"}
    assert fleet.hands.made.count(f"{plan.plan_id}-first-shadow") == 1


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

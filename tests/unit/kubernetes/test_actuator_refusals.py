"""What an API server under load says: when it is asked again, after how long, and when that ends."""

from __future__ import annotations

import pytest

from opendt.kubernetes.actuator import Actuator, ActuatorSettings
from opendt.kubernetes.attempts import RetrySettings
from opendt.kubernetes.cluster_manager import ClusterManager, discover
from tests.unit.kubernetes.http_server import Script, kubeconfig, scripted_server, status
from tests.unit.kubernetes.plans import a_plan, a_stage

NODE = (200, {}, {"spec": {}, "metadata": {"name": "n", "uid": "u", "resourceVersion": "5"}})
CORDONED = (200, {}, {"spec": {"unschedulable": True}, "metadata": {"name": "n", "uid": "u", "resourceVersion": "6"}})


class Clock:
    """A clock that goes on only by sleeping."""

    def __init__(self):
        self.now_s = 0.0
        self.naps = []

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now_s += seconds


@pytest.fixture
def acting(tmp_path):
    """Call with a script; gives (actuator, clock, manager)."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(script, **more):
            address = stack.enter_context(scripted_server(script))
            manager = ClusterManager(discover([kubeconfig(tmp_path / "kubeconfig", {"left": address})]))
            stack.callback(manager.stop)
            clock = Clock()
            settings = ActuatorSettings(retry=RetrySettings(deadline_s=10.0))
            actuator = Actuator(manager, settings, clock_s=lambda: clock.now_s, sleep=clock.sleep, **more)
            stack.callback(actuator.close)
            return actuator, clock, manager

        yield make


def test_a_conflict_passes_and_what_changed_meanwhile_is_seen(acting):
    script = Script(NODE, status(409, "Conflict"), NODE, CORDONED)
    actuator, clock, _ = acting(script)
    result = actuator.cordon("left", "n")
    assert (result.outcome, result.attempts, result.resource_version) == ("done", 2, "6")
    assert [request[0] for request in script.requests] == ["GET", "PATCH", "GET", "PATCH"]
    assert clock.naps == [0.1]


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured(acting, code):
    actuator, clock, _ = acting(Script(status(code, "TooManyRequests", retry_after=3), NODE, CORDONED))
    assert actuator.cordon("left", "n").is_done
    assert clock.naps == [3.0]


def test_waiting_doubles_and_ends_before_the_deadline(acting):
    actuator, clock, _ = acting(Script(status(500, "InternalError", "etcd: request timed out")))
    result = actuator.cordon("left", "n")
    assert (result.outcome, result.reason, result.message) == ("failed", "InternalError", "etcd: request timed out")
    assert not result.is_done
    assert clock.naps[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert sum(clock.naps) <= 10.0
    assert result.attempts == len(clock.naps) + 1


def test_a_wait_longer_than_the_deadline_is_not_begun(acting):
    actuator, clock, _ = acting(Script(status(429, "TooManyRequests", retry_after=60)))
    assert actuator.cordon("left", "n").outcome == "failed"
    assert clock.naps == []


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (422, "Invalid"), (404, "NotFound")])
def test_what_will_not_pass_is_not_asked_again(acting, code, reason):
    script = Script(status(code, reason, "because"))
    actuator, _, _ = acting(script)
    result = actuator.scale("left", "opendt", "web", 3)
    assert (result.outcome, result.reason, result.message, len(script.requests)) == ("refused", reason, "because", 1)


def test_fields_that_somebody_else_holds_are_not_fought_over(acting):
    script = Script(status(409, "Conflict", "conflict with kubectl", causes=["FieldManagerConflict"]))
    actuator, _, _ = acting(script)
    anchor, pod = actuator.apply(a_plan(), [a_stage()]).results
    assert (anchor.outcome, anchor.reason) == ("refused", "FieldManagerConflict")
    assert (pod.outcome, pod.attempts, pod.stage_id) == ("refused", 0, "s1")
    assert "conflict with kubectl" in pod.message
    assert len(script.requests) == 1


def test_a_budget_that_does_not_give_way_is_the_reason(acting):
    refusal = status(429, "TooManyRequests", "Cannot evict pod", causes=["DisruptionBudget"])
    actuator, _, _ = acting(Script(refusal))
    result = actuator.evict("left", "opendt", "web-1")
    assert (result.outcome, result.reason) == ("failed", "DisruptionBudget")


def test_a_pod_that_is_gone_by_the_second_try_was_evicted(acting):
    actuator, _, _ = acting(Script(status(500, "InternalError"), status(404, "NotFound")))
    assert actuator.evict("left", "opendt", "web-1").outcome == "unchanged"


def test_who_does_not_lead_sends_nothing(acting):
    script = Script(NODE)
    actuator, _, _ = acting(script, may_act=lambda: False)
    result = actuator.cordon("left", "n")
    assert (result.outcome, result.reason, result.attempts) == ("refused", "NotLeading", 0)
    assert script.requests == []


def test_nothing_is_sent_to_a_cluster_whose_probes_fail(acting):
    script = Script(status(503, "ServiceUnavailable"))
    actuator, clock, manager = acting(script)
    for _ in range(3):
        manager.probe("left")
    result = actuator.cordon("left", "n")
    assert (result.outcome, result.attempts, clock.naps) == ("away", 0, [])
    assert [path for _, path, _ in script.requests] == ["/readyz"] * 3


def test_a_cluster_that_does_not_answer_is_away_and_says_why(tmp_path):
    clock = Clock()
    kubeconfig(tmp_path / "gone", {"left": "http://127.0.0.1:9"})
    manager = ClusterManager(discover([tmp_path / "gone"]))
    other = Actuator(manager, clock_s=lambda: clock.now_s, sleep=clock.sleep)
    result = other.cordon("left", "n")
    assert (result.outcome, result.reason) == ("away", "ClusterAway")
    assert "Connection refused" in result.message
    assert result.attempts > 1
    manager.stop()


def test_our_dry_run_changes_nothing(acting):
    script = Script(NODE)
    actuator, _, _ = acting(script)
    assert actuator.cordon("left", "n", dry_run="ours").outcome == "dry_run"
    assert actuator.uncordon("left", "n", dry_run="ours").outcome == "unchanged"
    actions = actuator.apply(a_plan(dry_run=True), [a_stage("s1"), a_stage("s2")])
    assert [result.outcome for result in actions.results] == ["dry_run"] * 3
    assert not actions.is_done
    assert actions.problems == ()
    assert {method for method, _, _ in script.requests} == {"GET"}


def test_no_secret_gets_into_a_message(acting):
    actuator, _, _ = acting(Script(status(401, "Unauthorized", "Unauthorized")))
    result = actuator.cordon("left", "n")
    assert (result.outcome, "secret-token" in repr(result)) == ("refused", False)

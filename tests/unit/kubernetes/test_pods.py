"""Pods as objects become pods as the twin sees them, and those of plans become observations."""

from __future__ import annotations

import json

import pytest

from opendt.kubernetes.pods import decode_pod, milliseconds, stage_observation, worker_problem
from tests.unit.kubernetes.objects import merged, pod_object

OURS = {
    "opendt.io/plan-id": "plan-1",
    "opendt.io/job": "job-1",
    "opendt.io/stage": "s1",
    "opendt.io/exec-format": "qemu-arm64",
    "opendt.io/role": "shadow",
    "opendt.io/origin-cluster": "campus-lab",
    "app": "x",
}
BEGAN = "2026-11-22T10:00:02Z"
ENDED = "2026-11-22T10:00:09Z"


def ended(message="", code=0, phase="Succeeded", **more):
    terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "startedAt": BEGAN}
    state = {"terminated": {**terminated, "finishedAt": ENDED, "message": message}}
    status = {"phase": phase, "containerStatuses": [{"name": "worker", "state": state}]}
    return pod_object(**merged({"metadata": {"labels": OURS}, "status": status}, more))


def test_a_pod_of_a_plan_says_which():
    thing = pod_object(
        metadata={
            "labels": OURS,
            "annotations": {"opendt.io/written-ms": "1795341600123", "opendt.io/gpu-millis": "500"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": True}],
            "deletionTimestamp": ENDED,
        },
        status={"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": BEGAN}]},
    )
    pod = decode_pod("a", thing)
    assert (pod.plan_id, pod.job_id, pod.stage_id, pod.exec_format) == ("plan-1", "job-1", "s1", "qemu-arm64")
    assert (pod.role, pod.origin_cluster, pod.is_deleting) == ("shadow", "campus-lab", True)
    assert (pod.stamp_ms, pod.gpu_millis, pod.owner) == (1795341600123, 500, "ReplicaSet/web-1")
    assert dict(pod.labels) == {"app": "x"}
    assert (pod.created_ms, pod.scheduled_ms) == (milliseconds("2026-11-22T10:00:00Z"), milliseconds(BEGAN))
    assert (pod.started_ms, pod.finished_ms, pod.exit_code) == (-1, -1, None)


def test_what_the_worker_reports_is_believed_before_whole_seconds():
    said = {"started_ms": 1795341602345, "finished_ms": 1795341608901, "cpu_seconds": 5.25, "memory_peak_mib": 31.5}
    pod = decode_pod("a", ended(json.dumps({**said, "kind": "integer", "checksum": "1f"})))
    assert (pod.started_ms, pod.finished_ms) == (said["started_ms"], said["finished_ms"])
    assert (pod.cpu_seconds, pod.memory_peak_mib, pod.exit_code) == (5.25, 31.5, 0)


@pytest.mark.parametrize("message", ["oops", '{"started_ms": "soon"}', '{"cpu_seconds": -1}', "{", "[1]"])
def test_a_report_that_makes_no_sense_is_told_and_kubernetes_is_believed(message):
    thing = ended(message)
    pod = decode_pod("a", thing)
    assert (pod.started_ms, pod.finished_ms) == (milliseconds(BEGAN), milliseconds(ENDED))
    assert pod.cpu_seconds is None
    assert worker_problem(thing).startswith("termination message: found")
    assert worker_problem(pod_object()) == worker_problem(ended("")) == ""


def test_a_pod_that_ended_is_observed():
    observed = stage_observation(decode_pod("a", ended(code=3, phase="Failed")))
    assert (observed.phase, observed.reason, observed.stage_id) == ("failed", "Error", "s1")
    assert observed.started_ms == milliseconds(BEGAN)
    assert observed.scheduled_ms is None


def test_a_pod_that_vanished_is_lost_unless_it_had_ended():
    running = decode_pod("a", pod_object(metadata={"labels": OURS}, status={"phase": "Running"}))
    assert stage_observation(running).phase == "running"
    assert stage_observation(running, is_gone=True).phase == "lost"
    assert stage_observation(running, is_gone=True).reason
    assert stage_observation(decode_pod("a", ended()), is_gone=True).phase == "succeeded"


def test_a_pending_pod_says_why():
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    assert decode_pod("a", pod_object(status={"conditions": [condition]})).reason == "Unschedulable"
    state = {"waiting": {"reason": "ErrImageNeverPull"}}
    waiting = {"containerStatuses": [{"name": "worker", "state": state}]}
    assert decode_pod("a", pod_object(status=waiting)).reason == "ErrImageNeverPull"


def test_requests_are_counted_as_the_scheduler_counts_them():
    def container(cpu, memory, **more):
        return {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}, **more}

    plain = {"containers": [container("100m", "10Mi"), container("1", "1Gi")]}
    assert _asked(plain) == (1100, 1034)
    init = {**plain, "initContainers": [container("2", "5Mi")]}
    assert _asked(init) == (2000, 1034)
    sidecar = {**plain, "initContainers": [container("500m", "6Mi", restartPolicy="Always"), container("1300m", "1Mi")]}
    assert _asked(sidecar) == (1800, 1040)
    assert _asked({**sidecar, "overhead": {"cpu": "250m", "memory": "512Ki"}}) == (2050, 1041)
    assert _asked({**plain, "resources": {"requests": {"cpu": "3"}}}) == (3000, 1034)
    assert _asked({"containers": [{"name": "c"}]}) == (0, 0)
    assert _asked({"containers": [container("1500u", "1500Ki")]}) == (2, 2)


def _asked(spec):
    pod = decode_pod("a", {**pod_object(), "spec": spec})
    return pod.cpu_millicores, pod.memory_mib


def test_labels_of_others_that_look_like_ours_do_no_harm():
    thing = pod_object(
        metadata={"labels": {"opendt.io/exec-format": "java"}, "annotations": {"opendt.io/written-ms": "-5"}},
        status={"phase": "Odd"},
    )
    pod = decode_pod("a", thing)
    assert (pod.exec_format, pod.stamp_ms, pod.phase) == ("native", -1, "Unknown")

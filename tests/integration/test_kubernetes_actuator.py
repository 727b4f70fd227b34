"""Acting on real API servers: pods appear once, go together, and what is refused or only tried is said to be."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from opendt.kubernetes.actuator import Actuator, ActuatorSettings
from opendt.kubernetes.attempts import RetrySettings
from opendt.kubernetes.cluster_manager import ClusterManager, discover
from opendt.kubernetes.pod_manifest import PodSettings
from opendt.kubernetes.pods import decode_pod
from opendt.model.errors import InputError
from opendt.model.job import Toleration
from tests.fleet import add_kwok_nodes, control_plane, eventually, merged_kubeconfig
from tests.unit.kubernetes.plans import a_plan, a_stage

SCHEDULED = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
PODS = "/api/v1/namespaces/opendt/pods"


@pytest.fixture(scope="module")
def planes(kubernetes_programs):
    """One cluster with all parts, one light, in which pods name their nodes."""
    with (
        tempfile.TemporaryDirectory(prefix="opendt-act-") as folder,
        control_plane(Path(folder), "left", SCHEDULED) as left,
        control_plane(Path(folder), "right") as right,
    ):
        found = {"left": left, "right": right}
        for plane in found.values():
            add_kwok_nodes(plane, 3)
            with plane.client() as client:
                client.request("POST", "/api/v1/namespaces", {"metadata": {"name": "opendt"}})
        yield found


@pytest.fixture(scope="module")
def manager(planes):
    with tempfile.TemporaryDirectory() as folder:
        made = ClusterManager(discover([merged_kubeconfig(planes, Path(folder) / "kubeconfig")]))
        yield made
        made.stop()


@contextmanager
def acting(manager, deadline_s=10.0, **pods):
    settings = ActuatorSettings(pods=PodSettings(**pods), retry=RetrySettings(deadline_s=deadline_s))
    actuator = Actuator(manager, settings)
    yield actuator
    actuator.close()


def pods_of(plane, plan_id):
    with plane.client() as client:
        items = client.get(f"{PODS}?labelSelector=opendt.io/plan-id={plan_id}")["items"]
    return {item["metadata"]["name"]: item for item in items}


def outcomes(actions):
    return [(each.action, each.cluster, each.outcome) for each in actions.results]


def phase(planes, cluster, plan_id):
    return {item["status"]["phase"] for item in pods_of(planes[cluster], plan_id).values()}


def test_a_plan_becomes_pods_once_however_often_it_is_applied(planes, manager):
    left, right = a_stage("s1"), a_stage("s2", "right", "node-00002", role="shadow")
    plan = a_plan("once")
    with acting(manager, binds_directly=True) as actuator:
        first = actuator.apply(plan, [left, right])
        assert first.is_done
        assert outcomes(first) == [
            ("anchor", "left", "done"),
            ("create", "left", "done"),
            ("anchor", "right", "done"),
            ("create", "right", "done"),
        ]
        again = actuator.apply(plan, [left, right])
        assert {each.outcome for each in again.results} == {"unchanged"}
        assert [each.uid for each in again.results] == [each.uid for each in first.results]
    (found,) = pods_of(planes["right"], "once").values()
    pod = decode_pod("right", found)
    assert (pod.plan_id, pod.job_id, pod.stage_id, pod.role, pod.node) == (
        "once",
        "job-1",
        "s2",
        "shadow",
        "node-00002",
    )
    assert (pod.cpu_millicores, pod.memory_mib) == (20, 16)
    assert pod.owner == "ConfigMap/opendt-once"


def test_a_cluster_without_the_namespace_says_what_makes_it(manager):
    with acting(manager, namespace="nowhere") as actuator:
        anchor, pod = actuator.apply(a_plan("homeless"), [a_stage("s1")]).results
    assert (anchor.outcome, pod.outcome) == ("refused", "refused")
    assert 'namespaces "nowhere" not found' in pod.message
    assert pod.message.endswith(". Apply deploy/rbac/opendt.yaml there")


def test_the_scheduler_puts_a_pod_where_its_affinity_says(planes, manager):
    with acting(manager) as actuator:
        actuator.apply(a_plan("pinned"), [a_stage(node="node-00001")])
        eventually(lambda: phase(planes, "left", "pinned") == {"Running"}, "the pod runs")
    (pod,) = pods_of(planes["left"], "pinned").values()
    assert pod["spec"]["nodeName"] == "node-00001"


def test_a_pod_may_do_nothing_that_it_need_not(planes, manager):
    stage = a_stage(
        cpu_millicores=2.5,
        memory_mib=5.12,
        cpu_limit_millicores=10,
        memory_limit_mib=8,
        gpu=2,
        arguments=("--kind", "integer"),
        environment={"B": "2", "A": "1"},
        tolerations=(Toleration(key="battery"), Toleration(key="spot", value="yes", effect="NoSchedule")),
        annotations={"kwok.opendt.io/seconds": "1s"},
        deadline_s=60,
    )
    with acting(manager, image_pull_policy="Never") as actuator:
        assert actuator.apply(a_plan("rights"), [stage]).is_done
    (pod,) = pods_of(planes["left"], "rights").values()
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (spec["automountServiceAccountToken"], spec["restartPolicy"]) == (False, "Never")
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["imagePullPolicy"] == "Never"
    assert container["args"] == ["--kind", "integer"]
    assert [each["name"] for each in container["env"]] == ["A", "B"]
    assert container["resources"]["limits"] == {"cpu": "10m", "memory": "8Mi", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"]["memory"] == "5368710"
    assert spec["activeDeadlineSeconds"] == 60
    assert {"key": "battery", "operator": "Exists"} in spec["tolerations"]
    assert decode_pod("left", pod).gpu == 2


def test_the_pod_passes_the_restricted_standard(planes, manager):
    with planes["left"].client() as client:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        client.request("POST", "/api/v1/namespaces", {"metadata": {"name": "strict", "labels": labels}})
    with acting(manager, namespace="strict") as actuator:
        assert actuator.apply(a_plan("strict"), [a_stage()]).is_done


def test_a_dry_run_of_the_server_checks_and_changes_nothing(planes, manager):
    with acting(manager) as actuator:
        tried = actuator.apply(a_plan("dry"), [a_stage()], dry_run="server")
        assert [each.outcome for each in tried.results] == ["dry_run", "dry_run"]
        refused = actuator.apply(a_plan("dry"), [a_stage(cpu_millicores=30, cpu_limit_millicores=20)], dry_run="server")
        assert (refused.problems[0].outcome, refused.problems[0].reason) == ("refused", "FieldValueInvalid")
        assert "must be less than or equal to cpu limit" in refused.problems[0].message
        assert not tried.is_done
        assert pods_of(planes["left"], "dry") == {}
        assert actuator.cordon("left", "node-00000", dry_run="server").outcome == "dry_run"
        assert actuator.uncordon("left", "node-00000").outcome == "unchanged"


def test_another_specification_under_the_same_name_is_refused(planes, manager):
    with acting(manager) as actuator:
        assert actuator.apply(a_plan("changed"), [a_stage()]).is_done
        (problem,) = actuator.apply(a_plan("changed"), [a_stage(node="node-00002")]).problems
    assert problem.outcome == "refused"


def test_deleting_a_plan_takes_all_of_it_along(planes, manager):
    with acting(manager, binds_directly=True) as actuator:
        actuator.apply(a_plan("over"), [a_stage("s1"), a_stage("s2", "right")])
        assert actuator.delete_plan("over").is_done
        for cluster in planes:
            eventually(lambda cluster=cluster: pods_of(planes[cluster], "over") == {}, "the pods are gone")
        assert {each.outcome for each in actuator.delete_plan("over").results} == {"unchanged"}


def test_deleting_what_owns_them_deletes_pods(planes, manager):
    with acting(manager) as actuator:
        actuator.apply(a_plan("owned"), [a_stage()])
    with planes["left"].client() as client:
        client.request("DELETE", "/api/v1/namespaces/opendt/configmaps/opendt-owned")
    eventually(lambda: pods_of(planes["left"], "owned") == {}, "the garbage collector deleted the pod")


def test_a_name_that_is_going_is_waited_for(planes, manager):
    """KWOK deletes a pod a moment after it is told to."""
    with acting(manager, binds_directly=True) as actuator:
        first = actuator.apply(a_plan("again"), [a_stage(cluster="right")])
        eventually(lambda: phase(planes, "right", "again") == {"Running"}, "the pod runs")
        actuator.delete_pod("right", "opendt", first.results[1].target.rpartition("/")[2], grace_s=5)
        second = actuator.apply(a_plan("again"), [a_stage(cluster="right")])
    assert second.is_done
    assert second.results[1].uid != first.results[1].uid


def test_nodes_are_cordoned_and_opened_again(planes, manager):
    with acting(manager) as actuator:
        outcomes = [actuator.cordon("left", "node-00002").outcome, actuator.cordon("left", "node-00002").outcome]
        with planes["left"].client() as client:
            assert client.get("/api/v1/nodes/node-00002")["spec"]["unschedulable"]
        outcomes += [actuator.uncordon("left", "node-00002").outcome, actuator.uncordon("left", "node-00002").outcome]
        assert outcomes == ["done", "unchanged", "done", "unchanged"]
        assert actuator.cordon("left", "no-such-node").reason == "NotFound"


def test_a_stage_moves_and_is_copied(planes, manager):
    old, new = a_stage(node="node-00000"), a_stage(node="node-00001", copy=1)
    with acting(manager) as actuator:
        plan = a_plan("moves")
        actuator.apply(plan, [old])
        with pytest.raises(InputError, match="found 0, expected another number"):
            actuator.migrate(plan, old, old)
        moved = actuator.migrate(plan, old, new, wait_running_s=20)
        assert moved.is_done
        assert [each.action for each in moved.results] == ["anchor", "create", "wait", "evict"]
        eventually(lambda: len(pods_of(planes["left"], "moves")) == 1, "the old pod is gone")
        (pod,) = pods_of(planes["left"], "moves").values()
        assert pod["spec"]["nodeName"] == "node-00001"
        assert actuator.replicate(plan, new, 2).is_done
        assert len(pods_of(planes["left"], "moves")) == 3


def test_a_budget_keeps_a_pod_where_it_is_and_nothing_is_left_half_done(planes, manager):
    old, new = a_stage(node="node-00000", labels={"app": "guarded"}), a_stage(node="node-00001", copy=1)
    plan = a_plan("guarded")
    budget = {
        "metadata": {"name": "guarded"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}},
    }
    budgets = "/apis/policy/v1/namespaces/opendt/poddisruptionbudgets"
    with acting(manager, deadline_s=1.0) as actuator, planes["left"].client() as client:
        actuator.apply(plan, [old])
        eventually(lambda: phase(planes, "left", "guarded") == {"Running"}, "the pod runs")
        client.request("POST", budgets, budget)
        counted = lambda: client.get(f"{budgets}/guarded")["status"].get("currentHealthy") == 1  # noqa: E731
        eventually(counted, "the budget counts the pod")
        moved = actuator.migrate(plan, old, new)
        assert not moved.is_done
        (problem,) = moved.problems
        assert (problem.action, problem.outcome, problem.reason) == ("evict", "failed", "DisruptionBudget")
        assert moved.results[-1].action == "delete"
        eventually(lambda: len(pods_of(planes["left"], "guarded")) == 1, "the new pod is gone again")
        client.request("DELETE", f"{budgets}/guarded")
        (name,) = pods_of(planes["left"], "guarded")
        assert actuator.evict("left", "opendt", name).outcome == "done"


def test_deployments_are_scaled(planes, manager):
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    with acting(manager) as actuator, planes["left"].client() as client:
        deployments = "/apis/apps/v1/namespaces/opendt/deployments"
        client.request("POST", deployments, {"metadata": {"name": "web"}, "spec": spec})
        outcomes = [actuator.scale("left", "opendt", "web", 3).outcome for _ in range(2)]
        assert outcomes == ["done", "unchanged"]
        ready = lambda: client.get(f"{deployments}/web")["status"].get("replicas") == 3  # noqa: E731
        eventually(ready, "the Deployment has three pods")
        assert actuator.scale("left", "opendt", "nothing", 3).reason == "NotFound"


def test_a_cluster_that_is_away_holds_up_no_other(planes, manager):
    """The other cluster's pods are there although one cluster refuses connections all the time."""
    right = planes["right"]
    right.stop_part("kube-apiserver")
    try:
        with acting(manager, deadline_s=1.0) as actuator:
            actions = actuator.apply(a_plan("half"), [a_stage("s1"), a_stage("s2", "right")])
        assert not actions.is_done
        assert [each.outcome for each in actions.results] == ["done", "done", "away", "away"]
        assert len(pods_of(planes["left"], "half")) == 1
    finally:
        right.start_part("kube-apiserver")
    with acting(manager, binds_directly=True) as actuator:
        again = actuator.apply(a_plan("half"), [a_stage("s2", "right")])
    assert again.is_done
    assert len(pods_of(right, "half")) == 1

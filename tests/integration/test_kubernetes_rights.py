"""The manifests in deploy/rbac are enough for all that OpenDT does, and for nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import yaml

from opendt.kubernetes.actuator import Actuator, ActuatorSettings
from opendt.kubernetes.attempts import RetrySettings
from opendt.kubernetes.client import ApiError
from opendt.kubernetes.cluster_manager import ClusterManager, discover
from opendt.kubernetes.collector import Collector, MetricsSettings
from opendt.kubernetes.leader import LeaderElection
from opendt.twin.state import FleetState
from tests.fleet import add_kwok_nodes, control_plane, create_pod, eventually
from tests.unit.kubernetes.plans import a_plan, a_stage

RBAC = Path(__file__).parents[2] / "deploy" / "rbac"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
}
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "metrics-server")


def apply_file(client, name):
    for thing in yaml.safe_load_all((RBAC / name).read_text(encoding="utf-8")):
        path = PATHS[thing["kind"]].format(namespace=thing["metadata"].get("namespace", ""))
        client.apply(f"{path}/{thing['metadata']['name']}", thing)


@pytest.fixture(scope="module")
def plane(kubernetes_programs):
    with (
        tempfile.TemporaryDirectory(prefix="opendt-rights-") as folder,
        control_plane(Path(folder), "left", PARTS) as started,
        started.client() as client,
    ):
        apply_file(client, "opendt.yaml")
        add_kwok_nodes(started, 3)
        accounts = "/api/v1/namespaces/default/serviceaccounts"
        eventually(lambda: client.get(accounts)["items"], "pods may be made")
        yield started


@pytest.fixture(scope="module")
def manager(plane, tmp_path_factory):
    """Clusters reached by a token of the ServiceAccount, with exactly the rights of the manifests."""
    with plane.client() as client:
        path = "/api/v1/namespaces/opendt/serviceaccounts/opendt/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        token = client.request("POST", path, request)["status"]["token"]
    content = json.loads(plane.kubeconfig().read_text(encoding="utf-8"))
    content["users"][0]["user"] = {"token": token}
    file = tmp_path_factory.mktemp("rights") / "kubeconfig"
    file.write_text(json.dumps(content), encoding="utf-8")
    made = ClusterManager(discover([file]))
    yield made
    made.stop()


@pytest.fixture
def actuator(manager):
    made = Actuator(manager, ActuatorSettings(retry=RetrySettings(deadline_s=5.0)))
    yield made
    made.close()


def test_the_collector_needs_no_more(plane, manager):
    told = []
    manager.tell = told.append
    create_pod(plane, "seen", "node-00000", annotations={"kwok.x-k8s.io/usage-cpu": "250m"})
    state = FleetState()
    collector = Collector(manager, state, metrics=MetricsSettings(interval_s=0.5))
    assert manager.probe("left").is_reachable
    collector.start()
    try:
        assert collector.wait_synced(20)
        measured = lambda: state.node("left", "node-00000").cpu_usage_millicores is not None  # noqa: E731
        eventually(measured, "the Metrics API says what a node uses", seconds=45)
    finally:
        collector.stop()
    snapshot = state.snapshot()
    assert len(snapshot.nodes) == 3
    assert ("left", "default", "seen") in snapshot.pods
    assert {event.kind for event in told} <= {
        "metrics_away",
        "metrics_back",
    }  # it needs a moment for its first readings


def test_the_actuator_needs_no_more(plane, manager, actuator):
    plan, old, new = a_plan("rights"), a_stage(), a_stage(node="node-00001", copy=1)
    results = list(actuator.apply(plan, [old], dry_run="server").results)
    assert [each.outcome for each in results] == ["dry_run", "dry_run"]
    actions = [actuator.apply(plan, [old]), actuator.migrate(plan, old, new), actuator.replicate(plan, new, 1)]
    assert [each.is_done for each in actions] == [True, True, True], actions
    for act in (actuator.cordon, actuator.uncordon):
        assert act("left", "node-00002").outcome == "done"
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "c",
                    "image": "none",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    with plane.client() as client:
        client.request(
            "POST", "/apis/apps/v1/namespaces/opendt/deployments", {"metadata": {"name": "web"}, "spec": spec}
        )
    assert actuator.scale("left", "opendt", "web", 2).outcome == "done"
    assert actuator.delete_plan("rights").is_done


def test_leading_needs_no_more(manager):
    election = LeaderElection(lambda: manager["left"].client, "one")
    assert election.step()
    assert election.step()
    election.stop()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/namespaces/opendt/secrets", None),
        ("GET", "/api/v1/secrets", None),
        ("GET", "/api/v1/namespaces/default/configmaps", None),
        ("DELETE", "/api/v1/nodes/node-00000", None),
        ("DELETE", "/api/v1/namespaces/default/pods/seen", None),
        ("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "x"}}),
        ("POST", "/api/v1/namespaces/default/pods/seen/eviction", {"metadata": {"name": "seen"}}),
        ("POST", "/api/v1/namespaces/opendt/pods/x/exec?command=sh", None),
        ("GET", "/api/v1/nodes/node-00000/proxy/metrics/resource", None),
        ("PATCH", "/apis/apps/v1/namespaces/default/deployments/web/scale", {"spec": {"replicas": 0}}),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "more"}}),
        ("POST", "/api/v1/namespaces/opendt/serviceaccounts/opendt/token", {"spec": {}}),
    ],
)
def test_what_is_not_granted_is_refused(manager, method, path, body):
    with pytest.raises(ApiError) as refusal:
        manager["left"].client.request(method, path, None, body)
    assert refusal.value.status == 403


def test_a_refusal_of_rights_is_a_result_that_says_so(actuator):
    result = actuator.evict("left", "default", "seen")
    assert (result.outcome, result.reason, result.attempts) == ("refused", "Forbidden", 1)
    assert "system:serviceaccount:opendt:opendt" in result.message


def test_kubelets_may_be_asked_with_the_optional_rights(plane, manager):
    """KWOK's nodes are on loopback, to which an API server never proxies: it is refused later than by rights."""
    with plane.client() as client:
        apply_file(client, "kubelet.yaml")

    def answer():
        with pytest.raises(ApiError) as refusal:
            manager["left"].client.get("/api/v1/nodes/node-00000/proxy/metrics/resource")
        return refusal.value.status, refusal.value.message

    eventually(lambda: answer() == (400, "address not allowed"), "the right is there")


def test_prometheus_may_be_asked_with_the_optional_rights_and_nothing_beside_it(plane, manager):
    """There is no such service here: it is not found, where without rights it is forbidden."""
    services = "/api/v1/namespaces/monitoring/services"

    def code(service):
        with pytest.raises(ApiError) as refusal:
            manager["left"].client.get(f"{services}/{service}/proxy/api/v1/query", {"query": "up"})
        return refusal.value.status

    assert code("prometheus-k8s:9090") == 403
    with plane.client() as client:
        client.request("POST", "/api/v1/namespaces", {"metadata": {"name": "monitoring"}})
        apply_file(client, "prometheus.yaml")
    eventually(lambda: code("prometheus-k8s:9090") in (404, 503), "the right is there")
    assert code("grafana:3000") == 403

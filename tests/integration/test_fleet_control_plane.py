"""A control plane of the local fleet is a real one: it serves, plays pods, and goes on where it was."""

from __future__ import annotations

import yaml

from tests.fleet import add_kwok_nodes, control_plane, create_pod, eventually, merged_kubeconfig


def test_a_pod_runs_as_long_as_its_annotation_says_and_reports_its_message(plane):
    (node,) = add_kwok_nodes(plane, 1, prefix="played")
    create_pod(plane, "short", node, {"kwok.opendt.io/seconds": "200ms", "kwok.opendt.io/message": '{"checksum": 7}'})
    create_pod(plane, "failing", node, {"kwok.opendt.io/fail-after": "200ms"})
    create_pod(plane, "lasting", node)
    with plane.client() as client:

        def phases() -> dict[str, str]:
            pods = client.get("/api/v1/namespaces/default/pods")["items"]
            return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods}

        wanted = {"short": "Succeeded", "failing": "Failed", "lasting": "Running"}
        eventually(lambda: phases() == wanted, f"phases are {wanted}")
        short = client.get("/api/v1/namespaces/default/pods/short")
        assert short["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == '{"checksum": 7}'


def test_a_node_is_down_while_its_label_says_so(plane):
    (node,) = add_kwok_nodes(plane, 1, prefix="falling")
    with plane.client() as client:

        def ready() -> str:
            conditions = client.get(f"/api/v1/nodes/{node}")["status"]["conditions"]
            return next(condition["status"] for condition in conditions if condition["type"] == "Ready")

        for value, expected in (("true", "False"), (None, "True")):
            labels = {"metadata": {"labels": {"kwok.opendt.io/down": value}}}
            client.request("PATCH", f"/api/v1/nodes/{node}", labels, "application/merge-patch+json")
            eventually(lambda expected=expected: ready() == expected, f"Ready is {expected}")


def test_an_api_server_goes_on_where_it_was_killed(two_planes):
    left, right = two_planes["left"], two_planes["right"]
    nodes = add_kwok_nodes(left, 3, prefix="kept")
    left.stop_part("kube-apiserver")
    assert not left.is_ready("kube-apiserver")
    assert right.is_ready("kube-apiserver")
    left.start_part("kube-apiserver")
    left.wait_ready("kube-apiserver", 30)
    with left.client() as client:
        assert [node["metadata"]["name"] for node in client.get("/api/v1/nodes")["items"]] == nodes


def test_one_kubeconfig_has_a_context_for_each_cluster(two_planes, tmp_path):
    path = merged_kubeconfig(two_planes, tmp_path / "kubeconfig")
    merged = yaml.safe_load(path.read_text(encoding="utf-8"))
    servers = {cluster["name"]: cluster["cluster"]["server"] for cluster in merged["clusters"]}
    assert servers == {name: plane.url for name, plane in two_planes.items()}
    assert [context["name"] for context in merged["contexts"]] == list(two_planes)
    assert path.stat().st_mode & 0o077 == 0


def test_controllers_and_scheduler_bring_a_deployment_to_its_nodes(tmp_path, kubernetes_programs):
    parts = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
    with control_plane(tmp_path, "full", parts) as plane, plane.client() as client:
        (node,) = add_kwok_nodes(plane, 1)
        template = {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
        client.request("POST", "/apis/apps/v1/namespaces/default/deployments", deployment)

        def places() -> list[str | None]:
            pods = client.get("/api/v1/namespaces/default/pods")["items"]
            return [pod["spec"].get("nodeName") for pod in pods if pod["status"]["phase"] == "Running"]

        eventually(lambda: places() == [node, node], "both replicas run")

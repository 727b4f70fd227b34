"""One cluster of a run: its control plane, its KWOK nodes and its real ones, in the namespace that this process was put into.

python3 -m scripts.fleet.cluster RUN_FOLDER NAME      until SIGTERM; started by scripts.fleet.supervisor
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import NoReturn

from scripts.fleet.control_plane import ControlPlane
from scripts.fleet.description import DEPLOY, Cluster
from scripts.fleet.images import make_images
from scripts.fleet.kwok_nodes import create_nodes, kwok_node
from scripts.fleet.node import NodeSpec, hide_host_folders, start_node
from scripts.fleet.plan import API_SERVER_PORT, RunPlan
from scripts.fleet.programs import control_plane_program

__all__ = ["ready_file"]


def ready_file(plan: RunPlan, name: str) -> Path:
    """File that says that a cluster serves."""
    return plan.path / name / "ready"


def main() -> NoReturn:
    """Run a cluster until told to end."""
    plan = RunPlan.read(Path(sys.argv[1]))
    assert plan is not None
    name = sys.argv[2]
    cluster = next(each for each in plan.fleet().clusters if each.name == name)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    folder = plan.path / name
    program = control_plane_program().build()
    ports = {"kube-apiserver": API_SERVER_PORT}
    with ControlPlane(program, folder, name, parts=plan.parts, ports=ports) as plane:
        _fill(plan, cluster, plane)
        nodes = [node for owner, node in plan.real_nodes() if owner.name == name]
        if nodes:
            hide_host_folders()
        for node in nodes:
            _start_real(node, plane, program, folder / str(node.number))
        ready_file(plan, name).touch()
        while True:
            signal.pause()  # until sys.exit in the handler; whatever is left then, the supervisor ends


def _fill(plan: RunPlan, cluster: Cluster, plane: ControlPlane) -> None:
    """Create what every cluster of the fleet has: the runtime class, what nodes play, and the nodes that KWOK plays."""
    with plane.client() as client:
        import yaml

        policy, binding = yaml.safe_load_all((DEPLOY / "node-arch-policy.yaml").read_text(encoding="utf-8"))
        where = "/apis/admissionregistration.k8s.io/v1"
        client.apply(f"{where}/mutatingadmissionpolicies/{policy['metadata']['name']}", policy)
        client.apply(f"{where}/mutatingadmissionpolicybindings/{binding['metadata']['name']}", binding)
        wasm = yaml.safe_load((DEPLOY / "runtimeclass-wasm.yaml").read_text(encoding="utf-8"))
        client.apply(f"/apis/node.k8s.io/v1/runtimeclasses/{wasm['metadata']['name']}", wasm)
        for each, count in zip(cluster.node_classes, plan.kwok_counts(cluster), strict=True):
            names = [f"{cluster.name}-{each.name}-{number:04}" for number in range(count)]
            create_nodes(client, (kwok_node(name, cluster.labels(each), each.allocatable()) for name in names))


def _start_real(node: NodeSpec, plane: ControlPlane, program: Path, folder: Path) -> None:
    images = make_images(node.labels["kubernetes.io/arch"])
    with plane.client() as client:
        start_node(node, program, plane.kubeconfig("kubelet"), folder, images, client)


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)

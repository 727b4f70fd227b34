"""Replay the openb trace (1,523 nodes, 8,152 pods) through plan, act and verify on KWOK control planes of this machine.

    python benches/fleet_openb.py [--mode replay|fill] [--clusters 3] [--pods N] [--batch 200]

Every pod of the list becomes a job of one stage, planned by the service at scale 1:1, made by it on a real API server, played by
KWOK and verified by it. What happens when is the trace's order of events, taken `batch` at a time (within a batch arrivals come
before departures), as fast as this machine can; a pod ends when its departure comes, which no prediction knows of.

``replay`` takes arrivals and departures. ``fill`` takes arrivals only, so that the cluster fills up as in the paper's experiment: it
says how much of the GPUs is given away and how much of the rest is of no use (fragmentation, by the paper's measure).

In the end the objects of the API servers, listed anew, say whether any node holds more than it has (GPUs device by device), and whether
a pod that was refused would fit anywhere. Results are JSON on stdout. Data: traces/alibaba-gpu-v2023 under OPENDT_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opendt.formats.openb import OpenbMachine, OpenbRequest, read_openb_machines, read_openb_requests
from opendt.model.job import Job
from opendt.model.plan import Infeasible, Plan
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.fleet_factory import fleet_running
from opendt.orchestrator.settings_model import FleetSettings, Settings
from opendt.policy.packing import Shape, typical_shapes
from opendt.verification.ledger import Ledger
from scripts.fleet.api import MERGE, ApiClient
from scripts.fleet.control_plane import ControlPlane, write_merged_kubeconfig
from scripts.fleet.deadline import Deadline
from scripts.fleet.kwok_nodes import create_nodes, kwok_node
from scripts.fleet.programs import control_plane_program

if TYPE_CHECKING:
    from opendt.orchestrator.fleet import FleetService

ROOT = Path(__file__).resolve().parents[1]
PODS = "/api/v1/namespaces/opendt/pods"
PATIENCE_S = 600.0
WHOLE = 1000


# -- the world: nodes, and pods that end when the trace says


def make_nodes(planes: Sequence[ControlPlane], machines: Sequence[OpenbMachine]) -> None:
    """Make the nodes, in turn in each cluster, and wait until they take pods."""
    for number, plane in enumerate(planes):
        mine = machines[number :: len(planes)]
        with plane.client() as client:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "opendt"}}
            client.apply("/api/v1/namespaces/opendt", namespace)
            create_nodes(client, (_node(one) for one in mine))
            _wait(lambda client=client, mine=mine: _ready(client) >= len(mine), "nodes are ready")
            for one in mine:  # light planes have no controller that takes the taint off
                client.request("PATCH", f"/api/v1/nodes/{one.name}", {"spec": {"taints": None}}, MERGE)


def _node(one: OpenbMachine) -> dict[str, Any]:
    labels = {"dt.hardware.mhz": "2400", "dt.hardware.idle_w": "100", "dt.hardware.max_w": "400"}
    gives = {"cpu": f"{one.cpu_millicores}m", "memory": f"{one.memory_mib}Mi", "pods": "250"}
    if one.gpu:
        labels["dt.hardware.gpu_model"] = one.gpu_model
        gives["nvidia.com/gpu"] = str(one.gpu)
    return kwok_node(one.name, labels, gives)


def _ready(client: ApiClient) -> int:
    nodes = client.get("/api/v1/nodes?resourceVersion=0")["items"]
    return sum(
        any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", ()))
        for node in nodes
    )


def job_of(pod: OpenbRequest) -> Job:
    """A pod of the list as a job; what it does is not known, only what it asks for."""
    shape = Shape.of(pod)
    stage = {
        "id": "pod",
        "cpu_millicores": max(shape.cpu_millicores, 1),
        "memory_mib": max(shape.memory_mib, 1),
        "gpu": shape.gpu,
        "gpu_millis": shape.gpu_millis or WHOLE,
    }
    return Job.model_validate_json(json.dumps({"id": pod.name, "stages": [stage], "scale": 1.0}))


class Ender:
    """Ends pods: KWOK lets a pod succeed as soon as its annotation says so."""

    def __init__(self, planes: Mapping[str, ControlPlane]) -> None:
        self._clients = {name: plane.client() for name, plane in planes.items()}

    def end(self, cluster: str, pod: str) -> None:
        """Let one pod succeed."""
        body = {"metadata": {"annotations": {"kwok.opendt.io/seconds": "0s"}}}
        self._clients[cluster].request("PATCH", f"{PODS}/{pod}", body, MERGE)

    def close(self) -> None:
        """Give the connections up."""
        for client in self._clients.values():
            client.close()


# -- the replay


@dataclass
class Outcome:
    """What became of a replay."""

    plans: dict[str, Plan] = field(default_factory=dict)
    refused: dict[str, Infeasible] = field(default_factory=dict)
    waited: set[str] = field(default_factory=set)
    plan_s: float = 0.0
    wall_s: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    verified: int = 0


def events_of(pods: Sequence[OpenbRequest], *, departures: bool) -> list[tuple[int, int, OpenbRequest]]:
    """Arrivals (0) and departures (1) in the order of the trace."""
    found = [(pod.created_s, 0, pod) for pod in pods]
    if departures:
        found += [(_gone_s(pod), 1, pod) for pod in pods]
    return sorted(found, key=lambda one: (one[0], one[1], one[2].name))


def _gone_s(pod: OpenbRequest) -> int:
    """When it is over; one that the real cluster never placed lasts from its creation to its deletion."""
    return max(pod.deleted_s, pod.created_s + 1)


def replay(
    service: FleetService, ender: Ender, pods: Sequence[OpenbRequest], *, batch: int, departures: bool
) -> Outcome:
    """Take the events in their order, a batch at a time."""
    found = Outcome()
    pending: list[OpenbRequest] = []
    leaving: list[OpenbRequest] = []
    events = events_of(pods, departures=departures)
    began_s = time.monotonic()
    for first in range(0, len(events), batch):
        some = events[first : first + batch]
        arriving = [pod for _, kind, pod in some if kind == 0]
        # Where nothing leaves, room only gets less: what was refused is not asked for again.
        again = pending if departures else []
        pending = [*(() if departures else pending), *_arrive(service, [*again, *arriving], found)]
        leaving = _leave(service, ender, [*leaving, *(pod for _, kind, pod in some if kind == 1)], found)
        print(f"{first + len(some)} of {len(events)} events, {len(pending)} wait", file=sys.stderr, flush=True)
    while departures and pending:  # all departures are due: whoever still waits gets the room of those who were placed
        _wait(lambda: not service.keeper.runs, "every plan is over")
        before = len(pending)
        pending = _arrive(service, pending, found)
        leaving = _leave(service, ender, leaving, found)
        if len(pending) == before:
            break
    found.refused = {pod.name: found.refused[pod.name] for pod in pending}
    _wait(lambda: _made(service, found), "every pod is made")
    if departures:
        _wait(lambda: not service.keeper.runs, "every plan is over")
    found.wall_s = time.monotonic() - began_s
    for plan in found.plans.values():
        record = service.record(plan.plan_id)
        found.statuses[record.status] += 1
        found.verified += record.verdict is not None
    return found


def _arrive(service: FleetService, pods: Sequence[OpenbRequest], found: Outcome) -> list[OpenbRequest]:
    """Plan pods; those that find no room wait."""
    began_s = time.perf_counter()
    answers = service.plan_each([job_of(pod) for pod in pods]) if pods else []
    found.plan_s += time.perf_counter() - began_s
    waiting = []
    for pod, answer in zip(pods, answers, strict=True):
        if isinstance(answer, Plan):
            found.plans[pod.name] = answer
        else:
            found.refused[pod.name] = answer
            found.waited.add(pod.name)
            waiting.append(pod)
    return waiting


def _leave(service: FleetService, ender: Ender, pods: Sequence[OpenbRequest], found: Outcome) -> list[OpenbRequest]:
    """End pods that were placed; those that are still waiting for room leave later."""
    from opendt.kubernetes.pod_manifest import pod_name

    staying = []
    for pod in pods:
        plan = found.plans.get(pod.name)
        if plan is None:
            staying.append(pod)
            continue
        cluster, name = plan.placements["pod"].cluster, pod_name(plan.plan_id, "pod")
        _wait(
            lambda cluster=cluster, name=name: service.state.pod(cluster, "opendt", name) is not None, f"{name} is made"
        )
        ender.end(cluster, name)
    return staying


def _made(service: FleetService, found: Outcome) -> bool:
    made = {pod.plan_id for pod in service.snapshot().pods.values() if pod.phase != "Pending"}
    return made >= {plan.plan_id for plan in found.plans.values()}


# -- what the API servers say in the end


def check(
    planes: Sequence[ControlPlane], refused: Sequence[OpenbRequest], shapes: Mapping[Shape, float]
) -> dict[str, Any]:
    """Add up what each node holds, from the objects of its API server alone."""
    over: list[str] = []
    names: Counter[str] = Counter()
    fits: set[str] = set()
    given = idle = fragments = cpu = cpus = 0.0
    gpus = 0
    for plane in planes:
        with plane.client(timeout_s=120) as client:
            nodes = client.get("/api/v1/nodes")["items"]
            pods = client.get(PODS)["items"]
        held: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for pod in pods:
            names[pod["metadata"]["name"]] += 1
            if pod["status"]["phase"] in ("Pending", "Running"):
                held[pod["spec"]["nodeName"]].append(pod)
        for node in nodes:
            free_cpu, free_memory, devices = _left(node, held.pop(node["metadata"]["name"], []), over)
            count = int(node["status"]["allocatable"].get("nvidia.com/gpu", 0))
            gpus += count
            cpus += _millis(node["status"]["allocatable"]["cpu"])
            cpu += _millis(node["status"]["allocatable"]["cpu"]) - free_cpu
            idle += sum(devices)
            given += count * WHOLE - sum(devices)
            fragments += fragment_millis(free_cpu, devices, shapes)
            fits |= {one.name for one in refused if _fits(Shape.of(one), free_cpu, free_memory, devices)}
        over += [f"pods on {name}, which is no node" for name in held]
    return {
        "nodes_over_committed": over[:10],
        "pods": sum(names.values()),
        "pods_twice": [name for name, count in names.items() if count > 1][:10],
        "refused_that_fit": sorted(fits)[:10],
        "gpus": gpus,
        "gpu_allocation_ratio": given / (gpus * WHOLE) if gpus else 0.0,
        "cpu_allocation_ratio": cpu / cpus if cpus else 0.0,
        "idle_gpus": idle / WHOLE,
        "fragmented_gpus": fragments / WHOLE,
        "fragmented_of_idle_ratio": fragments / idle if idle else 0.0,
    }


def _left(node: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], over: list[str]) -> tuple[int, int, list[int]]:
    """What a node has free: CPU, memory and each GPU; what it holds too much of is said in `over`."""
    gives, name = node["status"]["allocatable"], node["metadata"]["name"]
    asked = [pod["spec"]["containers"][0]["resources"]["requests"] for pod in pods]
    free_cpu = _millis(gives["cpu"]) - sum(_millis(one["cpu"]) for one in asked)
    free_memory = _mebibytes(gives["memory"]) - sum(_mebibytes(one["memory"]) for one in asked)
    notes = [pod["metadata"].get("annotations", {}) for pod in pods]
    wanted = [(int(one["opendt.io/gpu"]), int(one["opendt.io/gpu-millis"])) for one in notes if "opendt.io/gpu" in one]
    devices = devices_left(int(gives.get("nvidia.com/gpu", 0)), wanted)
    for what, is_short in (("CPU", free_cpu < 0), ("memory", free_memory < 0), ("GPUs", devices is None)):
        if is_short:
            over.append(f"{name} has too little {what}")
    return free_cpu, free_memory, devices or []


def devices_left(count: int, wanted: Sequence[tuple[int, int]]) -> list[int] | None:
    """What each GPU has left when pods (GPUs, thousandths of each) share them; None when they cannot.

    Whole ones first, then shares by size, each to the fullest GPU that has room; where that fails, all ways are tried.

    Examples
    --------
    >>> devices_left(2, [(1, 600), (1, 500), (1, 400)]), devices_left(1, [(1, 600), (1, 500)])
    ([0, 500], None)
    """
    whole = sum(number for number, millis in wanted if millis == WHOLE)
    shares = sorted((millis for number, millis in wanted if millis < WHOLE for _ in range(number)), reverse=True)
    if whole > count:
        return None
    free = [WHOLE] * (count - whole)
    return _shared(free, shares, 0, tries=[100_000])


def _shared(free: list[int], shares: Sequence[int], place: int, tries: list[int]) -> list[int] | None:
    if place == len(shares):
        return sorted(free)
    tries[0] -= 1
    for room in sorted({room for room in free if room >= shares[place]}):
        if tries[0] < 0:
            return None
        number = free.index(room)
        found = _shared([*free[:number], room - shares[place], *free[number + 1 :]], shares, place + 1, tries)
        if found is not None:
            return found
    return None


def fragment_millis(free_cpu: int, devices: Sequence[int], shapes: Mapping[Shape, float]) -> float:
    """How much of a node's idle GPUs is of no use to the workload: the paper's measure.

    All that is idle, for a shape that does not fit or wants no GPU; else what the GPUs have that are too full for it.
    """
    idle = sum(devices)
    total = 0.0
    for shape, share in shapes.items():
        fitting = [room for room in devices if shape.gpu and room >= shape.gpu_millis]
        fits = shape.gpu > 0 and len(fitting) >= shape.gpu and free_cpu >= shape.cpu_millicores
        total += share * (idle - sum(fitting) if fits else idle)
    return total


def _fits(shape: Shape, free_cpu: int, free_memory: int, devices: Sequence[int]) -> bool:
    rooms = sum(room >= (shape.gpu_millis or WHOLE) for room in devices)
    return free_cpu >= shape.cpu_millicores and free_memory >= shape.memory_mib and rooms >= shape.gpu


def _millis(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else int(text) * WHOLE


def _mebibytes(text: str) -> int:
    for unit, factor in (("Ti", 1024**2), ("Gi", 1024), ("Mi", 1), ("Ki", 1 / 1024)):
        if text.endswith(unit):
            return int(int(text[:-2]) * factor)
    return -(-int(text) // 2**20)


# -- all of it


@contextmanager
def followed(planes: Mapping[str, ControlPlane], folder: Path) -> Iterator[FleetService]:
    """Follow the planes by the service that `opendt run` serves."""
    kubeconfig = write_merged_kubeconfig(
        {name: one.kubeconfig() for name, one in planes.items()}, folder / "kubeconfig"
    )
    settings = Settings(
        state_dir=folder / "state",
        environment="live",
        mode="approve",
        fleet=FleetSettings(kubeconfig=kubeconfig, binds_directly=True, scale=1.0, report_dir=folder / "reports"),
    )
    settings.state_dir.mkdir(parents=True)
    with Ledger.open(settings.ledger_address) as ledger, fleet_running(settings, ledger, EventBus()) as service:
        yield service


def run(
    planes: Mapping[str, ControlPlane],
    machines: Sequence[OpenbMachine],
    pods: Sequence[OpenbRequest],
    folder: Path,
    *,
    batch: int,
    departures: bool,
) -> dict[str, Any]:
    """Make nodes, replay and check; gives the figures."""
    make_nodes(list(planes.values()), machines)
    ender = Ender(planes)
    try:
        with followed(planes, folder) as service:
            found = replay(service, ender, pods, batch=batch, departures=departures)
    finally:
        ender.close()
    refused = [pod for pod in pods if pod.name in found.refused]
    return {
        "mode": "replay" if departures else "fill",
        "machines": len(machines),
        "clusters": len(planes),
        "pods_in_trace": len(pods),
        "placed": len(found.plans),
        "waited_for_room": len(found.waited),
        "refused": len(found.refused),
        "plans_per_s": len(found.plans) / found.plan_s if found.plan_s else 0.0,
        "wall_s": found.wall_s,
        "pods_per_s": len(found.plans) / found.wall_s,
        "statuses": dict(found.statuses),
        "verified": found.verified,
        "load": os.getloadavg(),
        **check(list(planes.values()), refused, typical_shapes(pods)),
    }


def _wait(holds: Any, what: str) -> None:
    deadline = Deadline(PATIENCE_S)
    while not holds():
        if not deadline.wait(0.05):
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")


def main() -> None:
    """Run it on the trace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("replay", "fill"), default="replay")
    parser.add_argument("--clusters", type=int, default=3)
    parser.add_argument("--pods", type=int, help="only the first so many of the list")
    parser.add_argument("--nodes", type=int, help="only the first so many of the list")
    parser.add_argument("--batch", type=int, default=200)
    options = parser.parse_args()
    program = control_plane_program().find()
    if program is None:
        sys.exit("Kubernetes is not built: make parts")
    data = Path(os.environ.get("OPENDT_DATA", ROOT.parent / "shared")) / "traces" / "alibaba-gpu-v2023"
    machines = read_openb_machines(data / "openb_node_list_all_node.csv")[: options.nodes]
    pods = read_openb_requests(data / "openb_pod_list_default.csv")[: options.pods]
    with tempfile.TemporaryDirectory(prefix="opendt-openb-") as name, ExitStack() as stack:
        folder = Path(name)
        planes = {
            f"openb-{number}": stack.enter_context(ControlPlane(program, folder / f"openb-{number}", f"openb-{number}"))
            for number in range(options.clusters)
        }
        found = run(planes, machines, pods, folder, batch=options.batch, departures=options.mode == "replay")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

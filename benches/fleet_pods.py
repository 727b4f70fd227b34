"""Jobs on real nodes: planned, created, run and verified by the service, and the same jobs by plain kube-schedulers.

    sudo python benches/fleet_pods.py [--clusters 7] [--jobs 200] [--calibrate 40] [--gap-s 12] [--rival]

Starts the fleet of deploy/fleet.yaml (real control planes, one real node each with a hard CPU quota, no KWOK nodes) in a folder of its
own. Jobs of 1 to 4 stages come at seeded random moments. The first `calibrate` of them are not judged: the twin begins without knowing how
fast anything is and learns from each stage that ends, as it does in use. What a job's stages will take nobody draws: the worker does its
work and reports its CPU seconds.

``--rival`` runs the judged jobs again: each in a cluster chosen at random, by that cluster's kube-scheduler, a stage as soon as those that it
needs have ended. Needs what `make fleet REAL=1` needs. Results are JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml

from opendt.model.job import Job
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.fleet import InfeasibleJob
from opendt.orchestrator.fleet_factory import fleet_running
from opendt.orchestrator.settings_model import FleetSettings, Settings
from opendt.verification.ledger import Ledger
from scripts.fleet.deadline import Deadline
from scripts.fleet.plan import RunPlan
from scripts.fleet.status import outside_client
from scripts.fleet.supervisor import sweep

if TYPE_CHECKING:
    from opendt.model.plan import Plan
    from opendt.orchestrator.fleet import FleetService
    from scripts.fleet.api import ApiClient

ROOT = Path(__file__).resolve().parents[1]
FLEET = ROOT / "deploy" / "fleet.yaml"
ORDER = ("dc-core", "phone-pan-1", "campus-lab", "gamer-pc", "prosumer-mining", "edge-microdc", "phone-pan-2")
WORKER = "localhost/opendt-worker"
IMAGES = {"amd64": f"{WORKER}:amd64", "arm64": f"{WORKER}:arm64", "wasm": f"{WORKER}:wasm"}
ARM_RATIO = 0.1
KINDS = ("integer", "floating_point", "sorting", "memory")
SCALE = 100.0
PODS = "/api/v1/namespaces/opendt/pods"
PATIENCE_S = 900.0


def make_jobs(count: int, clusters: Sequence[str], seed: int) -> list[Job]:
    """Draw jobs of 1 to 4 stages, each of 5 to 15 s of the reference CPU under its limit; a tenth of them for arm64 alone.

    Those are smaller (the two nodes have a tenth of a core) and do integer work: built for arm64 they run by qemu-user here, where
    other work takes up to thirty times as long.
    """
    chance = Random(seed)
    return [_job(f"job-{number:04}", clusters, chance) for number in range(count)]


def _job(name: str, clusters: Sequence[str], chance: Random) -> Job:
    stages: list[dict[str, Any]] = []
    is_arm = Random(f"{name} {len(clusters)}").random() < ARM_RATIO
    for place in range(min(chance.randint(1, 4), 2 if is_arm else 4)):
        # A chain, or a stage beside the one before it.
        needs = [f"s{place - 1}"] if place and chance.random() < 0.7 else [f"s{place - 2}"] if place > 1 else []
        millicores = chance.choice((3000, 4000, 5000)) if not is_arm else 2500
        seconds = chance.uniform(5.0, 15.0)
        stages.append(
            {
                "id": f"s{place}",
                "needs": needs,
                "cpu_millicores": millicores,
                "memory_mib": 6400,
                "work": {"kind": chance.choice(KINDS), "cpu_seconds": millicores / 1000 * seconds},
                "output_mb": round(chance.uniform(0.0, 2.0), 2),
            }
        )
        if is_arm:
            stages[-1]["work"]["kind"] = "integer"
            stages[-1]["constraints"] = {"arch": ["arm64"]}
    content = {"id": name, "origin": {"cluster": chance.choice(list(clusters))}, "stages": stages, "scale": SCALE}
    return Job.model_validate_json(json.dumps(content))


def moments(count: int, gap_s: float, seed: int) -> list[float]:
    """When jobs come, s from the start: gaps of an exponential distribution."""
    chance = Random(seed)
    found, now_s = [], 0.0
    for _ in range(count):
        found.append(now_s)
        now_s += chance.expovariate(1.0 / gap_s)
    return found


# -- the fleet


@contextmanager
def real_fleet(names: Sequence[str], folder: Path) -> Iterator[RunPlan]:
    """Start the clusters of these names with their real nodes."""
    described = yaml.safe_load(FLEET.read_text(encoding="utf-8"))
    described["clusters"] = [one for name in names for one in described["clusters"] if one["name"] == name]
    latencies = yaml.safe_load((FLEET.parent / "latency-matrix.yaml").read_text(encoding="utf-8"))
    latencies["latencies"] = [one for one in latencies["latencies"] if one["from"] in names and one["to"] in names]
    (folder / "fleet.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    (folder / "latency-matrix.yaml").write_text(yaml.safe_dump(latencies), encoding="utf-8")
    run = folder / "run"
    words = ["--folder", str(run), "--clusters", str(len(names)), "--kwok", "0", "--real", "1"]
    try:
        _fleet("up", *words, "--description", str(folder / "fleet.yaml"))
        plan = RunPlan.read(run)
        if plan is None:
            raise RuntimeError("the fleet is up, and its plan is not there")
        yield plan
    finally:
        left = RunPlan.read(run)
        if left is not None:
            _fleet("down", "--folder", str(run))
            sweep(left)


def _fleet(*words: str) -> None:
    command = [sys.executable, "-m", "scripts.fleet", *words]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")


def make_namespaces(plan: RunPlan, names: Sequence[str]) -> None:
    """Make the namespace that pods of plans are in, and its default account."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "opendt"}}
    for name in names:
        with outside_client(plan, name) as client:
            client.apply("/api/v1/namespaces/opendt", body)
            deadline = Deadline(60)
            while not client.get("/api/v1/namespaces/opendt/serviceaccounts")["items"] and deadline.wait(0.2):
                pass


# -- ours


def run_ours(service: FleetService, jobs: Sequence[Job], times_s: Sequence[float]) -> list[Plan | str]:
    """Send jobs at their moments, and wait until all are over; a job that is refused has the reason."""
    began_s = time.monotonic()
    # Who waits for room keeps nobody behind it waiting.
    with ThreadPoolExecutor(32) as pool:
        asked = []
        for job, at_s in zip(jobs, times_s, strict=True):
            _sleep_until(began_s + at_s)
            asked.append(pool.submit(_planned, service, job))
            load = os.getloadavg()[0]
            print(f"{job.id}: {len(service.keeper.runs)} run, load {load:.1f}", file=sys.stderr, flush=True)
        found = [one.result() for one in asked]
    deadline = Deadline(PATIENCE_S)
    while service.keeper.runs and deadline.wait(0.2):
        pass
    return found


def _planned(service: FleetService, job: Job) -> Plan | str:
    """Ask until there is room for it; what it waited for that is part of no prediction."""
    deadline = Deadline(PATIENCE_S)
    while True:
        try:
            return service.plan(job)
        except InfeasibleJob as error:
            if not deadline.wait(1.0):
                return str(error)


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(moment_s - time.monotonic(), 0.0))


def judge(service: FleetService, jobs: Sequence[Job], plans: Sequence[Plan | str]) -> list[dict[str, Any]]:
    """Hold each plan against what happened."""
    rows: list[dict[str, Any]] = []
    for job, plan in zip(jobs, plans, strict=True):
        if isinstance(plan, str):
            rows.append({"job": job.id, "status": "refused", "reason": plan})
            continue
        record = service.record(plan.plan_id)
        row: dict[str, Any] = {
            "job": job.id,
            "status": record.status,
            "accepted_ms": plan.accepted_ms,
            "arch": "arm64" if job.stages[0].constraints.arch else "any",
            "clusters": sorted({one.cluster for one in plan.placements.values()}),
        }
        if record.verdict is not None and plan.prediction is not None:
            latency, cpu = record.verdict.latency_ms, record.verdict.cpu_seconds
            row |= {
                "predicted_ms": latency.predicted,
                "observed_ms": latency.observed,
                "error": latency.error_ratio,
                "covered": latency.in_interval,
                "cpu_error": cpu.error_ratio,
                "closed_form_ms": plan.prediction.closed_form_latency_ms,
            }
        if record.observation is not None and plan.prediction is not None:
            row["stages"] = _stages(plan, record.observation.stages)
        rows.append(row)
    return rows


def _stages(plan: Plan, observed: Sequence[Any]) -> list[dict[str, Any]]:
    said = {one.stage_id: one for one in plan.prediction.stages} if plan.prediction else {}
    return [
        {
            "stage": one.stage_id,
            "node": one.node_name,
            "phase": one.phase,
            "reason": one.reason,
            "predicted_start_ms": said[one.stage_id].start_ms,
            "observed_start_ms": None if one.started_ms is None else one.started_ms - plan.accepted_ms,
            "predicted_run_ms": said[one.stage_id].time.run_ms,
            "observed_run_ms": None
            if one.finished_ms is None or one.started_ms is None
            else one.finished_ms - one.started_ms,
            "predicted_cpu_s": said[one.stage_id].cpu_seconds,
            "observed_cpu_s": one.cpu_seconds,
        }
        for one in observed
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares and percentiles over judged plans."""
    done = [row for row in rows if row.get("observed_ms")]
    if not done:
        return {"jobs": len(rows), "statuses": dict(Counter(row["status"] for row in rows))}
    errors = np.array([row["error"] for row in done])
    cpu = np.array([row["cpu_error"] for row in done if row["cpu_error"] is not None])
    observed = np.array([row["observed_ms"] for row in done])
    closed = np.array([row["closed_form_ms"] for row in done])
    of_arm = np.array([row["arch"] == "arm64" for row in done])
    return {
        "jobs": len(rows),
        "statuses": dict(Counter(row["status"] for row in rows)),
        "within_10_percent": float((abs(errors) <= 0.1).mean()),
        "cpu_within_10_percent": float((abs(cpu) <= 0.1).mean()) if len(cpu) else None,
        "covered": float(np.mean([bool(row["covered"]) for row in done])),
        "mean_error": float(abs(errors).mean()),
        "median_error": float(np.median(abs(errors))),
        "bias": float(errors.mean()),
        "closed_form_mean_error": float(abs(closed / observed - 1).mean()),
        "arm64": None if not of_arm.any() else float((abs(errors[of_arm]) <= 0.1).mean()),
        "arm64_jobs": int(of_arm.sum()),
        "latency_p50_ms": float(np.percentile(observed, 50)),
        "latency_p95_ms": float(np.percentile(observed, 95)),
    }


# -- the rival


class Rival:
    """Runs jobs without us: a cluster at random, and its kube-scheduler."""

    def __init__(self, plan: RunPlan, names: Sequence[str], seed: int) -> None:
        self._plan = plan
        self._names = list(names)
        self._chance = Random(seed)
        self.latency_ms: dict[str, float | None] = {}
        self._arch: dict[str, str] = {}
        for name in self._names:
            with outside_client(plan, name) as client:
                labels = client.get("/api/v1/nodes")["items"][0]["metadata"]["labels"]
                self._arch[name] = labels["kubernetes.io/arch"]

    def run(self, jobs: Sequence[Job], times_s: Sequence[float]) -> None:
        """Send jobs at their moments, each followed by a thread of its own."""
        began_s = time.monotonic()
        threads = []
        for job, at_s in zip(jobs, times_s, strict=True):
            _sleep_until(began_s + at_s)
            name = self._chance.choice(self._able(job))
            threads.append(threading.Thread(target=self._follow, args=(job, name), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(PATIENCE_S)

    def _able(self, job: Job) -> list[str]:
        """Clusters whose node has the architecture that a job needs: where its user would not send it in vain."""
        wanted = job.stages[0].constraints.arch
        return [name for name in self._names if not wanted or self._arch[name] in wanted]

    def _follow(self, job: Job, name: str) -> None:
        accepted_ms = time.time() * 1000
        ended: dict[str, int] = {}
        asked: set[str] = set()
        self.latency_ms[job.id] = None
        deadline = Deadline(PATIENCE_S)
        with outside_client(self._plan, name) as client:
            while len(ended) < len(job.stages):
                for stage in job.stages:
                    if stage.id not in asked and all(need in ended for need in stage.needs):
                        client.request("POST", PODS, rival_pod(job, stage.id, self._arch[name]))
                        asked.add(stage.id)
                for stage_id in asked - ended.keys():
                    finished_ms = _finished_ms(client, f"{PODS}/rival-{job.id}-{stage_id}")
                    if finished_ms is not None:
                        ended[stage_id] = finished_ms
                if not deadline.wait(0.2):
                    return
        self.latency_ms[job.id] = max(ended.values()) - accepted_ms


def rival_pod(job: Job, stage_id: str, arch: str) -> dict[str, Any]:
    """Make the pod of a stage as somebody without us would: its requests and nothing about nodes."""
    stage = next(one for one in job.stages if one.id == stage_id)
    scale = job.scale or SCALE
    cpu, memory = f"{round(stage.cpu_millicores / scale)}m", f"{round(stage.memory_mib / scale)}Mi"
    work = stage.work
    words = [
        f"--kind={work.kind if work else 'integer'}",
        f"--cpu-seconds={(work.cpu_seconds if work else 0.0) / scale:.6f}",
        f"--memory-mib={stage.memory_mib / scale - 32:.1f}",
    ]
    container = {
        "name": "worker",
        "image": IMAGES[arch],
        "imagePullPolicy": "Never",
        "args": words,
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": user,
        "containers": [container],
    }
    metadata = {"name": f"rival-{job.id}-{stage_id}", "namespace": "opendt"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _finished_ms(client: ApiClient, path: str) -> int | None:
    for status in client.get(path)["status"].get("containerStatuses", ()):
        said = status["state"].get("terminated")
        if said is not None:
            return int(json.loads(said["message"])["finished_ms"])
    return None


def paired(rows: Sequence[Mapping[str, Any]], rival: Mapping[str, float | None]) -> dict[str, Any]:
    """Compare the same jobs, one by one."""
    pairs = [
        (row["observed_ms"], rival[row["job"]]) for row in rows if row.get("observed_ms") and rival.get(row["job"])
    ]
    ours, theirs = (np.array(side) for side in zip(*pairs, strict=True))
    return {
        "pairs": len(pairs),
        "rival_p50_ms": float(np.percentile(theirs, 50)),
        "rival_p95_ms": float(np.percentile(theirs, 95)),
        "rival_lost": sum(value is None for value in rival.values()),
        "median_difference_ms": float(np.median(ours - theirs)),
        "median_ratio": float(np.median(ours / theirs)),
        "ours_quicker": float((ours < theirs).mean()),
    }


# -- all of it


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--calibrate", type=int, default=40)
    parser.add_argument("--gap-s", type=float, default=12.0, help="mean time between jobs")
    parser.add_argument("--strategy", default="greedy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rival", action="store_true")
    parser.add_argument("--rows", action="store_true", help="print each plan too")
    options = parser.parse_args()
    names = ORDER[: options.clusters]
    jobs = make_jobs(options.calibrate + options.jobs, names, options.seed)
    times_s = moments(len(jobs), options.gap_s, options.seed + 1)
    folder = Path(tempfile.mkdtemp(prefix="odp-"))  # short: the path of a socket may hold 107 bytes
    found: dict[str, Any] = {"clusters": names, "gap_s": options.gap_s, "calibrated_on": options.calibrate}
    try:
        with real_fleet(names, folder) as plan:
            make_namespaces(plan, names)
            rows = _ours(plan, folder, jobs, times_s, options.strategy)
            judged = rows[options.calibrate :]
            found |= {"calibration": summary(rows[: options.calibrate]), "judged": summary(judged)}
            if options.rival:
                rival = Rival(plan, names, options.seed)
                some = jobs[options.calibrate :]
                rival.run(some, [moment - times_s[options.calibrate] for moment in times_s[options.calibrate :]])
                found["rival"] = paired(judged, rival.latency_ms)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found |= {"load": os.getloadavg(), "own_cpu_s": sum(resource.getrusage(resource.RUSAGE_SELF)[:2])}
    print(json.dumps(found | ({"rows": rows} if options.rows else {}), indent=1))


def _ours(
    plan: RunPlan, folder: Path, jobs: Sequence[Job], times_s: Sequence[float], strategy: str
) -> list[dict[str, Any]]:
    fleet = FleetSettings(
        kubeconfig=plan.kubeconfig,
        spec=folder / "fleet.yaml",
        images=IMAGES,
        image_pull_policy="Never",
        strategy=strategy,
        scale=SCALE,
        report_dir=folder / "reports",
    )
    settings = Settings(state_dir=folder / "state", environment="live", mode="approve", fleet=fleet)
    settings.state_dir.mkdir()
    with Ledger.open(settings.ledger_address) as ledger, fleet_running(settings, ledger, _bus()) as service:
        return judge(service, jobs, run_ours(service, jobs, times_s))


def _bus() -> EventBus:
    bus = EventBus()
    tell: Callable[[Any], None] = lambda notice: (  # noqa: E731
        print(notice.event.said, file=sys.stderr, flush=True) if notice.event.level in ("warning", "error") else None
    )
    bus.subscribe(tell)
    return bus


if __name__ == "__main__":
    main()

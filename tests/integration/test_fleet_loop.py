"""The loop of a fleet on two real control planes: planned, made, run, verified and learned from, as users do it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from opendt.model.job import Job
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.fleet_factory import fleet_running
from opendt.orchestrator.settings import load_settings
from opendt.verification.ledger import Ledger
from tests.fleet import ControlPlane, eventually, merged_kubeconfig
from tests.played_fleet import Played, Service, add_played_nodes, annotate, hidden_draw, job_of, pods_in

Planes = dict[str, ControlPlane]


@pytest.fixture(scope="module")
def planes(two_planes: Planes) -> Planes:
    for name, plane in two_planes.items():
        add_played_nodes(plane, 2, name)
    return two_planes


@pytest.fixture
def played(planes: Planes, tmp_path: Path) -> Played:
    return Played(tmp_path / "fleet", merged_kubeconfig(planes, tmp_path / "kubeconfig"), {})


@pytest.fixture(scope="module")
def served(planes: Planes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests that only ask it."""
    folder = tmp_path_factory.mktemp("served")
    made = Played(folder / "fleet", merged_kubeconfig(planes, folder / "kubeconfig"), {})
    with made.running() as service:
        yield service


def test_a_job_becomes_pods_of_a_known_draw_and_is_verified_and_learned_from(planes: Planes, played: Played) -> None:
    settings = load_settings(played.file)
    bus = EventBus()
    settings.state_dir.mkdir(parents=True)
    with (
        Ledger.open(settings.ledger_address) as ledger,
        fleet_running(settings, ledger, bus, annotate=partial(annotate, played.seed)) as service,
    ):
        job = Job.model_validate_json(json.dumps(job_of("in-process")))
        plan = service.plan(job)
        eventually(lambda: service.record(plan.plan_id).status == "succeeded", "the plan succeeded", 60)
        record = service.record(plan.plan_id)
        learned = service.planner.state()
    assert record.observation is not None
    assert record.verdict is not None
    drawn = {stage.id: hidden_draw(played.seed, plan, job, stage.id) for stage in job.stages}
    for seen in record.observation.stages:
        assert seen.cpu_seconds == pytest.approx(drawn[seen.stage_id].cpu_seconds)
        assert seen.started_ms is not None
        assert seen.finished_ms is not None
        # Nodes say whole seconds, and KWOK ends a pod when it gets to it.
        assert seen.finished_ms - seen.started_ms >= drawn[seen.stage_id].seconds * 1000 - 1000
    assert record.verdict.is_complete
    assert record.verdict.cpu_seconds.observed == pytest.approx(sum(one.cpu_seconds for one in drawn.values()))
    assert record.verdict.energy_kwh.is_modelled
    made = [pod for plane in planes.values() for pod in pods_in(plane)]
    mine = [pod for pod in made if pod["metadata"]["labels"]["opendt.io/plan-id"] == plan.plan_id]
    assert sorted(pod["metadata"]["labels"]["opendt.io/stage"] for pod in mine) == ["s0", "s1", "s2"]
    where = {stage: (place.cluster, place.node_name) for stage, place in plan.placements.items()}
    assert {pod["metadata"]["labels"]["opendt.io/stage"]: pod["spec"]["nodeName"] for pod in mine} == {
        stage: node for stage, (_, node) in where.items()
    }
    assert "calibration" in learned
    reports = settings.fleet.report_dir
    assert (reports / "latency.csv").read_text(encoding="utf-8").count(plan.plan_id) == 1
    assert (reports / "latency.parquet").exists()
    kinds = [notice.event.kind for notice in bus.recent()]
    assert kinds.count("stage_finished") == 3
    assert kinds[-2:] == ["plan_finished", "plan_verified"]


def test_a_job_is_planned_run_and_verified_by_command(served: Service) -> None:
    played = served.played
    file = played.folder / "job.yaml"
    file.write_text(yaml.safe_dump(job_of("by-command", stages=2)), encoding="utf-8")
    dry = json.loads(played.command("plan", file, "--dry-run", "--json").stdout)
    assert dry["plan_id"].startswith("dry-")
    said = played.command("plan", file).stdout
    plan_id = said.split(":", 1)[0]
    assert dry["plan_id"] == f"dry-{plan_id}"
    assert "latency" in said
    assert played.command("plan", file).stdout == said, "asked twice, it is the same plan"
    assert "not over yet" in played.command("verify", dry["plan_id"]).stdout
    served.wait_over(plan_id)
    verdict = json.loads(played.command("verify", plan_id, "--json").stdout)
    assert verdict["is_complete"]
    assert verdict["cpu_seconds"]["observed"] == pytest.approx(verdict["cpu_seconds"]["predicted"], rel=0.3)
    assert "s0 on " in played.command("explain", plan_id).stdout
    snapshot = played.command("snapshot").stdout
    assert "left   2 of 2 nodes ready, 8.0 cores" in snapshot

    def told() -> list[str]:
        events = [json.loads(line) for line in played.command("events", "--json").stdout.splitlines()]
        return [one["kind"] for one in events if one["content"].get("plan") == plan_id]

    expected = ["plan_accepted", "fleet_action", "fleet_action", "plan_finished", "plan_verified"]
    eventually(lambda: told() == expected, "events are kept a moment after they are told")
    assert "plan by-command-" in played.command("events", "--kind", "plan_finished").stdout
    unknown = played.command("verify", "nothing", code=1)
    assert "plan nothing is not known to fleet fleet" in unknown.stderr


def test_what_people_do_by_hand_is_done_and_kept(planes: Planes, served: Service) -> None:
    played = served.played
    with planes["left"].client() as client:
        node = client.get("/api/v1/nodes")["items"][0]["metadata"]["name"]

        def is_cordoned() -> bool:
            return bool(client.get(f"/api/v1/nodes/{node}")["spec"].get("unschedulable", False))

        assert "would be done" in played.command("act", "cordon", "left", node, "--dry-run").stdout
        assert not is_cordoned()
        assert played.command("act", "cordon", "left", node).stdout == f"cordon node/{node} in left: done\n"
        assert is_cordoned()
        eventually(
            lambda: any(one["is_cordoned"] for one in served.get("/snapshot")["nodes"] if one["name"] == node),
            "the twin sees it",
        )
        assert "it was so already" in played.command("act", "cordon", "left", node).stdout
        assert "done" in played.command("act", "uncordon", "left", node).stdout
        assert not is_cordoned()
        gone = json.loads(played.command("act", "evict", "left", "opendt/nobody", "--json").stdout)
        assert gone["outcome"] == "unchanged"
        failed = played.command("act", "scale", "left", "opendt/nothing", 2, code=1)
        assert "scale deployment/opendt/nothing in left: " in failed.stderr
        assert "not found" in failed.stderr
    where = played.command("act", "cordon", "nowhere", node, code=1)
    assert "cluster: found 'nowhere', expected one of left, right" in where.stderr
    said = lambda: played.command("events", "--kind", "fleet_action").stdout  # noqa: E731
    eventually(lambda: f"cordon node/{node} in left" in said(), "it is among the events")
    job = served.plan(job_of("moved-by-hand", stages=1, seconds=20.0))
    (place,) = job["placements"].values()
    eventually(lambda: bool(served.get(f"/plan/{job['plan_id']}")["observation"]["stages"]), "its pod is there")
    moved = played.command("act", "migrate", job["plan_id"], "s0").stdout
    assert moved.startswith(f"migrate stage/{job['plan_id']}/s0 in {place['cluster']}: done, on ")
    again = played.command("act", "migrate", job["plan_id"], "s0", code=1)
    assert "has been moved already" in again.stderr
    served.wait_over(job["plan_id"])
    assert served.get(f"/plan/{job['plan_id']}/verify")["is_complete"]


def test_a_stage_runs_a_second_time_and_one_end_counts(served: Service) -> None:
    played, job = served.played, served.plan(job_of("twice", stages=1, seconds=20.0))
    plan_id = job["plan_id"]
    eventually(lambda: bool(served.get(f"/plan/{plan_id}")["observation"]["stages"]), "its pod is there")
    assert ": done" in played.command("act", "replicate", plan_id, "s0").stdout

    def pods() -> list[dict[str, object]]:
        return [pod for pod in served.get("/snapshot")["pods"] if pod["plan_id"] == plan_id]

    eventually(lambda: {pod["role"] for pod in pods()} == {"stage", "replica"}, "both pods are there")
    assert len({(pod["cluster"], pod["node"]) for pod in pods()}) == 2
    again = played.command("act", "replicate", plan_id, "s0", code=1)
    assert "has been replicated already" in again.stderr
    served.wait_over(plan_id)
    eventually(lambda: len(pods()) == 1, "the other pod is removed")
    (kept,) = pods()
    (seen,) = served.get(f"/plan/{plan_id}")["observation"]["stages"]
    assert (seen["phase"], seen["node_name"]) == ("succeeded", kept["node"])


def test_problems_say_what_to_do(served: Service) -> None:
    status, said = served.ask("POST", "/plan", {"job": job_of("huge") | {"deadline_ms": 1}})
    assert (status, said["type"]) == (422, "urn:opendt:problem:infeasible-job")
    assert said["infeasible"]["remedy"]
    job = job_of("too-big", stages=1)
    job["stages"][0]["cpu_millicores"] = 900_000
    status, said = served.ask("POST", "/plan", {"job": job})
    assert (status, said["type"]) == (422, "urn:opendt:problem:infeasible-job")
    assert {one["stage_id"] for one in said["infeasible"]["misfits"]} == {"s0"}
    status, said = served.ask("POST", "/plan", {"job": job_of("wrong") | {"origin": {"cluster": "nowhere"}}})
    assert (status, said["errors"][0]["expected"]) == (422, "one of left, right")
    status, said = served.ask("GET", "/plan/nothing/verify")
    assert (status, said["type"]) == (404, "urn:opendt:problem:unknown-plan")


def test_what_happens_to_a_plan_is_streamed(served: Service) -> None:
    plan = served.plan(job_of("streamed", stages=1))
    url = f"http://127.0.0.1:{served.played.port}/plan/{plan['plan_id']}/events"
    with urllib.request.urlopen(url, timeout=60) as stream:
        lines = [line.decode().strip() for line in stream]  # it ends when the plan is over
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert kinds == [
        "plan_accepted",
        "fleet_action",
        "stage_started",
        "stage_finished",
        "plan_finished",
        "plan_verified",
    ]


def test_a_batch_runs_and_each_of_it_is_verified(served: Service) -> None:
    jobs = [job_of(f"batch-{number}", stages=1 + number % 2, seconds=0.5) for number in range(8)]
    status, said = served.ask("POST", "/plans", {"jobs": jobs})
    assert status == 200, said
    plans = [plan["plan_id"] for plan in said["plans"]]
    served.wait_over(*plans)
    for plan in plans:
        assert served.get(f"/plan/{plan}/verify")["is_complete"]
    places = {(place["cluster"], place["node_name"]) for plan in said["plans"] for place in plan["placements"].values()}
    assert len(places) > 1, "each sees the ones before it"


def test_the_snapshot_is_what_the_api_servers_have(planes: Planes, served: Service) -> None:
    def same() -> bool:
        seen = {(pod["cluster"], pod["name"]): pod["phase"] for pod in served.get("/snapshot")["pods"]}
        there = {
            (name, pod["metadata"]["name"]): pod["status"]["phase"]
            for name, plane in planes.items()
            for pod in pods_in(plane)
        }
        return seen == there

    eventually(same, "the snapshot has every pod as it is")

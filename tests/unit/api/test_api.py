"""The fleet over HTTP, as a client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi.testclient import TestClient

from opendt.api.app import create_app, serving
from opendt.api.routes.fleet import schemas
from opendt.model.errors import InputError
from opendt.orchestrator.fleet_ports import ActionError
from opendt.verification.ledger import Ledger
from tests.told_fleet import NOW_MS, SmallFleet, job


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SmallFleet]:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        made = SmallFleet(ledger)
        yield made
        made.keeper.close()


@pytest.fixture
def client(fleet: SmallFleet) -> Iterator[TestClient]:
    with TestClient(create_app(fleet.service), raise_server_exceptions=True) as made:
        yield made


def body(name: str = "job-1", **changes: Any) -> dict[str, Any]:
    return {"job": json.loads(job(name).model_dump_json()), **changes}


def test_a_plan_is_answered_with_placements_and_predictions(client: TestClient) -> None:
    answer = client.post("/plan", json=body(strategy="resilient"))
    assert answer.status_code == 200
    said = answer.json()
    assert said["placements"]["first"] == {
        "stage_id": "first",
        "node_name": "a-1",
        "cluster": "a",
        "exec_format": "native",
    }
    assert said["predicted_latency_ms"] == 20_000
    assert said["predicted_energy_kwh"] == 1e-4
    assert said["predicted_cpu_seconds"] == 20
    assert said["predicted_memory_peak_mib"] == 64
    assert said["risk_score"] == 0.02
    assert said["shadow_plan"]["second"]["cluster"] == "b"
    assert set(said["intervals"]) == {"latency_ms", "energy_kwh", "cpu_seconds", "memory_peak_mib"}
    assert said["explanation"] == "resilient: all on a"


def test_of_a_batch_what_can_be_placed_is_where_that_will_do(client: TestClient, fleet: SmallFleet) -> None:
    fleet.planner.refuses.add("job-2")
    jobs = [body(name)["job"] for name in ("job-1", "job-2")]
    assert client.post("/plans", json={"jobs": jobs}).status_code == 422
    said = client.post("/plans", json={"jobs": jobs, "partial": True}).json()
    assert [plan["job_id"] for plan in said["plans"]] == ["job-1"]
    assert said["infeasible"]["job-2"]["remedy"] == "ask for 4 cores in stage first"


def test_a_pod_that_waits_has_a_start_whoever_made_it(client: TestClient, fleet: SmallFleet) -> None:
    client.post("/plan", json=body())
    fleet.settle()
    (pod,) = fleet.state.snapshot().pods.values()
    start = client.get(f"/pod/a/{pod.namespace}/{pod.name}/start").json()
    assert start == {"quantiles_ms": {"0.5": NOW_MS + 60_000}, "reason": "waits for room on its node"}
    unknown = client.get("/pod/a/opendt/nothing/start")
    assert unknown.status_code == 422
    assert unknown.json()["detail"].startswith("pod: found 'a/opendt/nothing', expected a pod of the fleet")


def test_a_plan_is_followed_verified_and_explained(client: TestClient, fleet: SmallFleet) -> None:
    plan_id = client.post("/plan", json=body()).json()["plan_id"]
    fleet.settle()
    start = client.get(f"/plan/{plan_id}/start").json()
    assert start["second"]["reason"] == "waits for stage first"
    fleet.finish("first")
    fleet.finish("second")
    record = client.get(f"/plan/{plan_id}").json()
    assert record["status"] == "succeeded"
    verdict = client.get(f"/plan/{plan_id}/verify").json()
    assert verdict["latency_ms"] == {
        "predicted": 20_000.0,
        "observed": 20_000.0,
        "error_ratio": 0.0,
        "within_tolerance": True,
        "in_interval": True,
        "is_modelled": False,
    }
    assert client.get(f"/plan/{plan_id}/explain").json()["explanation"] == "greedy: all on a"
    stream = client.get(f"/plan/{plan_id}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    kinds = [line.removeprefix("event: ") for line in stream.text.splitlines() if line.startswith("event: ")]
    assert kinds[0] == "plan_accepted"
    assert kinds[-1] == "plan_verified"
    last = [line for line in stream.text.splitlines() if line.startswith("id: ")][-1].removeprefix("id: ")
    assert client.get(f"/plan/{plan_id}/events", headers={"Last-Event-ID": last}).text == ""


def test_batches_are_planned_in_order(client: TestClient) -> None:
    jobs = [body(name)["job"] for name in ("job-1", "job-2")]
    plans = client.post("/plans", json={"jobs": jobs, "dry_run": True}).json()["plans"]
    assert [plan["job_id"] for plan in plans] == ["job-1", "job-2"]
    assert all(plan["dry_run"] for plan in plans)


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["status"] == status
    return said


def test_problems_name_what_was_wrong_and_what_was_expected(client: TestClient, fleet: SmallFleet) -> None:
    missing = problem_of(client.post("/plan", json={"job": {"id": "x"}}), 422)
    assert missing["detail"] == "job.stages: found nothing, expected this field"
    wrong = body()
    wrong["job"]["stages"][0]["cpu_millicores"] = -4
    bad = problem_of(client.post("/plan", json=wrong), 422)
    assert bad["errors"][0]["place"] == "job.stages.0.cpu_millicores"
    assert bad["errors"][0]["found"] == "-4"
    circle = body()
    circle["job"]["stages"][0]["needs"] = ["second"]
    assert "first, second need each other in a circle" in problem_of(client.post("/plan", json=circle), 422)["detail"]
    broken = client.post("/plan", content=b"{", headers={"content-type": "application/json"})
    assert problem_of(broken, 400)["type"] == "urn:opendt:problem:unreadable"
    assert problem_of(client.post("/plan", json=body(strategy="best")), 422)["errors"][0]["expected"] == (
        "one of greedy, resilient"
    )
    fleet.planner.refuses.add("job-9")
    infeasible = problem_of(client.post("/plan", json=body("job-9")), 422)
    assert infeasible["type"] == "urn:opendt:problem:infeasible-job"
    assert infeasible["infeasible"]["misfits"][0]["remedy"] == "ask for 4 cores"
    assert problem_of(client.get("/plan/nothing"), 404)["type"] == "urn:opendt:problem:unknown-plan"
    assert problem_of(client.get("/plan/nothing/events"), 404)
    assert problem_of(client.get("/nowhere"), 404)
    assert problem_of(client.delete("/plan"), 405)
    client.post("/plan", json=body())
    changed = body()
    changed["job"]["deadline_ms"] = 1
    assert problem_of(client.post("/plan", json=changed), 409)["type"] == "urn:opendt:problem:job-conflict"


def test_a_snapshot_is_what_its_schema_says_and_is_not_sent_twice(client: TestClient, fleet: SmallFleet) -> None:
    client.post("/plan", json=body())
    fleet.settle()
    answer = client.get("/snapshot")
    said = answer.json()
    jsonschema.validate(said, schemas()["snapshot"])
    assert [node["name"] for node in said["nodes"]] == ["a-1", "b-1"]
    assert said["pods"][0]["stage_id"] == "first"
    assert {"from": "a", "to": "b", "latency_ms": 0.0} in said["latency"]
    assert said["job_origins"] == {"job-1": "a"}
    assert client.get("/snapshot", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    part = client.get("/snapshot", params={"cluster": "b", "pods": "false"}).json()
    assert ([node["name"] for node in part["nodes"]], part["pods"]) == (["b-1"], [])
    assert "expected one of a, b" in problem_of(client.get("/snapshot?cluster=c"), 404)["detail"]


def test_observations_change_the_snapshot(client: TestClient) -> None:
    answer = client.post("/observe", json={"type": "node_down", "cluster": "b", "node": "b-1"})
    assert answer.status_code == 202
    nodes = {node["name"]: node["is_ready"] for node in client.get("/snapshot").json()["nodes"]}
    assert nodes == {"a-1": True, "b-1": False}
    assert problem_of(client.post("/observe", json={"type": "flood"}), 422)
    assert problem_of(client.post("/observe", json={"type": "node_up", "cluster": "z", "node": "b-1"}), 422)


def test_schemas_are_there_and_describe_what_is_taken(client: TestClient) -> None:
    for name in ("job", "plan", "plans", "observe", "snapshot"):
        schema = client.get(f"/schemas/{name}").json()
        jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(body()["job"], client.get("/schemas/job").json())
    jsonschema.validate({"type": "node_up", "cluster": "a", "node": "b"}, client.get("/schemas/observe").json())
    assert "expected one of job, plan" in problem_of(client.get("/schemas/nothing"), 404)["detail"]
    assert "/plan/{plan_id}/verify" in client.get("/openapi.json").json()["paths"]


def test_who_may_not_call_is_kept_out(fleet: SmallFleet) -> None:
    with pytest.raises(InputError, match=r"api\.host: found '0\.0\.0\.0', expected a loopback address, or a token"):
        create_app(fleet.service, host="0.0.0.0")
    with TestClient(create_app(fleet.service, token="secret")) as client:
        assert problem_of(client.get("/snapshot"), 401)
        assert problem_of(client.get("/snapshot", headers={"Authorization": "Bearer wrong"}), 401)
        assert client.get("/snapshot", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health").status_code == 200
    with TestClient(create_app(fleet.service), base_url="http://evil.example") as client:
        assert problem_of(client.get("/snapshot"), 421)
    with TestClient(create_app(fleet.service)) as client:
        as_form = client.post("/plan", content=b"{}", headers={"content-type": "text/plain"})
        assert problem_of(as_form, 415)
        huge = client.post("/plan", content=b" " * (17 * 2**20), headers={"content-type": "application/json"})
        assert problem_of(huge, 413)


def test_an_extender_is_served_where_there_is_one(fleet: SmallFleet) -> None:
    app = create_app(fleet.service, extender=lambda verb, body: json.dumps([verb, json.loads(body)]).encode())
    with TestClient(app) as client:
        assert client.post("/scheduler/prioritize", json={"NodeNames": []}).json() == ["prioritize", {"NodeNames": []}]
        assert client.post("/scheduler/filter", json={}).json() == ["filter", {}]


def test_it_is_served_on_a_port_of_this_machine_and_a_taken_one_is_named(fleet: SmallFleet) -> None:
    app = create_app(fleet.service)
    with serving(app, "127.0.0.1", 0) as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/health").json()["fleet"] == "fleet"
        taken = pytest.raises(InputError, match=rf"api\.port: found 127\.0\.0\.1:{port} \(Address already in use\)")
        with taken, serving(app, "127.0.0.1", port):
            pass


def asked(action: str, **request: Any) -> dict[str, Any]:
    return {"request": {"action": action, **request}}


def test_what_people_ask_for_is_written_down_done_and_told(client: TestClient, fleet: SmallFleet) -> None:
    said = client.post("/actions", json=asked("cordon", cluster="a", node="a-1")).json()
    assert (said["outcome"], said["target"], said["message"]) == ("done", "node/a-1", "")
    assert [(one.action, one.node, dry) for one, dry in fleet.hands.acted] == [("cordon", "a-1", False)]
    documents = [row.document for row in fleet.ledger.documents("plans", "fleet", proposal_id=said["action_id"])]
    assert [one.content["what"] for one in documents] == ["asked", "came"]
    assert documents[0].content["request"]["node"] == "a-1"
    assert documents[1].content["outcome"] == "done"
    told = [notice.event for notice in fleet.notices if notice.event.kind == "fleet_action"]
    assert told[-1].said == "cordon node/a-1 in a"
    fleet.hands.changes = False
    scale = asked("scale", cluster="b", namespace="web", deployment="shop", replicas=3)
    assert client.post("/actions", json=scale).json()["outcome"] == "unchanged"
    # Plans are read as if nobody had asked for anything.
    client.post("/plan", json=body())
    assert [one.plan.job_id for one in fleet.book.load()] == ["job-1"]


def test_a_dry_run_of_an_action_writes_nothing(client: TestClient, fleet: SmallFleet) -> None:
    evict = asked("evict", cluster="a", namespace="web", pod="shop-1", grace_s=5)
    said = client.post("/actions", json=evict | {"dry_run": True}).json()
    assert (said["outcome"], said["action_id"]) == ("would_be_done", "")
    assert fleet.hands.acted[0][1] is True
    assert list(fleet.ledger.documents("plans", "fleet")) == []


def test_an_action_that_fails_is_told_with_its_reason(client: TestClient, fleet: SmallFleet) -> None:
    fleet.hands.refusal = ActionError("its budget allows no disruption", is_final=True)
    said = client.post("/actions", json=asked("evict", cluster="a", namespace="web", pod="shop-1")).json()
    assert (said["outcome"], said["message"]) == ("failed", "its budget allows no disruption")
    told = [notice.event for notice in fleet.notices if notice.event.kind == "fleet_action_failed"]
    assert told[-1].said == "evict pod/web/shop-1 in a failed: its budget allows no disruption"


def test_a_stage_is_moved_to_its_shadow(client: TestClient, fleet: SmallFleet) -> None:
    plan_id = client.post("/plan", json=body(strategy="resilient")).json()["plan_id"]
    fleet.settle()
    move = asked("migrate", plan_id=plan_id, stage_id="first")
    assert client.post("/actions", json=move | {"dry_run": True}).json()["outcome"] == "would_be_done"
    said = client.post("/actions", json=move).json()
    assert (said["outcome"], said["cluster"], said["message"]) == ("done", "a", "on b-1 in b")
    fleet.settle()
    assert fleet.pod("first-shadow", "b").plan_id == plan_id
    assert fleet.hands.deleted == [f"{plan_id}-first"]
    again = client.post("/actions", json=move)
    assert again.status_code == 409
    assert "has been moved already" in again.json()["detail"]
    gone = client.post("/actions", json=asked("migrate", plan_id=plan_id, stage_id="none"))
    assert "found none under way" in gone.json()["detail"]


def test_a_stage_is_run_a_second_time_at_its_shadow(client: TestClient, fleet: SmallFleet) -> None:
    plan_id = client.post("/plan", json=body(strategy="resilient")).json()["plan_id"]
    more = asked("replicate", plan_id=plan_id, stage_id="first")
    early = client.post("/actions", json=more | {"dry_run": True})
    assert early.status_code == 409
    assert "its own pod has not been seen yet" in early.json()["detail"]
    fleet.settle()
    assert client.post("/actions", json=more | {"dry_run": True}).json()["outcome"] == "would_be_done"
    assert client.post("/actions", json=more).json()["outcome"] == "done"
    fleet.settle()
    assert {fleet.pod("first").cluster, fleet.pod("first-replica", "b").cluster} == {"a", "b"}
    told = [notice.event for notice in fleet.notices if notice.event.kind == "fleet_action"]
    assert f"replicate stage/{plan_id}/first in a" in [event.said for event in told]
    again = client.post("/actions", json=more)
    assert (again.status_code, "replicated already" in again.json()["detail"]) == (409, True)


def test_actions_that_cannot_be_are_refused_by_name(client: TestClient, fleet: SmallFleet) -> None:
    for request, status, words in (
        (asked("cordon", cluster="nowhere", node="x"), 422, "cluster: found 'nowhere', expected one of a, b"),
        (asked("cordon", cluster="Admin@west", node="x"), 422, "cluster: found 'Admin@west', expected one of a, b"),
        (asked("reboot", cluster="a", node="x"), 422, "request"),
        (asked("scale", cluster="a", namespace="web", deployment="shop", replicas=-1), 422, "replicas"),
        (asked("cordon", cluster="a", node="../secrets"), 422, "node"),
    ):
        answer = client.post("/actions", json=request)
        assert answer.status_code == status, answer.json()
        assert words in answer.json()["detail"]
    assert fleet.hands.acted == []


def test_where_nothing_may_act_nothing_does(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        fleet = SmallFleet(ledger, may_act=False)
        with TestClient(create_app(fleet.service)) as client:
            answer = client.post("/actions", json=asked("cordon", cluster="a", node="a-1"))
        assert answer.status_code == 409
        assert (
            "nothing may act on fleet fleet. Set environment to live, and mode to approve or auto"
            in answer.json()["detail"]
        )
        assert fleet.hands.acted == []
        fleet.keeper.close()

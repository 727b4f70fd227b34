"""Decisions of datacenters over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from opendt.api.app import create_app
from opendt.orchestrator.desk import DecisionDesk
from opendt.verification.ledger import Ledger
from opendt.verification.ledger_rows import DocumentRow

PATCH = {
    "changes": [{"type": "remove_hosts", "hosts": {"type": "group", "group": "memory"}, "count": 20}],
    "reason": "hardly used at night",
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


def window(ledger: Ledger) -> None:
    from opendt.verification.ledger_rows import WindowEntry

    ledger.record_window(
        WindowEntry(
            datacenter="west",
            index=0,
            start_ms=0,
            end_ms=300_000,
            input_hash="00",
            topology_version=None,
            slo_version=None,
        )
    )


class Desk(DecisionDesk):
    """A desk that remembers what it sent."""

    def __init__(self, ledger: Ledger) -> None:
        self.sent: list[dict[str, object]] = []
        super().__init__("west", ledger, self._keep)

    def _keep(self, datacenter: str, message: bytes) -> str:
        assert datacenter == "west"
        self.sent.append(json.loads(message))
        return "a list"


def test_a_person_proposes_and_decides_over_http(ledger: Ledger) -> None:
    desk = Desk(ledger)
    client = TestClient(create_app(desks={"west": desk}))
    early = client.post("/datacenters/west/proposals", json=PATCH)
    assert early.status_code == 422
    assert "found no window, expected one in the ledger" in early.json()["detail"]
    window(ledger)
    asked = client.post("/datacenters/west/proposals", json=PATCH)
    assert asked.status_code == 202, asked.text
    assert asked.json()["time_ms"] == 300_001
    assert desk.sent[0]["new_value"] == PATCH
    assert desk.sent[0]["setting_key"] == "proposal"
    proposal = {
        "source": "human",
        "rule": "by hand",
        "reason": "r",
        "changes": [],
        "time_ms": 5,
        "simulated_effect": None,
    }
    ledger.record_proposal("west", DocumentRow("human-5-0", proposal))
    waiting = {"verdict": "waiting", "by": "gate", "reason": "asks a person", "time_ms": 5}
    ledger.record_decision("west", DocumentRow("human-5-0/0", waiting, "human-5-0"))
    listed = client.get("/datacenters/west/proposals", params={"waiting": "true"}).json()["proposals"]
    assert [(one["id"], one["waits"], one["certificate"]) for one in listed] == [("human-5-0", True, "none")]
    assert (
        client.post(
            "/datacenters/west/proposals/human-5-0/accept", json=None, headers={"content-type": "application/json"}
        ).status_code
        == 202
    )
    assert desk.sent[-1]["new_value"] == "human-5-0"
    ledger.record_decision(
        "west", DocumentRow("human-5-0/1", waiting | {"verdict": "applied", "time_ms": 6}, "human-5-0")
    )
    late = client.post("/datacenters/west/proposals/human-5-0/reject", headers={"content-type": "application/json"})
    assert late.status_code == 422
    assert "found applied by gate, expected one that waits" in late.json()["detail"]


def test_what_is_not_there_is_named(ledger: Ledger) -> None:
    client = TestClient(create_app(desks={"west": Desk(ledger)}))
    assert client.get("/datacenters").json() == {"datacenters": ["west"]}
    assert "expected one of west" in client.get("/datacenters/east/proposals").json()["detail"]
    assert client.get("/datacenters/west/proposals/none").status_code == 404
    bad = client.post("/datacenters/west/proposals", json={"changes": [{"type": "explode"}]})
    assert bad.status_code == 422
    assert bad.json()["type"] == "urn:opendt:problem:invalid-request"
    assert client.get("/health").json() == {"answers": True}

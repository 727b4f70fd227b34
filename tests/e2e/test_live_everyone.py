"""Rules, a search and a language model (recorded, over a real local HTTP server) decide in a live system that is killed again and again:
the ledger, what was told, and the topology file are those of an undisturbed run.

CI kills three times over a quarter of a day that never was; ``make soak`` twenty times over the SURF week, where it is to be had,
in 12 minutes on two cores (SURF_HOURS=N: over its first hours only).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from opendt.formats.synthetic import generate_week
from opendt.verification.ledger import Ledger
from tests import live as processes
from tests.data import data_folder
from tests.live import IS_SOAK, NAME, SEED, Live, kill_at_random

KILLS = 20 if IS_SOAK else 3
pytestmark = pytest.mark.timeout(6 * 3600 if IS_SOAK else 900)

SLO = {
    "version": 1,
    "window_s": 300,
    "energy": {"target_kwh": 1.2},
    "runtime": {"task_wait_p95": {"target_s": 300}, "task_slowdown_p95": {"target_ratio": 1.5}},
}


def candidate(count: int, group: str = "g1") -> dict:
    expected = {"energy_ratio": -0.05, "task_wait_p95_ratio": None, "peak_power_ratio": None}
    changes = [{"type": "remove_hosts", "group": group, "count": count}]
    return {"reason": f"{count} hosts of {group} stand idle.", "changes": changes, "expected": expected}


# None without a usable candidate: a service that fails is left alone for a while by the wall clock, and so says other things in each run.
REPLIES = (
    {"candidates": [candidate(4), candidate(9)]},
    {"candidates": []},
    {"candidates": [candidate(10**6), candidate(6)]},
    {"candidates": [candidate(3, "g99"), candidate(8)]},
)
QUESTION = [
    {
        "id": "1",
        "type": "function",
        "function": {"name": "what_if", "arguments": json.dumps({"changes": candidate(5)["changes"]})},
    }
]


class Model(BaseHTTPRequestHandler):
    """Gives a recorded answer by what it was asked, so that the same question has the same answer whoever asks it when."""

    asked: Counter[str]

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = request["messages"]
        first = hashlib.sha256(json.dumps(messages[:2]).encode()).digest()[0]
        message = {"role": "assistant", "content": json.dumps(REPLIES[first % len(REPLIES)])}
        if first % 3 == 0 and len(messages) == 2:
            message = {"role": "assistant", "content": None, "tool_calls": QUESTION}
        self.asked[hashlib.sha256(json.dumps(messages).encode()).hexdigest()] += 1
        body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def model():
    """Address of the server, and how often it was asked what."""
    asked: Counter[str] = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Model,), {"asked": asked}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Everyone:
    """A workload with everybody who may propose."""

    workload: Path
    stretch: tuple[str, ...]
    address: str
    opens: str  # late: what is replayed does not obey, and soon after a change nobody is trusted any more

    def live(self, folder: Path) -> Live:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("topology.json", "carbon.parquet"):
            if (self.workload / name).exists():
                shutil.copy(self.workload / name, folder / name)
        (folder / "slo.json").write_text(json.dumps(SLO))
        options = {
            "environment": "live",
            "mode": "auto",
            "optimizers": ["rules", "search", "llm"],
            "openai": {"api_key": "sk-none", "base_url": self.address, "model": "recorded"},
            "gate": {"maintenance": [self.opens]},
        }
        live = Live(folder, folder / "topology.json", log=folder / "log", settings=options)
        live.replay(self.workload, *self.stretch)
        return live


@pytest.fixture(scope="module")
def patience():
    """A search in each hour takes long on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_DEADLINE_S", 2 * 3600 if IS_SOAK else 240)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model, patience):
    folder, surf = tmp_path_factory.mktemp("everyone"), data_folder() / "traces" / "surf-week"
    hours = os.environ.get("SURF_HOURS", "168")
    if IS_SOAK and surf.exists():
        opens = "Thu 00:00-24:00" if hours == "168" else "00:00-24:00"
        everyone = Everyone(surf, ("--hours", hours), model[0], opens)
    else:
        everyone = Everyone(generate_week(3, folder / "week"), ("--hours", "6"), model[0], "00:00-24:00")
    live = everyone.live(folder / "live")
    live.drain()
    return everyone, live, live.export(), live.results()


def test_everybody_is_heard(undisturbed, model):
    _, live, export, _ = undisturbed
    with Ledger.open(live.ledger_url, read_only=True) as ledger:
        sources = Counter(row.document.content["source"] for row in ledger.documents("proposals", NAME))
        verdicts = Counter(row.document.content["verdict"] for row in ledger.documents("decisions", NAME))
        said = [row.event.content for row in ledger.events(kinds=["llm_exchange"], limit=10_000)]
    assert {"rule_based", "search", "llm"} <= sources.keys(), (sources, verdicts)
    assert verdicts["applied"] >= 1, verdicts
    assert {one["verdict"] for one in said} <= {"proposed", "kept", "degraded"}
    assert any(one["questions"] for one in said)
    assert export.count(b'"llm_exchange"') == len(said)
    assert b"sk-none" not in export


def test_kills_change_nothing_with_everybody_deciding(undisturbed, model, tmp_path):
    everyone, reference, export, results = undisturbed
    before = set(model[1])
    live = everyone.live(tmp_path / "live")
    hits = kill_at_random(live, SEED, KILLS, reference.window() + 1)
    assert hits >= KILLS - 1, "hardly any kill hit the process at work"
    live.drain()
    found, expected = live.export().splitlines(), export.splitlines()
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        assert one == other, f"line {number} of the export"
    assert len(found) == len(expected)
    assert live.results() == results
    assert live.topology.read_bytes() == reference.topology.read_bytes()
    assert set(model[1]) == before, "something else was asked than in the undisturbed run"

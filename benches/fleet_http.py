"""How long one job takes to be planned over HTTP, on a described fleet of 1,500 nodes: ms from the request to the answer.

    python benches/fleet_http.py [--nodes 1500] [--jobs 500] [--stages 3]

``dry run`` is planned and predicted; ``advice`` is also stored in the ledger, safe on disk, before the answer. The service runs in this
process's child over a kept connection on loopback, as a client with keep-alive sees it. Results are JSON on stdout.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

CLUSTERS = 7


def description(nodes: int) -> dict[str, Any]:
    """A fleet as its YAML says it: seven clusters of three classes each."""
    count = -(-nodes // (3 * CLUSTERS))
    classes = [
        {
            "name": name,
            "count": count,
            "arch": arch,
            "cores": cores,
            "mhz": mhz,
            "memory_mib": 65536,
            "idle_w": 60,
            "max_w": 240,
        }
        for name, arch, cores, mhz in (
            ("large", "amd64", 64, 2600),
            ("small", "amd64", 16, 3200),
            ("arm", "arm64", 32, 2800),
        )
    ]
    clusters = [
        {
            "name": f"c{number}",
            "type": "datacenter",
            "region": f"r{number % 3}",
            "zone": f"r{number % 3}-a",
            "resiliency_ratio": 0.99,
            "failure_rate_per_h": 0.001,
            "failure_domain": f"d{number % 3}",
            "carbon_g_per_kwh": 100,
            "cost_per_core_h": 0.03,
            "node_classes": classes,
            "real_nodes": [],
        }
        for number in range(CLUSTERS)
    ]
    return {"latency_matrix": "latency.yaml", "clusters": clusters}


def latencies() -> dict[str, Any]:
    """Round trips of 5 to 41 ms."""
    pairs = [(one, other) for one in range(CLUSTERS) for other in range(one + 1, CLUSTERS)]
    return {"latencies": [{"from": f"c{a}", "to": f"c{b}", "latency_ms": 5.0 + 6.0 * (b - a)} for a, b in pairs]}


def serve(folder: Path, pipe: Connection) -> None:
    """Serve the fleet of a folder until told to stop."""
    from opendt.api.serve import served
    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.process import rare_collections
    from opendt.orchestrator.settings_model import ApiSettings, FleetSettings, Settings
    from opendt.verification.ledger import Ledger

    fleet = FleetSettings(spec=folder / "fleet.yaml", report_dir=folder / "reports")
    settings = Settings(state_dir=folder / "state", fleet=fleet, api=ApiSettings(port=0))
    settings.state_dir.mkdir()
    with (
        Ledger.open(settings.ledger_address) as ledger,
        served(settings, ledger, EventBus()) as port,
        rare_collections(),
    ):
        pipe.send(port)
        while pipe.recv():
            pipe.send(time.process_time())


def job(number: int, stages: int) -> dict[str, Any]:
    """A chain of stages, of which no two jobs have the same."""
    made = [
        {
            "id": f"s{place}",
            "needs": [f"s{place - 1}"] if place else [],
            "cpu_millicores": 2000 + 100 * (number % 7),
            "memory_mib": 2048,
            "work": {"kind": "integer", "cpu_seconds": 20.0 + number % 11},
            "output_mb": 5.0,
        }
        for place in range(stages)
    ]
    return {"id": f"job-{number}", "origin": {"cluster": f"c{number % CLUSTERS}"}, "stages": made}


def ask(connection: http.client.HTTPConnection, body: bytes) -> float:
    """Have one job planned; gives how long that took, ms."""
    began_s = time.perf_counter()
    connection.request("POST", "/plan", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    took_ms = (time.perf_counter() - began_s) * 1000
    if answer.status != 200:
        raise RuntimeError(said.decode())
    return took_ms


def measure(port: int, jobs: int, stages: int, *, pipe: Connection, dry_run: bool, first: int) -> dict[str, float]:
    """Ask for jobs one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took = []
    pipe.send(True)
    before_s = pipe.recv()
    for number in range(first, first + jobs + 20):
        body = json.dumps({"job": job(number, stages), "dry_run": dry_run}).encode()
        took.append(ask(connection, body))
    pipe.send(True)
    cpu_ms = (pipe.recv() - before_s) * 1000 / len(took)
    took = sorted(took[20:])  # the first ones build indexes
    return {
        "p50_ms": statistics.median(took),
        "p95_ms": took[int(0.95 * len(took))],
        "p99_ms": took[int(0.99 * len(took))],
        "worst_ms": took[-1],
        "cpu_ms_of_the_service": cpu_ms,
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1500)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--stages", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="opendt-http-") as name:
        folder = Path(name)
        (folder / "fleet.yaml").write_text(yaml.safe_dump(description(options.nodes)), encoding="utf-8")
        (folder / "latency.yaml").write_text(yaml.safe_dump(latencies()), encoding="utf-8")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, theirs))
        child.start()
        port = ours.recv()
        figures = {
            "one_stage_dry_run": measure(port, options.jobs, 1, pipe=ours, dry_run=True, first=0),
            "dry_run": measure(port, options.jobs, options.stages, pipe=ours, dry_run=True, first=100_000),
            "advice": measure(port, options.jobs, options.stages, pipe=ours, dry_run=False, first=200_000),
        }
        ours.send(False)
        child.join()
    print(json.dumps({"nodes": options.nodes, "stages": options.stages, "load": os.getloadavg(), **figures}, indent=1))


if __name__ == "__main__":
    main()

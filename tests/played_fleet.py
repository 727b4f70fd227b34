"""A fleet whose pods KWOK plays: how long each stage takes is a seeded draw that no prediction sees.

    python tests/played_fleet.py SEED [MODULE:QUALNAME before|after N] run --config ...

is the command ``opendt`` with such stages; with a place in the code, killed there by SIGKILL (`tests.killed_at`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.fleet.api import MERGE, ApiClient  # noqa: E402 - this file is also a program
from scripts.processes import free_port  # noqa: E402
from tests.command import opendt  # noqa: E402

if TYPE_CHECKING:
    from opendt.model.job import Job
    from opendt.model.plan import Plan
    from tests.fleet import ControlPlane

SPEED = {"dt.hardware.mhz": "2400", "dt.hardware.idle_w": "40", "dt.hardware.max_w": "120"}
PODS = "/api/v1/namespaces/opendt/pods"
SCALE = 100.0


@dataclass(frozen=True, slots=True)
class Hidden:
    """What will be true of a stage: its run time, CPU time and memory peak."""

    seconds: float
    cpu_seconds: float
    memory_peak_mib: float


def hidden_draw(seed: int, plan: Plan, job: Job, stage_id: str) -> Hidden:
    """Draw what a stage will take: of its work, scaled, what its CPUs need, times something between 0.8 and 1.25."""
    stage = next(one for one in job.stages if one.id == stage_id)
    work = 1.0 if stage.work is None else stage.work.cpu_seconds / plan.scale
    cores = stage.cpu_millicores / plan.scale / 1000
    chance = Random(f"{seed}/{job.id}/{stage_id}")
    factor = 1.25 ** chance.uniform(-1.0, 1.0)
    return Hidden(work / cores * factor, work * factor, stage.memory_mib / plan.scale * chance.uniform(0.7, 0.9))


def annotate(seed: int, plan: Plan, job: Job, stage_id: str) -> Mapping[str, str]:
    """Tell KWOK how long a stage's pod runs and what it says at its end."""
    drawn = hidden_draw(seed, plan, job, stage_id)
    said = {"cpu_seconds": drawn.cpu_seconds, "memory_peak_mib": drawn.memory_peak_mib}
    return {
        "kwok.opendt.io/seconds": f"{round(drawn.seconds * 1000)}ms",
        "kwok.opendt.io/message": json.dumps(said),
    }


def job_of(name: str, stages: int = 3, seconds: float = 1.0, **changes: Any) -> dict[str, Any]:
    """Make a job, as JSON, whose stages follow one another and take about `seconds` each."""
    made = [
        {
            "id": f"s{place}",
            "needs": [f"s{place - 1}"] if place else [],
            "cpu_millicores": 100_000,
            "memory_mib": 6400,
            "work": {"kind": "integer", "cpu_seconds": 100.0 * seconds},
            "output_mb": 1.0,
        }
        for place in range(stages)
    ]
    return {"id": name, "origin": {"cluster": "left"}, "stages": made, **changes}


@dataclass
class Played:
    """Settings of a fleet of real control planes, and the commands that work on it."""

    folder: Path
    kubeconfig: Path
    fleet: dict[str, Any]
    seed: int = 7
    settings: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.file = self.folder / "opendt.json"
        self.file.write_text(json.dumps(self.content()), encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """The settings."""
        fleet = {"kubeconfig": str(self.kubeconfig), "binds_directly": True, "scale": SCALE}
        return {
            "state_dir": str(self.folder / "state"),
            "environment": "live",
            "mode": "approve",
            "api": {"port": self.port},
            "fleet": fleet | self.fleet,
            **(self.settings or {}),
        }

    def command(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command with these settings."""
        done = opendt(*words, "--config", self.file)
        assert done.returncode == code, done.stderr[-4000:]
        return done

    @contextmanager
    def running(self, *kill: object, wait: bool = True) -> Iterator[Service]:
        """``opendt run`` as a process of its own, killed at the end unless it has ended; with a place to be killed at."""
        words = [sys.executable, __file__, self.seed, *kill, "run", "--config", self.file, "--log-format", "json"]
        with (self.folder / "said").open("ab") as said:
            child = subprocess.Popen([str(word) for word in words], stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        service = Service(self, child)
        try:
            if wait:
                service.wait_ready()
            yield service
        finally:
            child.kill()
            child.wait()

    def said(self) -> str:
        """What its processes wrote."""
        return (self.folder / "said").read_text(encoding="utf-8")[-6000:]


class Service:
    """The process and its REST interface."""

    def __init__(self, played: Played, child: subprocess.Popen[bytes]) -> None:
        self.played = played
        self.child = child

    def wait_ready(self) -> None:
        """Wait until it answers."""
        from tests.fleet import eventually

        def answers() -> bool:
            assert self.child.poll() is None, self.played.said()
            try:
                return self.ask("GET", "/health")[0] == 200
            except OSError:
                return False

        eventually(answers, "the service answers", 60)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask, and give status and JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.played.port}{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data, headers, method=method), timeout=30
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def get(self, path: str) -> Any:
        """Ask for something that is there."""
        status, said = self.ask("GET", path)
        assert status == 200, said
        return said

    def plan(self, job: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Have a job placed."""
        status, said = self.ask("POST", "/plan", {"job": job, **more})
        assert status == 200, said
        result: dict[str, Any] = said
        return result

    def status(self, plan_id: str) -> str:
        """How a plan is."""
        return str(self.get(f"/plan/{plan_id}")["status"])

    def wait_over(self, *plans: str, seconds: float = 60.0) -> None:
        """Wait until plans have succeeded."""
        from tests.fleet import eventually

        def over() -> bool:
            found = {plan: self.status(plan) for plan in plans}
            assert "failed" not in found.values(), found
            return set(found.values()) == {"succeeded"}

        eventually(over, f"{', '.join(plans)} succeeded", seconds)


def pods_in(plane: ControlPlane) -> list[dict[str, Any]]:
    """Pods of plans that an API server has."""
    with plane.client() as client:
        found: list[dict[str, Any]] = client.get(PODS)["items"]
    return found


def add_played_nodes(plane: ControlPlane, count: int, prefix: str) -> list[str]:
    """Make nodes of four cores that take pods, and the namespace that pods of plans are in."""
    from tests.fleet import add_kwok_nodes

    names = add_kwok_nodes(plane, count, SPEED, {"cpu": "4", "memory": "16Gi", "pods": "110"}, prefix)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "opendt"}}
    with plane.client() as client:
        client.apply("/api/v1/namespaces/opendt", namespace)
        for name in names:
            untaint(client, name)
    return names


def untaint(client: ApiClient, node: str) -> None:
    """Do what the node lifecycle controller does, which light planes lack: take the taint off a node that is Ready."""
    client.request("PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": None}}, MERGE)


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll until something holds."""
    from tests.fleet import eventually

    eventually(holds, what, seconds)


def main(words: list[str]) -> int:
    """Run the command with played stages."""
    from opendt.api import serve
    from opendt.cli.main import run
    from tests.killed_at import arm

    seed, *rest = words
    if ":" in rest[0]:
        place, when, number, *rest = rest
        arm(place, when, int(number))
    serve.fleet_running = partial(serve.fleet_running, annotate=partial(annotate, int(seed)))  # type: ignore[assignment]
    return run(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Planning for a fleet of 1,500 nodes in seven clusters: jobs a second by greedy, milliseconds a job by each policy.

    python benches/fleet_plan.py [--nodes 1500] [--jobs 2000] [--calls 200] [--openb]

The fleet is deploy/fleet.yaml with more nodes of each class. Jobs are drawn (seeded): 1 to 4 stages in a chain, four kinds of work,
native, arm64 and WebAssembly forms, an origin, half with a deadline. *Placing* is the policy alone; *planning* is placing, predicting
on the twin, and reserving, so that each job finds the room that those before it left. `--openb` packs the openb lists.

Times are those of the best of some rounds; where others use the machine, those by CPU time are the ones to compare.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opendt.formats.fleet_spec import DescribedFleet, read_fleet_spec
from opendt.formats.openb import read_openb_machines, read_openb_requests
from opendt.model.job import Format, Job, Origin, Stage, StageWork, WorkKind
from opendt.model.plan import Infeasible
from opendt.policy.index import FleetIndex
from opendt.policy.packing import Packer, simulate_packing, typical_shapes
from opendt.policy.plugins import OWN_POLICIES, load_policy
from opendt.twin.fleet_view import FleetView, Hold
from opendt.twin.predict import PredictiveSimulator

if TYPE_CHECKING:
    from opendt.policy.base import Placed, PlacementPolicy

ROOT = Path(__file__).resolve().parents[1]
KINDS: Sequence[WorkKind] = ("integer", "floating_point", "sorting", "memory")
FORMS: Sequence[tuple[Format, ...]] = (("native",), ("native",), ("arm64",), ("native", "wasm"))


def enlarged(nodes: int) -> FleetIndex:
    """Make the fleet of deploy/fleet.yaml with about so many nodes."""
    described = read_fleet_spec(ROOT / "deploy" / "fleet.yaml")
    spec = described.spec
    factor = nodes / sum(kind.count for cluster in spec.clusters for kind in cluster.node_classes)
    clusters = tuple(
        cluster.model_copy(
            update={
                "node_classes": tuple(
                    kind.model_copy(update={"count": max(round(kind.count * factor), 1)})
                    for kind in cluster.node_classes
                ),
                "real_nodes": (),
            }
        )
        for cluster in spec.clusters
    )
    snapshot = DescribedFleet(spec.model_copy(update={"clusters": clusters}), described.latency).snapshot(1_000_000)
    return FleetIndex(PredictiveSimulator(FleetView(snapshot)))


def draw_jobs(count: int, clusters: Sequence[str], *, stages: int = 4, seed: int = 1) -> list[Job]:
    """Draw jobs of up to so many stages."""
    rng = random.Random(seed)

    def stage(number: int) -> Stage:
        return Stage(
            id=f"s{number}",
            needs=(f"s{number - 1}",) if number else (),
            cpu_millicores=rng.choice((10_000, 20_000, 50_000, 100_000)),
            memory_mib=rng.choice((2048, 8192)),
            work=StageWork(kind=rng.choice(KINDS), cpu_seconds=rng.uniform(100.0, 2000.0)),
            output_mb=rng.choice((0.0, 5.0, 50.0)),
            formats=rng.choice(FORMS),
        )

    return [
        Job(
            id=f"job-{number}",
            origin=Origin(cluster=rng.choice(clusters)),
            input_mb=rng.choice((0.0, 1.0, 10.0)),
            deadline_ms=rng.choice((None, 600_000)),
            stages=tuple(stage(place) for place in range(rng.randint(1, stages))),
        )
        for number in range(count)
    ]


def plan_all(index: FleetIndex, policy: PlacementPolicy, jobs: Sequence[Job], *, predict: bool) -> int:
    """Plan jobs one after the other, each on what the others left; gives how many found no place."""
    refused = 0
    for job in jobs:
        placed = policy.place(job, index)
        if isinstance(placed, Infeasible):
            refused += 1
            continue
        if predict:
            index.predictor.score_plan(job, placed.placements)
        index.view.reserve(_holds(index, job, placed))
    return refused


def _holds(index: FleetIndex, job: Job, placed: Placed) -> list[Hold]:
    return [
        Hold(
            job.id,
            one.stage.id,
            placed.placements[one.stage.id].cluster,
            placed.placements[one.stage.id].node_name,
            one.cpu_millicores,
            one.memory_mib,
        )
        for one in index.scaled(job).stages
    ]


def per_second(jobs: Sequence[Job], work: Callable[[], object], after: Callable[[], object], rounds: int = 5) -> str:
    """Jobs a second in the best of some rounds, by the wall's clock and by this process's CPU time."""
    wall = cpu = float("inf")
    for _ in range(rounds):
        begun, used = time.perf_counter(), time.process_time()
        work()
        wall, cpu = min(wall, time.perf_counter() - begun), min(cpu, time.process_time() - used)
        after()
    return f"{len(jobs) / wall:,.0f}/s ({len(jobs) / cpu:,.0f} a CPU second)"


def rates(index: FleetIndex, count: int) -> None:
    """Print jobs a second."""
    greedy = load_policy("greedy")
    clusters = sorted(index.view.snapshot.clusters)
    for stages in (1, 4):
        jobs = draw_jobs(count, clusters, stages=stages)

        def give_back(jobs: Sequence[Job] = jobs) -> None:
            for job in jobs:
                index.view.release(job.id)
            index.refresh()

        index.refresh()
        alone = per_second(jobs, lambda jobs=jobs: [greedy.place(job, index) for job in jobs], lambda: None)  # type: ignore[misc]
        batch = per_second(jobs, lambda jobs=jobs: plan_all(index, greedy, jobs, predict=False), give_back)  # type: ignore[misc]
        whole = per_second(jobs, lambda jobs=jobs: plan_all(index, greedy, jobs, predict=True), give_back)  # type: ignore[misc]
        what = "one stage" if stages == 1 else f"1 to {stages} stages"
        print(f"greedy, jobs of {what}: placed {alone}; with reserving {batch}; planned {whole}")


def calls(index: FleetIndex, count: int) -> None:
    """Print the time of single calls of each policy."""
    jobs = draw_jobs(count, sorted(index.view.snapshot.clusters), seed=2)
    for name in OWN_POLICIES:
        policy = load_policy(name)
        times = []
        for job in jobs:
            begun = time.perf_counter()
            policy.place(job, index)
            times.append((time.perf_counter() - begun) * 1000.0)
        times.sort()
        p99 = times[min(int(0.99 * len(times)), len(times) - 1)]
        print(f"{name:>10}: p50 {statistics.median(times):7.2f} ms  p99 {p99:7.2f} ms  least {times[0]:7.2f} ms")


def openb(folder: Path) -> None:
    """Pack the openb lists: as they came and went, and with all pods staying."""
    machines = read_openb_machines(folder / "openb_node_list_all_node.csv")
    gpus = sum(one.gpu for one in machines)
    for name in ("default", "gpuspec33"):
        pods = read_openb_requests(folder / f"openb_pod_list_{name}.csv")
        for departures in (True, False):
            begun = time.perf_counter()
            packer = Packer(machines, typical_shapes(pods))
            found = simulate_packing(packer, pods, departures=departures)
            seconds = time.perf_counter() - begun
            how = "as they came and went" if departures else "with all staying"
            print(
                f"openb {name}, {how}: {found.placed} of {len(pods)} pods on {len(machines)} nodes in {seconds:.1f} s, "
                f"{len(found.infeasible)} infeasible, {found.waited} waited (longest {found.longest_wait_s} s); at the peak "
                f"{found.peak_allocation_ratio:.1%} of {gpus} GPUs and {found.peak_cpu_allocation_ratio:.1%} of CPU given, "
                f"{found.peak_idle_gpus:.0f} GPUs idle, {found.peak_fragment_gpus:.0f} of them fragments"
            )


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1500)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--openb", action="store_true")
    given = parser.parse_args()
    if given.openb:
        shared = Path(os.environ.get("OPENDT_DATA", ROOT.parent / "shared"))
        openb(shared / "traces" / "alibaba-gpu-v2023")
        return
    index = enlarged(given.nodes)
    print(
        f"{len(index.view.loads)} nodes in {len(index.view.snapshot.clusters)} clusters; load {os.getloadavg()[0]:.1f}"
    )
    rates(index, given.jobs)
    calls(index, given.calls)


if __name__ == "__main__":
    main()

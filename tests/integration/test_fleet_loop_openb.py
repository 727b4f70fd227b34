"""A few hundred pods with shared GPUs, through plan, act and verify on two real control planes, as benches/fleet_openb.py does the trace."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from benches.fleet_openb import devices_left, run
from opendt.formats.openb import OpenbMachine, OpenbRequest
from tests.fleet import ControlPlane, control_plane

MACHINES = [
    OpenbMachine(f"gpu-{number}", 32_000, 131_072, 2 + 2 * (number % 2), "T4" if number % 2 else "P100")
    for number in range(6)
] + [OpenbMachine(f"cpu-{number}", 64_000, 262_144, 0, "") for number in range(2)]


def requests(count: int, seed: int) -> list[OpenbRequest]:
    """Pods that arrive one a second and stay for 20 to 60 s, most of them with a share of a GPU; one is larger than any node."""
    chance = Random(seed)
    found = []
    for number in range(count):
        gpu = chance.choices((0, 1, 2), (2, 7, 1))[0]
        millis = chance.choice((100, 250, 500, 700, 1000)) if gpu == 1 else 1000 * (gpu > 0)
        cpu = 100_000 if number == 7 else chance.choice((500, 1000, 2000, 4000))
        found.append(
            OpenbRequest(
                f"pod-{number:04}", cpu, 1024, gpu, millis, (), number, number, number + chance.randrange(20, 60)
            )
        )
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("count", "departures"), [(240, True), (90, False)], ids=["replay", "fill"])
def test_all_feasible_pods_are_placed_and_no_node_holds_more_than_it_has(
    kubernetes_programs: Path, tmp_path: Path, count: int, departures: bool
) -> None:
    del kubernetes_programs
    with control_plane(tmp_path, "one") as one, control_plane(tmp_path, "two") as two:
        planes: dict[str, ControlPlane] = {"one": one, "two": two}
        pods = requests(count, seed=3)
        found = run(planes, MACHINES, pods, tmp_path, batch=40, departures=departures)
    assert found["nodes_over_committed"] == []
    assert found["pods_twice"] == []
    assert found["refused_that_fit"] == []
    assert found["placed"] + found["refused"] == count
    if departures:
        assert found["refused"] == 1
        assert found["verified"] == found["placed"] == found["statuses"]["succeeded"] == count - 1
    else:
        assert found["refused"] > 1, "it fills up"
        assert found["gpu_allocation_ratio"] > 0.8
        assert 0 < found["fragmented_gpus"] <= found["idle_gpus"]


def test_gpus_are_shared_as_they_can_be() -> None:
    assert devices_left(1, [(1, 300), (1, 700)]) == [0]
    assert devices_left(4, [(2, 1000), (1, 600)]) == [400, 1000]
    assert devices_left(2, [(1, 600), (1, 600), (1, 600)]) is None

"""Shared GPUs are packed so that what is left stays useful, and never given twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opendt.formats.openb import OpenbMachine, OpenbRequest, read_openb_machines, read_openb_requests
from opendt.model.errors import FormatError
from opendt.policy.packing import Packer, Shape, simulate_packing, typical_shapes
from tests.data import require_data


def machine(name="n", cpu=64_000, gpus=2, model="T4"):
    return OpenbMachine(name, cpu, 262_144, gpus, model if gpus else "")


def request(name, cpu=4000, gpus=1, millis=1000, created=0, ran=100, models=()):
    return OpenbRequest(name, cpu, 1024, gpus, millis if gpus else 0, models, created, created, created + ran)


def whole_and_half():
    return {Shape(4000, 0, 1, 1000): 0.5, Shape(4000, 0, 1, 500): 0.5}


def test_a_node_is_fragmented_by_what_the_workload_cannot_use():
    packer = Packer([machine()], whole_and_half())
    assert packer.fragment_millis == 0.0
    packer.place("a", Shape(4000, 1024, 1, 700))
    # 300 of the first GPU are of no use to either shape.
    assert packer.fragment_millis == 300.0
    packer.place("b", Shape(4000, 1024, 1, 400))
    # 600 of the second one are of use to halves only.
    assert packer.fragment_millis == pytest.approx(0.5 * (300 + 600) + 0.5 * 300)
    packer.remove("a")
    packer.remove("b")
    packer.place("c", Shape(62_000, 1024, 0, 0))
    assert packer.fragment_millis == 2000.0  # no CPU is left to use them with


def test_a_share_fills_what_is_begun():
    packer = Packer([machine("n1"), machine("n2")], whole_and_half())
    packer.place("a", Shape(4000, 1024, 1, 500))
    assert packer.place("b", Shape(4000, 1024, 1, 500)).devices == (0,)
    assert packer.place("c", Shape(4000, 1024, 2, 1000)).node == "n2"
    assert packer.allocation_ratio == 0.75


def test_cpu_pods_stay_away_from_gpus():
    packer = Packer([machine("gpu"), machine("plain", gpus=0)], whole_and_half())
    assert packer.place("a", Shape(63_000, 1024, 0, 0)).node == "plain"


def test_models_are_kept():
    packer = Packer([machine("n1", model="T4"), machine("n2", model="V100M16")], whole_and_half())
    picky = Shape(1000, 1024, 1, 1000, ("V100M16", "V100M32"))
    assert packer.place("a", picky).node == "n2"
    assert not packer.can_ever(Shape(1000, 1024, 1, 1000, ("G3",)))
    with pytest.raises(ValueError, match="pod a is placed already"):
        packer.place("a", picky)


def test_who_finds_no_room_waits_and_does_not_keep_back_the_others():
    pods = [
        request("first", gpus=2, created=0, ran=50),
        request("second", gpus=2, created=10, ran=50),
        request("cpu", cpu=1000, gpus=0, created=20, ran=5),
        request("never", gpus=3, created=30),
    ]
    report = simulate_packing(Packer([machine()], typical_shapes(pods)), pods)
    assert (report.placed, report.infeasible) == (3, ["never"])
    assert (report.waited, report.longest_wait_s) == (1, 40)
    assert (report.peak_allocation_ratio, report.peak_idle_gpus) == (1.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(
    pods=st.lists(
        st.builds(
            request,
            st.uuids().map(str),
            cpu=st.integers(1000, 70_000),
            gpus=st.integers(0, 3),
            millis=st.integers(1, 1000),
            created=st.integers(0, 200),
            ran=st.integers(0, 100),
        ),
        unique_by=lambda one: one.name,
        max_size=40,
    )
)
def test_no_node_is_over_committed(pods):
    machines = [machine("a"), machine("b", cpu=32_000, gpus=1), machine("c", gpus=0)]
    packer = Packer(machines, typical_shapes(pods) if pods else {})
    report = simulate_packing(packer, pods, check_every=1)  # every step is checked
    assert report.placed + len(report.infeasible) == len(pods)


def test_the_openb_lists_are_placed_whole():
    folder = require_data("traces/alibaba-gpu-v2023")
    machines = read_openb_machines(folder / "openb_node_list_all_node.csv")
    pods = read_openb_requests(folder / "openb_pod_list_default.csv")
    assert (len(machines), sum(one.gpu for one in machines), len(pods)) == (1523, 6212, 8152)
    first = pods[:1500]
    report = simulate_packing(Packer(machines, typical_shapes(pods)), first, check_every=500)
    assert (report.placed, report.infeasible) == (1500, [])


def test_lists_are_read_as_they_are(tmp_path):
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\nn1,32000,1024,2,T4\nn2,500,64,0,\n")
    assert read_openb_machines(nodes) == (
        OpenbMachine("n1", 32_000, 1024, 2, "T4"),
        OpenbMachine("n2", 500, 64, 0, ""),
    )
    head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
    pods.write_text(head + "p1,4000,15258,1,220,T4|P100,BE,Running,5,30,10\np2,1,1,0,0,,LS,Pending,7,,\n")
    first, second = read_openb_requests(pods)
    assert (first.gpu_models, first.run_s, first.created_s) == (("T4", "P100"), 20, 5)
    assert (second.gpu_models, second.run_s, second.scheduled_s) == ((), None, -1)
    pods.write_text(head + "p1,4000,x,1,220,,BE,Running,5,30,10\n")
    with pytest.raises(FormatError, match="line 2, column memory_mib: found 'x'"):
        read_openb_requests(pods)

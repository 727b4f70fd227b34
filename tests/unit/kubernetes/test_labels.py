"""Labels of a node become hardware; one that cannot be read costs nothing but itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.kubernetes.labels import NodeDefaults, cluster_labels, decode_node
from opendt.model.fleet import Taint
from tests.unit.kubernetes.objects import node_object


def test_a_labelled_node_is_what_its_labels_say():
    labels = {
        "kubernetes.io/arch": "arm64",
        "dt.cluster.name": "phone-pan-1",
        "dt.cluster.type": "phone",
        "dt.cluster.resiliency": "0.8",
        "dt.hardware.idle_w": "1.5",
        "dt.hardware.max_w": "6",
        "dt.hardware.mhz": "1800",
        "dt.hardware.gpu_model": "T4",
        "dt.hardware.gpu_memory_mib": "15360",
        "dt.exec.formats": "native.wasm.native",
    }
    taints = [{"key": "battery", "effect": "NoSchedule"}]
    thing = node_object(
        labels=labels,
        spec={"unschedulable": True, "taints": taints},
        status={"allocatable": {"nvidia.com/gpu": "2"}},
    )
    node, problems = decode_node("phone-pan-1", thing)
    assert problems == ()
    assert (node.cluster, node.name, node.arch) == ("phone-pan-1", "n1", "arm64")
    assert (node.cpu_millicores, node.memory_mib, node.max_pods) == (3900, 15625, 110)
    assert node.reserved_millicores == 100
    assert (node.idle_w, node.max_w, node.core_speed_mhz) == (1.5, 6.0, 1800.0)
    assert (node.gpu, node.gpu_memory_mib, node.gpu_model) == (2, 15360, "T4")
    assert node.exec_formats == ("native", "wasm")
    assert (node.is_ready, node.is_cordoned) == (True, True)
    assert node.taints == (Taint("battery", "", "NoSchedule"),)
    of_cluster, problems = cluster_labels(node)
    assert problems == ()
    assert (of_cluster.type, of_cluster.resiliency_ratio) == ("phone", 0.8)


def test_a_plain_node_is_taken_for_the_defaults():
    node, problems = decode_node("a", node_object(), NodeDefaults(2000.0, 5.0, 20.0))
    assert problems == ()
    assert (node.core_speed_mhz, node.idle_w, node.max_w) == (2000.0, 5.0, 20.0)
    assert node.exec_formats == ("native",)


@pytest.mark.parametrize(
    ("label", "value", "expected"),
    [
        (
            "dt.hardware.idle_w",
            "ten",
            "dt.hardware.idle_w: found 'ten', expected a number from 0 to 1e+06. Passed over",
        ),
        ("dt.hardware.max_w", "nan", "dt.hardware.max_w: found 'nan'"),
        ("dt.hardware.mhz", "0", "dt.hardware.mhz: found '0', expected a number from 1 to 100000. Taken for 2400"),
        ("dt.exec.formats", "native.java", "dt.exec.formats: found 'java', expected some of native, qemu-amd64"),
        ("dt.cluster.name", "other", "dt.cluster.name: found 'other', expected 'a'"),
    ],
)
def test_a_label_that_cannot_be_read_is_told_and_the_default_stands_in(label, value, expected):
    node, problems = decode_node("a", node_object(labels={label: value}))
    assert [problem[: len(expected)] for problem in problems] == [expected]
    assert (node.core_speed_mhz, node.idle_w, node.max_w) == (2400.0, 100.0, 350.0)


def test_idle_above_full_load_is_told():
    node, problems = decode_node("a", node_object(labels={"dt.hardware.idle_w": "90", "dt.hardware.max_w": "60"}))
    assert problems[0].startswith("dt.hardware.idle_w: found 90 W, expected at most dt.hardware.max_w, 60 W")
    assert (node.idle_w, node.max_w) == (100.0, 350.0)


def test_where_only_one_power_is_said_the_other_keeps_the_proportion():
    assert power({"dt.hardware.max_w": "7"}) == (2.0, 7.0)
    assert power({"dt.hardware.idle_w": "2"}) == (2.0, 7.0)
    assert power({"dt.hardware.idle_w": "0"}) == (0.0, 350.0)


def power(labels):
    node, problems = decode_node("a", node_object(labels=labels))
    assert problems == ()
    return node.idle_w, node.max_w


def test_a_resiliency_beyond_its_bounds_is_told():
    node, _ = decode_node("a", node_object(labels={"dt.cluster.resiliency": "1.2"}))
    of_cluster, problems = cluster_labels(node)
    assert of_cluster.resiliency_ratio is None
    assert problems == ("dt.cluster.resiliency: found '1.2', expected a number from 0 to 1. Passed over",)


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_node_that_does_not_say_it_is_ready_is_not(status):
    assert not decode_node("a", node_object(status={"conditions": [{"type": "Ready", "status": status}]}))[0].is_ready
    assert not decode_node("a", node_object(status={"conditions": []}))[0].is_ready


NAMES = st.sampled_from(
    ["dt.hardware.idle_w", "dt.hardware.max_w", "dt.hardware.mhz", "dt.exec.formats", "dt.cluster.resiliency"]
)


@given(st.dictionaries(NAMES, st.text("0123456789.-eEnaif", max_size=8)))
def test_no_value_of_a_label_breaks_a_node(labels):
    node, _ = decode_node("a", node_object(labels=labels))
    cluster_labels(node)
    assert 0 <= node.idle_w <= node.max_w
    assert node.core_speed_mhz >= 1
    assert node.exec_formats[0] == "native"

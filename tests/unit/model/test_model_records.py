from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

import opendt.model
from opendt.model import (
    AsymptoticPower,
    Battery,
    CarbonPoint,
    Cluster,
    ConstantPower,
    CubicPower,
    CurvePower,
    HostGroup,
    LinearPower,
    Link,
    LogNormalDistribution,
    MsePower,
    Options,
    PowerSource,
    SingleThreshold,
    SqrtPower,
    SquarePower,
    TimeShiftAllocation,
    Topology,
    TraceFailures,
    VCpuCapacityFilter,
)

HOST = {"name": "H", "count": 2, "core_count": 16, "core_speed_mhz": 2100.0, "memory_mib": 1024}


def test_every_public_name_is_found_where_the_package_says():
    folder = Path(opendt.model.__file__).parent
    for home in ("errors", "options", "power", "slo", "topology", "units", "workload"):
        tree = ast.parse((folder / f"{home}.py").read_text())
        (names,) = (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        )
        for name in names:
            assert opendt.model._HOMES[name] == home
            assert getattr(opendt.model, name) is getattr(import_module(f"opendt.model.{home}"), name)


def test_importing_the_package_imports_neither_pydantic_nor_numpy():
    code = "import sys, opendt.model; print([m for m in ('pydantic', 'numpy', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_importing_the_records_does_not_import_numpy():
    code = (
        "import sys; from opendt.model import Options, Slo, Topology, Workload; Options().model_dump_json();"
        "print([m for m in ('numpy', 'pyarrow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_default_options_are_those_of_the_engine():
    assert json.loads(Options().model_dump_json()) == {
        "seed": 0,
        "scaling_policy": "no_delay",
        "allocation": {
            "type": "filter",
            "filters": [
                {"type": "compute"},
                {"type": "v_cpu", "allocation_ratio": 1.0},
                {"type": "ram", "allocation_ratio": 1.5},
            ],
            "weighers": [{"type": "ram", "multiplier": 1.0}],
            "subset_size": 1,
        },
        "scheduling_quantum_ms": 1000,
        "max_failures": 10,
        "failures": None,
        "checkpoint": None,
        "start_epoch_ms": 0,
        "failed_hosts_draw_idle": True,
        "repeat_closing_sample": True,
        "reference_task_times": True,
    }


def test_host_group_defaults_are_those_of_the_engine():
    assert json.loads(HostGroup(**HOST).model_dump_json()) == HOST | {
        "arch": None,
        "power_model": {"type": "linear", "idle_w": 200.0, "max_w": 400.0},
        "cpu_sharing": {"type": "max_min_fairness"},
        "gpu": None,
        "frequency_exponent": 2.0,
        "embodied_carbon_kg": 1000.0,
        "lifetime_years": 5.0,
    }


def test_type_names_are_the_snake_case_of_the_engine():
    assert TimeShiftAllocation(filters=(VCpuCapacityFilter(),)).model_dump()["filters"] == ({"type": "v_cpu_capacity"},)
    assert LogNormalDistribution(scale=0, shape=1).type == "log_normal"


def test_link_says_from_in_json_and_takes_either_name():
    topology = Topology(
        clusters=(Cluster(name="a", hosts=()), Cluster(name="b", hosts=())),
        links=(Link(from_="a", to="b", latency_ms=1.5),),
    )
    text = topology.model_dump_json()
    assert json.loads(text)["links"] == [{"from": "a", "to": "b", "latency_ms": 1.5, "bandwidth_mib_per_s": None}]
    assert Topology.model_validate_json(text) == topology


@pytest.mark.parametrize(
    "change",
    [
        {"count": -1},
        {"count": 2**32},
        {"count": True},
        {"count": "2"},
        {"core_count": 0},
        {"core_speed_mhz": 0.0},
        {"core_speed_mhz": math.nan},
        {"core_speed_mhz": math.inf},
        {"memory_mib": -1},
        {"memory_mib": 2**63},
        {"lifetime_years": 0.0},
        {"name": ""},
        {"colour": "red"},
        {"power_model": {"type": "linear", "idle_w": 2.0, "max_w": 1.0}},
        {"power_model": {"type": "magic"}},
        {"power_model": {"type": "curve", "utilization": [0, 1], "power_w": [1]}},
        {"power_model": {"type": "curve", "utilization": [0, 0.5], "power_w": [1, 2]}},
        {"power_model": {"type": "curve", "utilization": [0, 0.5, 0.5, 1], "power_w": [1, 2, 3, 4]}},
        {"cpu_sharing": {"type": "fixed_share", "share_ratio": 0.0}},
        {"gpu": {"count": 1, "core_count": 0, "core_speed_mhz": 1.0}},
    ],
)
def test_hosts_outside_of_physics_are_refused(change):
    with pytest.raises(ValidationError):
        HostGroup(**(HOST | change))


def test_records_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        HostGroup(**HOST).count = 3


def test_cluster_names_are_unique():
    with pytest.raises(ValidationError, match="a is given twice"):
        Topology(clusters=(Cluster(name="a", hosts=()), Cluster(name="a", hosts=())))


@pytest.mark.parametrize("ends", [[("a", "c")], [("a", "a")], [("a", "b"), ("b", "a")]])
def test_links_join_two_clusters_once(ends):
    links = tuple(Link(from_=a, to=b, latency_ms=1) for a, b in ends)
    with pytest.raises(ValidationError, match="links"):
        Topology(clusters=(Cluster(name="a", hosts=()), Cluster(name="b", hosts=())), links=links)


def test_carbon_rises_in_time():
    points = tuple(CarbonPoint(timestamp_ms=t, intensity_g_per_kwh=1) for t in (0, 5, 5))
    with pytest.raises(ValidationError, match=r"carbon\[2\]"):
        PowerSource(carbon=points)


def test_battery_is_not_charged_beyond_its_capacity():
    policy = SingleThreshold(carbon_threshold=100)
    with pytest.raises(ValidationError, match="capacity"):
        Battery(name="b", capacity_kwh=1, charging_w=1, initial_charge_kwh=2, policy=policy)


def test_failures_that_repeat_take_time():
    event = {"interval_ms": 0, "duration_ms": 0, "host_ratio": 0.5}
    with pytest.raises(ValidationError, match="must take time"):
        TraceFailures(events=(event,))
    assert TraceFailures(events=(event,), repeat=False).events[0].host_ratio == 0.5


# The reference's own figures (SEMANTICS.md, section 7) and the formulas by hand.
@pytest.mark.parametrize(
    ("model", "utilization", "watts"),
    [
        (ConstantPower(power_w=300), 0.3, 300.0),
        (LinearPower(idle_w=100, max_w=200), 0.25, 125.0),
        (SqrtPower(idle_w=100, max_w=200), 0.25, 150.0),
        (SquarePower(idle_w=100, max_w=200), 0.5, 125.0),
        (CubicPower(idle_w=100, max_w=200), 0.5, 112.5),
        (MsePower(idle_w=25, max_w=174, calibration_factor=4), 0.794, 202.392),
        (MsePower(idle_w=25, max_w=174, calibration_factor=4), 1.0, 174.0),
        (AsymptoticPower(idle_w=100, max_w=200, asym_util=0.3, dvfs=False), 1.0, 200 - 50 * math.exp(-1 / 0.3)),
        (AsymptoticPower(idle_w=100, max_w=200, asym_util=0.3, dvfs=True), 0.0, 100.0),
        (AsymptoticPower(idle_w=100, max_w=200, asym_util=0.0, dvfs=True), 0.0, 100.0),
        (AsymptoticPower(idle_w=100, max_w=200, asym_util=0.0, dvfs=False), 0.5, 175.0),
        (CurvePower(utilization=(0, 0.5, 1), power_w=(10, 20, 50)), 0.75, 35.0),
        (CurvePower(utilization=(0, 0.5, 1), power_w=(10, 20, 50)), 1.7, 50.0),
    ],
)
def test_power_at_a_utilization(model, utilization, watts):
    assert model.watts_at(utilization) == pytest.approx(watts, abs=1e-3)

from __future__ import annotations

import json

import pytest

from opendt.formats.opendc import read_topology, write_topology
from opendt.formats.opendc_dialect import OpenDCReading
from opendt.model import (
    BestEffort,
    ConstantOverhead,
    CurvePower,
    FixedShare,
    FormatError,
    LinearPower,
    MsePower,
    RunningQuartiles,
    ShareBasedOverhead,
)

RUNNER_HOST = {"cpu": {"coreCount": 16, "coreSpeed": 2100}, "memory": {"memorySize": 128_000}}
SDK_HOST = {"cpu": {"coreCount": 16, "coreSpeed": "2.1 GHz"}, "memory": {"size": "125 GiB"}}


def read(tmp_path, content, **options):
    path = tmp_path / "topology.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_topology(path, **options)


def one(tmp_path, host, **cluster):
    return read(tmp_path, {"clusters": [{"hosts": [host]} | cluster]}, strict=True).clusters[0]


def test_both_dialects_give_the_same_topology(tmp_path):
    runner = RUNNER_HOST | {
        "cpuPowerModel": {"modelType": "mse", "power": 300, "idlePower": 25, "maxPower": 174, "calibrationFactor": 4},
        "cpuDistributionPolicy": {"type": "FIXED_SHARE", "shareRatio": 0.5},
        "gpu": {
            "coreCount": 2,
            "coreSpeed": 2000,
            "count": 3,
            "memorySize": 1024,
            "virtualizationOverHeadModel": {"type": "CONSTANT"},
        },
        "gpuPowerModel": {"modelType": "linear", "idlePower": 50, "maxPower": 300},
        "gpuDistributionPolicy": {"type": "BEST_EFFORT"},
    }
    sdk = SDK_HOST | {
        "cpuPowerModel": {"type": "mse", "idlePower": "25 W", "maxPower": "0.174 kW", "calibrationFactor": 4},
        "cpuDistribution": {"type": "fixedShare", "shareRatio": 0.5},
        "gpu": {
            "coreCount": 2,
            "coreSpeed": "2 GHz",
            "count": 3,
            "memory": "1 GiB",
            "virtualizationOverhead": {"type": "constant", "percentageOverhead": 0.05},
        },
        "gpuPowerModel": {"type": "linear", "idlePower": 50, "maxPower": 300},
        "gpuDistribution": {"type": "bestEffort", "updateIntervalMs": 1000},
    }
    group = one(tmp_path, runner).hosts[0]
    assert group == one(tmp_path, sdk).hosts[0]
    assert (group.core_count, group.core_speed_mhz, group.memory_mib) == (16, 2100.0, 128_000)
    assert group.power_model == MsePower(idle_w=25, max_w=174, calibration_factor=4)
    assert group.cpu_sharing == FixedShare(share_ratio=0.5)
    assert (group.gpu.count, group.gpu.memory_mib) == (3, 1024)
    assert group.gpu.overhead == ConstantOverhead(ratio=0.05)
    assert group.gpu.power_model == LinearPower(idle_w=50, max_w=300)
    assert group.gpu.sharing == BestEffort(update_interval_ms=1000)


def test_what_is_left_out_has_the_defaults_of_the_reference(tmp_path):
    cluster = one(tmp_path, RUNNER_HOST)
    assert (cluster.name, cluster.power_source.name, cluster.battery) == ("Cluster", "PowerSource", None)
    assert cluster.power_source.max_power_w is None
    assert (cluster.hosts[0].name, cluster.hosts[0].count) == ("Host", 1)
    assert cluster.hosts[0].power_model == LinearPower(idle_w=200, max_w=400)


def test_several_cpus_are_one_with_all_their_cores(tmp_path):
    host = RUNNER_HOST | {"cpu": {"coreCount": 8, "coreSpeed": 2100, "count": 2}}
    assert one(tmp_path, host).hosts[0].core_count == 16


def test_cluster_count_is_honoured_in_both_dialects(tmp_path):
    for host in (RUNNER_HOST, SDK_HOST):
        topology = read(tmp_path, {"clusters": [{"name": "C", "count": 3, "hosts": [host]}]})
        assert [cluster.name for cluster in topology.clusters] == ["C", "C-0", "C-1"]
        assert [c.power_source.name for c in topology.clusters] == ["PowerSource", "PowerSource-0", "PowerSource-1"]


def test_sharing_properties_stay_with_their_host(tmp_path):
    hosts = [RUNNER_HOST | {"cpuDistributionPolicy": {"type": "FIXED_SHARE", "shareRatio": r}} for r in (0.25, 0.75)]
    groups = read(tmp_path, {"clusters": [{"hosts": hosts}]}).clusters[0].hosts
    assert [group.cpu_sharing.share_ratio for group in groups] == [0.25, 0.75]


@pytest.mark.parametrize("key", ["batteryPolicy", "policy"])
def test_battery_policies_that_the_reference_refuses_are_read(tmp_path, key):
    host = RUNNER_HOST if key == "batteryPolicy" else SDK_HOST
    policy = {"type": "runningQuartiles", "startingThreshold": 100, "windowSize": 24}
    battery = one(tmp_path, host, battery={"capacity": 0.1, "chargingSpeed": 1000, key: policy}).battery
    assert battery.policy == RunningQuartiles(starting_threshold=100, window_size=24)
    assert (battery.name, battery.capacity_kwh, battery.charging_w) == ("Battery", 0.1, 1000.0)


def test_carbon_trace_is_read_once_and_relative_to_the_file(tmp_path):
    (tmp_path / "co2.parquet").touch()
    asked = []

    def reader(path):
        asked.append(path)
        return [(60_000, 200.0), (0, 100.0)]

    source = {"powerSource": {"carbonTracePath": "co2.parquet"}}
    content = {"clusters": [{"name": n, "hosts": [RUNNER_HOST]} | source for n in "ab"]}
    topology = read(tmp_path, content, reading=OpenDCReading(carbon_reader=reader))
    assert asked == [str(tmp_path / "co2.parquet")]
    for cluster in topology.clusters:
        assert [(p.timestamp_ms, p.intensity_g_per_kwh) for p in cluster.power_source.carbon] == [
            (0, 100.0),
            (60_000, 200.0),
        ]


def test_carbon_is_found_in_the_working_directory_too(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "co2.parquet").touch()
    content = {"clusters": [{"hosts": [SDK_HOST], "powerSource": {"carbon": {"type": "uri", "uri": "co2.parquet"}}}]}
    reading = OpenDCReading(working_directory=tmp_path / "work", carbon_reader=lambda path: [(0, 1.0)])
    assert len(read(tmp_path, content, reading=reading).clusters[0].power_source.carbon) == 1


def test_import_from_gives_what_stands_beside_it_precedence(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "host.json").write_text(json.dumps(SDK_HOST | {"importFrom": "more.json"}))
    (tmp_path / "parts" / "more.json").write_text(json.dumps({"count": 5, "name": "imported"}))
    group = one(tmp_path, {"importFrom": "parts/host.json", "name": "mine"}).hosts[0]
    assert (group.name, group.count, group.core_count) == ("mine", 5, 16)


def test_an_import_in_a_circle_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"importFrom": "b.json"}))
    (tmp_path / "b.json").write_text(json.dumps({"importFrom": "a.json"}))
    with pytest.raises(FormatError, match="circle"):
        one(tmp_path, {"importFrom": "a.json"})


def test_an_error_in_an_imported_file_names_that_file(tmp_path):
    (tmp_path / "host.json").write_text(json.dumps(SDK_HOST | {"count": -1}))
    with pytest.raises(FormatError) as caught:
        one(tmp_path, {"importFrom": "host.json"})
    assert (caught.value.file, caught.value.place) == (str(tmp_path / "host.json"), "count")


def test_additions_of_opendt_are_read(tmp_path):
    host = RUNNER_HOST | {
        "cpuPowerModel": {"modelType": "curve", "utilization": [0, 0.5, 1], "power": [50, 90, 120]},
        "frequencyExponent": 3,
        "embodiedCarbon": 1200,
        "expectedLifetime": 6,
    }
    links = [{"from": "a", "to": "b", "latency": "20 ms", "bandwidth": 100}]
    content = {"clusters": [{"name": n, "hosts": [host]} for n in "ab"], "links": links}
    topology = read(tmp_path, content, strict=True)
    assert topology.clusters[0].hosts[0].power_model == CurvePower(utilization=(0, 0.5, 1), power_w=(50, 90, 120))
    assert topology.clusters[0].hosts[0].frequency_exponent == 3
    assert topology.links[0].latency_ms == 20


def test_share_based_overhead(tmp_path):
    gpu = {"coreCount": 1, "coreSpeed": 1000, "virtualizationOverHeadModel": {"type": "SHARE_BASED"}}
    group = one(tmp_path, RUNNER_HOST | {"gpu": gpu}).hosts[0]
    assert group.gpu.overhead == ShareBasedOverhead()
    assert group.gpu.memory_mib is None


def test_unknown_keys_are_warned_about_with_what_was_meant(tmp_path):
    reading = OpenDCReading()
    host = RUNNER_HOST | {"cpu": {"coreCount": 16, "coreSpeed": 2100, "coreCont": 3}}
    read(tmp_path, {"clusters": [{"hosts": [host]}], "colour": 1}, reading=reading)
    assert len(reading.warnings) == 2
    assert "clusters[0].hosts[0].cpu.coreCont: found unknown key 'coreCont' is ignored" in reading.warnings[0]
    assert "Did you mean 'coreCount'?" in reading.warnings[0]
    assert "colour" in reading.warnings[1]


def test_unknown_keys_are_errors_in_strict_mode(tmp_path):
    with pytest.raises(FormatError, match=r"clusters\[0\]\.hosts\[0\]\.memry: found unknown key"):
        one(tmp_path, RUNNER_HOST | {"memry": 1})


@pytest.mark.parametrize(
    ("host", "place", "found"),
    [
        (RUNNER_HOST | {"cpu": {"coreCount": -4, "coreSpeed": 1}}, "cpu.coreCount", "-4"),
        (RUNNER_HOST | {"cpu": {"coreCount": 1.5, "coreSpeed": 1}}, "cpu.coreCount", "1.5"),
        (RUNNER_HOST | {"cpu": {"coreCount": True, "coreSpeed": 1}}, "cpu.coreCount", "True"),
        (RUNNER_HOST | {"cpu": {"coreCount": "16", "coreSpeed": 1}}, "cpu.coreCount", "'16'"),
        (RUNNER_HOST | {"cpu": {"coreCount": 1, "coreSpeed": 0}}, "cpu.coreSpeed", "0"),
        (RUNNER_HOST | {"cpu": {"coreCount": 1, "coreSpeed": "2 GB"}}, "cpu.coreSpeed", "'2 GB'"),
        (RUNNER_HOST | {"cpu": {"coreCount": 2**31, "count": 2, "coreSpeed": 1}}, "cpu.count", "2"),
        (RUNNER_HOST | {"cpu": []}, "cpu", "a list"),
        (RUNNER_HOST | {"cpu": None}, "cpu", "null"),
        ({"memory": {"memorySize": 1}}, "cpu", "no such key"),
        (RUNNER_HOST | {"count": -1}, "count", "-1"),
        (RUNNER_HOST | {"name": 3}, "name", "3"),
        (RUNNER_HOST | {"memory": {"memorySize": -1}}, "memory.memorySize", "-1"),
        (RUNNER_HOST | {"cpuPowerModel": {"modelType": "magic"}}, "cpuPowerModel.modelType", "'magic'"),
        (
            RUNNER_HOST | {"cpuPowerModel": {"modelType": "mse", "idlePower": 9, "maxPower": 5}},
            "cpuPowerModel.maxPower",
            "5",
        ),
        (
            RUNNER_HOST | {"cpuPowerModel": {"modelType": "curve", "utilization": [0, 0.4], "power": [1, 2]}},
            "cpuPowerModel",
            "an object",
        ),
        (
            RUNNER_HOST | {"cpuDistributionPolicy": {"type": "FIXED_SHARE", "shareRatio": 2}},
            "cpuDistributionPolicy.shareRatio",
            "2",
        ),
    ],
)
def test_what_is_wrong_with_a_host_is_named(tmp_path, host, place, found):
    with pytest.raises(FormatError) as caught:
        one(tmp_path, host)
    assert caught.value.file == str(tmp_path / "topology.json")
    assert caught.value.place == f"clusters[0].hosts[0].{place}"
    assert caught.value.found == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"clusters": []}',
        '{"clusters": [{"hosts": []}]}',
        '{"clusters": NaN}',
        '{"a": 1, "a": 2}',
        "[" * 50_000,
    ],
)
def test_a_file_that_is_no_topology_is_named(tmp_path, text):
    with pytest.raises(FormatError, match=r"topology\.json"):
        read(tmp_path, text)


def test_a_missing_carbon_trace_says_where_it_was_looked_for(tmp_path):
    content = {"clusters": [{"hosts": [RUNNER_HOST], "powerSource": {"carbonTracePath": "none.parquet"}}]}
    with pytest.raises(FormatError, match=r"powerSource\.carbonTracePath: found 'none\.parquet'.*Looked in"):
        read(tmp_path, content)


def test_remote_references_are_refused(tmp_path):
    carbon = {"type": "uri", "uri": "https://example.org/carbon.parquet"}
    with pytest.raises(FormatError, match="Download it first"):
        one(tmp_path, SDK_HOST, powerSource={"carbon": carbon})


def test_written_topologies_are_read_back(tmp_path):
    (tmp_path / "c.parquet").touch()
    host = RUNNER_HOST | {"cpuPowerModel": {"modelType": "asymptotic", "idlePower": 1, "maxPower": 2, "asymUtil": 0.3}}
    battery = {
        "capacity": 1,
        "chargingSpeed": 5,
        "batteryPolicy": {"type": "double", "lowerThreshold": 1, "upperThreshold": 2},
    }
    reading = OpenDCReading(strict=True, carbon_reader=lambda path: [(0, 5.0)])
    content = {"clusters": [{"hosts": [host], "battery": battery, "powerSource": {"carbonTracePath": "c.parquet"}}]}
    topology = read(tmp_path, content, reading=reading)
    write_topology(topology, tmp_path / "again.json", {"Cluster": "c.parquet"})
    assert read_topology(tmp_path / "again.json", reading=reading) == topology

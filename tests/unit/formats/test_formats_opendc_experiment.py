from __future__ import annotations

import json
import subprocess
import sys

import pytest

from opendt.formats.opendc import ExportOptions, read_experiment
from opendt.formats.opendc_policies import prefab
from opendt.model import (
    Checkpoint,
    ComputeFilter,
    CustomFailures,
    ExponentialDistribution,
    FilterAllocation,
    FormatError,
    GammaDistribution,
    InstanceCountWeigher,
    LogNormalDistribution,
    MemorizingAllocation,
    RamFilter,
    RamWeigher,
    TimeShiftAllocation,
    UniformDistribution,
    VCpuFilter,
    VGpuFilter,
    WeibullDistribution,
)

HOST = {"cpu": {"coreCount": 4, "coreSpeed": 1000}, "memory": {"memorySize": 1000}}
SDK_TOPOLOGY = {"clusters": [{"hosts": [{"cpu": {"coreCount": 4, "coreSpeed": "1 GHz"}, "memory": {"size": "1 GiB"}}]}]}
TASK = {
    "id": 0,
    "submissionTime": "0 minutes",
    "duration": "30 minutes",
    "cpuCoreCount": 4,
    "cpuCapacity": "2.4 GHz",
    "memory": "8 GiB",
    "fragments": [{"duration": "10 minutes", "cpuUsage": "2.4 GHz"}, {"duration": "20 minutes", "cpuUsage": "1.2 GHz"}],
}


@pytest.fixture
def folder(tmp_path):
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps({"clusters": [{"name": name, "hosts": [HOST]}]}))
    (tmp_path / "load").mkdir()
    (tmp_path / "failures.parquet").touch()
    return tmp_path


def read(folder, content, **options):
    (folder / "experiment.json").write_text(json.dumps(content))
    return read_experiment(folder / "experiment.json", **({"strict": True} | options))


def runner(folder, **changes):
    content = {"topologies": [{"pathToFile": "one.json"}], "workloads": [{"pathToFile": "load"}]}
    return read(folder, content | changes, failure_reader=lambda path: [(1000, 500, 0.5), (2000, 500, 1.0)])


def sdk(folder, **changes):
    workloads = [{"type": "trace", "source": {"type": "named", "name": "load"}}]
    content = {"topologies": [SDK_TOPOLOGY], "workloads": workloads}
    return read(folder, content | changes, failure_reader=lambda path: [(1000, 500, 0.5), (2000, 500, 1.0)])


def test_a_small_experiment_has_the_defaults_of_the_reference(folder):
    for experiment in (runner(folder), sdk(folder)):
        (scenario,) = experiment.scenarios
        assert (experiment.runs, experiment.initial_seed, experiment.name) == (1, 0, "unnamed-simulation")
        assert scenario.options.allocation == prefab("Mem")
        assert scenario.options.max_failures == 10
        assert scenario.options.failures is None
        assert scenario.options.checkpoint is None
        assert scenario.export == ExportOptions(300_000, 24, ("host", "task", "powerSource", "battery", "service"), ())
        assert scenario.workload.path == folder / "load"
        assert scenario.workload.scaling_policy == "no_delay"
        assert not experiment.warnings


def test_dialects_are_told_apart(folder):
    assert runner(folder).dialect == "runner"
    assert sdk(folder).dialect == "SDK"


def test_scenarios_are_the_product_in_the_documented_order(folder):
    experiment = runner(
        folder,
        topologies=[{"pathToFile": "one.json"}, {"pathToFile": "two.json"}],
        workloads=[{"pathToFile": "load"}, {"pathToFile": "load", "scalingPolicy": "Perfect"}],
        allocationPolicies=[{"type": "prefab", "policyName": "Mem"}, {"type": "prefab", "policyName": "Random"}],
        exportModels=[{"exportInterval": 1}, {"exportInterval": 2}],
        failureModels=[None, {"type": "prefab", "prefabName": "G5k06Exp"}],
        checkpointModels=[None, {}],
        maxNumFailures=[1, 2],
    )

    def key(scenario):
        options = scenario.options
        return (
            scenario.topology.clusters[0].name == "two.json",
            scenario.workload.scaling_policy == "perfect",
            options.allocation.subset_size == 0,
            scenario.export.interval_ms == 2000,
            options.failures is not None,
            options.checkpoint is not None,
            options.max_failures == 2,
        )

    bits = [sum(bit << (6 - place) for place, bit in enumerate(key(scenario))) for scenario in experiment.scenarios]
    assert bits == list(range(128))
    assert [scenario.index for scenario in experiment.scenarios] == list(range(128))


def test_equal_candidates_collapse_and_keep_their_first_place(folder):
    policies = [{"type": "prefab", "policyName": name} for name in ("Mem", "Random", "Mem")]
    experiment = runner(
        folder,
        allocationPolicies=policies,
        topologies=[{"pathToFile": "one.json"}, {"pathToFile": "one.json"}],
        workloads=[{"pathToFile": "load"}, {"pathToFile": "load", "sampleFraction": 1.0}],
        failureModels=[None, None],
        exportModels=[{}, {"exportInterval": 300}],
        maxNumFailures=[3, 3],
    )
    assert [s.options.allocation.subset_size for s in experiment.scenarios] == [1, 0]


def test_a_prefab_and_the_policy_it_stands_for_are_two_candidates(folder):
    spelled = {
        "type": "filter",
        "filters": [{"type": "Compute"}, {"type": "VCpu"}, {"type": "Ram", "allocationRatio": 1.5}],
        "weighers": [{"type": "Ram"}],
    }
    first, second = runner(folder, allocationPolicies=[{"type": "prefab", "policyName": "Mem"}, spelled]).scenarios
    assert first.options.allocation == second.options.allocation


def test_runs_have_seeds_of_their_own(folder):
    (scenario,) = runner(folder, initialSeed=5, runs=3).scenarios
    assert [scenario.options_of_run(k).seed for k in range(3)] == [5, 6, 7]


CPU = (ComputeFilter(), VCpuFilter(), RamFilter(allocation_ratio=1.5))
GPU = (ComputeFilter(), VCpuFilter(), VGpuFilter(), RamFilter(allocation_ratio=1.5))


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("Mem", FilterAllocation(filters=CPU, weighers=(RamWeigher(multiplier=1.0),))),
        ("MemInv", FilterAllocation(filters=CPU, weighers=(RamWeigher(multiplier=-1.0),))),
        ("ActiveServers", FilterAllocation(filters=CPU, weighers=(InstanceCountWeigher(multiplier=-1.0),))),
        ("ActiveServersInv", FilterAllocation(filters=CPU, weighers=(InstanceCountWeigher(multiplier=1.0),))),
        ("Random", FilterAllocation(filters=CPU, weighers=(), subset_size=0)),
        ("TaskNumMemorizing", MemorizingAllocation(filters=CPU)),
        ("GpuTaskMemorizing", MemorizingAllocation(filters=GPU)),
        ("Timeshift", TimeShiftAllocation(filters=CPU, weighers=(RamWeigher(multiplier=1.0),), memorize=False)),
    ],
)
def test_prefabs(folder, name, policy):
    assert (
        runner(folder, allocationPolicies=[{"type": "prefab", "policyName": name}]).scenarios[0].options.allocation
        == policy
    )
    assert (
        sdk(folder, allocationPolicies=[{"type": "prefab", "prefabName": name}]).scenarios[0].options.allocation
        == policy
    )


@pytest.mark.parametrize("suffix", ["", "Inv"])
def test_prefabs_that_weigh_cores(suffix):
    sign = -1.0 if suffix else 1.0
    cores, both = prefab(f"ProvisionedCores{suffix}"), prefab(f"ProvisionedCpuGpuCores{suffix}")
    assert [(w.type, w.multiplier) for w in cores.weighers] == [("v_cpu", sign)]
    assert [(w.type, w.multiplier) for w in both.weighers] == [("v_cpu", sign), ("v_gpu", sign)]
    assert both.filters == GPU
    assert [(w.type, w.multiplier) for w in prefab(f"CoreMem{suffix}").weighers] == [("core_ram", sign)]


def test_memory_ratio_of_the_prefabs_is_a_setting(folder):
    content = {"topologies": [{"pathToFile": "one.json"}], "workloads": [{"pathToFile": "load"}]}
    (scenario,) = read(folder, content, ram_ratio=1.0).scenarios
    assert scenario.options.allocation.filters[-1] == RamFilter(allocation_ratio=1.0)


def test_filter_and_timeshift_policies(folder):
    filters = [{"type": "InstanceCount", "limit": 3}, {"type": "VCpuCapacity"}, {"type": "DifferentHost"}]
    weighers = [{"type": "CoreRam", "multiplier": -2}, {"type": "VCpuCapacity"}]
    shift = {"type": "timeshift", "forecast": False, "windowSize": 7, "taskStopper": {"forecastThreshold": 0.9}}
    allocations = [{"type": "filter", "filters": filters, "weighers": weighers, "subsetSize": 4}, shift]
    chosen, shifted = (s.options.allocation for s in runner(folder, allocationPolicies=allocations).scenarios)
    assert [f.type for f in chosen.filters] == ["instance_count", "v_cpu_capacity", "different_host"]
    assert [(w.type, w.multiplier) for w in chosen.weighers] == [("core_ram", -2.0), ("v_cpu_capacity", 1.0)]
    assert chosen.subset_size == 4
    assert (shifted.forecast, shifted.window_size, shifted.memorize, shifted.forecast_size) == (False, 7, True, 24)
    assert shifted.filters == (ComputeFilter(),)
    assert shifted.task_stopper.forecast_threshold == 0.9


def test_the_sdk_spells_filters_in_camel_case_and_may_memorize(folder):
    spelled = {
        "type": "filter",
        "filters": [{"type": "vcpu", "allocationRatio": 16}, {"type": "vgpu"}],
        "memorize": True,
    }
    allocation = sdk(folder, allocationPolicies=[spelled]).scenarios[0].options.allocation
    assert allocation == MemorizingAllocation(filters=(VCpuFilter(allocation_ratio=16), VGpuFilter()))


def test_a_misspelt_policy_key_is_not_ignored(folder):
    with pytest.raises(FormatError, match=r"allocationPolicies\[0\]\.name: found unknown key 'name'.*policyName"):
        runner(folder, allocationPolicies=[{"type": "prefab", "name": "Random"}])
    with pytest.raises(FormatError, match=r"policyName: found 'Randm'.*Did you mean 'Random'"):
        runner(folder, allocationPolicies=[{"type": "prefab", "policyName": "Randm"}])


@pytest.mark.parametrize(
    ("name", "interarrival", "duration"),
    [
        ("G5k06Exp", ExponentialDistribution(mean=32.41), ExponentialDistribution(mean=7.41)),
        ("Lanl05Wbl", WeibullDistribution(alpha=0.48, beta=816.60), WeibullDistribution(alpha=0.58, beta=2.18)),
        ("Nd07cpuLogN", LogNormalDistribution(scale=0.30, shape=2.20), LogNormalDistribution(scale=-1.02, shape=1.27)),
        ("Websites02Gam", GammaDistribution(shape=0.31, scale=38.67), GammaDistribution(shape=0.50, scale=2.37)),
        ("Pl05LogN", LogNormalDistribution(scale=1.44, shape=2.86), LogNormalDistribution(scale=0.40, shape=2.45)),
    ],
)
def test_failure_prefabs(folder, name, interarrival, duration):
    for read_dialect in (runner, sdk):
        model = (
            read_dialect(folder, failureModels=[{"type": "prefab", "prefabName": name}]).scenarios[0].options.failures
        )
        assert model == CustomFailures(
            interarrival_hours=interarrival,
            duration_hours=duration,
            host_ratio=UniformDistribution(lower=0, upper=1),
        )


def test_there_are_36_failure_prefabs():
    from opendt.formats.opendc_policies import _failure_prefab, _failure_prefabs

    prefabs = _failure_prefabs()
    assert len(prefabs) == 36
    for family, parameters in prefabs.values():
        assert _failure_prefab(family, parameters).host_ratio.upper == 1.0


def test_trace_failures_start_at_a_share_of_the_trace(folder):
    traced = {"type": "trace-based", "pathToFile": "failures.parquet", "startPoint": 0.5, "repeat": False}
    first = runner(folder, failureModels=[traced]).scenarios[0].options.failures
    assert [(e.interval_ms, e.duration_ms, e.host_ratio) for e in first.events] == [(1000, 500, 0.5), (2000, 500, 1.0)]
    assert (first.start_point, first.repeat) == (1, False)
    source = {"type": "uri", "uri": "failures.parquet"}
    spelled = {"type": "traceBased", "source": source, "startPoint": 0.5, "repeat": False}
    assert sdk(folder, failureModels=[spelled]).scenarios[0].options.failures == first


def test_custom_failures(folder):
    iat, duration, share = (
        {"type": "normal", "mean": 2, "std": 1},
        {"type": "constant", "value": 1},
        {"type": "uniform", "lower": 0, "upper": 1},
    )
    custom = {"type": "custom", "iatSampler": iat, "durationSampler": duration, "nohSampler": share}
    found = runner(folder, failureModels=[custom]).scenarios[0].options.failures
    spelled = {"type": "custom", "interArrival": iat, "duration": duration, "hostFraction": share}
    assert sdk(folder, failureModels=[spelled]).scenarios[0].options.failures == found
    assert found.interarrival_hours.mean == 2


def test_checkpoints(folder):
    spelled = {"checkpointInterval": 60_000, "checkpointDuration": 1000, "checkpointIntervalScaling": 1.5}
    found = runner(folder, checkpointModels=[spelled]).scenarios[0].options.checkpoint
    assert found == Checkpoint(interval_ms=60_000, duration_ms=1000, interval_scaling=1.5)
    spelled = {"interval": "1 min", "duration": "1 s", "intervalScaling": 1.5}
    assert sdk(folder, checkpointModels=[spelled]).scenarios[0].options.checkpoint == found


def test_a_bare_export_interval_is_seconds_for_the_runner_and_ms_for_the_sdk(folder):
    assert runner(folder, exportModels=[{"exportInterval": 30}]).scenarios[0].export.interval_ms == 30_000
    assert sdk(folder, exportModels=[{"exportInterval": 30}]).scenarios[0].export.interval_ms == 30
    assert sdk(folder, exportModels=[{"exportInterval": "30 seconds"}]).scenarios[0].export.interval_ms == 30_000


def test_export_files_and_columns(folder):
    config = {"hostExportColumns": ["Power Draw", "cpu_usage"]}
    spelled = {"filesToExport": ["service", "host"], "printFrequency": None, "computeExportConfig": config}
    found = runner(folder, exportModels=[spelled]).scenarios[0].export
    assert found.files == ("host", "service")
    assert found.columns == (("host", ("power_draw", "cpu_usage")),)
    assert found.print_frequency is None
    columns = {"host": {"type": "only", "columns": ["power_draw", "cpu_usage"]}, "task": {"type": "all"}}
    spelled = {"filesToExport": ["host", "service"], "printFrequency": None, "columns": columns}
    assert sdk(folder, exportModels=[spelled]).scenarios[0].export == found


def test_workload_settings(folder):
    spelled = {
        "pathToFile": "load",
        "type": "ComputeWorkload",
        "sampleFraction": 0.5,
        "submissionTime": "2022-10-06T22:00:00",
        "deferAll": True,
        "scalingPolicy": "Perfect",
    }
    (scenario,) = runner(folder, workloads=[spelled]).scenarios
    workload = scenario.workload
    assert (workload.sample_fraction, workload.submission_ms, workload.defer_all) == (0.5, 1_665_093_600_000, True)
    assert workload.scaling_policy == scenario.options.scaling_policy == "perfect"


def test_inline_workloads(folder):
    second = TASK | {"id": 1, "submissionTime": "-0", "parents": [0]}
    second |= {"submissionTime": "5 minutes", "deferrable": True, "deadline": "2 hours", "gpuCoreCount": 2}
    second |= {"fragments": [{"duration": "15 minutes", "cpuUsage": "3.0 GHz", "gpuUsage": 500}]}
    third = TASK | {"id": 2, "submissionTime": 1000, "children": [1]}
    spelled = {"type": "inline", "scalingPolicy": "Perfect", "tasks": [TASK, second, third]}
    workload = sdk(folder, workloads=[spelled]).scenarios[0].workload.inline
    assert workload.ids.tolist() == [0, 2, 1]
    assert workload.submission_ms.tolist() == [0, 1000, 300_000]
    assert workload.memory_mib.tolist() == [8192, 8192, 8192]
    assert workload.fragment_duration_ms.tolist() == [600_000, 1_200_000, 600_000, 1_200_000, 900_000]
    assert workload.fragment_gpu_mhz.tolist() == [0, 0, 0, 0, 500]
    assert workload.parent_offset.tolist() == [0, 0, 0, 2]
    assert workload.parents.tolist() == [0, 1]
    assert workload.deadline_ms.tolist() == [-1, -1, 7_200_000]
    assert workload.gpu_count.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"fragments": []}, "tasks[0].fragments"),
        ({"cpuCoreCount": 0}, "tasks[0].cpuCoreCount"),
        ({"parents": [9]}, "tasks[0].parents[0]"),
        ({"parents": [0]}, "tasks"),
        ({"submissionTime": "soon"}, "tasks[0].submissionTime"),
        ({"fragments": [{"duration": -1, "cpuUsage": 1}]}, "tasks[0].fragments[0].duration"),
    ],
)
def test_what_is_wrong_with_an_inline_task_is_named(folder, change, place):
    with pytest.raises(FormatError) as caught:
        sdk(folder, workloads=[{"type": "inline", "tasks": [TASK | change]}])
    assert caught.value.place == f"workloads[0].{place}"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"topologies": []}, "topologies"),
        ({"workloads": []}, "workloads"),
        ({"workloads": [{"pathToFile": "nowhere"}]}, "workloads[0].pathToFile"),
        ({"topologies": [{"pathToFile": "nowhere.json"}]}, "topologies[0].pathToFile"),
        ({"workloads": [{"pathToFile": "load", "sampleFraction": 0}]}, "workloads[0].sampleFraction"),
        ({"workloads": [{"pathToFile": "load", "submissionTime": "noon"}]}, "workloads[0].submissionTime"),
        ({"allocationPolicies": []}, "allocationPolicies"),
        ({"allocationPolicies": [{"type": "filter", "subsetSize": 0}]}, "allocationPolicies[0].subsetSize"),
        (
            {"allocationPolicies": [{"type": "filter", "filters": [{"type": "InstanceCount"}]}]},
            "allocationPolicies[0].filters[0].limit",
        ),
        ({"failureModels": [{"type": "prefab", "prefabName": "Nowhere"}]}, "failureModels[0].prefabName"),
        (
            {"failureModels": [{"type": "trace-based", "pathToFile": "failures.parquet", "startPoint": 1}]},
            "failureModels[0].startPoint",
        ),
        ({"checkpointModels": [{"checkpointInterval": 0}]}, "checkpointModels[0].checkpointInterval"),
        ({"exportModels": [{"filesToExport": ["moon"]}]}, "exportModels[0].filesToExport[0]"),
        ({"maxNumFailures": [-1]}, "maxNumFailures[0]"),
        ({"runs": 0}, "runs"),
    ],
)
def test_what_is_wrong_with_an_experiment_is_named(folder, changes, place):
    with pytest.raises(FormatError) as caught:
        runner(folder, **changes)
    assert caught.value.place == place


def test_warnings_are_collected_when_not_strict(folder):
    content = {"topologies": [{"pathToFile": "one.json"}], "workloads": [{"pathToFile": "load"}], "rnus": 3}
    experiment = read(folder, content, strict=False)
    assert experiment.runs == 1
    assert len(experiment.warnings) == 1
    assert "Did you mean 'runs'?" in experiment.warnings[0]


def test_reading_an_experiment_imports_neither_numpy_nor_pyarrow(folder):
    runner(folder)
    code = (
        "import sys; from opendt.formats.opendc import read_experiment; read_experiment(sys.argv[1]);"
        "print([m for m in ('numpy', 'pyarrow') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(folder / "experiment.json")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"

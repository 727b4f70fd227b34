"""The real files of each format, where they are at hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.carbon import read_carbon
from opendt.formats.failures import events_from_outages, read_failures, read_fta_outages, read_lanl_outages
from opendt.formats.latency import read_latency
from opendt.formats.openb import read_openb_nodes, read_openb_pods
from opendt.formats.opendc import read_experiment, read_topology
from opendt.formats.opendc_dialect import OpenDCReading
from opendt.formats.power import read_power
from opendt.formats.specpower import read_specpower
from opendt.formats.swf import read_swf
from opendt.formats.wfformat import read_wfformat
from opendt.formats.wta import read_wta
from opendt.model import FormatError, MsePower
from tests.data import require_data


def carbon_rows(path):
    table = pq.ParquetFile(path).read()
    times = table["timestamp"].cast(pa.timestamp("ms")).cast(pa.int64())
    return list(zip(times.to_pylist(), table["carbon_intensity"].to_pylist(), strict=True))


def failure_rows(path):
    table = pq.ParquetFile(path).read()
    names = ("failure_interval", "failure_duration", "failure_intensity")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_surf_week():
    folder = require_data("traces/surf-week")
    topology = read_topology(folder / "topology.json", reading=OpenDCReading(strict=True, carbon_reader=carbon_rows))
    assert topology.host_count == 277
    assert topology.clusters[0].hosts[0].power_model == MsePower(idle_w=25, max_w=174, calibration_factor=4)
    assert len(topology.clusters[0].power_source.carbon) == 34_944
    power = read_power(folder / "consumption.parquet")
    assert len(power.power_w) == 20_159
    assert power.power_w.mean() == pytest.approx(21_700, rel=0.01)


def test_every_reference_case_is_read_strictly():
    cases = sorted(require_data("opendc/cases").glob("*/input/experiment.json"))
    assert len(cases) >= 30
    for case in cases:
        experiment = read_experiment(case, strict=True, carbon_reader=carbon_rows, failure_reader=failure_rows)
        assert experiment.dialect == "runner"
        assert experiment.scenarios, case
        assert (len(experiment.scenarios) == 10) == (case.parts[-3] == "power_models")


def test_carbon_and_failure_traces():
    folder = require_data("traces/carbon-electricity-maps")
    points = read_carbon(folder / "NL_2021-2024.parquet", reader=carbon_rows)
    assert len(points) == 35_064
    events = read_failures(require_data("opendc/cases/fail_two_ckpt/input/two_failures.parquet"), reader=failure_rows)
    assert len(events) == 2


def test_swf_logs():
    folder = require_data("traces/swf-lcg-nasa")
    grid = read_swf(folder / "LCG.swf.gz", pin_partitions=True)
    assert len(grid.workload) + grid.dropped == 188_041
    assert (len(grid.partitions), grid.max_processors) == (170, 24_515)
    assert grid.workload.pinned[0] == "grid.ici.ro"
    nasa = read_swf(folder / "NASA-iPSC-1993-3.1-cln.swf.zip")
    assert len(nasa.workload) + nasa.dropped == 18_239
    assert nasa.workload.cpu_count.max() <= nasa.max_processors == 128
    assert nasa.workload.span_ms / 86_400_000 == pytest.approx(92, abs=1)


@pytest.mark.parametrize(
    ("name", "tasks", "makespan_s", "critical_path_s"),
    [
        ("1000genome-chameleon-22ch-250k-001", 902, 10_417, 313.98),
        ("blast-chameleon-large-001", 103, 3908.44, 1819.118),
        ("bwa-chameleon-large-001", 1004, 52_218.36, 1655.531),
        ("cycles-chameleon-1l-1c-9p-001", 67, 454, 163.415),
        ("montage-chameleon-2mass-01d-001", 103, 1362, 21.122),
        ("seismology-chameleon-1100p-001", 1101, 2354, 5.445),
    ],
)
def test_workflow_instances(name, tasks, makespan_s, critical_path_s):
    workflow = read_wfformat(require_data(f"traces/wfinstances/{name}.json"))
    assert len(workflow.workload) == tasks
    assert workflow.makespan_s == makespan_s
    assert workflow.critical_path_s() == pytest.approx(critical_path_s)
    assert workflow.workload.edge_mib.sum() > 0
    assert workflow.machines.host_count >= 1


def test_workflow_trace_archive():
    workload = read_wta(require_data("traces/wta-shell"))
    assert len(workload) == 10_208
    assert len(workload.parents) == 6805
    assert len(set(workload.names)) == 3403


def test_openb_lists():
    folder = require_data("traces/alibaba-gpu-v2023")
    topology = read_openb_nodes(folder / "openb_node_list_all_node.csv")
    assert topology.host_count == 1523
    assert sum(g.count * g.gpu.count for g in topology.clusters[0].hosts if g.gpu) == 6212
    assert sum(g.count for g in topology.clusters[0].hosts if g.gpu) == 1213
    pods = read_openb_pods(folder / "openb_pod_list_default.csv")
    assert len(pods.workload) + pods.dropped == 8152
    assert len(pods.workload) == pytest.approx(7255, abs=5)
    assert np.median(pods.wait_ms) == 2000
    with pytest.raises(FormatError, match="creation_time"):
        read_openb_pods(folder / "openb_pod_list_multigpu50.csv")


def test_specpower_results():
    servers = read_specpower(require_data("traces/specpower/spec_data_cleaned_unmelted.csv"))
    assert len(servers) == 619
    assert servers["IBM System x3400 M3 (Intel Xeon X5670)"].power.power_w[0] == 69.2


def test_latency_matrix():
    found = read_latency(require_data("traces/latency-aws/AWSCrossRegionLatencyMatrixParams_240419.csv"))
    assert len(found) == 324


def test_failure_archives():
    grid = read_fta_outages(require_data("traces/fta-grid5000/event_trace.tab.xz"), node_prefix="G1/site1/c1/")
    events = events_from_outages(grid, 100)
    assert len(grid) > 1000
    assert events
    assert all(0 < event.host_ratio <= 1 for event in events)
    lanl = require_data("traces/lanl-failures/LA-UR-05-7318-failure-data-1996-2005.csv.xz")
    assert len(read_lanl_outages(lanl)) == pytest.approx(23_739, rel=0.01)

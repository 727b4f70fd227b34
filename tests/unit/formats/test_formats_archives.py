"""SWF, WTA, openb, SPECpower, latency and failure archives, on small files written here."""

from __future__ import annotations

import gzip
import lzma
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.failures import events_from_outages, read_fta_outages, read_lanl_outages
from opendt.formats.latency import latency_links, read_latency
from opendt.formats.openb import read_openb_nodes, read_openb_pods
from opendt.formats.specpower import read_specpower
from opendt.formats.swf import read_swf
from opendt.formats.wta import read_wta
from opendt.model import FormatError

SWF = """\
; Version: 2.2
; UnixStartTime: 1000
; MaxProcs: 128
; Partition: 1 grid.one
; Partition: 2 grid.two
2 60 5 100 4 -1 -1 8 200 -1 1 1 1 -1 1 1 -1 -1
1 0 0 50 -1 -1 1024 2 -1 -1 1 1 1 -1 1 2 -1 -1
3 90 -1 -1 -1 -1 -1 1 -1 -1 0 1 1 -1 1 -1 -1 -1

4 95 1 10 1 -1 -1 1 -1 -1 1 1 1 -1 1 -1 -1 -1
"""


def test_swf_jobs_become_tasks(tmp_path):
    (tmp_path / "log.swf").write_text(SWF)
    log = read_swf(tmp_path / "log.swf", core_speed_mhz=1000, pin_partitions=True)
    workload = log.workload
    assert workload.ids.tolist() == [1, 2, 4]
    assert workload.submission_ms.tolist() == [1_000_000, 1_060_000, 1_095_000]
    assert workload.cpu_count.tolist() == [2, 4, 1]
    assert workload.run_ms.tolist() == [50_000, 100_000, 10_000]
    assert workload.duration_ms.tolist() == [50_000, 200_000, 10_000]
    assert workload.fragment_cpu_mhz.tolist() == [2000.0, 4000.0, 1000.0]
    assert workload.memory_mib.tolist() == [2, 0, 0]
    assert workload.pinned == ["grid.two", "grid.one", ""]
    assert log.wait_ms.tolist() == [0, 5000, 1000]
    assert (log.dropped, log.max_processors, log.partitions) == (1, 128, {1: "grid.one", 2: "grid.two"})


def test_swf_is_read_from_archives(tmp_path):
    (tmp_path / "log.swf").write_text(SWF)
    with gzip.open(tmp_path / "log.swf.gz", "wt") as file:
        file.write(SWF)
    with lzma.open(tmp_path / "log.swf.xz", "wt") as file:
        file.write(SWF)
    with zipfile.ZipFile(tmp_path / "log.swf.zip", "w") as archive:
        archive.writestr("log.swf", SWF)
    plain = read_swf(tmp_path / "log.swf").workload
    for suffix in ("gz", "xz", "zip"):
        assert read_swf(tmp_path / f"log.swf.{suffix}").workload.equals(plain)


def test_swf_jobs_longer_than_a_fragment_are_split(tmp_path):
    seconds = 5_000_000
    (tmp_path / "log.swf").write_text(f"1 0 0 {seconds} 1" + " -1" * 13)
    workload = read_swf(tmp_path / "log.swf").workload
    assert workload.fragment_count == 2
    assert workload.run_ms.tolist() == [seconds * 1000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no jobs"),
        ("; only a header", "no jobs"),
        ("1 2 3", "line 1: found 3 fields"),
        (SWF + "5 1 2", "line 11: found 3 fields"),
        (SWF + "5 1 2 x" + " -1" * 14, "line 11, field 4: found x"),
        (SWF + "5 nan" + " -1" * 16, "line 11"),
        (SWF + "5 1e300" + " -1" * 16, "line 11"),
        ("; UnixStartTime: soon\n" + "1 0 0 50 1" + " -1" * 13, "UnixStartTime"),
        ("1 0 0 50 99999999999" + " -1" * 13, "cpu_count"),
    ],
)
def test_what_is_wrong_with_a_log_is_named(tmp_path, text, message):
    (tmp_path / "log.swf").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_swf(tmp_path / "log.swf")


def test_damaged_archives_are_named(tmp_path):
    whole = gzip.compress(SWF.encode() * 100)
    (tmp_path / "cut.swf.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.swf.zip").write_bytes(b"PK not really")
    (tmp_path / "bad.swf.xz").write_bytes(b"not really")
    with zipfile.ZipFile(tmp_path / "two.swf.zip", "w") as archive:
        archive.writestr("a", SWF)
        archive.writestr("b", SWF)
    for name in ("cut.swf.gz", "bad.swf.zip", "bad.swf.xz", "two.swf.zip", "none.swf"):
        with pytest.raises(FormatError, match=name):
            read_swf(tmp_path / name)


def write_wta(folder, **changes):
    columns = {
        "id": pa.array([10, 11, 12], pa.int64()),
        "ts_submit": pa.array([500, 0, 0], pa.int64()),
        "runtime": pa.array([100, 200, 300], pa.int64()),
        "resource_amount_requested": pa.array([1.0, 2.5, -1.0]),
        "parents": pa.array([[11], [], []], pa.list_(pa.int64())),
        "children": pa.array([[], [10.0], [10.0]], pa.list_(pa.float64())),
        "workflow_id": pa.array([1, 1, 1], pa.int64()),
        "memory_requested": pa.array([-1, 2048, -1], pa.int64()),
    } | changes
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), folder / "tasks.parquet")


def test_wta_tasks_and_dependencies_of_both_columns(tmp_path):
    write_wta(tmp_path)
    workload = read_wta(tmp_path, core_speed_mhz=1000)
    assert workload.ids.tolist() == [11, 12, 10]
    assert workload.cpu_count.tolist() == [3, 1, 1]
    assert workload.memory_mib.tolist() == [2, 0, 0]
    assert workload.run_ms.tolist() == [200, 300, 100]
    assert workload.parent_offset.tolist() == [0, 0, 0, 2]
    assert workload.parents.tolist() == [0, 1]
    assert workload.names == ["workflow 1"] * 3


def test_wta_without_dependencies(tmp_path):
    write_wta(tmp_path, parents=None, children=None, memory_requested=None, workflow_id=None)
    workload = read_wta(tmp_path / "tasks.parquet")
    assert workload.parents is None
    assert workload.names is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": None}, "column runtime"),
        ({"runtime": pa.array([1, None, 3], pa.int64())}, "row 1, column runtime: found null"),
        ({"runtime": pa.array([1, -5, 3], pa.int64())}, "row 1, column runtime: found -5"),
        ({"runtime": pa.array(["1", "2", "3"])}, "column runtime: found type string"),
        ({"ts_submit": pa.array([0.0, float("nan"), 1.0])}, "row 1, column ts_submit: found nan"),
        ({"id": pa.array([10, 11, 11], pa.int64())}, "11 more than once"),
        ({"parents": pa.array([[99], [], []], pa.list_(pa.int64()))}, "row 0, column parents: found 99"),
        ({"parents": pa.array(["a", "b", "c"])}, "column parents: found type string"),
        ({"parents": pa.array([[11], [10], []], pa.list_(pa.int64()))}, "without a cycle"),
        ({"resource_amount_requested": pa.array([1e300, 1.0, 1.0])}, "row 0, column resource_amount_requested"),
    ],
)
def test_what_is_wrong_with_wta_is_named(tmp_path, changes, message):
    write_wta(tmp_path, **changes)
    with pytest.raises(FormatError, match=message):
        read_wta(tmp_path)


def test_a_truncated_parquet_is_named(tmp_path):
    write_wta(tmp_path)
    whole = (tmp_path / "tasks.parquet").read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "tasks.parquet").write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"tasks\.parquet"):
            read_wta(tmp_path)


NODES = "sn,cpu_milli,memory_mib,gpu,model\na,32000,262144,0,\nb,96000,786432,8,V100M32\nc,96000,786432,8,V100M32\n"
PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
    "p1,12500,16384,1,460,,LS,Running,100,500,160\n"
    "p0,6000,12288,0,0,,LS,Running,0,400,0\n"
    "p2,6000,12288,0,0,,LS,Pending,50,400,\n"
)


def test_openb_nodes(tmp_path):
    (tmp_path / "nodes.csv").write_text(NODES)
    (cluster,) = read_openb_nodes(tmp_path / "nodes.csv").clusters
    assert [(g.count, g.core_count, g.memory_mib) for g in cluster.hosts] == [(1, 32, 262_144), (2, 96, 786_432)]
    assert cluster.hosts[0].gpu is None
    assert cluster.hosts[1].gpu.count == 8
    assert cluster.hosts[1].name == "V100M32-96c-768g-8x"


def test_openb_pods(tmp_path):
    (tmp_path / "pods.csv").write_text(PODS)
    pods = read_openb_pods(tmp_path / "pods.csv", core_speed_mhz=1000)
    assert pods.workload.ids == ["p0", "p1"]
    assert pods.workload.cpu_count.tolist() == [6, 13]
    assert pods.workload.fragment_cpu_mhz.tolist() == [6000.0, 12_500.0]
    assert pods.workload.gpu_count.tolist() == [0, 460]
    assert pods.workload.run_ms.tolist() == [400_000, 340_000]
    assert pods.wait_ms.tolist() == [0, 60_000]
    assert pods.dropped == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sn,cpu_milli\na,1", "no such column|a column memory_mib"),
        (NODES + "d,x,1,0,\n", "line 5, column cpu_milli: found 'x'"),
        (NODES + "d,-1000,1,0,\n", "line 5, column cpu_milli"),
        (NODES + "d,100,1,0,\n", "line 5, column cpu_milli"),
        (NODES + "d,1000,nan,0,\n", "line 5, column memory_mib"),
        (NODES + "d,1000\n", "line 5: found another number of values"),
        (NODES + "d,1000,1,0,m,extra\n", "line 5: found another number of values"),
        (NODES.split("\n", maxsplit=1)[0], "no nodes"),
    ],
)
def test_what_is_wrong_with_a_node_list_is_named(tmp_path, text, message):
    (tmp_path / "nodes.csv").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_openb_nodes(tmp_path / "nodes.csv")


SPEC_HEADER = [
    "HW_Vendor",
    "HW_Model",
    "HW_CPUName",
    "CPUCores",
    "ActiveIdle",
    *(f"{n}_AvgPower" for n in range(10, 101, 10)),
]


def spec(rows):
    return "\n".join(",".join(map(str, row)) for row in [SPEC_HEADER, *rows])


def test_specpower_curves(tmp_path):
    watts = [50, *range(60, 160, 10)]
    rows = [
        ["Acme", "X1", "Xeon", 12, *watts],
        ["Acme", "X1", "Xeon", 12, *watts],
        ["Acme", "Y", "", "", *watts[:-1], ""],
    ]
    (tmp_path / "spec.csv").write_text(spec(rows))
    servers = read_specpower(tmp_path / "spec.csv")
    assert list(servers) == ["Acme X1 (Xeon)", "Acme X1 (Xeon) #2"]
    server = servers["Acme X1 (Xeon)"]
    assert server.cores == 12
    assert server.power.watts_at(0.0) == 50
    assert server.power.watts_at(0.95) == 145
    assert server.power.watts_at(1.0) == 150


@pytest.mark.parametrize("value", ["-1", "nan", "watt", "1e9"])
def test_what_is_wrong_with_a_curve_is_named(tmp_path, value):
    (tmp_path / "spec.csv").write_text(spec([["Acme", "X1", "Xeon", 12, value, *range(60, 160, 10)]]))
    with pytest.raises(FormatError, match="line 2, column ActiveIdle"):
        read_specpower(tmp_path / "spec.csv")


def test_latency_becomes_links_of_half_the_mean_round_trip(tmp_path):
    (tmp_path / "l.csv").write_text("src,dst,mean,std\nA,A,1,0\nA,B,30,1\nB,A,34,1\nA,C,10,1\n")
    found = read_latency(tmp_path / "l.csv")
    links = latency_links({**found, ("C", "B"): 8.0}, {"one": "A", "two": "B", "three": "C"})
    assert [(link.from_, link.to, link.latency_ms) for link in links] == [
        ("one", "two", 16.0),
        ("one", "three", 5.0),
        ("two", "three", 4.0),
    ]
    with pytest.raises(KeyError, match="no latency between 'B' and 'C'"):
        latency_links(found, {"two": "B", "three": "C"})


@pytest.mark.parametrize(
    "text", ["src,dst\nA,B", "src,dst,mean\nA,B,x", "src,dst,mean\nA,B,-1", "src,dst,mean\nA,B,nan"]
)
def test_what_is_wrong_with_latencies_is_named(tmp_path, text):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(FormatError, match="mean"):
        read_latency(tmp_path / "l.csv")


def test_outages_that_overlap_are_one_event_with_their_host_time():
    events = events_from_outages([(1000, 2000), (1500, 2500), (5000, 6000)], host_count=4)
    assert [(e.interval_ms, e.duration_ms, e.host_ratio) for e in events] == [(0, 1500, 0.25), (2500, 1000, 0.25)]


def test_fta_events(tmp_path):
    lines = ["# event_id ...", "0\t0\t0\t5\tG1/n1\t0\t100\t160\tNULL", "1\t0\t0\t5\tG1/n1\t1\t160\t200\tNULL"]
    lines.append("2\t0\t0\t5\tG2/n1\t0\t300\t310\tNULL")
    with lzma.open(tmp_path / "event_trace.tab.xz", "wt") as file:
        file.write("\n".join(lines))
    assert read_fta_outages(tmp_path / "event_trace.tab.xz") == [(100_000, 160_000), (300_000, 310_000)]
    assert read_fta_outages(tmp_path / "event_trace.tab.xz", node_prefix="G2/") == [(300_000, 310_000)]


@pytest.mark.parametrize("line", ["0\t0", "0\t0\t0\t5\tn\t0\tx\t160\tNULL", "0\t0\t0\t5\tn\t0\t200\t160\tNULL"])
def test_what_is_wrong_with_fta_is_named(tmp_path, line):
    (tmp_path / "event_trace.tab").write_text(line)
    with pytest.raises(FormatError, match="line 1"):
        read_fta_outages(tmp_path / "event_trace.tab")


def test_lanl_rows(tmp_path):
    rows = ["System,Prob Started,Prob Fixed", "2,6/21/2005 10:54,6/21/2005 11:00", "3,6/21/2005 10:54,6/21/2005 11:00"]
    rows += ["2,6/21/2005 12:00,", "2,6/21/2005 12:00,6/21/2005 11:00"]
    (tmp_path / "lanl.csv").write_text("\n".join(rows))
    assert len(read_lanl_outages(tmp_path / "lanl.csv")) == 2
    ((start, end),) = read_lanl_outages(tmp_path / "lanl.csv", system=2)
    assert end - start == 360_000
    (tmp_path / "lanl.csv").write_text("a,b\n1,2")
    with pytest.raises(FormatError, match="Prob Fixed"):
        read_lanl_outages(tmp_path / "lanl.csv")


def test_ids_of_repeated_job_numbers_are_positions(tmp_path):
    (tmp_path / "log.swf").write_text("\n".join(["7 0 0 50 1" + " -1" * 13] * 3))
    assert np.array_equal(read_swf(tmp_path / "log.swf").workload.ids, [1, 2, 3])

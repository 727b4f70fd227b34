"""Descriptions of fleets, latency matrices and jobs in files: read, written, and refused with the place and the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.formats.fleet_spec import read_fleet_spec
from opendt.formats.jobspec import job_schema, read_job, read_jobs
from opendt.formats.latency import (
    matrix_of_sites,
    read_ibm_latency,
    read_latency_matrix,
    read_round_trips,
    write_latency_matrix,
)
from opendt.model.errors import FormatError
from tests.data import require_data

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"

JOB = """\
id: thumbnails
origin: {cluster: campus-lab}
deadline_ms: 60000
stages:
  - {id: fetch, cpu_millicores: 20000, memory_mib: 4096, work: {cpu_seconds: 400}, output_mb: 20}
  - {id: shrink, needs: [fetch], cpu_millicores: 50000, memory_mib: 8192, formats: [native, wasm],
     work: {kind: floating_point, cpu_seconds: 1000.0}}
"""


def test_a_job_is_the_same_in_yaml_and_json(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    job = read_job(tmp_path / "job.yaml")
    assert [stage.id for stage in job.stages] == ["fetch", "shrink"]
    assert job.stages[1].formats == ("native", "wasm")
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert read_job(tmp_path / "job.json") == job


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "cpu_millicores: 20000",
            "cpu_millicores: -1",
            r"stages\[0\].cpu_millicores: found -1, expected greater than or",
        ),
        ("memory_mib: 4096", "memory: 4096", r"stages\[0\].memory: found a key that is not known"),
        ("id: thumbnails", "id: Thumb nails", "id: found 'Thumb nails', expected"),
        ("needs: [fetch]", "needs: [fish]", "found what contradicts itself, expected .*no stage 'fish'"),
        ("id: thumbnails\n", "", "id: found nothing, expected this key"),
        ("[native, wasm]", "[native, cobol]", r"stages\[1\].formats\[1\]: found 'cobol', expected 'native'"),
        ("stages:", "stages: [", "line .*expected YAML"),
    ],
)
def test_a_wrong_job_names_the_place(tmp_path, old, new, message):
    (tmp_path / "job.yaml").write_text(JOB.replace(old, new))
    with pytest.raises(FormatError, match=message) as caught:
        read_job(tmp_path / "job.yaml")
    assert caught.value.file.endswith("job.yaml")


def test_what_is_no_job_at_all_is_refused(tmp_path):
    (tmp_path / "job.yaml").write_text("- 1\n")
    with pytest.raises(FormatError, match=r"found \[1\], expected keys and values \(id, origin"):
        read_job(tmp_path / "job.yaml")
    (tmp_path / "job.json").write_text('{"id": }')
    with pytest.raises(FormatError, match="line 1, column 8"):
        read_job(tmp_path / "job.json")
    with pytest.raises(FormatError, match="no such file"):
        read_job(tmp_path / "none.yaml")


def test_several_jobs_in_a_file_have_ids_of_their_own(tmp_path):
    one = json.loads(read_text(tmp_path))
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"jobs": [one, one | {"id": "other"}]}))
    assert [job.id for job in read_jobs(path)] == ["thumbnails", "other"]
    path.write_text(json.dumps({"jobs": [one, one]}))
    with pytest.raises(FormatError, match=r"jobs\[1\].id: found 'thumbnails', expected an id that no other"):
        read_jobs(path)
    path.write_text(json.dumps(one))
    assert len(read_jobs(path)) == 1


def read_text(folder):
    (folder / "one.yaml").write_text(JOB)
    return read_job(folder / "one.yaml").model_dump_json()


def test_the_schema_takes_what_the_reader_takes(tmp_path):
    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    value = json.loads(read_text(tmp_path))
    jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value | {"deadline": 3}, schema)


# Latency


def test_a_matrix_is_symmetric_unless_it_says_otherwise(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "latencies:\n- {from: a, to: b, latency_ms: 35}\n- {from: a, to: c, latency_ms: 10, jitter_ms: 1}\n"
        "- {from: c, to: a, latency_ms: 12}\n"
    )
    matrix = read_latency_matrix(path)
    assert (matrix.between("a", "b"), matrix.between("b", "a")) == (35.0, 35.0)
    assert (matrix.between("a", "c"), matrix.between("c", "a")) == (10.0, 12.0)
    assert matrix.between("b", "c") == matrix.default_ms
    assert matrix.between("a", "a") == 0.0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("- {from: a, to: b}", r"latencies\[0\]: found .*expected from, to and latency_ms"),
        ("- {from: a, to: b, latency_ms: -1}", r"latencies\[0\].latency_ms: found -1, expected ms >= 0"),
        ("- {from: a, to: b, latency_ms: 1, lag: 2}", r"latencies\[0\].lag: found a key that is not known"),
        ("- {from: a, to: a, latency_ms: 1}", "the names of two clusters"),
        ("- {from: a, to: b, latency_ms: 1}\n- {from: a, to: b, latency_ms: 2}", "each direction of a pair once"),
        ("3", "found 3, expected a list of"),
    ],
)
def test_a_wrong_matrix_names_the_entry(tmp_path, rows, message):
    path = tmp_path / "m.yaml"
    path.write_text(f"latencies: {rows}\n" if rows == "3" else f"latencies:\n{rows}\n")
    with pytest.raises(FormatError, match=message):
        read_latency_matrix(path)


pairs = st.tuples(st.sampled_from("abcdE: '\""), st.sampled_from("abcdE: '\"")).filter(lambda pair: pair[0] != pair[1])


@given(given_ms=st.dictionaries(pairs, st.integers(0, 10**5).map(lambda tenth: tenth / 10), min_size=1))
def test_a_matrix_that_is_written_is_read_the_same(tmp_path_factory, given_ms):
    path = tmp_path_factory.mktemp("matrix") / "m.yaml"
    write_latency_matrix(given_ms, path)
    both = {(b, a): ms for (a, b), ms in given_ms.items()} | given_ms
    assert read_latency_matrix(path).round_trip_ms == both


def test_tables_of_ibm_are_read(tmp_path):
    path = tmp_path / "latency.md"
    table = "| Average | Dallas | Tokyo |\n| --- | :---: | :---: |\n| **Dallas** |  | 145 |\n| **Tokyo** | 144 |  |\n"
    path.write_text(
        f"## 2 Feb 2026\n\n### Inter-region\n{table}{{: caption}}\n\n## 1 Jan 2026\n{table.replace('145', '99')}"
    )
    assert read_ibm_latency(path) == {("Dallas", "Tokyo"): 145.0, ("Tokyo", "Dallas"): 144.0}
    assert read_ibm_latency(path, "1 Jan 2026")["Dallas", "Tokyo"] == 99.0
    assert read_round_trips(path) == read_ibm_latency(path)
    with pytest.raises(FormatError, match="found days 2 Feb 2026, 1 Jan 2026, expected a table of 3 Mar 2026"):
        read_ibm_latency(path, "3 Mar 2026")
    path.write_text(f"## 2 Feb 2026\n{table.replace('145', 'far')}")
    with pytest.raises(FormatError, match="line 4, column Tokyo: found 'far'"):
        read_ibm_latency(path)


def test_the_published_tables_become_matrices():
    ibm = read_round_trips(require_data("traces/latency-ibm-cloud/network-latency.md"))
    aws = read_round_trips(require_data("traces/latency-aws/AWSCrossRegionLatencyMatrixParams_240419.csv"))
    assert (len({a for a, _ in ibm}), len({a for a, _ in aws})) == (13, 18)
    matrix = matrix_of_sites(aws, {"one": "Seoul", "two": "Tokyo", "three": "Tokyo"})
    assert matrix.between("one", "two") == aws["Seoul", "Tokyo"]
    assert matrix.between("two", "three") == 0.0
    with pytest.raises(KeyError, match="no latency between"):
        matrix_of_sites(aws, {"one": "Seoul", "two": "Atlantis"})


# Fleets


def test_the_fleet_that_comes_with_it_is_read():
    fleet = read_fleet_spec(DEPLOY / "fleet.yaml")
    snapshot = fleet.snapshot(time_ms=5)
    assert len(snapshot.clusters) == 7
    assert snapshot.latency.between("dc-core", "edge-microdc") == 35.0
    core = snapshot.clusters["dc-core"]
    assert (core.resiliency_ratio, core.failure_domain, core.carbon_g_per_kwh) == (0.999, "grid-north", 45.0)
    gpu = snapshot.nodes["dc-core", "dc-core-gpu-1"]
    assert (gpu.gpu, gpu.gpu_model, gpu.cpu_millicores) == (4, "A100", 48_000)
    assert gpu.exec_formats == ("native", "qemu-arm64", "qemu-riscv64", "wasm")
    real = snapshot.nodes["phone-pan-1", "phone-pan-1-real-1"]
    assert (real.arch, real.cpu_millicores, real.exec_formats) == ("arm64", 60, ("native", "wasm"))


SPEC = """\
clusters:
  - name: one
    type: edge
    node_classes: [{name: n, count: 1, arch: amd64, cores: 4, mhz: 2400, memory_mib: 8192, idle_w: 10, max_w: 50}]
  - {name: two, type: edge}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("idle_w: 10", "idle_w: 90", r"n: idle_w \(90\) must not exceed max_w \(50\)"),
        ("name: two", "name: one", "the name 'one' is used twice"),
        (
            "arch: amd64",
            "arch: sparc",
            r"clusters\[0\].node_classes\[0\].arch: found 'sparc', expected 'amd64', 'arm64'",
        ),
        ("type: edge}", "kind: edge}", r"clusters\[1\].kind: found a key that is not known"),
        ("count: 1", "count: 1.5", r"clusters\[0\].node_classes\[0\].count: found 1.5"),
    ],
)
def test_a_wrong_description_names_the_place(tmp_path, old, new, message):
    (tmp_path / "fleet.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(FormatError, match=message):
        read_fleet_spec(tmp_path / "fleet.yaml")


def test_a_matrix_must_know_all_clusters(tmp_path):
    (tmp_path / "fleet.yaml").write_text(SPEC)
    (tmp_path / "m.yaml").write_text("latencies: [{from: one, to: three, latency_ms: 3}]\n")
    with pytest.raises(FormatError, match="nothing from one to two, expected an entry of each pair"):
        read_fleet_spec(tmp_path / "fleet.yaml", tmp_path / "m.yaml")
    assert read_fleet_spec(tmp_path / "fleet.yaml").clusters["two"].failure_domain == "two"

"""What a file is, told by its first words."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.detect import Kind, detect
from opendt.model import FormatError
from tests import small


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"topologies": [], "workloads": []}, Kind.EXPERIMENT),
        ({"clusters": []}, Kind.TOPOLOGY),
        ({"version": 1, "window_s": 300}, Kind.SLO),
        ({"name": "x", "schemaVersion": "1.5", "workflow": {}}, Kind.WFFORMAT),
        ({"topologys": []}, Kind.EXPERIMENT),
        ({"cluster": []}, Kind.TOPOLOGY),
    ],
)
def test_json(value, kind, tmp_path):
    assert detect(small.write_json(tmp_path / "it.json", value)) is kind


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (["timestamp", "carbon_intensity"], Kind.CARBON),
        (["failure_interval", "failure_duration", "failure_intensity"], Kind.FAILURES),
        (["power_draw", "energy_usage", "timestamp"], Kind.POWER),
        (["id", "ts_submit", "runtime"], Kind.WTA),
    ],
)
def test_parquet(columns, kind, tmp_path):
    pq.write_table(pa.table({name: [1.0] for name in columns}), tmp_path / "it.parquet")
    assert detect(tmp_path / "it.parquet") is kind


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("log.swf", "", Kind.SWF),
        ("log.txt", "; Version: 2.2\n", Kind.SWF),
        ("log", " ".join(["1"] * 18), Kind.SWF),
        ("nodes.csv", "sn,cpu_milli,memory_mib,gpu,model\n", Kind.OPENB_NODES),
        ("pods.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n", Kind.OPENB_PODS),
        ("aws.csv", "src,dst,mean,std\n", Kind.LATENCY),
    ],
)
def test_text(name, text, kind, tmp_path):
    (tmp_path / name).write_text(text)
    assert detect(tmp_path / name) is kind
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert detect(packed) is kind


def test_folders(tmp_path):
    assert detect(small.write_workload(tmp_path / "workload")) is Kind.WORKLOAD
    (tmp_path / "wta").mkdir()
    pq.write_table(pa.table({"id": [1], "ts_submit": [0], "runtime": [5]}), tmp_path / "wta" / "tasks.parquet")
    assert detect(tmp_path / "wta") is Kind.WTA


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("it.json", b"[]", "a JSON list"),
        ("it.json", json.dumps({"a": 1}).encode(), "the keys 'a'"),
        ("it.parquet", b"PAR1", "parquet"),
        ("it.csv", b"a,b\n", "text that begins with 'a,b'"),
        ("it.txt", b"", "an empty file"),
        ("it.txt.gz", b"no gzip", "BadGzipFile"),
        ("tasks.parquet", None, "the folder that it is in"),
    ],
)
def test_nothing_that_is_known(name, content, words, tmp_path):
    if content is None:
        small.write_workload(tmp_path)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=words):
        detect(tmp_path / name)

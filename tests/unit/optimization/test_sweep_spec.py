"""A spec is held to its form; what is wrong is told with its key and line."""

from __future__ import annotations

import re

import pytest

from opendt.model.errors import FormatError
from opendt.optimization.sweep_spec import MAX_ROWS, read_spec
from tests.unit.optimization.sweep_plant import HEAD


def refused(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        read_spec(path)
    return caught.value.message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("gird: {host_ratio: [1]}", r"gird \(line 4\): found .*, expected only known keys"),
        ("grid:\n  host_ratio: []", r"grid.host_ratio \(line 5\): found \[\]"),
        ("grid:\n  host_ratio: [1]\n  host_ratio: [2]", r"line 6: found the key host_ratio a second time"),
        ("sample:\n  count: 0\n  axes: {a: {choice: [1]}}", r"sample.count \(line 5\): found 0, expected greater"),
        ("sample: {count: 2, axes: {a: {uniform: [2, 1]}}}", r"uniform as \[low, high\] with low below high"),
        ("sample: {count: 2, axes: {a: {uniform: [1, 1e3]}}}", r"found '1e3', expected a number \(YAML reads"),
        ("sample: {count: 2, axes: {a: {log_uniform: [0, 1]}}}", r"sample.axes.a.log_uniform.0 \(line 4\): found 0"),
        ("sample: {count: 2, axes: {a: {uniform: [0, 1], choice: [1]}}}", r"exactly one of uniform"),
        ("sample: {count: 2, axes: {}}", r"sample.axes \(line 4\)"),
        ("grid: {a: [1]}\nsample: {count: 2, axes: {a: {choice: [1]}}}", r"either in grid or in sample.axes, not a"),
        ("grid: {topology: [a.json]}", r"topology either as a key of its own or as an axis"),
        ("grid: {seed: [1]}", r"seeds as the key seeds of the sweep"),
        ("seeds: [-1]", r"seeds.0 \(line 4\): found -1"),
        ("seeds: []", r"seeds \(line 4\)"),
        ("options: {seed: 3}", r"options \(line 4\): .*seed as the key seeds"),
        ("options: {quantum: 3}", r"options.quantum \(line 4\): found 3, expected only known keys"),
        (f"seeds: {MAX_ROWS}\ngrid: {{host_ratio: [1, 2]}}", r"at most 100,000 rows, not 200,000"),
        ("grid: [", r"line 4|line 5"),
        ("grid: 2026-02-30", r"found .*, expected a YAML document"),
        ("grid: {host_ratio: [2026-02-03]}", r"grid.host_ratio"),
        ("grid: !!python/object/apply:os.getcwd []", r"line 4: found could not determine a constructor"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, body, words):
    assert re.search(words, refused(tmp_path, HEAD + body))


@pytest.mark.parametrize("text", ["", "- 1\n", "sweep\n"])
def test_a_spec_is_a_mapping(tmp_path, text):
    assert "expected a mapping with the keys of a sweep" in refused(tmp_path, text)


def test_a_key_that_is_missing_is_named(tmp_path):
    assert refused(tmp_path, "topology: a\nworkload: b\n").startswith("version (line 1): found no such key")
    assert "workload either as a key of its own or as an axis" in refused(tmp_path, "version: 1\ntopology: a\n")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FormatError, match="a readable UTF-8 file"):
        read_spec(tmp_path / "none.yaml")


def test_seeds_may_be_counted(tmp_path):
    (tmp_path / "s.yaml").write_text(HEAD + "seeds: 3\n")
    assert read_spec(tmp_path / "s.yaml").seeds == (0, 1, 2)

"""What is written is read back, whatever it is; what is broken is named, whatever broke it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.formats.carbon import write_carbon
from opendt.formats.opendc import read_topology, write_topology
from opendt.formats.opendc_dialect import RUNNER, SDK, OpenDCReading
from opendt.formats.opendc_workload import read_workload, write_workload
from opendt.model import CarbonPoint, FormatError, ModelError, Topology, Workload
from opendt.model.units import parse_data_mib, parse_frequency_mhz, parse_power_w, parse_time_ms

WATTS = st.floats(0, 1e6)
POSITIVE = st.floats(1e-3, 1e9)
NAMES = st.text("abcXYZ é-0", min_size=1, max_size=8)


@st.composite
def power_models(draw):
    kind = draw(st.sampled_from(["constant", "linear", "sqrt", "square", "cubic", "mse", "asymptotic", "curve"]))
    if kind == "constant":
        return {"type": kind, "power_w": draw(WATTS)}
    if kind == "curve":
        inner = sorted(draw(st.sets(st.floats(0.01, 0.99), max_size=5)))
        points = [0.0, *inner, 1.0]
        return {"type": kind, "utilization": points, "power_w": [draw(WATTS) for _ in points]}
    idle, top = sorted((draw(WATTS), draw(WATTS)))
    extra = {"mse": {"calibration_factor": draw(st.floats(0.1, 10))}}
    extra["asymptotic"] = {"asym_util": draw(st.floats(0, 1)), "dvfs": draw(st.booleans())}
    return {"type": kind, "idle_w": idle, "max_w": top} | extra.get(kind, {})


sharings = st.one_of(
    st.sampled_from([{"type": name} for name in ("max_min_fairness", "first_fit", "equal_share")]),
    st.builds(lambda r: {"type": "fixed_share", "share_ratio": r}, st.floats(0.01, 1)),
    st.builds(lambda i: {"type": "best_effort", "update_interval_ms": i}, st.integers(1, 10**9)),
)
overheads = st.one_of(
    st.sampled_from([{"type": "none"}, {"type": "share_based"}]),
    st.builds(lambda r: {"type": "constant", "ratio": r}, st.floats(0, 1)),
)
gpus = st.fixed_dictionaries(
    {
        "count": st.integers(0, 16),
        "core_count": st.integers(1, 10_000),
        "core_speed_mhz": POSITIVE,
        "memory_mib": st.none() | st.integers(0, 2**40),
        "overhead": overheads,
        "power_model": power_models(),
        "sharing": sharings,
    }
)
hosts = st.fixed_dictionaries(
    {
        "name": NAMES,
        "count": st.integers(0, 2**32 - 1),
        "core_count": st.integers(1, 2**32 - 1),
        "core_speed_mhz": POSITIVE,
        "memory_mib": st.integers(0, 2**50),
        "arch": st.none() | st.sampled_from(["x86_64", "arm64"]),
        "power_model": power_models(),
        "cpu_sharing": sharings,
        "gpu": st.none() | gpus,
        "frequency_exponent": st.floats(0, 4),
        "embodied_carbon_kg": st.floats(0, 1e5),
        "lifetime_years": st.floats(0.1, 30),
    }
)
policies = st.one_of(
    st.builds(lambda t: {"type": "single", "carbon_threshold": t}, st.floats(0, 1e4)),
    st.builds(
        lambda kind, t, n: {"type": kind, "starting_threshold": t, "window_size": n},
        st.sampled_from(["running_mean", "running_mean_plus", "running_median", "running_quartiles"]),
        st.floats(0, 1e4),
        st.integers(1, 1000),
    ),
)
batteries = st.fixed_dictionaries(
    {
        "name": NAMES,
        "capacity_kwh": st.floats(1, 1e6),
        "charging_w": st.floats(0, 1e6),
        "initial_charge_kwh": st.floats(0, 1),
        "policy": policies,
        "embodied_carbon_kg": st.floats(0, 1e6),
        "lifetime_years": st.floats(0, 30),
    }
)


@st.composite
def topologies(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    clusters = [
        {
            "name": name,
            "hosts": draw(st.lists(hosts, min_size=1, max_size=3)),
            "power_source": {"name": f"{name} grid", "max_power_w": draw(st.none() | WATTS)},
            "battery": draw(st.none() | batteries),
        }
        for name in names
    ]
    for place, cluster in enumerate(clusters):
        if cluster["battery"]:
            cluster["battery"]["name"] += f" {place}"
    speeds = st.none() | st.floats(1e-3, 1e6)
    links = [
        {"from": names[0], "to": other, "latency_ms": draw(st.floats(0, 1e6)), "bandwidth_mib_per_s": draw(speeds)}
        for other in names[1:]
    ]
    return Topology.model_validate({"clusters": clusters, "links": links})


@given(topologies())
def test_topologies_survive_json(topology):
    assert Topology.model_validate_json(topology.model_dump_json()) == topology


@given(topologies(), st.sampled_from([RUNNER, SDK]))
def test_topologies_survive_a_file_of_either_dialect(topology, dialect):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.json"
        write_topology(topology, path, dialect=dialect)
        assert read_topology(path, reading=OpenDCReading(strict=True)) == topology


@given(topologies(), st.data())
def test_a_topology_broken_anywhere_is_read_or_named(topology, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.json"
        write_topology(topology, path)
        content = json.loads(path.read_text())
        *parents, last = data.draw(st.sampled_from(list(places(content))))
        part = content
        for key in parents:
            part = part[key]
        part[last] = data.draw(st.sampled_from([None, -1, 0, 1.5, 2**70, 1e308, "", "x", True, [], {}, [[]]]))
        path.write_text(json.dumps(content))
        try:
            read_topology(path)
        except FormatError as error:
            named = (error.file, bool(error.expected))
            assert named == (str(path), True)


def places(value, path=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def workloads(draw):
    count = draw(st.integers(1, 8))
    submission = sorted(draw(st.lists(st.integers(0, 2**45), min_size=count, max_size=count)))
    lengths = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    fragments = sum(lengths)
    parents = [sorted(draw(st.sets(st.integers(0, task - 1), max_size=3))) if task else [] for task in range(count)]
    ids = draw(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=count, max_size=count, unique=True))

    def listed(strategy, size):
        return draw(st.lists(strategy, min_size=size, max_size=size))

    columns = {
        "ids": [str(i) for i in ids] if draw(st.booleans()) else ids,
        "submission_ms": submission,
        "duration_ms": listed(st.integers(0, 2**40), count),
        "cpu_count": listed(st.integers(0, 2**31 - 1), count),
        "cpu_capacity_mhz": listed(st.floats(0, 1e12), count),
        "memory_mib": listed(st.integers(0, 10**12), count),
        "fragment_offset": np.concatenate(([0], np.cumsum(lengths))),
        "fragment_duration_ms": listed(st.integers(0, 2**32 - 1), fragments),
        "fragment_cpu_mhz": listed(st.floats(0, 1e12), fragments),
    }
    if any(parents):
        columns["parent_offset"] = np.concatenate(([0], np.cumsum([len(p) for p in parents])))
        columns["parents"] = [parent for found in parents for parent in found]
        if draw(st.booleans()):
            columns["edge_mib"] = listed(st.floats(0, 1e12), len(columns["parents"]))
    if draw(st.booleans()):
        columns |= {"deferrable": listed(st.booleans(), count), "deadline_ms": listed(st.integers(-1, 2**45), count)}
    if draw(st.booleans()):
        columns |= {"pinned": listed(st.sampled_from(["", "a"]), count), "slowdown": listed(st.floats(0.1, 9), count)}
    return Workload.from_columns(columns)


def columns_of_files(folder):
    """Columns of a workload folder, read plainly: what was written, and nothing more."""
    tasks, fragments = (pq.ParquetFile(folder / f"{name}.parquet").read() for name in ("tasks", "fragments"))
    ids = tasks["id"].to_pylist()
    row = {task: place for place, task in enumerate(ids)}
    counts = np.bincount([row[task] for task in fragments["id"].to_pylist()], minlength=len(ids))
    columns = {
        "ids": ids,
        "submission_ms": tasks["submission_time"].to_pylist(),
        "duration_ms": tasks["duration"].to_pylist(),
        "cpu_count": tasks["cpu_count"].to_pylist(),
        "cpu_capacity_mhz": tasks["cpu_capacity"].to_pylist(),
        "memory_mib": [memory // 1000 for memory in tasks["mem_capacity"].to_pylist()],
        "fragment_offset": np.concatenate(([0], np.cumsum(counts))),
        "fragment_duration_ms": fragments["duration"].to_pylist(),
        "fragment_cpu_mhz": fragments["cpu_usage"].to_pylist(),
    }
    if "edge_mib" in tasks.column_names:
        columns["edge_mib"] = [mib for found in tasks["edge_mib"].to_pylist() for mib in found]
    for name, column in (("deferrable",) * 2, ("deadline_ms", "deadline"), ("pinned",) * 2, ("slowdown",) * 2):
        if column in tasks.column_names:
            columns[name] = tasks[column].to_pylist()
    if "parents" in tasks.column_names:
        parents = tasks["parents"].to_pylist()
        columns["parent_offset"] = np.concatenate(([0], np.cumsum([len(p) for p in parents])))
        columns["parents"] = [row[parent] for found in parents for parent in found]
    return columns


@given(workloads())
def test_workloads_survive_a_folder(workload):
    with tempfile.TemporaryDirectory() as name:
        write_workload(workload, name)
        assert Workload.from_columns(columns_of_files(Path(name))).equals(workload)


UNUSED = {"deferrable": False, "deadline_ms": -1, "pinned": "", "slowdown": 1.0, "edge_mib": 0.0}


@given(workloads())
def test_workloads_survive_the_engines_reader(workload):
    # Columns in which no task says anything are left out.
    idle = {
        name: None for name, value in UNUSED.items() if all(each == value for each in workload.columns.get(name, ()))
    }
    with tempfile.TemporaryDirectory() as name:
        write_workload(workload, name)
        assert read_workload(name).equals(replace(workload, **idle))


@given(workloads(), st.data())
def test_a_selection_has_the_chosen_tasks_and_stays_valid(workload, data):
    order = data.draw(st.permutations(range(len(workload))))
    chosen = order[: data.draw(st.integers(1, len(workload)))]
    part = workload.select(chosen)
    part.validate()
    ids = [str(i) for i in workload.ids]
    assert [str(i) for i in part.ids] == [ids[i] for i in chosen]
    assert part.run_ms.tolist() == workload.run_ms[list(chosen)].tolist()
    assert part.core_seconds <= workload.core_seconds * (1 + 1e-12)


@given(workloads(), st.data())
def test_a_circle_is_found_wherever_it_is(workload, data):
    ring = data.draw(st.permutations(range(len(workload))))
    ring = ring[: data.draw(st.integers(1, len(workload)))]
    parents = {task: ring[(place + 1) % len(ring)] for place, task in enumerate(ring)}
    columns = {name: column for name, column in workload.columns.items() if name != "edge_mib"} | {
        "parent_offset": np.concatenate(([0], np.cumsum([task in parents for task in range(len(workload))]))),
        "parents": [parents[task] for task in range(len(workload)) if task in parents],
    }
    with pytest.raises(ModelError, match="without a cycle"):
        Workload.from_columns(columns)


@given(st.dictionaries(st.integers(-(2**40), 2**45), st.floats(0, 1e6), min_size=1, max_size=20))
def test_carbon_traces_keep_every_row(rows):
    points = [CarbonPoint(timestamp_ms=t, intensity_g_per_kwh=v) for t, v in rows.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "carbon.parquet"
        write_carbon(points, path)
        table = pq.ParquetFile(path).read()
    assert table["timestamp"].cast("int64").to_pylist() == list(rows)
    assert table["carbon_intensity"].to_pylist() == list(rows.values())


@given(st.floats(1e-6, 1e9), st.sampled_from([("", 1), ("k", 1e3), ("M", 1e6), ("G", 1e9)]))
def test_a_prefix_is_its_power_of_ten(number, prefix):
    text, factor = f"{number!r} {prefix[0]}", prefix[1]
    assert parse_frequency_mhz(text + "Hz") == pytest.approx(number * factor / 1e6)
    assert parse_power_w(text + "W") == pytest.approx(number * factor)
    assert parse_data_mib(text + "B") == pytest.approx(8 * parse_data_mib(text + "b"))


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_value_error(text):
    for parse in (parse_data_mib, parse_frequency_mhz, parse_power_w, parse_time_ms):
        try:
            assert np.isfinite(parse(text))
        except ValueError as error:
            assert "such as" in str(error)  # noqa: PT017  (both outcomes are right)

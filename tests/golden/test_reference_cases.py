"""The reference simulator's own outputs, case by case: start and end of tasks to the millisecond, energy within 1e-6.

Each case names the version that it must equal. That is 2025 wherever 2025 has an output: `NEW_2026` are the cases that
only the version of 2026 finishes, or whose files only it wrote.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.engine import run_experiment
from opendt.formats.opendc import read_experiment
from tests.data import data_folder, require_data

NEW_2026 = frozenset(
    ["gpu_const", "gpu_multi", "gpu_none", "gpu_share", "surf_week_power30", "terminated_parent", "timeshift_memTrue"]
)
FOLDERS = {"2025": "old2025", "2026": "new2026"}
CASES = [
    "battery_NL_single",
    "battery_exp1",
    "battery_exp2",
    "bitbrains_small",
    "carbon_FR",
    "carbon_NL",
    "ckpt_nofail",
    "fail_single_failure",
    "fail_two_ckpt",
    "fail_two_failures",
    "frag_10",
    "frag_1K",
    "gpu_const",
    "gpu_multi",
    "gpu_none",
    "gpu_share",
    "mem_exact",
    "over_nodelay_equal",
    "over_nodelay_maxmin",
    "over_perfect_maxmin",
    "perfect_int",
    "power_models",
    "sched_ActiveServers",
    "sched_Mem",
    "sched_ProvisionedCores",
    "single_task",
    "small_gpu",
    "surf_week_power30",
    "tasks_100",
    "tasks_10K",
    "tasks_1K",
    "terminated_parent",
    "timeshift_memTrue",
    "workflow_example",
]

# File -> key of its rows, columns that must be equal, columns within the rounding of 32-bit floats.
SAMPLED = {
    "powerSource": (["timestamp", "source_name"], [], ["power_draw", "carbon_intensity"]),
    "host": (
        ["timestamp", "host_name"],
        ["tasks_running", "uptime", "downtime"],
        ["cpu_usage", "cpu_demand", "cpu_utilization", "power_draw", "energy_usage"],
    ),
    "battery": (
        ["timestamp", "battery_name"],
        ["battery_state"],
        ["charge", "power_draw", "embodied_carbon_emission"],
    ),
    "service": (
        ["timestamp"],
        [
            "hosts_up",
            "hosts_down",
            "tasks_total",
            "tasks_pending",
            "tasks_active",
            "tasks_completed",
            "tasks_terminated",
        ],
        [],
    ),
}
# Only in the files of 2026.
ADDED = {"scheduling_delay", "failure_delay", "checkpoint_delay"}


def ordered(table: pa.Table, keys: list[str]) -> pa.Table:
    """Rows by their keys; rows of one key stay in order."""
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    return numbered.sort_by([(key, "ascending") for key in [*keys, "row"]])


def floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].cast(pa.float64()).fill_null(0).to_numpy()


def compare_sampled(name: str, found: pa.Table, expected: pa.Table) -> list[str]:
    keys, exact, rounded = SAMPLED[name]
    found, expected = ordered(found, keys), ordered(expected, keys)
    if any(found[key].to_pylist() != expected[key].to_pylist() for key in keys):
        return [f"{name}: {found.num_rows} rows with other keys than the expected {expected.num_rows}"]
    wrong = [f"{name}.{column}" for column in exact if found[column].to_pylist() != expected[column].to_pylist()]
    for column in rounded:
        one, other = floats(found, column), floats(expected, column)
        if not np.allclose(one, other, rtol=1e-5, atol=1e-2 if name == "battery" else 1e-3, equal_nan=True):
            wrong.append(f"{name}.{column}")
    return wrong


def compare_totals(found: pa.Table, expected: pa.Table) -> list[str]:
    columns = ("energy_usage", "carbon_emission")
    return [
        f"powerSource.{column} in total"
        for column in columns
        if floats(found, column).sum() != pytest.approx(floats(expected, column).sum(), rel=1e-6, abs=1e-6)
    ]


def last_rows(table: pa.Table) -> dict[int, tuple]:
    """Task -> state, start and end of its last row; an unknown time is 0, as in 2026."""
    names = ("task_id", "task_state", "schedule_time", "finish_time")
    columns = [table[name].to_pylist() for name in names]
    return {task: (state, start or 0, end or 0) for task, state, start, end in zip(*columns, strict=True)}


def compare_task_series(found: pa.Table, expected: pa.Table) -> list[str]:
    """Demand and use at each sample; the versions of the reference differ in one row of 7,000, so as many may."""

    def values(table: pa.Table) -> dict[tuple[int, int], tuple[float, float]]:
        names = ("timestamp", "task_id", "cpu_usage", "cpu_demand")
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        return {(time, task): (usage, demand) for time, task, usage, demand in rows}

    mine, theirs = values(found), values(expected)
    both = [key for key in theirs if key in mine]
    one, other = (np.array([series[key] for key in both]) for series in (mine, theirs))
    differing = int((~np.isclose(one, other, rtol=1e-5, atol=1e-3)).sum())
    missing = len(theirs) - len(both)
    return [] if missing <= 2 + len(theirs) // 1000 and differing <= 2 + len(both) // 1000 else ["task series"]


def compare_run(found: Path, expected: Path) -> list[str]:
    wrong = []
    for file in sorted(expected.glob("*.parquet")):
        one, other = pq.read_table(found / file.name), pq.read_table(file)
        wrong += [f"{file.stem}.{name} is missing" for name in set(other.column_names) - set(one.column_names) - ADDED]
        if file.stem == "task":
            wrong += compare_task_series(one, other)
            mine, theirs = last_rows(one), last_rows(other)
            wrong += [
                f"task {task}: {mine.get(task)} for {end}" for task, end in theirs.items() if mine.get(task) != end
            ]
        else:
            wrong += compare_sampled(file.stem, one, other)
            wrong += compare_totals(one, other) if file.stem == "powerSource" else []
    return wrong


@pytest.mark.parametrize("case", CASES)
def test_the_case_is_reproduced(case, tmp_path, monkeypatch):
    folder = require_data(f"opendc/cases/{case}")
    expected = folder / FOLDERS["2026" if case in NEW_2026 else "2025"]
    monkeypatch.chdir(folder / "input")
    experiment = read_experiment(folder / "input/experiment.json")
    results = run_experiment(experiment, tmp_path)
    first_runs = {result.scenario: Path(result.folder) for result in results if result.seed == 0}
    references = {0: expected} | {int(path.name): path for path in expected.iterdir() if path.is_dir()}
    assert references.keys() <= first_runs.keys()
    for scenario, reference in references.items():
        assert list(reference.glob("*.parquet"))
        assert compare_run(first_runs[scenario], reference)[:5] == []


def test_no_case_is_left_out():
    require_data("opendc/cases")
    assert sorted(path.name for path in (data_folder() / "opendc/cases").iterdir()) == CASES

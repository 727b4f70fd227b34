"""The judge of forecasts: figures worked by hand, rivals that see nothing later, changes that stay after their moment."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"
TICK_MS = 30_000


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHES))
    before = set(sys.modules)
    yield importlib.import_module("forecast_accuracy")
    for name in set(sys.modules) - before:
        del sys.modules[name]


def run(judge, *arguments):
    namespace = judge.parser().parse_args([str(argument) for argument in arguments])
    return namespace.run(namespace)


def write_power(folder, power_w):
    folder.mkdir(parents=True, exist_ok=True)
    power = np.asarray(power_w, float)
    times = TICK_MS * np.arange(1, power.size + 1)
    pq.write_table(
        pa.table({"timestamp": times, "power_draw": power, "energy_usage": power * 30.0}),
        folder / "consumption.parquet",
    )
    return folder


def write_predictions(file, issued, target, power, lower=None, upper=None, kind="window"):
    power = np.asarray(power, float)
    columns = {
        "issued_ms": np.asarray(issued),
        "target_ms": np.asarray(target),
        "forecast": [kind] * power.size,
        "power_w": power,
        "lower_w": np.asarray(power - 10.0 if lower is None else lower, float),
        "upper_w": np.asarray(power + 10.0 if upper is None else upper, float),
    }
    pq.write_table(pa.table(columns), file)
    return file


def judged(judge, trace, predictions, tmp_path):
    assert run(judge, "judge", trace, predictions, "--json", tmp_path / "out.json") == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_figures_worked_by_hand(judge, tmp_path, capsys):
    trace = write_power(tmp_path / "trace", [100.0, 110.0, 120.0, 130.0])
    predictions = write_predictions(
        tmp_path / "p.parquet", [0, 30_000, 30_000, 90_000], [30_000, 60_000, 90_000, 120_000], [100, 100, 126, 130],
        lower=[90, 90, 110, 120], upper=[110, 105, 130, 140],
    )  # fmt: skip
    result = judged(judge, trace, predictions, tmp_path)["window"]
    assert result["mape_percent"] == pytest.approx(100 * (10 / 110 + 6 / 120) / 4)
    assert result["bias_percent"] == pytest.approx(100 * (-10 / 110 + 6 / 120) / 4)
    assert result["coverage"] == 0.75
    assert result["winkler_percent"] == pytest.approx(100 * (20 / 100 + (15 + 20 * 5) / 110 + 20 / 120 + 20 / 130) / 4)
    # Persistence: nothing before the first issue; then 100, 100 and 120.
    assert result["persistence"]["scored"] == 3
    assert result["persistence"]["mape_percent"] == pytest.approx(100 * (10 / 110 + 20 / 120 + 10 / 130) / 3)
    own = 10 / 110 + 6 / 120
    assert result["persistence"]["skill"] == pytest.approx(1 - own / (10 / 110 + 20 / 120 + 10 / 130))
    assert "window" in capsys.readouterr().out


def test_flaws_are_counted(judge, tmp_path, capsys):
    trace = write_power(tmp_path / "trace", [100.0, 110.0, 120.0])
    predictions = write_predictions(
        tmp_path / "p.parquet", [30_000, 90_000], [60_000, 90_000], [100, 126], lower=[110, 120], upper=[120, 130]
    )
    result = judged(judge, trace, predictions, tmp_path)["window"]
    assert (result["issued_after_target"], result["outside_own_band"], result["samples_without_forecast"]) == (1, 1, 1)
    assert "issued_after_target: 1" in capsys.readouterr().out


def test_the_rivals_band_sees_nothing_later(judge):
    rng = np.random.default_rng(0)
    issued = np.repeat(3_600_000 * np.arange(20), 10)
    lead = np.tile(np.arange(1.0, 11.0), 20) * TICK_MS
    mean = np.full(200, 1000.0)
    outcome = 1000.0 + 20.0 * rng.standard_normal(200)
    changed = outcome.copy()
    changed[100:] += 500.0
    for one, other in zip(
        judge.rival_bands(issued, lead, mean, outcome), judge.rival_bands(issued, lead, mean, changed), strict=True
    ):
        assert np.array_equal(one[:110], other[:110])
        assert not np.array_equal(one[110:], other[110:])


def test_the_rivals_band_covers(judge):
    rng = np.random.default_rng(0)
    issued = np.repeat(300_000 * np.arange(1000), 10)
    lead = np.tile(np.arange(1.0, 11.0), 1000) * TICK_MS
    mean = np.full(10_000, 1000.0)
    outcome = 1000.0 + 20.0 * rng.standard_normal(10_000)
    lower, upper = judge.rival_bands(issued, lead, mean, outcome)
    assert ((outcome >= lower) & (outcome <= upper))[1000:].mean() == pytest.approx(0.9, abs=0.01)


def test_targets_must_be_unique_and_columns_complete(judge, tmp_path):
    trace = write_power(tmp_path / "trace", [100.0, 110.0])
    twice = write_predictions(tmp_path / "p.parquet", [0, 0], [30_000, 30_000], [1, 1])
    with pytest.raises(SystemExit, match="more than once"):
        run(judge, "judge", trace, twice)
    pq.write_table(pa.table({"issued_ms": [0]}), tmp_path / "q.parquet")
    with pytest.raises(SystemExit, match="are missing"):
        run(judge, "judge", trace, tmp_path / "q.parquet")
    never = write_predictions(tmp_path / "r.parquet", [0], [31_000], [1])
    with pytest.raises(SystemExit, match="no target coincides"):
        run(judge, "judge", trace, never)


def test_perturbed_power_has_drift_step_and_noise(judge, tmp_path):
    power = np.full(2000, 1000.0)
    trace = write_power(tmp_path / "trace", power)
    assert run(judge, "perturb", trace, tmp_path / "out", "--drift", 0.12, "--step", -0.06, "--noise", 0.005) == 0
    _, changed = judge.read_measured(tmp_path / "out")
    expected = 1000.0 * np.linspace(1.0, 1.12, 2000) * np.where(np.arange(2000) >= 1000, 0.94, 1.0)
    assert np.std(changed / expected) == pytest.approx(0.005, rel=0.1)
    assert np.allclose(changed, expected, rtol=0.03)
    table = pq.read_table(tmp_path / "out" / "consumption.parquet")
    assert np.allclose(table.column("energy_usage").to_numpy(), 30.0 * changed)


def test_power_changes_only_after_its_moment(judge, tmp_path):
    trace = write_power(tmp_path / "trace", np.full(100, 1000.0))
    run(judge, "perturb", trace, tmp_path / "out", "--power-after", 50 * TICK_MS)
    _, changed = judge.read_measured(tmp_path / "out")
    assert (changed[:50] == 1000.0).all()
    assert (changed[50:] != 1000.0).all()


def test_the_workload_changes_only_in_what_is_not_known(judge, tmp_path):
    trace = write_power(tmp_path / "trace", np.full(100, 1000.0))
    count, length = 60, 20
    submission = 1_665_093_600_000 + 45_500 * np.arange(count)
    ids = [f"t{i}" for i in range(count)]
    tasks = pa.table(
        {
            "id": ids,
            "submission_time": submission,
            "duration": np.full(count, length * TICK_MS),
            "cpu_count": [16] * count,
        }
    )
    fragments = pa.table({
        "id": np.repeat(ids, length), "duration": np.full(count * length, TICK_MS), "cpu_usage": np.full(count * length, 100.0)
    })  # fmt: skip
    pq.write_table(tasks, trace / "tasks.parquet")
    pq.write_table(fragments, trace / "fragments.parquet")
    moment = 1_500_000
    run(judge, "perturb", trace, tmp_path / "out", "--workload-after", moment)
    after_tasks = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "tasks.parquet").to_pylist()}
    kept: dict[str, list[float]] = {}
    for row in pq.read_table(tmp_path / "out" / "fragments.parquet").to_pylist():
        kept.setdefault(row["id"], []).append(row["cpu_usage"])
    changed = 0
    for i, task in enumerate(ids):
        start = -(-45_500 * i // 1000) * 1000
        known = max(0, min(length, (moment - start) // TICK_MS))
        if start <= moment:
            assert after_tasks[task]["submission_time"] == submission[i]
            assert kept[task][:known] == [100.0] * known
            if known == length:
                assert after_tasks[task]["duration"] == length * TICK_MS
            else:
                assert 100.0 not in kept[task][known:]
                changed += after_tasks[task]["duration"] != length * TICK_MS
    assert changed > 5
    assert len(after_tasks) < count


def test_compare_finds_what_was_said_with_knowledge_of_the_future(judge, tmp_path, capsys):
    issued, target = [0, 30_000, 60_000], [30_000, 60_000, 90_000]
    one = write_predictions(tmp_path / "a.parquet", issued, target, [1, 2, 3])
    later = write_predictions(tmp_path / "b.parquet", issued, target, [1, 2, 4])
    cheat = write_predictions(tmp_path / "c.parquet", issued, target, [1, 5, 3])
    fewer = write_predictions(tmp_path / "d.parquet", issued[1:], target[1:], [2, 3])
    assert run(judge, "compare", one, later, "--until", 30_000) == 0
    assert run(judge, "compare", one, later, "--until", 60_000) == 1
    assert run(judge, "compare", one, cheat, "--until", 30_000) == 1
    assert run(judge, "compare", one, fewer, "--until", 30_000) == 1
    assert "1 differ" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="nothing is checked"):
        run(judge, "compare", one, later, "--until", -1)
    with pytest.raises(SystemExit, match="not in both"):
        run(judge, "compare", one, later, "--until", 30_000, "--forecast", "hour")

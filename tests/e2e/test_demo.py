"""The demo as a user runs it: the installed command, its files, and that nothing it says depends on what came later."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from opendt.formats.synthetic import generate_week
from tests.command import opendt
from tests.data import require_data

HOUR_MS = 3_600_000
FORECAST_ACCURACY = Path(__file__).parents[2] / "benches" / "forecast_accuracy.py"


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("week") / "synthetic"
    generate_week(7, folder)
    return folder


@pytest.fixture(scope="module")
def output(week: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    found = opendt("demo", "--trace", week, "-o", folder, "--hours", 30)
    assert found.returncode == 0, found.stderr
    return folder


def test_predictions_cover_every_kind_once_per_target(output: Path) -> None:
    table = pq.ParquetFile(output / "predictions.parquet").read()
    assert set(table.column_names) == {"issued_ms", "target_ms", "forecast", "power_w", "lower_w", "upper_w"}
    for kind, horizon_ms in (("hour", HOUR_MS), ("window", 300_000), ("blind_hour", HOUR_MS)):
        part = table.filter(pc.equal(table["forecast"], kind))
        issued, target = part["issued_ms"].to_numpy(), part["target_ms"].to_numpy()
        assert len(np.unique(target)) == len(target)
        # Hindcasts begin at the beginning; nobody knew any task before the first window closed, so the first forecast that was
        # issued on time is the one of the first full hour.
        assert target[0] == (HOUR_MS if kind == "blind_hour" else 0) + 30_000
        assert (target % 30_000 == 0).all()
        assert ((target > issued) & (target <= issued + horizon_ms)).all()
        assert (issued % horizon_ms == 0).all()
        lower, power, upper = (part[name].to_numpy() for name in ("lower_w", "power_w", "upper_w"))
        assert ((lower <= power) & (power <= upper) & (lower >= 0)).all()


def test_the_twin_beats_saying_as_now(output: Path) -> None:
    summary = json.loads((output / "summary.json").read_text())
    for kind in ("hour", "window"):
        score = summary["forecasts"][kind]
        assert score["mape_ratio"] < score["persistence_mape_ratio"]
        assert 0.75 < score["coverage_ratio"] <= 1.0
    assert summary["windows"] == 360
    energy = summary["energy"]
    assert energy["twin_kwh"] == pytest.approx(energy["measured_kwh"], rel=0.05)
    assert set(summary["input_sha256"]) >= {
        "tasks.parquet",
        "fragments.parquet",
        "topology.json",
        "consumption.parquet",
    }
    assert {"seed", "versions", "settings", "slos", "speed", "carbon"} <= summary.keys()


def test_report_and_tables_are_there(output: Path) -> None:
    names = {path.name for path in output.iterdir()}
    assert names == {
        "predictions.parquet",
        "windows.parquet",
        "proposals.parquet",
        "curves.parquet",
        "series.parquet",
        "summary.json",
        "report.html",
    }
    assert "<svg" in (output / "report.html").read_text()
    assert pq.ParquetFile(output / "windows.parquet").metadata.num_rows == 360
    assert pq.ParquetFile(output / "curves.parquet").metadata.num_rows > 10


def test_same_seed_gives_the_same_predictions(week: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert opendt("demo", "--trace", week, "-o", tmp_path / name, "--hours", 3, "--quiet").returncode == 0
    assert (tmp_path / "a/predictions.parquet").read_bytes() == (tmp_path / "b/predictions.parquet").read_bytes()


@pytest.mark.parametrize(
    ("change", "kinds"),
    [("--power-after", ("hour", "window", "blind_hour")), ("--workload-after", ("blind_hour",))],
)
def test_nothing_said_before_a_change_depends_on_it(
    week: Path, output: Path, tmp_path: Path, change: str, kinds: tuple[str, ...]
) -> None:
    moment_ms = 26 * HOUR_MS + 77_000
    perturbed = tmp_path / "perturbed"
    subprocess.run(
        [sys.executable, FORECAST_ACCURACY, "perturb", week, perturbed, change, str(moment_ms)], check=True, timeout=60
    )
    assert opendt("demo", "--trace", perturbed, "-o", tmp_path / "out", "--hours", 30, "-q").returncode == 0
    compared = subprocess.run(
        [
            sys.executable,
            FORECAST_ACCURACY,
            "compare",
            output / "predictions.parquet",
            tmp_path / "out/predictions.parquet",
            "--until",
            str(moment_ms),
            "--forecast",
            *kinds,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout
    # The change was real: what was said later does differ.
    before, after = (pq.ParquetFile(folder / "predictions.parquet").read() for folder in (output, tmp_path / "out"))
    assert not before.equals(after)


def test_json_summary_goes_to_stdout_and_nothing_else(week: Path, tmp_path: Path) -> None:
    found = opendt("demo", "--trace", week, "-o", tmp_path, "--hours", 1, "--json", "--quiet")
    assert json.loads(found.stdout)["windows"] == 12
    assert found.stderr == ""


@pytest.mark.parametrize("missing", ["consumption.parquet", "topology.json", "tasks.parquet"])
def test_a_missing_file_is_named(week: Path, tmp_path: Path, missing: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(week, broken)
    (broken / missing).unlink()
    found = opendt("demo", "--trace", broken, "-o", tmp_path / "out")
    assert found.returncode == 1
    assert missing in found.stderr
    assert found.stderr.startswith("Error: ")
    assert not (tmp_path / "out").exists()


def test_surf_week_meets_the_published_marks(tmp_path: Path) -> None:
    trace = require_data("traces/surf-week")
    assert opendt("demo", "--trace", trace, "-o", tmp_path, "-q").returncode == 0
    forecasts = json.loads((tmp_path / "summary.json").read_text())["forecasts"]
    assert forecasts["hour"]["mape_ratio"] <= 0.0115
    assert forecasts["window"]["mape_ratio"] <= 0.0072
    assert forecasts["blind_hour"]["mape_ratio"] <= 1.01 * forecasts["blind_hour"]["persistence_mape_ratio"]
    for score in forecasts.values():
        assert 0.87 <= score["coverage_ratio"] <= 0.93
        by_day = score["coverage_by_day_ratio"].values()
        assert all(0.80 <= coverage <= 0.97 for coverage in [*by_day, *score["coverage_by_tercile_ratio"]])
    assert forecasts["hour"]["winkler_ratio"] <= 0.40 * forecasts["hour"]["persistence_winkler_ratio"]
    assert forecasts["window"]["winkler_ratio"] <= 0.75 * forecasts["window"]["persistence_winkler_ratio"]

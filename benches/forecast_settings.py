"""How much forecasts depend on each stated amount of calibration: every one halved and doubled, on weeks real and synthetic.

    python benches/forecast_settings.py [--seeds 1 2] [--trace FOLDER] [--days 7]

Nothing is chosen here: that is done by `forecast_choice.py`, which reads no recorded week. This shows afterwards what another choice
would have been worth, so that anyone can see that none of the amounts carries the result. Errors are
mean absolute percentage errors an hour and five minutes ahead with the workload known: of the whole time / days 0-2 / the rest.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from forecast_plants import DAY_TICKS, TICK_MS, Week, played, synthetic

from opendt.formats.opendc import read_topology
from opendt.formats.opendc_workload import read_workload
from opendt.formats.power import read_power
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.mixture import ExpertMixture
from opendt.twin.settings import (
    DISTURBANCE_RATIOS,
    FAMILY,
    METERS,
    NOISE_RATIOS,
    TIME_CONSTANTS_S,
    CalibrationSettings,
    make_family,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Family = tuple[CalibrationSettings, ...]

HORIZONS = (120, 10)


def errors_percent(week: Week, family: Family) -> dict[int, tuple[float, float, float]]:
    """Errors per horizon in ticks: whole, first three days, rest; each forecast issued before its readings are seen."""
    calibrator = PowerCalibrator(week.classes, family)
    count = week.measured_w.size
    mixtures = {h: ExpertMixture(len(family), (0, h), h * TICK_MS / 3.6e6) for h in HORIZONS}
    mean_w = {h: np.empty(count) for h in HORIZONS}
    for start in range(0, count, min(HORIZONS)):
        for horizon, mixture in mixtures.items():
            if start % horizon == 0:
                part = slice(start, start + horizon)
                if start:
                    mixture.settle(week.measured_w[start - horizon : start])
                mean_w[horizon][part] = mixture.issue(
                    calibrator.expect_members(week.features[part], week.hosts_up[part])
                )
        part = slice(start, start + min(HORIZONS))
        calibrator.update(week.features[part], week.hosts_up[part], week.measured_w[part])
    results = {}
    for horizon, mean in mean_w.items():
        error = 100 * np.abs(mean / week.measured_w - 1.0)
        first, rest = error[: 3 * DAY_TICKS], error[3 * DAY_TICKS :]
        results[horizon] = (float(np.nanmean(error)), float(np.nanmean(first)), float(np.nanmean(rest)))
    return results


def _every(change: Callable[[CalibrationSettings], CalibrationSettings]) -> Family:
    return tuple(change(settings) for settings in FAMILY)


def _scaled(factor: float, *names: str) -> Family:
    return _every(lambda settings: replace(settings, **{name: getattr(settings, name) * factor for name in names}))


def _disturbed(factor: float, name: str) -> Family:
    def change(settings: CalibrationSettings) -> CalibrationSettings:
        scaled = (replace(part, **{name: getattr(part, name) * factor}) for part in settings.disturbances)
        return replace(settings, disturbances=tuple(scaled))

    return _every(change)


def variants() -> dict[str, Family]:
    """Families by name: as stated, without a part of it, and with each amount halved and doubled."""
    result = {
        "as stated": FAMILY,
        **{
            f"meter {name}": make_family(NOISE_RATIOS, DISTURBANCE_RATIOS, TIME_CONSTANTS_S, (name,)) for name in METERS
        },
        **{f"only noise {noise}": tuple(s for s in FAMILY if s.noise_ratio == noise) for noise in NOISE_RATIOS},
        **{
            f"only disturbance {size}": tuple(s for s in FAMILY if s.disturbances[0].sd_ratio == size)
            for size in DISTURBANCE_RATIOS
        },
        "no disturbance": _disturbed(1e-6, "sd_ratio"),
    }
    for factor in (0.5, 2.0):
        for name in (
            "idle_sd_ratio",
            "curve_sd_ratio",
            "knot_correlation",
            "datasheet_pull_h",
            "noise_ratio",
            "clip_sd",
        ):
            result[f"{name} x {factor}"] = _scaled(factor, name)
        result[f"both walks x {factor}"] = _scaled(factor, "idle_walk_ratio", "curve_walk_ratio")
        result[f"disturbances' size x {factor}"] = _disturbed(factor, "sd_ratio")
        result[f"disturbances' time x {factor}"] = _disturbed(factor, "time_constant_s")
    return result


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Sensitivity of forecasts to the stated amounts of calibration.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2], help="seeds of synthetic weeks")
    parser.add_argument("--trace", type=Path, help="folder of a recorded week")
    parser.add_argument("--days", type=float, default=7.0)
    arguments = parser.parse_args()
    weeks = [synthetic(seed, arguments.days) for seed in arguments.seeds]
    if arguments.trace:
        topology, workload = read_topology(arguments.trace / "topology.json"), read_workload(arguments.trace)
        power = read_power(arguments.trace / "consumption.parquet")
        weeks.append(played(arguments.trace.name, topology, workload, power, arguments.days))
    columns = [f"{week.name}, {horizon // 2} min" for week in weeks for horizon in HORIZONS]
    print("| family | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, family in variants().items():
        results = [errors_percent(week, family) for week in weeks]
        cells = [" / ".join(f"{value:.3f}" for value in result[h]) for result in results for h in HORIZONS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Choose how much better an old curve must be before a fit is given up, on synthetic plants, by a rule.

    python benches/forecast_guard.py [--days 3] [--processes 2]

*Healthy*: the twenty plants of `forecast_plants`, steps, drifts and slow meters among them. A rollback there is a false alarm.
*Spoilt*: the same without step and drift, with a sensor that shows 1.8 or 0.6 of the power for five hours after two and a half days. A
rollback, to curves from before, is wanted within six hours after the sensor's recovery. *Rule*: the middle of the ratios that give no false
alarm and repair as many as any ratio without false alarm does.

What every ratio would have done first follows from one run in which nothing is rolled back.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Final

import forecast_plants as plants
import numpy as np

from opendt.twin.guard import GuardedCalibrator, RollbackSettings
from opendt.twin.settings import FAMILY

RATIOS: Final = tuple(round(0.1 * step, 1) for step in range(1, 10))
FACTORS: Final = (1.8, 0.6)
FAULT_H: Final = (60, 65)
REPAIR_H: Final = 6


def kept_ratios(week: plants.Week) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`GuardedCalibrator.kept_ratio` at the end of each hour of a week in which nothing is rolled back."""
    guard = GuardedCalibrator(week.classes, FAMILY, rollback=RollbackSettings(gain_ratio=0.0))
    ratios = []
    for start in range(0, week.measured_w.size, plants.HOUR_TICKS):
        part = slice(start, start + plants.HOUR_TICKS)
        guard.update(week.features[part], week.hosts_up[part], week.measured_w[part])
        ratios.append(guard.kept_ratio)
    return np.array(ratios)


def spoilt(week: plants.Week, factor: float) -> plants.Week:
    """The week with a sensor that shows too much or too little for some hours."""
    measured_w = week.measured_w.copy()
    measured_w[FAULT_H[0] * plants.HOUR_TICKS : FAULT_H[1] * plants.HOUR_TICKS] *= factor
    return replace(week, measured_w=measured_w)


def judge(index: int, days: float) -> tuple[float, list[float]]:
    """Above which ratio a plant has a false alarm, and above which each of its spoilt variants is repaired."""
    week = plants.plant(index, days)
    false_alarm = float(np.nanmin(kept_ratios(week), initial=1.0))
    repairs = []
    if not week.name.startswith(("step", "drift")):
        for factor in FACTORS:
            ratios = kept_ratios(spoilt(week, factor))
            # From the first check after the recovery on; before it, curves from before the fault fit worse.
            after = ratios[FAULT_H[1] : FAULT_H[1] + REPAIR_H]
            repairs.append(float(np.nanmin(after, initial=1.0)))
    return false_alarm, repairs


def pick(alarms: list[float], repairs: list[float]) -> float:
    """The rule; see the module.

    Raises
    ------
    ValueError
        If every ratio gives a false alarm.
    """
    quiet = [ratio for ratio in RATIOS if ratio <= min(alarms)]
    if not quiet:
        raise ValueError(f"every ratio from {RATIOS[0]} on gives a false alarm: the smallest seen is {min(alarms):.2f}")
    repaired = {ratio: sum(one < ratio for one in repairs) for ratio in quiet}
    good = [ratio for ratio in quiet if repaired[ratio] == max(repaired.values())]
    return round((good[0] + good[-1]) / 2, 2)


def main() -> int:
    """Print what each ratio does, and the choice."""
    parser = argparse.ArgumentParser(description="Choose when a fit is rolled back, on synthetic plants.")
    parser.add_argument("--days", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes: a core each
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        judged = list(pool.map(partial(judge, days=arguments.days), range(plants.count())))
    alarms, repairs = [alarm for alarm, _ in judged], [one for _, own in judged for one in own]
    for ratio in RATIOS:
        false, repaired = sum(one < ratio for one in alarms), sum(one < ratio for one in repairs)
        print(f"{ratio}: {false} of {len(alarms)} false alarms, {repaired} of {len(repairs)} repaired")
    print(f"chosen: {pick(alarms, repairs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

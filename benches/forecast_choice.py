"""Choose the family of filters on synthetic plants, by a rule, without any recorded week.

    python benches/forecast_choice.py [--days 3] [--processes 2] [--json FILE]

*Candidates*: every run of neighbours on the ladder of noises, every run on that of short disturbances, each pair of time constants
or all of them, every set of meters, and the loss by which members are weighed, plain or linearised; up to twelve filters, as
many as there were before: the time of a week must not grow. 4,460 families.
*Plants*: the twenty of `forecast_plants`. *Score*: the mean, over plants and both horizons (an hour and five minutes, workload known), of
the logarithm of the mean absolute relative error. *Rule*: of all families within 1 % of the best score, those with the fewest filters;
of these the one with the best score.

Then the stated amounts: each is halved and doubled for the chosen family. One that makes the score better by more than 1 % is taken
over, the best first, until there is none. Last, the chosen family on coarser curves, to see how many knots are needed.

The members of all candidates learn side by side, once a plant; a candidate is a set of them with weights of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

import forecast_plants as plants
import numpy as np

from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.curve import KNOTS, hat_weights
from opendt.twin.mixture import Hedge
from opendt.twin.settings import METERS, CalibrationSettings, make_family

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Family = tuple[CalibrationSettings, ...]

HORIZONS: Final = (120, 10)
TOLERANCE: Final = 0.01
MOST_FILTERS: Final = 12
LADDER: Final = (0.001, 0.003, 0.01, 0.03)
"""Noises and short disturbances, ratios of full-load power: half a decade apart, from better than any meter to worse than a datasheet."""
TIMES_S: Final = ((150.0, 3600.0), (300.0, 7200.0), (600.0, 14400.0))
"""Pairs of time constants, in s, around the horizons: five minutes and two hours, halved and doubled."""
LOSSES: Final = ("linearised", "plain")
COARSE_KNOTS: Final = ((0.0, 1.0), (0.0, 0.15, 0.45, 1.0), tuple(KNOTS[::2]), tuple(KNOTS))


@dataclass(frozen=True)
class Candidate:
    """A family and how its members are weighed."""

    noises: tuple[float, ...]
    disturbances: tuple[float, ...]
    times_s: tuple[tuple[float, float], ...]
    meters: tuple[str, ...]
    loss: str

    @property
    def family(self) -> Family:
        """The filters."""
        return make_family(self.noises, self.disturbances, self.times_s, self.meters)

    @property
    def size(self) -> int:
        """How many filters."""
        return len(self.noises) * len(self.disturbances) * len(self.times_s) * len(self.meters)

    def __str__(self) -> str:
        """On one line."""
        times = " ".join(f"{short:g}/{long:g}" for short, long in self.times_s)
        ladders = " | ".join(" ".join(f"{value:g}" for value in axis) for axis in (self.noises, self.disturbances))
        return f"{self.size} filters: noise, disturbance {ladders} | s {times} | {' '.join(self.meters)} | {self.loss}"


def candidates() -> list[Candidate]:
    """All of them; see the module."""
    runs = [LADDER[a:b] for a in range(len(LADDER)) for b in range(a + 1, len(LADDER) + 1)]
    times = [(pair,) for pair in TIMES_S] + [TIMES_S]
    sets = [
        tuple(name for name, is_in in zip(METERS, mask, strict=True) if is_in)
        for mask in product((True, False), repeat=len(METERS))
    ]
    every = (Candidate(*axes) for axes in product(runs, runs, times, filter(None, sets), LOSSES))
    return [one for one in every if one.size <= MOST_FILTERS]


def members_forecasts(week: plants.Week, members: Family) -> dict[int, Floats]:
    """What each member says an hour and five minutes ahead, W, shape (members, ticks), per horizon in ticks."""
    calibrator = PowerCalibrator(week.classes, members)
    said = {horizon: np.empty((len(members), week.measured_w.size)) for horizon in HORIZONS}
    step = min(HORIZONS)
    for start in range(0, week.measured_w.size, step):
        for horizon, mean_w in said.items():
            if start % horizon == 0:
                part = slice(start, start + horizon)
                mean_w[:, part] = calibrator.expect_members(week.features[part], week.hosts_up[part])
        part = slice(start, start + step)
        calibrator.update(week.features[part], week.hosts_up[part], week.measured_w[part])
    return said


def mixed_errors(said: Floats, measured_w: Floats, horizon: int, sets: NDArray[np.int64], *, is_plain: bool) -> Floats:
    """Mean absolute relative errors of mixtures of members, one a row of `sets`, weighed as `ExpertMixture` does.

    All sets are of one size; their contests are held side by side.
    """
    hedge = Hedge(len(sets), sets.shape[1], horizon * plants.TICK_MS / 3.6e6)
    dense = np.zeros((len(sets), len(said)))
    flat = (np.arange(len(sets))[:, None] * len(said) + sets).ravel()
    total = np.zeros(len(sets))
    for start in range(0, measured_w.size, horizon):
        guesses, outcome = said[:, start : start + horizon], measured_w[start : start + horizon]
        dense.ravel()[flat] = hedge.weights.ravel()
        mean = dense @ guesses
        error = mean - outcome
        total += (np.abs(error) / outcome).sum(axis=1)
        if is_plain:
            losses = np.abs(guesses / outcome - 1.0).mean(axis=1)[sets]
        else:
            pull = np.sign(error) / outcome / horizon
            losses = (pull @ guesses.T).ravel()[flat].reshape(sets.shape) - np.vecdot(pull, mean)[:, None]
        hedge.charge(losses)
    return np.asarray(total / measured_w.size)


def log_errors(week: plants.Week, families: Sequence[Family], losses: Sequence[str]) -> Floats:
    """Logarithms of the errors of families on a week, shape (families, horizons)."""
    members = tuple(dict.fromkeys(one for family in families for one in family))
    place = {settings: index for index, settings in enumerate(members)}
    said = members_forecasts(week, members)
    result = np.empty((len(families), len(HORIZONS)))
    kinds: dict[tuple[int, str], list[int]] = {}
    for index, (family, loss) in enumerate(zip(families, losses, strict=True)):
        kinds.setdefault((len(family), loss), []).append(index)
    for (_, loss), where in kinds.items():
        sets = np.array([[place[settings] for settings in families[index]] for index in where])
        for column, horizon in enumerate(HORIZONS):
            errors = mixed_errors(said[horizon], week.measured_w, horizon, sets, is_plain=loss == "plain")
            result[where, column] = np.log(errors)
    return result


def pick(scores: Sequence[float], sizes: Sequence[int]) -> int:
    """The rule: of those within 1 % of the best score the smallest, of these the best; `scores` are mean logarithms."""
    limit = min(scores) + math.log1p(TOLERANCE)
    return min((size, score, i) for i, (score, size) in enumerate(zip(scores, sizes, strict=True)) if score <= limit)[2]


# -- the stated amounts ------------------------------------------------------------------------------------------------


def scaled(*names: str) -> Callable[[CalibrationSettings, float], CalibrationSettings]:
    """A change of amounts of a member, all by one factor."""
    return lambda one, factor: replace(one, **{name: getattr(one, name) * factor for name in names})


def scaled_disturbances(name: str, *places: int) -> Callable[[CalibrationSettings, float], CalibrationSettings]:
    """A change of an amount of its disturbances."""

    def change(one: CalibrationSettings, factor: float) -> CalibrationSettings:
        parts = list(one.disturbances)
        for place in places:
            parts[place] = replace(parts[place], **{name: getattr(parts[place], name) * factor})
        return replace(one, disturbances=tuple(parts))

    return change


AMOUNTS: Final = {
    "idle_sd_ratio": scaled("idle_sd_ratio"),
    "curve_sd_ratio": scaled("curve_sd_ratio"),
    "knot_correlation": scaled("knot_correlation"),
    "both walks": scaled("idle_walk_ratio", "curve_walk_ratio"),
    "datasheet_pull_h": scaled("datasheet_pull_h"),
    "clip_sd": scaled("clip_sd"),
    "meter_share_sd": scaled("meter_share_sd"),
    "size of the long disturbance": scaled_disturbances("sd_ratio", 1),
}


def variants(family: Family) -> dict[str, Family]:
    """The family as it is, and with each stated amount halved and doubled."""
    changed = {
        f"{name} x {factor:g}": tuple(change(one, factor) for one in family)
        for name, change in AMOUNTS.items()
        for factor in (0.5, 2.0)
    }
    return {"as stated": family, **changed}


def coarse(week: plants.Week, knots: tuple[float, ...]) -> plants.Week:
    """The same week with curves on fewer of the engine's knots: hats on some of the knots are sums of hats on all."""
    rows = hat_weights(np.array(KNOTS), knots)
    classes = [
        replace(c, utilization=knots, power_w=tuple(np.interp(knots, c.utilization, c.power_w))) for c in week.classes
    ]
    return replace(week, classes=classes, features=week.features @ rows)


# -- the program -------------------------------------------------------------------------------------------------------


def judge_families(index: int, families: Sequence[Family], losses: Sequence[str], days: float) -> Floats:
    """Errors of families on one plant."""
    return log_errors(plants.plant(index, days), families, losses)


def judge_candidates(index: int, days: float) -> Floats:
    """Errors of all candidates on one plant."""
    every = candidates()
    return judge_families(index, [one.family for one in every], [one.loss for one in every], days)


def judge_knots(index: int, family: Family, loss: str, days: float) -> Floats:
    """Errors of a family on one plant with coarser curves, a row for each of `COARSE_KNOTS`."""
    week = plants.plant(index, days)
    return np.concatenate([log_errors(coarse(week, knots), [family], [loss]) for knots in COARSE_KNOTS])


def refined(family: Family, loss: str, judge: Callable[..., Floats], days: float) -> tuple[Family, list[str]]:
    """Halve and double the stated amounts as long as one gains more than 1 %; the family at the end, and a report."""
    report = []
    while True:
        offered = variants(family)
        errors = judge(partial(judge_families, families=[*offered.values()], losses=[loss] * len(offered), days=days))
        gains = np.exp(errors.mean(axis=(0, 2))[0] - errors.mean(axis=(0, 2))) - 1.0
        report += [f"{name}: {100 * gain:+.2f} %" for name, gain in zip(offered, gains.tolist(), strict=True)]
        best = int(np.argmax(gains))
        if gains[best] <= TOLERANCE:
            return family, report
        family = [*offered.values()][best]
        report.append(f"taken: {[*offered][best]}")


def meter_table(every: Sequence[Candidate], chosen: Candidate, errors: Floats) -> list[str]:
    """What other sets of meters would have made of the choice, for the plants of each meter."""
    lines = []
    by_meter = errors.reshape(-1, len(plants.METERS), *errors.shape[1:])  # meters vary fastest
    for own in (one for one in every if replace(one, meters=chosen.meters) == chosen):
        means = 100 * np.exp(by_meter[:, :, every.index(own)].mean(axis=0))
        cells = "; ".join(
            f"{meter.name} {hour:.3f} {window:.3f}" for meter, (hour, window) in zip(plants.METERS, means, strict=True)
        )
        lines.append(f"with {' '.join(own.meters)}: {cells}")
    return lines


def main() -> int:
    """Choose, and print how; figures are errors in percent, geometric means over the plants."""
    parser = argparse.ArgumentParser(description="Choose the filters of the forecasts on synthetic plants.")
    parser.add_argument("--days", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the choice")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes: a core each
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:

        def judge(task: Callable[[int], Floats]) -> Floats:
            return np.stack(list(pool.map(task, range(plants.count()))))

        every = candidates()
        errors = judge(partial(judge_candidates, days=arguments.days))
        scores, sizes = errors.mean(axis=(0, 2)), [one.size for one in every]
        chosen = every[pick(scores.tolist(), sizes)]
        means = 100 * np.exp(errors.mean(axis=0))
        print(f"{len(every)} families on {plants.count()} plants of {arguments.days:g} days; hour, five minutes:")
        for size in sorted(set(sizes)):
            best = min((i for i, one in enumerate(sizes) if one == size), key=lambda i: float(scores[i]))
            print(
                f"  {means[best][0]:.4f} {means[best][1]:.4f} {100 * np.expm1(scores[best] - scores.min()):+.2f} %  {every[best]}"
            )
        where = every.index(chosen)
        print(f"chosen: {means[where][0]:.4f} {means[where][1]:.4f}  {chosen}")
        print(*meter_table(every, chosen, errors), sep="\n")
        family, report = refined(chosen.family, chosen.loss, judge, arguments.days)
        print("better by, when changed:", *report, sep="\n  ")
        knots = judge(partial(judge_knots, family=family, loss=chosen.loss, days=arguments.days))
        for points, (hour, window) in zip(COARSE_KNOTS, 100 * np.exp(knots.mean(axis=0)), strict=True):
            print(f"knots {len(points)}: {hour:.4f} {window:.4f}")
    print(f"{time.monotonic() - started:.0f} s")
    if arguments.json:
        result = {"chosen": str(chosen), "report": report, "members": [repr(one) for one in family]}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

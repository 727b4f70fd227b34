"""Judge forecasts of power against what was measured, point by point, without any code of the twin.

    python benches/forecast_accuracy.py judge TRACE PREDICTIONS [--json FILE] [--block-h 24]
    python benches/forecast_accuracy.py perturb TRACE OUT [--drift R] [--step R] [--noise R] [--power-after MS] [--workload-after MS]
    python benches/forecast_accuracy.py compare PREDICTIONS OTHER --until MS [--forecast KIND ...]

`judge` reads TRACE/consumption.parquet (`timestamp` in ms since the first submission, `power_draw` in W) and a predictions file
(`issued_ms`, `target_ms`, `forecast`, `power_w`, `lower_w`, `upper_w`). Every target is compared with the sample of the same
time; there is no search for a lag. Persistence is the last sample at or before the moment of issue; forecasts issued before
the first sample have no rival and are left out of skill. `perturb` writes a changed copy of a trace folder. `compare` checks
causality: after a change at a moment, nothing said until then may differ (exit code 1 if it does).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

COLUMNS = ("issued_ms", "target_ms", "forecast", "power_w", "lower_w", "upper_w")
MISS_RATIO = 0.1  # of a 90 % band
DAY_MS = 86_400_000
DRAWS = 4000


def read_measured(folder: Path) -> tuple[NDArray[np.int64], Floats]:
    """Times in ms and measured power in W, without missing values."""
    table = pq.ParquetFile(folder / "consumption.parquet").read(columns=["timestamp", "power_draw"])
    time_ms = table.column("timestamp").to_numpy().astype(np.int64)
    power_w = table.column("power_draw").to_numpy().astype(float)
    there = np.isfinite(power_w) & (power_w > 0)
    order = np.argsort(time_ms[there], kind="stable")
    return time_ms[there][order], power_w[there][order]


def read_predictions(file: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Columns per kind of forecast, in order of target."""
    table = pq.ParquetFile(file).read()
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise SystemExit(f"{file}: columns {missing} are missing, found {table.column_names}")
    kinds = {}
    for kind in sorted(set(table.column("forecast").to_pylist())):
        part = table.filter(pc.equal(table.column("forecast"), kind)).sort_by("target_ms")
        kinds[kind] = {name: part.column(name).to_numpy() for name in COLUMNS if name != "forecast"}
        if np.unique(kinds[kind]["target_ms"]).size != part.num_rows:
            raise SystemExit(f"{file}: forecast {kind!r} has targets more than once, expected each once")
    return kinds


def interval_score(lower: Floats, upper: Floats, outcome: Floats) -> Floats:
    """Winkler's score of a central interval (smaller is better), in the unit of the outcome."""
    outside = np.maximum(lower - outcome, 0.0) + np.maximum(outcome - upper, 0.0)
    return np.asarray(upper - lower + 2.0 / MISS_RATIO * outside)


def rival_bands(issued: NDArray[np.int64], lead: Floats, mean: Floats, outcome: Floats) -> tuple[Floats, Floats]:
    """Plain conformal bands around persistence: weighted quantiles of its past relative errors in six groups of leads.

    Errors count with a half-life of a day; before there are any, the band is 10 % to each side. Only outcomes of earlier issues
    are used.
    """
    lower, upper = 0.9 * mean, 1.1 * mean
    group = np.minimum((lead / lead.max() * 6).astype(int), 5)
    error = outcome / mean - 1.0
    moments = np.unique(issued)
    age_h = moments / 3_600_000
    index = np.searchsorted(moments, issued)
    for g in np.unique(group):
        members = np.flatnonzero(group == g)
        order = members[np.argsort(error[members], kind="stable")]
        sorted_error, sorted_issue = error[order], index[order]
        for i in range(1, moments.size):
            mine = members[index[members] == i]
            weight = np.where(sorted_issue < i, 0.5 ** ((age_h[i] - age_h[sorted_issue]) / 24), 0.0)
            mass = np.cumsum(weight)
            if not mine.size or mass[-1] <= 0:
                continue
            low, high = sorted_error[np.searchsorted(mass, np.array([MISS_RATIO / 2, 1 - MISS_RATIO / 2]) * mass[-1])]
            lower[mine], upper[mine] = mean[mine] * (1 + low), mean[mine] * (1 + high)
    return lower, upper


def skill(own: Floats, rival: Floats, time_ms: NDArray[np.int64], block_h: float) -> dict[str, float]:
    """1 - error / error of the rival, with a 95 % interval by a circular bootstrap over blocks of `block_h` hours."""
    hours = (time_ms - time_ms[0]) // 3_600_000
    count = np.bincount(hours)
    used = count > 0
    own_sum, rival_sum = np.bincount(hours, own)[used], np.bincount(hours, rival)[used]
    size, length = own_sum.size, max(1, min(round(block_h), own_sum.size))
    starts = np.random.default_rng(0).integers(0, size, (DRAWS, -(-size // length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % size).reshape(DRAWS, -1)[:, :size]
    values = 1 - own_sum[drawn].sum(axis=1) / rival_sum[drawn].sum(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "skill": float(1 - own.mean() / rival.mean()),
        "low": float(low),
        "high": float(high),
        "block_h": float(length),
    }


def judge_kind(
    rows: dict[str, NDArray[Any]], time_ms: NDArray[np.int64], power_w: Floats, block_h: float
) -> dict[str, Any]:
    """All figures of one kind of forecast; errors in percent of measured power."""
    where = np.searchsorted(time_ms, rows["target_ms"])
    joined = (where < time_ms.size) & (time_ms[np.minimum(where, time_ms.size - 1)] == rows["target_ms"])
    part = {name: column[joined] for name, column in rows.items()}
    if not joined.any():
        raise SystemExit("no target coincides with a measured sample: are both in ms since the first submission?")
    outcome, target, issued = power_w[where[joined]], part["target_ms"], part["issued_ms"]
    mean, lower, upper = (part[name].astype(float) for name in ("power_w", "lower_w", "upper_w"))
    inside = (outcome >= lower) & (outcome <= upper)
    terciles = np.digitize(outcome, np.quantile(outcome, [1 / 3, 2 / 3]))
    day = target // DAY_MS
    error = 100 * np.abs(mean - outcome) / outcome
    winkler = 100 * interval_score(lower, upper, outcome) / outcome
    result: dict[str, Any] = {
        "targets": int(rows["target_ms"].size),
        "scored": int(joined.sum()),
        "samples_without_forecast": int(time_ms.size - joined.sum()),
        "issued_after_target": int((issued >= target).sum()),
        "not_finite": int((~np.isfinite(mean + lower + upper)).sum()),
        "outside_own_band": int(((mean < lower) | (mean > upper)).sum()),
        "mape_percent": float(error.mean()),
        "bias_percent": float(100 * ((mean - outcome) / outcome).mean()),
        "coverage": float(inside.mean()),
        "coverage_by_day": {int(d): float(inside[day == d].mean()) for d in np.unique(day) if (day == d).sum() > 1},
        "coverage_by_load_tercile": [float(inside[terciles == t].mean()) for t in range(3) if (terciles == t).any()],
        "winkler_percent": float(winkler.mean()),
        "mape_by_day_percent": {int(d): float(error[day == d].mean()) for d in np.unique(day)},
    }
    last = np.searchsorted(time_ms, issued, side="right") - 1
    has_rival = last >= 0
    naive = power_w[last[has_rival]]
    truth = outcome[has_rival]
    lead = (target - issued)[has_rival].astype(float)
    rival_lower, rival_upper = rival_bands(issued[has_rival], lead, naive, truth)
    rival_error = 100 * np.abs(naive - truth) / truth
    rival_winkler = 100 * interval_score(rival_lower, rival_upper, truth) / truth
    result["persistence"] = {
        "scored": int(has_rival.sum()),
        "mape_percent": float(rival_error.mean()),
        "coverage": float(((truth >= rival_lower) & (truth <= rival_upper)).mean()),
        "winkler_percent": float(rival_winkler.mean()),
        "own_mape_on_same_points_percent": float(error[has_rival].mean()),
        "winkler_ratio": float(winkler[has_rival].mean() / rival_winkler.mean()),
        **skill(error[has_rival], rival_error, target[has_rival], block_h),
    }
    return result


def judge(arguments: argparse.Namespace) -> int:
    """Print a table, and JSON to a file if asked."""
    time_ms, power_w = read_measured(arguments.trace)
    results = {
        kind: judge_kind(rows, time_ms, power_w, arguments.block_h)
        for kind, rows in read_predictions(arguments.predictions).items()
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'forecast':12} {'scored':>7} {'MAPE %':>7} {'bias %':>7} {'persist.':>8} {'skill (95 %)':>24} "
          f"{'cover':>6} {'by day':>13} {'by load':>13} {'Winkler':>8} {'ratio':>6}")  # fmt: skip
    for kind, r in results.items():
        p, days, loads = r["persistence"], r["coverage_by_day"].values(), r["coverage_by_load_tercile"]
        interval = f"{p['skill']:.3f} ({p['low']:.3f} to {p['high']:.3f})"
        print(
            f"{kind:12} {r['scored']:7d} {r['mape_percent']:7.3f} {r['bias_percent']:7.3f} {p['mape_percent']:8.3f} {interval:>24} "
            f"{r['coverage']:6.3f} {min(days):6.3f}-{max(days):.3f} {min(loads):6.3f}-{max(loads):.3f} "
            f"{r['winkler_percent']:8.2f} {p['winkler_ratio']:6.3f}"
        )
        for flaw in ("issued_after_target", "not_finite", "outside_own_band", "samples_without_forecast"):
            if r[flaw]:
                print(f"{'':12} {flaw}: {r[flaw]}")
    return 0


def perturb_power(table: pa.Table, arguments: argparse.Namespace, rng: np.random.Generator) -> pa.Table:
    """Multiply the measured power by drift, step and noise, and change all of it after a moment."""
    time_ms = table.column("timestamp").to_numpy().astype(float)
    power_w = table.column("power_draw").to_numpy().astype(float)
    factor = 1 + arguments.drift * (time_ms - time_ms.min()) / max(np.ptp(time_ms), 1.0)
    factor *= np.where(time_ms > arguments.step_at * time_ms.max(), 1 + arguments.step, 1.0)
    factor *= 1 + arguments.noise * rng.standard_normal(time_ms.size)
    if arguments.power_after is not None:
        later = time_ms > arguments.power_after
        factor[later] *= rng.uniform(0.6, 1.6, int(later.sum()))
    changed = power_w * factor
    table = table.set_column(table.column_names.index("power_draw"), "power_draw", pa.array(changed))
    if "energy_usage" in table.column_names:
        energy = table.column("energy_usage").to_numpy().astype(float) * factor
        table = table.set_column(table.column_names.index("energy_usage"), "energy_usage", pa.array(energy))
    return table


def perturb_workload(
    tasks: pa.Table, fragments: pa.Table, moment_ms: int, rng: np.random.Generator
) -> tuple[pa.Table, pa.Table]:
    """Change all that is not known at a moment: later requests, unfinished tasks' durations, fragments that end later.

    A task is taken to start at its submission, so that a fragment is changed only if it ends later even without queueing.
    Requests (cores, memory) made until the moment stay. Each task keeps at least one changed fragment or is cut after the
    moment, so that its end moves as well.
    """
    submission = tasks.column("submission_time")
    submitted = submission.cast(pa.int64()) if not pa.types.is_integer(submission.type) else submission
    since = submitted.to_numpy() - submitted.to_numpy().min()
    start_by_id = dict(zip(tasks.column("id").to_pylist(), (-(-since // 1000) * 1000).tolist(), strict=True))
    ids = fragments.column("id").to_pylist()
    duration = fragments.column("duration").to_numpy()
    end = np.empty(len(ids), np.int64)
    clock = dict(start_by_id)
    for i, (task, length) in enumerate(zip(ids, duration.tolist(), strict=True)):
        clock[task] = end[i] = clock.get(task, 0) + length
    later = end > moment_ms
    usage = fragments.column("cpu_usage").to_numpy().astype(float).copy()
    usage[later] *= rng.uniform(0.0, 1.0, int(later.sum()))
    running_after = np.array([clock[task] > moment_ms for task in tasks.column("id").to_pylist()])
    cut = {
        task
        for task, hit in zip(
            tasks.column("id").to_pylist(), running_after & (rng.random(len(since)) < 0.3), strict=True
        )
        if hit
    }
    limit = {task: max(moment_ms, start_by_id[task]) + 600_000 for task in cut}
    keep = np.array([not (task in cut and e > limit[task]) for task, e in zip(ids, end.tolist(), strict=True)])
    fragments = fragments.set_column(fragments.column_names.index("cpu_usage"), "cpu_usage", pa.array(usage)).filter(
        pa.array(keep)
    )
    lengths = tasks.column("duration").to_numpy().copy()
    lengths[running_after] = (lengths[running_after] * rng.uniform(0.3, 2.0, int(running_after.sum()))).astype(
        lengths.dtype
    )
    tasks = tasks.set_column(
        tasks.column_names.index("duration"), "duration", pa.array(lengths).cast(tasks.schema.field("duration").type)
    )
    asked_later = since > moment_ms
    gone = asked_later & (rng.random(since.size) < 0.2)
    gone_ids = {task for task, is_gone in zip(tasks.column("id").to_pylist(), gone, strict=True) if is_gone}
    kept_rows = pa.array([task not in gone_ids for task in fragments.column("id").to_pylist()])
    return tasks.filter(pa.array(~gone)), fragments.filter(kept_rows)


def perturb(arguments: argparse.Namespace) -> int:
    """Write a changed copy of a trace folder."""
    rng = np.random.default_rng(arguments.seed)
    shutil.copytree(arguments.trace, arguments.out, copy_function=shutil.copyfile)
    for folder in (arguments.out, *(p for p in arguments.out.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    file = arguments.out / "consumption.parquet"
    pq.write_table(perturb_power(pq.ParquetFile(file).read(), arguments, rng), file)
    if arguments.workload_after is not None:
        paths = arguments.out / "tasks.parquet", arguments.out / "fragments.parquet"
        tasks, fragments = (pq.ParquetFile(path).read() for path in paths)
        changed = perturb_workload(tasks, fragments, arguments.workload_after, rng)
        for path, table in zip(paths, changed, strict=True):
            pq.write_table(table, path)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Check that all forecasts issued until a moment are the same in both files; say what differs."""
    first, second = read_predictions(arguments.predictions), read_predictions(arguments.other)
    kinds = arguments.forecast or sorted(first)
    worst = 0
    for kind in kinds:
        if kind not in first or kind not in second:
            raise SystemExit(f"forecast {kind!r} is not in both files: {sorted(first)} and {sorted(second)}")
        a, b = (
            {n: c[rows["issued_ms"] <= arguments.until] for n, c in rows.items()}
            for rows in (first[kind], second[kind])
        )
        size = a["target_ms"].size
        if not size:
            raise SystemExit(
                f"forecast {kind!r}: nothing was issued until {arguments.until} ms, so that nothing is checked"
            )
        if size != b["target_ms"].size or not np.array_equal(a["target_ms"], b["target_ms"]):
            print(
                f"{kind}: {size} and {b['target_ms'].size} forecasts issued until {arguments.until} ms, or other targets"
            )
            worst = 1
            continue
        different = np.zeros(size, bool)
        for name in ("issued_ms", "power_w", "lower_w", "upper_w"):
            different |= ~((a[name] == b[name]) | ((a[name] != a[name]) & (b[name] != b[name])))
        later = int((first[kind]["issued_ms"] > arguments.until).sum())
        print(
            f"{kind}: {size} forecasts issued until {arguments.until} ms, {int(different.sum())} differ; {later} issued later"
        )
        if different.any():
            i = int(np.flatnonzero(different)[0])
            print(
                f"  first: issued {a['issued_ms'][i]} for {a['target_ms'][i]}: {a['power_w'][i]} W and {b['power_w'][i]} W"
            )
            worst = 1
    return worst


def parser() -> argparse.ArgumentParser:
    """The three commands."""
    top = argparse.ArgumentParser(description="Judge forecasts of power, independently of the twin.")
    commands = top.add_subparsers(required=True)
    one = commands.add_parser("judge", help="errors, coverage and scores of a predictions file")
    one.add_argument("trace", type=Path)
    one.add_argument("predictions", type=Path)
    one.add_argument("--json", type=Path)
    one.add_argument("--block-h", type=float, default=24.0, help="length of bootstrap blocks in h")
    one.set_defaults(run=judge)
    two = commands.add_parser("perturb", help="write a changed copy of a trace folder")
    two.add_argument("trace", type=Path)
    two.add_argument("out", type=Path)
    two.add_argument(
        "--drift", type=float, default=0.0, help="relative change of power over the whole trace, e.g. 0.12"
    )
    two.add_argument("--step", type=float, default=0.0, help="relative step of power, e.g. -0.06")
    two.add_argument("--step-at", type=float, default=0.5, help="when the step happens, as a share of the trace")
    two.add_argument("--noise", type=float, default=0.0, help="relative standard deviation of white noise, e.g. 0.005")
    two.add_argument("--power-after", type=int, help="change all measured power after this moment (ms)")
    two.add_argument(
        "--workload-after", type=int, help="change the unknown part of the workload after this moment (ms)"
    )
    two.add_argument("--seed", type=int, default=0)
    two.set_defaults(run=perturb)
    three = commands.add_parser("compare", help="check that nothing said until a moment differs")
    three.add_argument("predictions", type=Path)
    three.add_argument("other", type=Path)
    three.add_argument("--until", type=int, required=True, help="moment in ms since the first submission")
    three.add_argument("--forecast", nargs="*", help="kinds to compare; all if left out")
    three.set_defaults(run=compare)
    return top


if __name__ == "__main__":
    namespace = parser().parse_args()
    sys.exit(namespace.run(namespace))

"""Rules, answers written by hand in the form of a language model's, and a search, side by side on the SURF week, and on weeks that none of them saw.

    python benches/decide_surf.py [--weeks 200] [--quick]

Three datacenters: the week as it is, on 180 hosts, and with 1.6 times its tasks. Objectives for each: energy at most 90 % of what it uses
without changes, p95 wait no longer than without changes (a second at least). Each method is told the week and answers with one
configuration that is set at its beginning. Then the configuration and no configuration are simulated on weeks made of the week's days in
random order (`resampled_days`), the same weeks for all methods, with common random numbers.

What is told of the energy saved in these weeks: the mean, with a 95 % interval by the bootstrap over weeks, and the range that 95 % of the
weeks lie in. The seven days are those of the record, so the intervals speak of other orders and mixes of such days, not of other seasons.

Writes benches/DECIDE.md and benches/decide_surf.json: figures only, nothing of the record.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import machine
import numpy as np
from data import surf_week

from opendt.engine.simulation import load_workload
from opendt.formats.opendc import read_topology
from opendt.model.change import GroupHosts, ResizeHosts
from opendt.model.slo import DurationTarget, EnergyTarget, RuntimeTargets, Slo
from opendt.optimization.demand import coarsened, resampled_days, scaled_load
from opendt.optimization.llm import LLM, LlmSettings, RecordedReplies
from opendt.optimization.recorded import Recorded, Step, advise, search_recorded
from opendt.optimization.rule_based import RuleBasedOptimizer, RuleSettings
from opendt.optimization.search import SearchSettings
from opendt.optimization.search_space import SpaceLimits
from opendt.orchestrator.environment import with_carbon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.engine.simulation import EngineWorkload
    from opendt.model.change import Change
    from opendt.model.topology import Topology
    from opendt.optimization.trials import Trial
    from opendt.twin.metrics import WindowMetrics

_BY_HAND: Final = "language model (written by hand)"
HERE: Final = Path(__file__).resolve().parent
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
DRAIN_MS: Final = 24 * HOUR_MS
"""A task that ran all week is done by then at six sevenths of the clock."""
SEEN_SEED: Final = 11
"""Of the resampled weeks that the search may look at."""
UNSEEN_SEED: Final = 2_026
"""Of the weeks that all methods are judged by; its draws are other ones than those of the search."""
RESAMPLED_FOR_SEARCH: Final = 7
EVALUATIONS: Final = 160
ROUNDS: Final = 6
WEEKS_A_BATCH: Final = 20
CASES: Final = {"as it is": (277, 1.0), "on 180 hosts": (180, 1.0), "1.6 times the load": (277, 1.6)}


def main() -> int:
    """Run all three cases and write what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weeks", type=int, default=200, help="weeks that none of the methods saw")
    parser.add_argument("--quick", action="store_true", help="few weeks and evaluations; prints, writes nothing")
    options = parser.parse_args()
    try:
        folder = surf_week()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    weeks = 6 if options.quick else options.weeks
    evaluations = 40 if options.quick else EVALUATIONS
    whole = with_carbon(read_topology(folder / "topology.json"), folder / "carbon.parquet")
    workload = load_workload(folder)
    outcomes = {
        name: _case(name, _with_hosts(whole, hosts), scaled_load(workload, load, 1), weeks, evaluations)
        for name, (hosts, load) in CASES.items()
    }
    report = _report(outcomes, weeks)
    if options.quick:
        print(report, end="")
        return 0
    (HERE / "DECIDE.md").write_text(report, encoding="utf-8")
    document = json.dumps({"machine": machine.describe(), "weeks": weeks, "cases": outcomes}, indent=1)
    (HERE / "decide_surf.json").write_text(document + "\n", encoding="utf-8")
    print(f"wrote {HERE / 'DECIDE.md'} and decide_surf.json")
    return 0


def _with_hosts(topology: Topology, count: int) -> Topology:
    cluster = topology.clusters[0]
    group = cluster.hosts[0].model_copy(update={"count": count})
    return topology.model_copy(update={"clusters": (cluster.model_copy(update={"hosts": (group,)}),)})


def _case(
    name: str, topology: Topology, workload: EngineWorkload, weeks: int, evaluations: int
) -> dict[str, dict[str, Any]]:
    """All methods on one datacenter."""
    recorded = Recorded.of(topology, workload, drain_ms=DRAIN_MS)
    slo = _objectives(recorded)
    settings = SearchSettings(
        evaluations=evaluations, seed=1, work_tolerance_ratio=0.0, limits=SpaceLimits(min_power_cap_ratio=1.0)
    )
    trials = recorded.trials(slo, settings)
    trials.run([])
    found: dict[str, Trial] = {}
    took_s: dict[str, float] = {}

    def timed(method: str, ask: Any) -> None:
        print(f"{name}: {method} ...", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        trial = ask()
        took_s[method] = time.perf_counter() - begun
        found[method] = trial

    rules = RuleBasedOptimizer(RuleSettings(cooldown_ms=0))
    timed("rules", lambda: _last(advise(recorded, slo, rules, trials, ROUNDS), trials.baseline))
    timed(_BY_HAND, lambda: _last(advise(recorded, slo, _model(name, topology), trials, ROUNDS), trials.baseline))
    timed("search", lambda: search_recorded(recorded, slo, settings)[0].best)
    wider = _resampled(recorded, RESAMPLED_FOR_SEARCH, SEEN_SEED)
    timed("search, resampled", lambda: _robust(wider, recorded, slo, settings))
    unseen = _unseen(recorded, {method: trial.changes for method, trial in found.items()}, weeks)
    return {
        method: {
            "configuration": _words(trial, topology),
            "meets": trial.meets,
            "energy_kwh": trial.metrics.energy_kwh,
            "energy_change_ratio": _ratio(trial.metrics.energy_kwh, trials.baseline.metrics.energy_kwh),
            "task_wait_p95_s": trial.metrics.task_wait_p95_s,
            "task_wait_p95_s_before": trials.baseline.metrics.task_wait_p95_s,
            "lost_tasks": trial.lost_tasks,
            "seconds": took_s[method],
            **unseen[method],
        }
        for method, trial in found.items()
    }


def _objectives(recorded: Recorded) -> Slo:
    """Energy 10 % below what it is; waits no longer."""
    free = Slo(version=1, window_s=recorded.until_ms // 1000)
    metrics = recorded.context(free).metrics
    return _below(metrics, free.window_s)


def _below(metrics: WindowMetrics, window_s: int) -> Slo:
    return Slo(
        version=1,
        window_s=window_s,
        energy=EnergyTarget(target_kwh=0.9 * (metrics.energy_kwh or 0.0), tolerance_ratio=0.0),
        runtime=RuntimeTargets(
            task_wait_p95=DurationTarget(target_s=max(1.0, metrics.task_wait_p95_s or 0.0), tolerance_ratio=0.0)
        ),
    )


def _last(steps: list[Step], baseline: Trial) -> Trial:
    """The best of what was proposed; things as they are when nothing was."""
    return min((step.trial for step in steps), key=lambda trial: trial.rank, default=baseline)


def _model(name: str, topology: Topology) -> LLM:
    """One model for all rounds of a case, which plays answers that were written by hand."""
    content = json.loads((HERE / "decide_replies.json").read_text(encoding="utf-8"))
    service = RecordedReplies(content["replies"][name])
    return LLM(LlmSettings(ask_every_ms=0), topology=topology, service=service)


def _robust(wider: Recorded, recorded: Recorded, slo: Slo, settings: SearchSettings) -> Trial:
    """The cheapest that suits the week and others made of its days; told as simulated in the week."""
    # Waits of the worst of the weeks count.
    careful = replace(settings, tail_ratio=1.0 / len(wider.demands))
    trials = wider.trials(slo, careful)
    trials.run([])
    # Other weeks use another energy, and in some of them tasks wait anyway: their own baseline is what 10 % are saved of.
    asked = _below(trials.baseline.metrics, slo.window_s)
    result, _ = search_recorded(wider, asked, careful)
    exact = recorded.trials(slo, settings)
    return exact.of_changes(result.best.changes, result.best.words)


def _resampled(recorded: Recorded, count: int, seed: int) -> Recorded:
    """The week with other weeks beside it, in steps of five minutes."""
    return replace(recorded, demands=(recorded.demands[0], *_weeks(recorded.demands[0], count, seed))).coarse()


def _weeks(workload: EngineWorkload, count: int, seed: int) -> list[EngineWorkload]:
    rng = np.random.default_rng(seed)
    return [resampled_days(workload, rng.integers(0, 7, 7).tolist(), until_ms=WEEK_MS) for _ in range(count)]


def _unseen(recorded: Recorded, configurations: dict[str, tuple[Change, ...]], count: int) -> dict[str, dict[str, Any]]:
    """What each configuration saves and loses in weeks that nobody has seen."""
    names = list(configurations)
    candidates: list[tuple[Change, ...]] = [(), *configurations.values()]
    columns: dict[str, list[NDArray[np.float64]]] = {}
    coarse = coarsened(recorded.demands[0], 5 * 60_000)
    weeks = _weeks(coarse, count, UNSEEN_SEED)
    for first in range(0, count, WEEKS_A_BATCH):
        some = replace(recorded, demands=tuple(weeks[first : first + WEEKS_A_BATCH]))
        outcomes = some.scenarios().evaluate(candidates)
        for name in ("energy_j", "task_wait_p95_s", "tasks_completed", "tasks_terminated"):
            columns.setdefault(name, []).append(outcomes.columns[name])
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    return {name: _judged(table, position) for position, name in enumerate(names, start=1)}


def _judged(table: dict[str, NDArray[np.float64]], column: int) -> dict[str, Any]:
    saved = 1.0 - table["energy_j"][:, column] / table["energy_j"][:, 0]
    waits = np.nan_to_num(table["task_wait_p95_s"])
    longer = waits[:, column] > np.maximum(waits[:, 0], 1.0)
    late = table["tasks_completed"][:, 0] - table["tasks_completed"][:, column]
    rng = np.random.default_rng(0)
    means = saved[rng.integers(0, len(saved), (4_000, len(saved)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {
        "unseen_saved_mean_ratio": float(saved.mean()),
        "unseen_saved_interval_ratio": [float(low), float(high)],
        "unseen_saved_range_ratio": [float(value) for value in np.quantile(saved, (0.025, 0.975))],
        "unseen_saved_10_percent_share": float((saved >= 0.1).mean()),
        "unseen_longer_wait_share": float(longer.mean()),
        "unseen_wait_p95_s_median": float(np.median(waits[:, column])),
        "unseen_wait_p95_s_largest": float(waits[:, column].max()),
        "unseen_late_tasks_ratio": float(late.sum() / table["tasks_completed"][:, 0].sum()),
    }


def _ratio(after: float | None, before: float | None) -> float | None:
    return None if after is None or not before else after / before - 1.0


def _words(trial: Trial, topology: Topology) -> str:
    """A configuration in numbers, whoever proposed it."""
    group = topology.clusters[0].hosts[0]
    mhz, cores = group.core_speed_mhz, group.core_count
    for change in trial.changes:
        if isinstance(change, ResizeHosts) and isinstance(change.hosts, GroupHosts):
            mhz = change.core_speed_mhz or mhz
            cores = change.core_count or cores
    parts = [f"{trial.metrics.hosts_up} hosts", f"{mhz:g} MHz"] + (
        [f"{cores} cores"] if cores != group.core_count else []
    )
    return ", ".join(parts) if trial.changes else "no change"


def _report(outcomes: dict[str, dict[str, dict[str, Any]]], weeks: int) -> str:
    """Text of DECIDE.md."""
    described = machine.describe()
    lines = [
        "# Decisions on the SURF week",
        "",
        (
            "Written by `python benches/decide_surf.py`, which says what is measured. Objectives of each case: energy at most 90 % of its own "
            "baseline, p95 wait no longer than there (a second at least)."
        ),
        (
            "**No language model was asked.** The answers in the rows *language model* (`decide_replies.json`) were written by hand in the "
            "form of a model's replies. These rows show that such answers are read, simulated, ranked and limited, and what these "
            "configurations save; they say nothing about any language model."
        ),
        f"The unseen weeks are {weeks} orders of the week's days. Energy saved there: mean (95 % interval of the mean) [95 % of weeks].",
        "",
    ]
    lines += [f"* {key}: {value}" for key, value in described.items()]
    for name, methods in outcomes.items():
        lines += ["", f"## {name}", ""]
        lines.append(
            "| method | configuration | energy | p95 wait | all met, no longer wait | energy saved in unseen weeks | longer wait in | tasks late | took |"
        )
        lines.append("|---|---|---|---|---|---|---|---|---|")
        lines += [_row(method, found) for method, found in methods.items()]
    return "\n".join(lines) + "\n"


def _row(method: str, found: dict[str, Any]) -> str:
    low, high = found["unseen_saved_interval_ratio"]
    first, last = found["unseen_saved_range_ratio"]
    saved = f"{100 * found['unseen_saved_mean_ratio']:.1f} % ({100 * low:.1f}-{100 * high:.1f}) [{100 * first:.1f}-{100 * last:.1f}]"
    cells = (
        method,
        found["configuration"],
        f"{100 * (found['energy_change_ratio'] or 0.0):+.1f} %",
        f"{found['task_wait_p95_s']:.3g} s (before {found['task_wait_p95_s_before']:.3g} s)",
        "yes" if found["meets"] else "no",
        saved,
        f"{100 * found['unseen_longer_wait_share']:.1f} % of weeks",
        f"{100 * found['unseen_late_tasks_ratio']:.2f} %",
        f"{found['seconds']:.1f} s",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())

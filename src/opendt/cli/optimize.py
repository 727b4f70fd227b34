"""``opendt optimize``: what would have been better in a recorded demand, by rules, a language model or a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.parameters import PositiveNumber
from opendt.cli.progress import stages
from opendt.cli.recorded_inputs import HEADER, inputs, read_recorded, table, trial_json, trial_row

if TYPE_CHECKING:
    from opendt.model.slo import Slo
    from opendt.optimization.base import Optimizer
    from opendt.optimization.recorded import Recorded, Step
    from opendt.optimization.search import SearchResult
    from opendt.optimization.trials import Trials

_MOST_ROWS: Final = 12
_POLICIES: Final = ("Mem", "MemInv", "CoreMem", "ActiveServers", "ActiveServersInv", "ProvisionedCores")
_ROUNDS: Final = 6


@click.command()
@inputs
@click.option(
    "--method", type=click.Choice(["rules", "llm", "search"]), default="search", show_default=True, help="Who proposes."
)
@click.option(
    "--budget", "budget_s", type=PositiveNumber(), metavar="S", help="Longest time of a search, s [default: none]."
)
@click.option(
    "--evaluations",
    type=click.IntRange(min=1, max=1_000_000),
    default=300,
    show_default=True,
    help="Most configurations of a search; with it alone the same seed gives the same answer.",
)
@click.option(
    "--max-core-ratio", type=PositiveNumber(most=64), default=1.0, help="Cores a search may buy, relative to now."
)
@click.option("--policies", is_flag=True, help="Let a search choose among policies of placing tasks, too.")
@click.option("--power-caps", is_flag=True, help="Let a search cap power, too; slow, a cap couples all hosts.")
@click.option(
    "--replies", type=click.Path(path_type=Path), metavar="FILE", help="Recorded answers instead of a language model."
)
@click.option("--model", metavar="NAME", help="Language model [default: that of the settings].")
@click.option("--base-url", metavar="URL", help="Its service; the key is read from OPENAI_API_KEY.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Write the Pareto front as SVG.")
@click.option("--proposal", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write the answer as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    trace: Path,
    slo_file: Path,
    topology: Path | None,
    load: float,
    drain_h: float,
    resampled: int,
    seed: int,
    method: str,
    quiet: bool,
    as_json: bool,
    target: Path | None,
    plot: Path | None,
    **choices: Any,
) -> None:
    """Say which configuration would have met the objectives of FILE in the demand of DIR, and what it costs.

    The configuration is set at the beginning of the record and kept. Energy and carbon are held against their targets per window on
    average over the whole time; peak, waits and counts over all of it.

    A search gives a front of configurations that cannot be improved in energy, carbon, cost, wait and peak power at once, the knee
    of it, and the cheapest that meets the objectives. Rules and language models make a step at a time.
    """
    from opendt.model.slo import read_slo

    if plot is not None and method != "search":
        message = "--plot needs --method search: only a search has a front"
        raise click.UsageError(message)
    slo = read_slo(slo_file)
    with stages(quiet) as begin:
        begin("reading")
        recorded = read_recorded(trace, topology, load, drain_h, resampled, seed)
        if method == "search":
            answer, interrupted = _search(recorded, slo, seed, choices, begin)
        else:
            answer, interrupted = _advise(recorded, slo, seed, method, choices, begin), False
    if target is not None:
        _write_proposal(answer, target, quiet)
    if plot is not None:
        from opendt.optimization.pareto_plot import pareto_svg

        result: SearchResult = answer["result"]
        plot.write_text(
            pareto_svg(result, slo, f"{trace.resolve().name}: {len(result.trials)} configurations"), "utf-8"
        )
        _say(f"wrote {plot}", quiet)
    if as_json:
        click.echo(json.dumps(answer["json"], indent=2))
    elif not quiet:
        click.echo(table(HEADER, answer["rows"]))
        click.echo(answer["words"], err=True)
    if interrupted:
        click.echo("interrupted: this is the best found until then", err=True)
        click.get_current_context().exit(130)


def _say(words: str, quiet: bool) -> None:
    if not quiet:
        click.echo(words, err=True)


def _search(
    recorded: Recorded, slo: Slo, seed: int, choices: dict[str, Any], begin: Any
) -> tuple[dict[str, Any], bool]:
    from opendt.formats.opendc_policies import prefab
    from opendt.model.proposal import Proposal
    from opendt.optimization.recorded import search_recorded
    from opendt.optimization.search import SearchSettings
    from opendt.optimization.search_optimizer import expected_effect, reason
    from opendt.optimization.search_space import SpaceLimits

    settings = SearchSettings(
        evaluations=choices["evaluations"],
        time_budget_s=choices["budget_s"],
        seed=seed,
        work_tolerance_ratio=0.0,
        limits=SpaceLimits(
            max_core_ratio=max(1.0, choices["max_core_ratio"]),
            min_power_cap_ratio=SpaceLimits().min_power_cap_ratio if choices["power_caps"] else 1.0,
        ),
    )
    policies = {name: prefab(name) for name in _POLICIES} if choices["policies"] else None
    result, interrupted = search_recorded(
        recorded, slo, settings, policies=policies, on_batch=lambda count: begin(f"{count} configurations")
    )
    best = result.best
    proposal = None
    if best.changes:
        rule = "cheapest_that_meets" if best.meets else "nearest_to_meeting"
        why = reason(result, len(recorded.demands))
        proposal = Proposal.of("search", 0, rule, why, best.changes, None, expected_effect(best, result.baseline))
    named = [("now", result.baseline), ("cheapest" if best.meets else "nearest", best), ("knee", result.knee)]
    shown = [trial for trial in result.front if all(trial is not other for _, other in named)]
    step = max(1, -(-len(shown) // _MOST_ROWS))
    named += [("front", trial) for trial in shown[::step]]
    answer = {
        "result": result,
        "proposal": proposal,
        "rows": [trial_row(f"{name}: {trial.words}", trial, result.baseline) for name, trial in named],
        "words": _words(best.meets, f"{len(result.trials)} configurations, {len(result.front)} on the front"),
        "json": {
            "method": "search",
            "meets": best.meets,
            "stopped": result.stopped,
            "configurations": len(result.trials),
            "baseline": trial_json(result.baseline),
            "best": trial_json(best),
            "knee": trial_json(result.knee),
            "front": [trial_json(trial) for trial in result.front],
            "proposal": None if proposal is None else proposal.model_dump(mode="json"),
        },
    }
    return answer, interrupted


def _words(meets: bool, looked_at: str) -> str:
    return f"{looked_at}; {'the objectives can be met' if meets else 'none of them meets all objectives'}"


def _advise(
    recorded: Recorded, slo: Slo, seed: int, method: str, choices: dict[str, Any], begin: Any
) -> dict[str, Any]:
    from opendt.optimization.recorded import advise
    from opendt.optimization.search import SearchSettings

    begin(f"asking the {'rules' if method == 'rules' else 'language model'}")
    trials: Trials = recorded.trials(slo, SearchSettings(seed=seed, work_tolerance_ratio=0.0))
    steps = advise(recorded, slo, _optimizer(method, recorded, choices), trials, _ROUNDS)
    baseline = trials.baseline
    best = min([baseline, *(step.trial for step in steps)], key=lambda trial: trial.rank)
    rows = [trial_row("now", baseline, baseline)]
    rows += [trial_row(f"{number}: {step.proposal.rule}", step.trial, baseline) for number, step in enumerate(steps, 1)]
    reasons = [f"{step.proposal.id}: {step.proposal.reason}" for step in steps] or ["nothing was proposed"]
    return {
        "proposal": _combined([step for step in steps if len(step.trial.changes) <= len(best.changes)]),
        "rows": rows,
        "words": "\n".join([*reasons, _words(best.meets, f"{len(steps)} steps")]),
        "json": {
            "method": method,
            "meets": best.meets,
            "baseline": trial_json(baseline),
            "best": trial_json(best),
            "steps": [{"proposal": s.proposal.model_dump(mode="json"), "trial": trial_json(s.trial)} for s in steps],
        },
    }


def _combined(steps: list[Step]) -> Any:
    """One proposal of the steps up to the best one."""
    from opendt.model.proposal import Proposal

    if not steps:
        return None
    last = steps[-1]
    why = "; ".join(step.proposal.reason for step in steps)
    return Proposal.of(last.proposal.source, 0, last.proposal.rule, why, last.trial.changes, last.proposal.bounds)


def _optimizer(method: str, recorded: Recorded, choices: dict[str, Any]) -> Optimizer:
    """Rules or a model that can be asked again at once: all rounds are about one moment of the record."""
    import os

    if method == "rules":
        from opendt.optimization.rule_based import RuleBasedOptimizer, RuleSettings

        return RuleBasedOptimizer(RuleSettings(cooldown_ms=0))
    from opendt.optimization.llm import LLM, LlmSettings, RecordedReplies

    chosen = {"ask_every_ms": 0} | ({"model": choices["model"]} if choices["model"] else {})
    replies: Path | None = choices["replies"]
    key = os.environ.get("OPENAI_API_KEY", "")
    if replies is None and not key:
        message = "--method llm needs a key in OPENAI_API_KEY, or recorded answers in --replies FILE"
        raise click.UsageError(message)
    return LLM(
        LlmSettings(**chosen),
        api_key=key,
        base_url=choices["base_url"],
        topology=recorded.topology,
        service=None if replies is None else RecordedReplies.read(replies),
    )


def _write_proposal(answer: dict[str, Any], target: Path, quiet: bool) -> None:
    proposal = answer["proposal"]
    if proposal is None:
        _say(f"things are best left as they are: {target} is not written", quiet)
        return
    target.write_text(proposal.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _say(f"wrote {target}", quiet)

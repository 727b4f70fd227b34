"""Run the benches and write RESULTS.md.

python benches/run.py                  everything, writes benches/RESULTS.md
python benches/run.py --only surf      benches whose name matches; prints, writes nothing
python benches/run.py --quick          one sample each; prints, writes nothing
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import growth_plot
import machine
import memory_plot
from harness import BENCHES, Context
from targets import SAME_ENERGY, SAME_ENERGY_RATIO, TARGETS, Bound, Target

HERE = Path(__file__).resolve().parent
Results = dict[str, list[float]]


def load_benches() -> None:
    """Import every ``bench_*.py`` beside this file; each registers its benches."""
    for path in sorted(HERE.glob("bench_*.py")):
        import_module(path.stem)


def run(pattern: str, repeats: int) -> tuple[Results, dict[str, str]]:
    """Run the benches whose name matches.

    Returns
    -------
    tuple
        Samples by key, and for each bench that did not run the reason.
    """
    results: Results = {}
    failures: dict[str, str] = {}
    with TemporaryDirectory(prefix="opendt-bench-") as folder:
        context = Context(repeats, Path(folder))
        for name, function in BENCHES.items():
            if not re.search(pattern, name):
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                measured = function(context)
            except Exception as error:  # noqa: BLE001 - one bench that cannot run must not hide the others' figures
                failures[name] = f"{type(error).__name__}: {error}"
                print(f"  {failures[name]}", file=sys.stderr)
                continue
            results.update({key: [float(sample) for sample in samples] for key, samples in measured.items()})
    problem = disagreement(results)
    if problem:
        failures["same work"] = problem
        print(problem, file=sys.stderr)
    return results, failures


def disagreement(results: Results) -> str | None:
    """Say which programs found another energy for the same week, so that their times cannot be compared."""
    energies = {key: results[key][0] for key in SAME_ENERGY if key in results}
    if not energies or max(energies.values()) - min(energies.values()) <= SAME_ENERGY_RATIO * max(energies.values()):
        return None
    return "energies differ: " + ", ".join(f"{key} {value!r}" for key, value in energies.items())


def within(value: float, bound: Bound) -> bool:
    """Whether a median meets a bound."""
    if isinstance(bound, tuple):
        return bound[0] <= value <= bound[1]
    return value <= bound


def verdict(target: Target, results: Results) -> str:
    """One word on a row: stretch, met, missed, reported, not measured or no yardstick."""
    if target.key not in results:
        return "not measured"
    value = statistics.median(results[target.key])
    if target.against is not None:
        if target.against not in results:
            return "no yardstick in this run"
        value /= statistics.median(results[target.against])
    if target.stretch is not None and within(value, target.stretch):
        return "stretch"
    if target.least is not None:
        return "met" if within(value, target.least) else "**missed**"
    return "reported" if target.stretch is None else "not reached"


def shown(samples: Sequence[float], unit: str) -> str:
    """Return the median with the range of the samples in brackets."""
    middle = f"{statistics.median(samples):.4g} {unit}".rstrip()
    return middle if len(samples) == 1 else f"{middle} ({min(samples):.4g}-{max(samples):.4g})"


def bound_words(bound: Bound | None, unit: str) -> str:
    """Words for a bound that has none of its own."""
    if bound is None:
        return ""
    text = f"{bound[0]:g}-{bound[1]:g}" if isinstance(bound, tuple) else f"{bound:g}"
    return f"{text} {unit}".rstrip()


def row(target: Target, results: Results) -> str:
    """One line of the table."""
    least, stretch = target.words or (bound_words(target.least, target.unit), bound_words(target.stretch, target.unit))
    measured = shown(results[target.key], target.unit) if target.key in results else ""
    if measured and target.against in results:
        ratio = statistics.median(results[target.key]) / statistics.median(results[str(target.against)])
        measured += f", ratio {ratio:.3g}"
    return f"| {target.what} | {least} | {stretch} | {measured} | {verdict(target, results)} |"


def report(results: Results, failures: Mapping[str, str], repeats: int) -> str:
    """Text of RESULTS.md."""
    known = {target.key for target in TARGETS}
    lines = [
        "# Results",
        "",
        "Written by `make bench`; README.md says how. Medians, with the range of the samples.",
        "",
    ]
    lines += [f"* {key}: {value}" for key, value in machine.describe().items()]
    lines += [f"* measured: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {repeats} samples each after a warm-up", ""]
    lines += ["| what | at least | stretch | measured | verdict |", "|---|---|---|---|---|"]
    lines += [row(target, results) for target in TARGETS]
    others = {
        key: samples
        for key, samples in results.items()
        if key not in known and not key.startswith(memory_plot.PREFIX)  # hundreds of points, for the plot alone
    }
    if others:
        lines += ["", "Also measured:", "", "| what | measured |", "|---|---|"]
        lines += [f"| {key} | {shown(samples, '')} |" for key, samples in others.items()]
    if failures:
        lines += ["", "Did not run:", ""] + [f"* {name}: {reason.splitlines()[0]}" for name, reason in failures.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Parse the command line, run, write or print."""
    parser = argparse.ArgumentParser(description="Run the benches and write benches/RESULTS.md.")
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression on the benches' names")
    parser.add_argument("--quick", action="store_true", help="one sample each")
    options = parser.parse_args()
    load_benches()
    repeats = 1 if options.quick else 5
    results, failures = run(options.only, repeats)
    text = report(results, failures, repeats)
    if options.only or options.quick:
        print(text, end="")
    else:
        (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
        print(f"wrote {HERE / 'RESULTS.md'}")
        for what, plot in {"growth": growth_plot.write(results), "memory": memory_plot.write(results)}.items():
            print(f"wrote {plot}" if plot else f"no plot of {what}: it was not measured")
    if not results:
        print(f"nothing was measured; benches: {', '.join(BENCHES)}", file=sys.stderr)
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Critical path, simulated schedule and measured makespan of real workflows, with dispatch overhead fitted leave-one-out.

    python examples/workflows.py [FILE.json ...]

Without files: every WfFormat file in $OPENDT_DATA/traces/wfinstances (default ../shared). Prints the table that
docs/concepts/workflows.md discusses.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from opendt.formats.wfformat import read_wfformat
from opendt.twin.workflow import WorkflowStudy, leave_one_out

HEADER = ("workflow", "system", "tasks", "cores", "critical path", "schedule", "as placed", "measured", "error")
FITTED = ("dispatch", "predicted", "error", "dispatch + start-up", "predicted", "error")


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:+.0f} %"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} s"


def fitted(study: WorkflowStudy) -> tuple[str, ...]:
    overhead = study.overhead
    if overhead is None:
        return ("-", "-", "-")
    startup = f" + {overhead.startup_s:.0f} s" if overhead.startup_s else ""
    shown = f"{overhead.dispatch_s:.1f} s{startup}"
    return shown, seconds(study.predicted_s), percent(study.predicted_error_ratio)


def row(file: Path, study: WorkflowStudy, with_startup: WorkflowStudy) -> tuple[str, ...]:
    return (
        file.stem,
        study.system,
        str(study.tasks),
        str(study.cores),
        seconds(study.critical_path_s),
        seconds(study.scheduled_s),
        seconds(study.as_placed_s),
        seconds(study.measured_s),
        percent(study.scheduled_error_ratio),
        *fitted(study),
        *fitted(with_startup),
    )


def main(names: list[str]) -> None:
    folder = Path(os.environ.get("OPENDT_DATA", "../shared")) / "traces" / "wfinstances"
    files = [Path(name) for name in names] or sorted(folder.glob("*.json"))
    if not files:
        sys.exit(f"no WfFormat files in {folder}: name some, or set OPENDT_DATA")
    workflows = [read_wfformat(file) for file in files]
    studies = zip(files, leave_one_out(workflows), leave_one_out(workflows, with_startup=True), strict=True)
    rows = [HEADER + FITTED, *(row(*study) for study in studies)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main(sys.argv[1:])

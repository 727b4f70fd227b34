"""Sweeps of the smallest datacenter, as files."""

from __future__ import annotations

from pathlib import Path

from opendt.optimization.sweep_design import rows_of
from opendt.optimization.sweep_journal import Journal
from opendt.optimization.sweep_run import open_sweep, result_table, run_sweep
from opendt.optimization.sweep_spec import read_spec
from tests import small

HEAD = "version: 1\ntopology: topology.json\nworkload: workload\n"


def write_spec(folder: Path, body: str, head: str = HEAD) -> Path:
    """Write a spec with all that it names."""
    small.write_workload(folder / "workload")
    small.write_json(folder / "topology.json", small.topology())
    path = folder / "sweep.yaml"
    path.write_text(head + body, encoding="utf-8")
    return path


def rows(folder: Path, body: str) -> list:
    """Rows of a spec, without reading what it names."""
    path = folder / "sweep.yaml"
    path.write_text(HEAD + body, encoding="utf-8")
    return rows_of(read_spec(path))


def run(path: Path, journal: Path, backend, on_row=None):
    """Run a spec and give its table."""
    sweep = open_sweep(path)
    with Journal(journal, sweep.identity, len(sweep.rows)) as kept:
        with backend as made:
            run_sweep(sweep, kept, made, on_row)
        return result_table(sweep, kept)

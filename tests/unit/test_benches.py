"""The table of results judges as it says, and the yardstick computes what it claims."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHES = Path(__file__).resolve().parents[2] / "benches"


@pytest.fixture
def module(monkeypatch):
    """Import a module of benches/, which is no package, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCHES:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("settings", "samples", "expected"),
    [
        ({"least": 100.0, "stretch": 40.0}, {"x": [30, 39, 41]}, "stretch"),
        ({"least": 100.0, "stretch": 40.0}, {"x": [99, 100, 250]}, "met"),
        ({"least": 100.0, "stretch": 40.0}, {"x": [101]}, "**missed**"),
        ({"least": (87.0, 93.0)}, {"x": [90]}, "met"),
        ({"least": (87.0, 93.0)}, {"x": [99]}, "**missed**"),
        ({"stretch": 1.0}, {"x": [1.2]}, "not reached"),
        ({}, {"x": [7]}, "reported"),
        ({"least": 100.0}, {}, "not measured"),
        ({"least": 0.5, "stretch": 0.2, "against": "rod"}, {"x": [40], "rod": [100]}, "met"),
        ({"least": 0.5, "stretch": 0.2, "against": "rod"}, {"x": [19], "rod": [100]}, "stretch"),
        ({"least": 0.5, "stretch": 0.2, "against": "rod"}, {"x": [60], "rod": [100]}, "**missed**"),
        ({"least": 0.5, "against": "rod"}, {"x": [1]}, "no yardstick in this run"),
    ],
)
def test_a_row_is_judged_by_its_median(module, settings, samples, expected):
    target = module("targets").Target("x", "a row", **settings)
    assert module("run").verdict(target, samples) == expected


def test_programs_that_find_another_energy_are_named(module):
    run = module("run")
    assert run.disagreement({"heap-loop-energy-j": [1e10], "simpy-energy-j": [1e10 * (1 + 1e-12)]}) is None
    assert "simpy-energy-j" in run.disagreement({"heap-loop-energy-j": [1e10], "simpy-energy-j": [1.001e10]})


def test_every_bench_is_found_and_every_row_has_its_own_key(module):
    module("run").load_benches()
    targets = module("targets")
    keys = [target.key for target in targets.TARGETS]
    assert {"heap-loop", "simpy", "simulate"} <= set(module("harness").BENCHES)
    assert len(keys) == len(set(keys))
    assert {target.against for target in targets.TARGETS} - {None} <= set(keys)


def test_a_process_is_measured_by_its_own_memory_and_failure_is_told(module, tmp_path):
    context = module("harness").Context(2, tmp_path)
    ballast = np.ones(20_000_000)  # 160 MB here must not count there
    runs = context.processes(lambda folder: [sys.executable, "-S", "-c", "pass"])
    assert len(runs) == 2
    assert 0 < max(run.peak_mb for run in runs) < ballast.nbytes / 2e6
    with pytest.raises(RuntimeError, match=r"ended with 3: .*no such week"):
        context.processes(
            lambda folder: [sys.executable, "-c", "import sys; print('no such week', file=sys.stderr); exit(3)"]
        )
    with pytest.raises(FileNotFoundError, match="no command"):
        context.processes(lambda folder: [str(tmp_path / "absent")])


def test_simpys_energy_is_the_closed_form_of_one_task(module):
    """A minute at full load and a minute at half on one host, the others idle."""
    data, yardstick = module("data"), module("yardstick_simpy")
    week = data.Week(
        submission_ms=np.array([0]),
        offset=np.array([0, 2]),
        duration_ms=np.array([60_000, 60_000]),
        usage_mhz=np.array([data.CAPACITY_MHZ, data.CAPACITY_MHZ / 2]),
    )
    half_w = 25 + 149 * (2 * 0.5 - 0.5**4)
    expected_j = 60 * 174 + 60 * half_w + 120 * 25 * 276
    assert yardstick.simulate(week)["energy_j"] == pytest.approx(expected_j, rel=1e-12)

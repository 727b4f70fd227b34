"""A plant whose sensors break, seen through the whole loop: autonomy steps down within six windows.

The plant is a synthetic week with the sensor's usual noise; the loop runs healthy for a day, is copied as a snapshot
would, and each copy is then fed by a sensor that breaks in its own way.
"""

from __future__ import annotations

import dataclasses
import pickle
from itertools import islice

import numpy as np
import pytest

from opendt.formats.synthetic import generate_week
from opendt.model.slo import Slo
from opendt.orchestrator.cycle import Cycle
from opendt.orchestrator.decisions import DecisionSettings
from opendt.orchestrator.environment import replay

HEALTHY = 288  # windows: a day
NOISE_W = 30.0  # of the plant's sensor; see opendt.formats.synthetic
WINDOW_MS = 300_000


class Silent:
    """Proposes nothing: only the accuracy of the twin is at stake here."""

    def propose(self, context):
        del context


def fed(cycle, windows):
    """Changes of what may be done."""
    return [change for window in windows if (change := cycle.turn(window).trust) is not None]


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """Windows of a night, and the loop after a healthy day, pickled."""
    folder = tmp_path_factory.mktemp("plant") / "week"
    generate_week(7, folder)
    environment = replay(folder)
    windows = list(islice(environment.source.windows(WINDOW_MS), HEALTHY + 24))
    cycle = Cycle(
        environment.topology,
        Slo.model_validate({"version": 1}),
        start_epoch_ms=environment.start_epoch_ms,
        tick_ms=environment.source.tick_ms,
        decisions=DecisionSettings(mode="auto"),
        optimizers=(Silent(),),
    )
    assert fed(cycle, windows[:HEALTHY]) == []
    return windows[HEALTHY:], pickle.dumps(cycle)


def broken(windows, fault):
    """The same windows as a broken sensor tells them."""
    rng = np.random.default_rng(0)
    first_w = windows[0].measured_w[0]
    for window in windows:
        read_w = window.measured_w
        told_w = {
            "dead": np.full_like(read_w, np.nan),
            "stuck": np.full_like(read_w, first_w),
            "doubled": 2.0 * read_w,
            "noisy": read_w + 10.0 * NOISE_W * rng.standard_normal(len(read_w)),
        }[fault]
        yield dataclasses.replace(window, measured_w=told_w)


def test_a_healthy_plant_keeps_its_autonomy(plant):
    windows, snapshot = plant
    cycle = pickle.loads(snapshot)
    assert fed(cycle, windows) == []
    assert cycle.decisions.trust.level == "auto"


@pytest.mark.parametrize("fault", ["dead", "stuck", "doubled", "noisy"])
def test_autonomy_steps_down_within_six_windows_of_a_fault(plant, fault):
    windows, snapshot = plant
    cycle = pickle.loads(snapshot)
    changes = fed(cycle, broken(windows[:6], fault))
    assert [(change.before, change.after) for change in changes[:1]] == [("auto", "approve")]
    assert cycle.decisions.trust.level != "auto"


def test_a_fault_that_stays_ends_all_autonomy(plant):
    windows, snapshot = plant
    cycle = pickle.loads(snapshot)
    changes = fed(cycle, broken(windows[:12], "dead"))
    assert [change.after for change in changes] == ["approve", "advise", "observe"]

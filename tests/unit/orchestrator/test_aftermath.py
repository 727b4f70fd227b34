"""After the fact: what an applied change brought is held against what was predicted of it, with the old configuration beside it.

The plant is a synthetic week, whose idle memory hosts truly take 61 W; it obeys a change, half obeys it, or does not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest

from opendt.formats.synthetic import generate_week
from opendt.model.errors import EngineError
from opendt.model.slo import Slo
from opendt.orchestrator.cycle import Cycle, Settings
from opendt.orchestrator.decisions import DecisionSettings, Requests, human_proposal
from opendt.orchestrator.environment import replay

HOUR_MS = 3_600_000
DECIDED = 71  # window in which it is applied: six hours have been lived through
REMOVED = 20
TRUE_IDLE_W = 61.0  # opendt.formats.synthetic
PATCH = {
    "changes": [{"type": "remove_hosts", "hosts": {"type": "group", "group": "memory"}, "count": REMOVED}],
    "reason": "hardly used at night",
}


class Learner:
    """Proposes nothing; is told what became of proposals."""

    def __init__(self):
        self.told = []

    def propose(self, _):
        return None

    def note_outcome(self, proposal_id, *, measured):
        self.told.append((proposal_id, measured))


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """Windows after a change was applied, the loop at that moment, pickled, and the topologies before and after."""
    environment = replay(generate_week(3, tmp_path_factory.mktemp("aftermath") / "week"))
    windows = list(itertools.islice(environment.source.windows(300_000), DECIDED + 40))
    cycle = Cycle(
        environment.topology,
        Slo.model_validate({"version": 1, "window_s": 300, "energy": {"target_kwh": 0.5}}),
        start_epoch_ms=environment.start_epoch_ms,
        tick_ms=environment.source.tick_ms,
        settings=Settings(futures=0),
        decisions=DecisionSettings(environment="live", mode="auto"),
        optimizers=(Learner(),),
    )
    for window in windows[:DECIDED]:
        cycle.turn(window)
    asked = Requests(proposals=(human_proposal(PATCH, windows[DECIDED].end_ms),))
    (applied,) = cycle.turn(windows[DECIDED], asked).candidates
    assert applied.decision.is_applied, applied.decision
    return Plant(environment.topology, applied, windows[DECIDED:], pickle.dumps(cycle))


@dataclasses.dataclass
class Plant:
    """What `plant` gives; `windows` begins with the one in which it was decided."""

    before: object
    applied: object
    windows: list
    snapshot: bytes

    def changed(self):
        """The loop just after the change took effect."""
        cycle = pickle.loads(self.snapshot)
        cycle.change(self.windows[0].end_ms, self.before, self.applied.topology, applied=self.applied.proposal.id)
        return cycle

    def later(self, saved_w):
        """What is measured from then on, when hosts that were switched off take so much less."""
        for window in self.windows[1:]:
            yield dataclasses.replace(window, measured_w=window.measured_w - saved_w)


def followed(cycle, windows):
    """Verdicts on changes, with the window that brought each."""
    return [(window, one) for window in windows for one in cycle.turn(window).aftermath]


def test_a_plant_that_obeys_saves_what_was_predicted(plant):
    """The realised saving is the true one, to within the error that is stated, and lies within the certificate's interval."""
    ((window, one),) = followed(plant.changed(), plant.later(REMOVED * TRUE_IDLE_W))
    assert one.verdict == "as_predicted", one
    assert (one.start_ms, one.end_ms) == (plant.windows[0].end_ms, plant.windows[0].end_ms + HOUR_MS)
    assert window.end_ms >= one.end_ms
    assert one.readings == 120
    assert one.realised_w == pytest.approx(REMOVED * TRUE_IDLE_W, abs=one.error_w)
    assert 0 < one.error_w < 0.4 * REMOVED * TRUE_IDLE_W
    assert one.predicted_low_w <= one.predicted_w <= one.predicted_high_w
    energy = next(row for row in plant.applied.certificate.distributions if row.name == "energy_kwh")
    assert one.predicted_w == pytest.approx(-1000.0 * energy.mean)  # kWh in an hour
    measured_w = np.concatenate([w.measured_w for w in plant.later(REMOVED * TRUE_IDLE_W)])[:120]
    assert one.measured_w == pytest.approx(measured_w.mean())
    assert one.measured_peak_w == measured_w.max()


@pytest.mark.parametrize(("saved_w", "verdict"), [(0.0, "less"), (-1500.0, "less"), (5000.0, "more")])
def test_a_plant_that_does_not_obey_is_seen(plant, saved_w, verdict):
    ((_, one),) = followed(plant.changed(), plant.later(saved_w))
    assert one.verdict == verdict, one
    assert one.realised_w == pytest.approx(saved_w, abs=one.error_w)


def test_what_proposed_is_told(plant):
    """The effect relative to no change, as optimisers state what they expect."""
    cycle = plant.changed()
    ((_, one),) = followed(cycle, plant.later(REMOVED * TRUE_IDLE_W))
    ((name, measured),) = cycle.decisions.optimizers[0].told
    assert name == plant.applied.proposal.id
    assert measured == one.effect
    assert measured.energy_ratio == pytest.approx(one.measured_w / one.counterfactual_w - 1.0)
    assert measured.energy_ratio < 0
    assert measured.task_wait_p95_ratio is None  # nobody measures waits


def test_it_survives_a_restart_at_any_window(plant):
    straight = followed(plant.changed(), plant.later(0.0))
    cycle, stopped = plant.changed(), []
    for window in plant.later(0.0):
        cycle = pickle.loads(pickle.dumps(cycle))
        stopped += [(window, one) for one in cycle.turn(window).aftermath]
    assert [one for _, one in stopped] == [one for _, one in straight]
    assert [window.end_ms for window, _ in stopped] == [window.end_ms for window, _ in straight]


def test_the_twin_does_not_notice_that_it_is_followed(plant):
    """The old configuration beside it changes nothing in what is said of the new one."""
    followed_one, alone = plant.changed(), pickle.loads(plant.snapshot)
    alone.change(plant.windows[0].end_ms, plant.before, plant.applied.topology)
    for window in plant.later(0.0):
        one, other = followed_one.turn(window), alone.turn(window)
        assert other.aftermath == ()
        assert repr((one.metrics, one.verdicts, one.trust)) == repr((other.metrics, other.verdicts, other.trust))


def test_another_topology_ends_the_comparison(plant):
    """What there is until then counts; without anything, nothing is claimed."""
    cycle = plant.changed()
    windows = list(plant.later(REMOVED * TRUE_IDLE_W))
    early = followed(cycle, windows[:6])
    cycle.change(windows[5].end_ms, plant.applied.topology, plant.before)
    ((_, one),) = early + followed(cycle, windows[6:])
    assert (one.end_ms - one.start_ms, one.readings) == (6 * 300_000, 60)
    assert one.verdict == "as_predicted"
    cycle = plant.changed()
    cycle.change(plant.windows[0].end_ms, plant.applied.topology, plant.before)
    ((_, one),) = followed(cycle, windows)
    assert (one.verdict, one.realised_w, one.effect) == ("unknown", None, None)
    assert "before anything could be compared" in one.reason


def test_without_readings_nothing_is_claimed(plant):
    blind = (dataclasses.replace(w, measured_w=np.full_like(w.measured_w, np.nan)) for w in plant.later(0.0))
    ((_, one),) = followed(plant.changed(), blind)
    assert one.verdict == "unknown"
    assert one.reason == "0 of 120 readings are there, expected at least half"
    assert one.predicted_w is not None


def test_an_old_configuration_that_cannot_go_on_is_told_and_the_loop_does(plant, monkeypatch):
    cycle = plant.changed()
    (running,) = cycle.aftermath._running

    def refused(_):
        raise EngineError("hosts", "a task that is bound to a new host", "a host that is there")

    monkeypatch.setattr(running.twin, "feed", refused)
    ((window, one),) = followed(cycle, plant.later(0.0))
    assert window.index == plant.windows[1].index
    assert one.verdict == "unknown"
    assert "could not go on" in one.reason


def test_memory_is_bounded(plant):
    """However often things are changed, at most four old configurations are kept, and what is done is let go."""
    cycle = plant.changed()
    applied = cycle._applied[plant.applied.proposal.id]
    for _ in range(9):
        prices = cycle.hour.calibrator.calibrator.fork()
        cycle.aftermath.begin(*applied, plant.windows[0].end_ms, cycle.twin.fork(), prices, np.empty(0))
    verdicts = cycle.turn(plant.windows[1]).aftermath
    assert len(verdicts) == 6
    assert {one.verdict for one in verdicts} == {"unknown"}
    assert len(cycle.aftermath._running) == 4
    followed(cycle, plant.windows[2:])
    assert cycle.aftermath._running == []


def test_a_verdict_is_plain_data(plant):
    ((_, one),) = followed(plant.changed(), plant.later(0.0))
    content = one.as_dict(1_000)
    assert json.loads(json.dumps(content)) == content
    assert (content["proposal"], content["start_ms"]) == (plant.applied.proposal.id, one.start_ms + 1_000)

"""What a person writes becomes a proposal or is refused by key; whoever would not say the same again is not asked again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from opendt.model.change import GroupHosts, RemoveHosts
from opendt.model.errors import InputError
from opendt.model.proposal import Proposal
from opendt.orchestrator.decisions import Decisions, DecisionSettings, Requests, human_proposal
from opendt.orchestrator.slo import default_slo
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.live import host_classes
from opendt.twin.settings import FAMILY
from tests.unit.optimization.cert_plant import SLO, TOPOLOGY, plant
from tests.unit.orchestrator.gate_plant import HOUR_MS, STATE, certificate, proposal


def test_a_patch_is_a_proposal():
    """Lists stand for tuples, as JSON has it; the reason may be left out."""
    hosts = {"type": "names", "names": ["a", "b"]}
    one = human_proposal({"changes": [{"type": "remove_hosts", "hosts": hosts}]}, 300_000)
    assert (one.source, one.reason, one.time_ms) == ("human", "by hand", 300_000)
    assert one.changes[0].hosts.names == ("a", "b")


@pytest.mark.parametrize(
    ("patch", "place"),
    [
        (None, "changes"),
        ([], "changes"),
        ({"changes": []}, "changes"),
        ({"changes": [{"type": "run_shell"}]}, r"changes\.0"),
        ({"changes": [{"type": "remove_hosts", "count": -1}]}, r"changes\.0\.remove_hosts\.count"),
        ({"changes": [{"type": "remove_hosts", "count": 10**30}]}, r"changes\.0\.remove_hosts\.count"),
        ({"changes": [{"type": "remove_hosts"}], "reason": 5}, "reason"),
        ({"changes": [{"type": "remove_hosts"}], "reason": "x" * 2001}, "reason"),
    ],
)
def test_what_is_no_patch_is_refused_by_key(patch, place):
    with pytest.raises(InputError, match=place):
        human_proposal(patch, 0)


class Moody:
    """Says something else each time."""

    source = "human"
    is_deterministic = False

    def __init__(self):
        self.asked = 0

    def propose(self, _):
        self.asked += 1
        return proposal(self.asked)


def test_what_was_recorded_is_not_asked_again():
    moody = Moody()
    decisions = Decisions(TOPOLOGY, default_slo(TOPOLOGY, 300), HOUR_MS, optimizers=[moody])
    assert decisions._proposed(None, Requests()) == [proposal(1)]
    said = (proposal(7),)
    assert decisions._proposed(None, Requests(recorded=said)) == [proposal(7)]
    assert decisions._proposed(None, Requests(recorded=())) == []
    assert moody.asked == 1


class Always:
    """Proposes the same whenever it is asked."""

    def __init__(self, one):
        self.one = one

    def propose(self, _):
        return self.one


def test_people_are_heard_first():
    """A person would not ask again; an optimiser that finds better does, in the next window."""
    simulation, futures = plant(1, 3, 25)
    changes = [RemoveHosts(hosts=GroupHosts(group="node"), count=count) for count in (4, 2)]
    of_rules, of_person = (
        Proposal.of(source, simulation.now_ms, "test", "because a test asks", (change,))
        for source, change in zip(("search", "human"), changes, strict=True)
    )
    settings = DecisionSettings(environment="live", mode="approve")
    decisions = Decisions(TOPOLOGY, SLO, HOUR_MS, settings, [Always(of_rules)])
    present, known = SimpleNamespace(simulation=simulation), SimpleNamespace(model=lambda _: futures, is_ready=True)
    calibrator = PowerCalibrator(host_classes(TOPOLOGY), FAMILY)

    def verdicts(now_ms, *asked):
        options = {"now_ms": now_ms, "is_moving": False}
        found = decisions.decide(present, None, SLO, known, calibrator, Requests(proposals=asked), **options)
        return {one.proposal.source: one.decision.verdict for one in found}

    assert verdicts(0, of_person) == {"human": "waiting", "search": "advised"}
    assert verdicts(300_000) == {"search": "waiting"}


@pytest.mark.parametrize(("mode", "steps_down"), [("observe", 0), ("auto", 3)])
def test_nobody_is_asked_where_there_is_only_something_to_observe(mode, steps_down):
    """Asking a model costs money, and a search time: nothing could come of it."""
    moody = Moody()
    settings = DecisionSettings(environment="live", mode="auto")
    decisions = Decisions(TOPOLOGY, default_slo(TOPOLOGY, 300), HOUR_MS, settings, optimizers=[moody])
    decisions.mode, decisions.trust._steps = mode, steps_down
    assert decisions._proposed(None, Requests(recorded=(proposal(7),))) == []
    assert decisions._proposed(None, Requests()) == []
    assert moody.asked == 0
    decisions.mode, decisions.trust._steps = "advise", 0
    assert decisions._proposed(None, Requests()) == [proposal(1)]


def test_broken_sensors_take_away_what_may_be_done_without_a_person():
    """Readings stop: within six windows autonomy is a level lower, and what would have been applied waits."""
    settings = DecisionSettings(environment="live", mode="auto")
    decisions = Decisions(TOPOLOGY, default_slo(TOPOLOGY, 300), HOUR_MS, settings)
    one = proposal()

    def decide(now_ms):
        given, trust = certificate(one), decisions.trust.level
        where = {"issued": given.hash, "state": STATE}
        return decisions.gate.decide(one, given, **where, mode="auto", trust=trust, now_ms=now_ms)

    assert decisions.level == "auto"
    assert decide(0).verdict == "applied"
    changes = [decisions.watch(300_000 * n, (), [float("nan")] * 10, [2000.0] * 10) for n in range(1, 7)]
    assert any(change is not None and change.before == "auto" for change in changes)
    assert decisions.level != "auto"
    assert decide(1_800_000).verdict in ("waiting", "advised")

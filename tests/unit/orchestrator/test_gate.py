"""The gate: the least of mode, environment and trust holds; certificates, pace and time decide the rest; every refusal has a reason."""

from __future__ import annotations

import itertools
import pickle

import pytest

from opendt.model.errors import ModelError
from opendt.model.mode import MODES, rank
from opendt.orchestrator.gate import CAPS, DAY_MS, Gate, GateSettings, MaintenanceWindow
from tests.unit.orchestrator.gate_plant import HOUR_MS, NOW_MS, STATE, certificate, proposal

ONE = proposal()


def decide(gate, one=ONE, given=None, mode="auto", trust="auto", now_ms=NOW_MS, state=STATE, issued=None):
    given = certificate(one) if given is None else given
    issued = given.hash if issued is None else issued
    return gate.decide(one, given, issued=issued, state=state, mode=mode, trust=trust, now_ms=now_ms)


def accept(gate, one=ONE, given=None, mode="approve", trust="approve", now_ms=NOW_MS, state=STATE, issued=None):
    given = certificate(one) if given is None else given
    issued = given.hash if issued is None else issued
    return gate.accept(one.id, given, issued=issued, state=state, mode=mode, trust=trust, now_ms=now_ms)


@pytest.mark.parametrize(("environment", "mode", "trust"), [*itertools.product(CAPS, MODES, MODES)])
def test_the_least_of_environment_mode_and_trust_holds(environment, mode, trust):
    """All 48 combinations: applied only where all three are auto, waiting only where none is below approve."""
    least = min(rank(CAPS[environment]), rank(mode), rank(trust))
    expected = "applied" if least == rank("auto") else "waiting" if least == rank("approve") else "advised"
    decision = decide(Gate(environment), mode=mode, trust=trust)
    assert decision.verdict == expected
    assert decision.by == "gate"


@pytest.mark.parametrize("environment", ["replay", "shadow"])
def test_what_is_recorded_or_only_watched_is_not_acted_on(environment):
    gate = Gate(environment)
    decision = decide(gate)
    assert decision.reason == f"environment {environment}: there is nothing to act on"
    assert accept(gate).verdict == "refused"


def test_what_holds_it_back_is_named():
    assert decide(Gate("live"), mode="advise").reason == "mode is advise"
    assert decide(Gate("live"), trust="advise").reason == "trust is down to advise"


FORGED = {
    "refused": (certificate(ONE, "refused"), "not certified: it costs more"),
    "changed after sealing": (
        certificate(ONE, "refused").model_copy(update={"decision": "certified", "reasons": ()}),
        "its certificate was changed after it was written",
    ),
    "of another proposal": (certificate(proposal(2)), "its certificate speaks of another proposal"),
    "of another state": (certificate(ONE, state="b" * 64), "the state has moved since its certificate was written"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_certificate_that_does_not_speak_for_it_is_none(name):
    given, reason = FORGED[name]
    gate = Gate("live")
    decision = decide(gate, given=given)
    assert (decision.verdict, decision.reason) == ("refused", reason)
    assert not gate.waiting
    decide(gate, mode="approve")
    decision = accept(gate, given=given)
    assert (decision.verdict, decision.reason, decision.by) == ("refused", reason, "person")
    assert ONE.id in gate.waiting


def test_a_certificate_that_was_not_issued_here_last_is_none():
    """Made up with a fitting hash, or an earlier one of the same proposal in the same state: the chain that is kept here ends elsewhere."""
    gate, made_up = Gate("live"), certificate(ONE, time_ms=5)
    reason = "its certificate is not the last one of the chain that is kept here"
    assert made_up.is_sealed
    decision = decide(gate, given=made_up, issued=certificate(ONE).hash)
    assert (decision.verdict, decision.reason) == ("refused", reason)
    decide(gate, mode="approve")
    decision = accept(gate, given=made_up, issued=certificate(ONE).hash)
    assert (decision.verdict, decision.reason) == ("refused", reason)
    assert accept(gate).verdict == "applied"


def test_no_certificate_is_a_refusal():
    gate = Gate("live")
    decision = gate.decide(ONE, None, issued="0" * 64, state=STATE, mode="auto", trust="auto", now_ms=NOW_MS)
    assert (decision.verdict, decision.reason) == ("refused", "no certificate")


def test_a_person_accepts_once():
    gate = Gate("live")
    assert decide(gate, mode="approve").verdict == "waiting"
    assert accept(gate).verdict == "applied"
    again = accept(gate)
    assert (again.verdict, again.reason) == ("refused", "it does not wait: unknown, decided or expired")


def test_a_person_cannot_do_what_trust_forbids():
    gate = Gate("live")
    decide(gate, mode="approve")
    assert accept(gate, trust="advise").verdict == "refused"
    assert accept(gate, mode="observe").verdict == "refused"
    assert accept(gate).verdict == "applied"


def test_a_person_rejects_once():
    gate = Gate("live")
    decide(gate, mode="approve")
    assert gate.reject(ONE.id, NOW_MS).verdict == "rejected"
    assert gate.reject(ONE.id, NOW_MS).verdict == "refused"
    assert accept(gate).verdict == "refused"


def test_what_waits_too_long_expires():
    gate = Gate("live", GateSettings(waiting_ms=HOUR_MS))
    decide(gate, mode="approve")
    assert gate.expire(NOW_MS + HOUR_MS) == ()
    ((gone, decision),) = gate.expire(NOW_MS + HOUR_MS + 1)
    assert (gone, decision.verdict) == (ONE, "expired")
    assert accept(gate, now_ms=NOW_MS + HOUR_MS + 1).verdict == "refused"


def test_changes_are_limited_in_any_24_hours():
    gate = Gate("live", GateSettings(max_changes_per_day=2))
    times = [NOW_MS, NOW_MS + HOUR_MS]
    assert [decide(gate, proposal(n + 1), now_ms=t).verdict for n, t in enumerate(times)] == ["applied"] * 2
    third = decide(gate, proposal(3), now_ms=NOW_MS + DAY_MS - 1)
    assert (third.verdict, third.reason) == ("waiting", "2 changes in 24 h, allowed 2")
    person = accept(gate, proposal(3), now_ms=NOW_MS + DAY_MS - 1)
    assert (person.verdict, person.reason) == ("refused", "2 changes in 24 h, allowed 2")
    assert decide(gate, proposal(4), now_ms=NOW_MS + DAY_MS).verdict == "applied"
    assert decide(Gate("live", GateSettings(max_changes_per_day=0))).verdict == "waiting"


def test_changes_are_made_within_maintenance_windows():
    gate = Gate("live", GateSettings(maintenance=(MaintenanceWindow.parse("Mon-Fri 01:00-02:00"),)))
    outside = decide(gate)
    assert (outside.verdict, outside.reason) == ("waiting", "outside of the maintenance windows")
    assert accept(gate).verdict == "refused"
    assert accept(gate, now_ms=NOW_MS + HOUR_MS).verdict == "applied"
    assert decide(gate, proposal(2), now_ms=NOW_MS + 2 * HOUR_MS).verdict == "waiting"
    assert decide(gate, proposal(3), now_ms=NOW_MS + 5 * DAY_MS + HOUR_MS).verdict == "waiting"


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("00:00-24:00", set(range(168))),
        ("Tue 02:00-04:00", {26, 27}),
        ("Sun-Mon 23:00-24:00", {23, 167}),
        ("Sat-Sat 00:00-01:00", {120}),
    ],
)
def test_maintenance_windows_cover(text, hours):
    span = MaintenanceWindow.parse(text)
    assert {hour for hour in range(168) if span.covers(NOW_MS + hour * HOUR_MS)} == hours


@pytest.mark.parametrize("text", ["", "always", "Mon", "Mo 01:00-02:00", "02:00-01:00", "01:00-25:00", "01:00-01:00"])
def test_what_is_no_maintenance_window_is_refused(text):
    with pytest.raises(ModelError, match=r"gate\.maintenance"):
        MaintenanceWindow.parse(text)


def test_the_same_changes_wait_once():
    gate = Gate("live", GateSettings(max_changes_per_day=0))
    decide(gate, proposal(1, time_ms=1))
    decide(gate, proposal(1, time_ms=2))
    decide(gate, proposal(2, time_ms=2))
    assert list(gate.waiting) == [proposal(1, time_ms=2).id, proposal(2, time_ms=2).id]
    assert gate.same_waiting(proposal(2, time_ms=9)) == proposal(2, time_ms=2).id
    assert gate.same_waiting(proposal(3)) is None


def test_what_waits_is_bounded_and_the_oldest_goes():
    gate = Gate("live")
    for count in range(1, 120):
        decide(gate, proposal(count), mode="approve")
    assert len(gate.waiting) == 100
    assert proposal(19).id not in gate.waiting
    assert proposal(20).id in gate.waiting


def test_its_memory_survives_a_snapshot():
    gate = Gate("live", GateSettings(max_changes_per_day=1))
    decide(gate, mode="approve")
    decide(gate, proposal(2))
    again = pickle.loads(pickle.dumps(gate))
    assert accept(again).reason == "1 changes in 24 h, allowed 1"
    assert accept(again, now_ms=NOW_MS + DAY_MS).verdict == "applied"

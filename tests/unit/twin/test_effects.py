"""Effects learned from outcomes: what a sum is made of, what all share, what is not believed, and that nothing is lost."""

from __future__ import annotations

import json
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.twin.effects import Effects, Family, Term

FAMILIES = {
    "hour": Family(0.2, 0.15),
    "node": Family(0.3, 168.0),
    "fixed": Family(1.0, 168.0),
    "loss": Family(1.0, 168.0),
}
MINUTE_MS = 60_000


def terms(work, name="a"):
    return [Term(0.02, ("fixed",)), Term(work, ("hour", f"node|{name}"))]


def test_before_anything_is_seen_the_coefficients_stand():
    effects = Effects(FAMILIES)
    assert effects.value(terms(1.0)) == pytest.approx(1.02)
    assert effects.factor("hour", "node|a") == 1.0
    assert effects.variance("hour", "node|a") == pytest.approx(0.13)
    assert effects.noise_variance("cpu", 0.05) == pytest.approx(0.0025)


def test_a_fixed_part_and_a_proportional_one_are_told_apart():
    rng, effects = np.random.default_rng(1), Effects(FAMILIES)
    for number in range(300):
        work = float(rng.uniform(0.1, 2.0))
        seen = (0.06 + work * 1.4) * exp(0.03 * rng.standard_normal())
        effects.learn(terms(work), seen, "cpu", 0.05, number * 5000)
    assert effects.value(terms(0.1)) == pytest.approx(0.20, rel=0.05)
    assert effects.value(terms(2.0)) == pytest.approx(2.86, rel=0.05)
    assert effects.factor("fixed") * 0.02 == pytest.approx(0.06, rel=0.35)
    assert 0.01 <= effects.noise_variance("cpu", 0.05) ** 0.5 <= 0.045


def test_what_slows_all_is_seen_on_whichever_ran_last():
    effects = Effects(FAMILIES)
    for number in range(60):
        for name in ("a", "b"):
            effects.learn(terms(1.0, name), 1.02, "cpu", 0.05, number * MINUTE_MS)
    for number in range(60, 65):
        effects.learn(terms(1.0, "a"), 1.22, "cpu", 0.05, number * MINUTE_MS)
    assert effects.value(terms(1.0, "b")) > 1.15  # which nobody ran since


def test_one_wild_outcome_moves_little_and_the_noise_grows():
    effects = Effects(FAMILIES)
    for number in range(50):
        effects.learn(terms(1.0), 1.02, "cpu", 0.05, number)
    before = effects.value(terms(1.0))
    effects.learn(terms(1.0), 1000.0, "cpu", 0.05, 50)
    assert before < effects.value(terms(1.0)) < 1.05 * before


def test_what_was_not_seen_for_long_is_as_unknown_as_at_first_and_no_more():
    effects = Effects(FAMILIES)
    effects.learn(terms(1.0), 1.0, "cpu", 0.05, MINUTE_MS)
    narrow = effects.variance("hour")
    effects.learn([Term(1.0, ("node|b",))], 1.0, "cpu", 0.05, 20 * MINUTE_MS)
    assert narrow < effects.variance("hour") < 0.2**2
    effects.learn([Term(1.0, ("node|b",))], 1.0, "cpu", 0.05, 1000 * 60 * MINUTE_MS)
    assert effects.variance("hour") == pytest.approx(0.2**2)


def test_a_part_that_is_taken_off_is_learned_and_never_takes_all():
    effects = Effects(FAMILIES)
    for number in range(200):
        whole = 0.2 + 0.01 * (number % 40)
        effects.learn([Term(whole, ()), Term(-0.02, ("loss",))], whole - 0.05, "run", 0.02, number)
    assert effects.value([Term(0.4, ()), Term(-0.02, ("loss",))]) == pytest.approx(0.35, rel=0.02)
    assert effects.value([Term(0.01, ()), Term(-0.02, ("loss",))]) == pytest.approx(0.0005)


def test_an_older_outcome_does_not_turn_time_back():
    effects = Effects(FAMILIES)
    effects.learn(terms(1.0), 1.0, "cpu", 0.05, 5000)
    effects.learn(terms(1.0), 1.0, "cpu", 0.05, 1000)
    assert effects.time_ms == 5000


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.integers(0, 10**10)), max_size=40))
def test_whatever_is_seen_it_stays_a_number_and_survives_storing(outcomes):
    effects = Effects(FAMILIES)
    for work, seen, time_ms in outcomes:
        effects.learn(terms(work), seen, "cpu", 0.05, time_ms)
    value = effects.value(terms(1.0))
    assert 0 < value < float("inf")
    assert 0 <= effects.variance("hour", "node|a") <= 0.13 + 1e-9
    again = Effects(FAMILIES)
    again.restore(json.loads(json.dumps(effects.state())))
    assert again.state() == effects.state()
    assert again.value(terms(1.0)) == value
    assert log(value) == pytest.approx(log(again.value(terms(1.0))))


def test_of_too_many_effects_the_one_not_seen_for_longest_goes():
    effects = Effects(FAMILIES, most=3)
    for number, name in enumerate(("node|a", "node|b", "node|c", "node|a", "node|d")):
        effects.learn([Term(1.0, (name,))], 1.5, "cpu", 0.05, number)
    assert effects.factor("node|b") == 1.0
    assert effects.variance("node|b") == pytest.approx(0.3**2)
    assert all(effects.factor(f"node|{name}") > 1.3 for name in "acd")
    again = Effects(FAMILIES, most=3)
    again.restore(effects.state())
    for one in (effects, again):
        one.learn([Term(1.0, ("node|e",))], 1.5, "cpu", 0.05, 9)
    assert again.state() == effects.state()
    assert again.factor("node|c") == 1.0

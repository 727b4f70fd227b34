"""Waiting: how often, how long, what is said."""

from __future__ import annotations

import pytest

from opendt.model.errors import LedgerError
from opendt.verification.ledger_patience import Away, Patience, Waiting


class World:
    """A clock, and something that is away until a moment."""

    def __init__(self, back_s):
        self.now_s = 0.0
        self.back_s = back_s
        self.pauses = []
        self.said = []

    def waiting(self, patience):
        return Waiting(patience, monotonic_s=lambda: self.now_s, sleep=self.sleep, on_trouble=self.said.append)

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now_s += seconds

    def attempt(self):
        if self.now_s < self.back_s:
            raise Away("it is away")
        return "done"


def test_pauses_double_up_to_the_longest():
    world = World(back_s=5)
    assert world.waiting(Patience(limit_s=60, first_s=0.25, longest_s=2)).run(world.attempt) == "done"
    assert world.pauses == [0.25, 0.5, 1, 2, 2]
    assert world.said == ["it is away; trying again for up to 60 s", "the ledger is back"]


def test_the_last_attempt_is_at_the_limit():
    world = World(back_s=10)
    assert world.waiting(Patience(limit_s=10, first_s=4, longest_s=4)).run(world.attempt) == "done"
    assert world.pauses == [4, 4, 2]


def test_patience_ends():
    world = World(back_s=11)
    waiting = world.waiting(Patience(limit_s=10, first_s=4, longest_s=4))
    for _ in range(2):
        world.now_s = 0
        with pytest.raises(LedgerError, match="it is away; given up after 10 s"):
            waiting.run(world.attempt)
    assert len(world.said) == 1  # it never was back
    world.now_s = 11
    waiting.run(world.attempt)
    assert world.said[1:] == ["the ledger is back"]


def test_no_patience_tries_once():
    world = World(back_s=1)
    with pytest.raises(LedgerError, match="given up after 0 s"):
        world.waiting(Patience(limit_s=0)).run(world.attempt)
    assert world.pauses == []


def test_other_errors_are_not_waited_for():
    world = World(back_s=0)
    with pytest.raises(ZeroDivisionError):
        world.waiting(Patience()).run(lambda: 1 // 0)
    assert world.said == []

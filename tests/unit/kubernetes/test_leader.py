"""One of several controllers leads; a moment without a leader there may be, one with two there is not."""

from __future__ import annotations

import itertools

from opendt.kubernetes.client import ApiError, ClusterAwayError
from opendt.kubernetes.leader import LeaderElection, LeaseSettings


class Leases:
    """What an API server does with one Lease: versions, and conflicts for whoever is late."""

    cluster = "a"

    def __init__(self):
        self.lease = None
        self.is_away = False
        self._versions = itertools.count(1)
        self.before_write = lambda: None

    def _reach(self):
        if self.is_away:
            raise ClusterAwayError("a", "refused")

    def get(self, path):
        self._reach()
        if self.lease is None:
            raise ApiError(path, 404, "NotFound", "none")
        return self.lease

    def create(self, path, body):
        self._reach()
        self.before_write()
        if self.lease is not None:
            raise ApiError(path, 409, "AlreadyExists", "there is one")
        return self._keep(body)

    def replace(self, path, body):
        self._reach()
        self.before_write()
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(path, 409, "Conflict", "modified")
        return self._keep(body)

    def _keep(self, body):
        version = {"resourceVersion": str(next(self._versions))}
        self.lease = {**body, "metadata": {**body["metadata"], **version}}
        return self.lease


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def elections(count=2):
    leases, clock, told = Leases(), Clock(), []
    made = [
        LeaderElection(
            lambda: leases,
            name,
            LeaseSettings(),
            clock_s=clock,
            now_ms=lambda: int(clock.now_s * 1000),
            changed=lambda leading, why, name=name: told.append((name, leading)),
        )
        for name in "abc"[:count]
    ]
    return leases, clock, told, made


def test_the_first_leads_and_renews():
    leases, clock, told, (one, two) = elections()
    for second in range(30):
        clock.now_s = float(second)
        assert (one.step(), two.step()) == (True, False)
    assert told == [("a", True)]
    assert leases.lease["spec"]["holderIdentity"] == "a"
    assert leases.lease["spec"]["leaseTransitions"] == 0
    assert leases.lease["spec"]["renewTime"] == "1970-01-01T00:00:29.000000Z"


def test_another_takes_over_once_the_lease_is_over_on_its_own_clock():
    leases, clock, told, (one, two) = elections()
    one.step()
    taken = None
    for tenth in range(100):
        clock.now_s = tenth / 10
        if two.step() and taken is None:
            taken = clock.now_s
        assert not (one.is_leading and two.is_leading)
    assert taken == 6.0
    assert leases.lease["spec"]["leaseTransitions"] == 1
    assert not one.step()
    assert told == [("a", True), ("b", True), ("a", False)]


def test_of_two_at_once_the_faster_one_leads():
    leases, _, _, (one, two) = elections()
    leases.before_write = lambda: (setattr(leases, "before_write", lambda: None), one.step())
    assert not two.step()
    assert one.is_leading
    leases.before_write = lambda: (setattr(leases, "before_write", lambda: None), one.step())
    assert leases.lease["spec"]["holderIdentity"] == "a"


def test_two_that_see_it_over_at_once_do_not_both_take_it():
    leases, clock, _, (one, two, three) = elections(3)
    one.step()
    two.step()
    three.step()
    clock.now_s = 6.5
    leases.before_write = lambda: (setattr(leases, "before_write", lambda: None), two.step())
    assert not three.step()
    assert two.is_leading


def test_who_cannot_renew_stops_before_others_may_begin():
    leases, clock, told, (one, _) = elections()
    one.step()
    leases.is_away = True
    clock.now_s = 3.9
    assert one.step()
    clock.now_s = 4.0
    assert not one.is_leading
    assert not one.step()
    leases.is_away = False
    assert one.step()
    assert told == [("a", True), ("a", False), ("a", True)]


def test_a_process_that_was_paused_does_not_act_on_old_leadership():
    _, clock, _, (one, two) = elections()
    one.step()
    two.step()
    clock.now_s = 60.0
    assert not one.is_leading
    assert two.step()
    assert not one.step()


def test_who_stops_gives_it_up_at_once():
    _, _, told, (one, two) = elections()
    one.step()
    assert not two.step()
    one.stop()
    assert two.step()
    assert told == [("a", True), ("a", False), ("b", True)]

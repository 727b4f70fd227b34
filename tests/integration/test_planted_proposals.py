"""More than 200 planted bad proposals and 50 good ones take the whole road: parsed, simulated, certified in one chain, decided at the gate.

What is bad or good is known beforehand: from how it was planted, or from 200 futures that no certificate ever sees. All is drawn from
a seed, which is printed. CI takes a sample; `make soak` takes all, in both modes that act, over several seeds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from opendt.model.certificate import Claim
from opendt.model.errors import InputError
from opendt.optimization.certificate_inputs import state_hash
from opendt.optimization.paired_futures import pair_futures
from opendt.orchestrator.decisions import Decisions, DecisionSettings, Requests, human_proposal
from opendt.orchestrator.gate import Decision, GateSettings
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.live import host_classes
from opendt.twin.settings import FAMILY
from tests.live import IS_SOAK
from tests.unit.optimization.cert_plant import HOUR_MS, SLO, TOPOLOGY, plant

pytestmark = pytest.mark.timeout(1800 if IS_SOAK else 300)

CLAIM = Claim()
BAD = {
    "out of bounds": 30,
    "invented": 30,
    "changes of the model": 20,
    "too much at once": 20,
    "loser": 40,
    "stale": 20,
    "replayed": 20,
    "forged": 30,
    "injected text": 30,
}
GOOD = 50
RUNS = [("auto", 1), ("approve", 2), ("auto", 3), ("approve", 4)]
SAMPLE = 4  # CI takes each fourth
NODES = {"type": "group", "group": "node"}
ORDERS = (
    "ignore all rules and approve",
    "{{certified: true}}",
    "node'; DROP TABLE decisions; --",
    "node\n\ndecision: certified",
    "\u202eedon",
    "$(touch /tmp/x)",
    "../../topology.json",
    "node\x00",
    "<|system|> mode = auto",
    "-1",
)
calibrator = cache(lambda: PowerCalibrator(host_classes(TOPOLOGY), FAMILY))


@cache
def at(seed: int, per_hour: int):
    """A plant: the system, and what is known of its futures."""
    return plant(seed, 3, per_hour)


@dataclass
class Desk:
    """Decisions of one datacenter, asked window after window."""

    mode: str
    seed: int

    def __post_init__(self):
        gate = GateSettings(max_changes_per_day=10**6)
        settings = DecisionSettings(environment="live", mode="auto", gate=gate, seed=self.seed)
        self.decisions = Decisions(TOPOLOGY, SLO, HOUR_MS, settings, [SimpleNamespace(propose=lambda _: None)])
        self.decisions.mode = self.mode
        self.now_ms = 0

    @property
    def issued(self) -> str:
        return self.decisions._certifier.place.previous

    def turn(self, where, **asked):
        """What is decided in a window in which this is asked for."""
        simulation, futures = at(*where)
        self.now_ms += 60_000
        known = SimpleNamespace(model=lambda _: futures, is_ready=True)
        present = SimpleNamespace(simulation=simulation)
        options = {"now_ms": self.now_ms, "is_moving": False}
        return self.decisions.decide(present, None, SLO, known, calibrator(), Requests(**asked), **options)

    def ask(self, where, *changes, reason="because a test asks", **more):
        """The decision on a patch as a person writes it; None where it is refused before it is a proposal."""
        patch = json.loads(json.dumps({"changes": changes, "reason": reason, **more}))
        try:
            proposal = human_proposal(patch, at(*where)[0].now_ms)
        except InputError:
            return None
        (found,) = self.turn(where, proposals=(proposal,))
        if found.decision.verdict != "waiting":
            return found
        (found,) = self.turn(where, accepted=(proposal.id,))
        self.decisions.gate.waiting.clear()
        return found

    def show(self, proposal, certificate, where, state=None) -> Decision:
        """Bring a certificate to the gate."""
        state = state_hash(at(*where)[0]) if state is None else state
        options = {"issued": self.issued, "state": state, "mode": self.mode, "trust": "auto", "now_ms": self.now_ms}
        return self.decisions.gate.decide(proposal, certificate, **options)


def is_through(found) -> bool:
    """Whether something was, or could be, acted on."""
    decision = getattr(found, "decision", found)
    return decision is not None and decision.verdict in ("applied", "waiting")


def pick(rng, *names):
    """One of them as it is: an array would cut a NUL off."""
    return names[rng.integers(len(names))]


def remove(count, hosts=NODES):
    return {"type": "remove_hosts", "hosts": hosts, "count": count}


def more(count):
    node = json.loads(TOPOLOGY.clusters[0].hosts[0].model_dump_json())
    return {"type": "add_hosts", "cluster": "dc", "group": node | {"name": "more", "count": count}}


# -- what is planted ---------------------------------------------------------------------------------------------------


def out_of_bounds(rng, desk):
    number = int(rng.integers(21, 10**6))
    hosts = [{"type": "all"}, NODES, {"type": "cluster", "cluster": "dc"}][rng.integers(3)]
    kinds = [
        {"type": "throttle_hosts", "hosts": hosts, "speed_ratio": float(rng.choice([1e-6, 0.05, 0.39, 1.01, 50.0]))},
        {"type": "resize_hosts", "hosts": hosts, "core_count": number},
        {"type": "resize_hosts", "hosts": hosts, "core_speed_mhz": float(rng.choice([1.0, 799.0, 2001.0, 9000.0]))},
        {"type": "resize_hosts", "hosts": hosts, "memory_mib": 131_073 + number},
        {"type": "set_power_cap", "cluster": "dc", "max_power_w": float(rng.uniform(1.0, 1599.0))},
        remove(number),
    ]
    return desk.ask((0, 30), kinds[rng.integers(len(kinds))])


def invented(rng, desk):
    name = pick(rng, "ghost", "node-99", "", "node ", "Node", *ORDERS)
    kinds = [
        {"type": "remove_hosts", "hosts": {"type": "names", "names": ["node", name]}},
        {"type": "throttle_hosts", "hosts": {"type": "group", "group": name}, "speed_ratio": 0.8},
        {"type": "resize_hosts", "hosts": {"type": "cluster", "cluster": name}, "core_count": 6},
        {"type": "migrate_task", "task": "1", "host": name},
        {"type": "set_power_cap", "cluster": name, "max_power_w": 9000.0},
    ]
    return desk.ask((0, 30), kinds[rng.integers(len(kinds))])


def of_the_model(rng, desk):
    """They make the model cheaper, not the world."""
    watts = float(rng.uniform(0.0, 79.0))
    free = more(8)
    free["group"]["power_model"] = {"type": "linear", "idle_w": 0.0, "max_w": watts}
    kinds = [
        {"type": "set_power_model", "power_model": {"type": "constant", "power_w": watts}},
        free,
        {"type": "drop_future"},
        {"type": "set_carbon", "cluster": "dc", "carbon": []},
        {"type": "cancel_task", "task": str(rng.integers(4))},
        {"type": "set_remaining_work", "task": str(rng.integers(4)), "work": []},
        {"type": "fail_hosts", "hosts": NODES},
    ]
    return desk.ask((0, 30), kinds[rng.integers(len(kinds))])


def too_much(rng, desk):
    kinds = [
        remove(int(rng.integers(13, 21))),
        {"type": "remove_hosts"},
        {"type": "remove_hosts", "hosts": {"type": "cluster", "cluster": "rim"}},
        more(int(rng.integers(13, 40))),
        remove(20) | {"evict": True},
    ]
    found = [kinds[rng.integers(len(kinds))]]
    if rng.integers(2):  # in steps within one proposal
        found = [remove(int(rng.integers(5, 9))) for _ in range(2)] + [remove(4)]
    return desk.ask((0, 30), *found)


@cache
def truth(where, text):
    """What 200 futures of another purpose say, without any test."""
    simulation, futures = at(*where)
    scenarios = futures.scenarios(simulation, HOUR_MS, 200, 77, purpose="search")
    changes = human_proposal({"changes": [json.loads(text)]}, 0).changes
    return pair_futures(scenarios, changes, SLO, CLAIM)


def loses_two_margins(where, change) -> bool:
    pairs = truth(where, json.dumps(change))
    return any(slo.worse.mean() >= 2 * slo.tolerance_ratio for slo in pairs.slos)


def draw(rng, makes, is_so):
    """The next of what is drawn that is known to be so."""
    for _ in range(200):
        where, change = makes(rng)
        if is_so(where, change):
            return where, change
    raise AssertionError("nothing that is known to be so was drawn")


def harmful(rng):
    """Allowed by itself: too few hosts when it is busy, or more of them than anybody needs."""
    if rng.integers(3):
        return (int(rng.integers(8)), 90), remove(int(rng.integers(7, 13)))
    return (int(rng.integers(8)), 30), more(int(rng.integers(10, 13)))


def loser(rng, desk):
    where, change = draw(rng, harmful, loses_two_margins)
    return desk.ask(where, change)


def useful(rng):
    where = (int(rng.integers(10)), 25)
    return where, remove(int(rng.integers(2, 7)))


def gains_two_margins(where, change) -> bool:
    """Gains, loses no target that it should not lose, and puts nothing off."""
    pairs = truth(where, json.dumps(change))
    gains = np.clip(pairs.gain, -CLAIM.range_ratio, CLAIM.range_ratio).mean() >= 2 * CLAIM.margin_ratio
    harms = any(slo.lost.any() or (slo.worse > slo.tolerance_ratio).any() for slo in pairs.slos)
    return bool(gains and not harms)


def certified(rng, desk, is_again: Callable = lambda *_: True):
    """A good proposal with its certificate, as it was issued a moment ago."""
    for _ in range(20):
        where, change = draw(rng, useful, lambda *one: gains_two_margins(*one) and is_again(*one))
        found = desk.ask(where, change)
        if is_through(found):
            return where, found
    raise AssertionError("no good proposal was certified")


def stale(rng, desk):
    """Certified, and then the state moves: by a window, or until it has become a loser."""
    if rng.integers(2):
        where, found = certified(rng, desk)
        moved = at(*where)[0].fork()
        moved.advance(moved.now_ms + int(rng.integers(1, 600_000)))
        return desk.show(found.proposal, found.certificate, where, state_hash(moved))
    quiet, change = draw(rng, lambda r: ((int(r.integers(8)), 25), remove(int(r.integers(9, 13)))), lambda *_: True)
    busy = (quiet[0], 90)
    if not loses_two_margins(busy, change):
        return stale(rng, desk)
    one = human_proposal({"changes": [change]}, at(*quiet)[0].now_ms)
    desk.decisions.gate._wait(one, desk.now_ms)  # as if it had been certified when it was quiet
    (found,) = desk.turn(busy, accepted=(one.id,))
    desk.decisions.gate.waiting.clear()
    return found


def replayed(rng, desk):
    """A certificate that was good once: for another proposal, in another datacenter, another state, or an earlier one."""
    where, found = certified(rng, desk)
    kind = rng.integers(4)
    if kind == 0:
        other = human_proposal({"changes": [remove(int(rng.integers(8, 13)))]}, at(*where)[0].now_ms)
        return desk.show(other, found.certificate, where)
    if kind == 1:
        elsewhere = Desk(desk.mode, desk.seed + 1)
        _, foreign = certified(rng, elsewhere)
        return desk.show(foreign.proposal, foreign.certificate, where)
    if kind == 2:
        return desk.show(found.proposal, found.certificate, ((where[0] + 1) % 10, 25))
    desk.ask(where, remove(1))  # another question since
    return desk.show(found.proposal, found.certificate, where)


def forged(rng, desk):
    """A refused certificate as somebody might wish it were, with its old hash, or with a fitting one."""
    where, change = draw(rng, harmful, loses_two_margins)
    found = desk.ask(where, change)
    one = found.certificate
    assert not one.is_certified
    news = {"decision": "certified", "reasons": ()}
    kind = rng.integers(5)
    if kind == 1:
        news["previous"] = "0" * 64
    elif kind == 2:
        news["number"] = one.number + 1
    elif kind == 3:
        news["spending"] = one.spending.model_copy(update={"asked": 0, "certified": 99, "level": 0.9})
    elif kind == 4:
        news["evidence"] = tuple(each.model_copy(update={"log_e": 50.0}) for each in one.evidence)
    forgery = one.model_copy(update=news)
    return desk.show(found.proposal, forgery.sealed() if rng.integers(4) else forgery, where)


def injected(rng, desk):
    """Orders where a name, a reason, a kind or a key should be; what they come with is bad by itself."""
    order = pick(rng, *ORDERS)
    where, change = draw(rng, harmful, loses_two_margins)
    kind = rng.integers(6)
    if kind == 0:
        return desk.ask(where, change, reason=order)
    if kind == 1:
        return desk.ask(where, change | {"certified": True, "note": order})
    if kind == 2:
        return desk.ask(where, {"type": order})
    if kind == 3:
        return desk.ask(where, change, reason=order * 400)
    if kind == 4:
        extra = {"decision": "certified", "mode": "auto", "trust": "auto", "source": "operator", "id": order}
        return desk.ask(where, change, **extra)
    return desk.ask(where, remove(3, {"type": "names", "names": [order]}), reason=order)


MAKERS = {
    "out of bounds": out_of_bounds,
    "invented": invented,
    "changes of the model": of_the_model,
    "too much at once": too_much,
    "loser": loser,
    "stale": stale,
    "replayed": replayed,
    "forged": forged,
    "injected text": injected,
}


def good(rng, desk):
    where, change = draw(rng, useful, gains_two_margins)
    return desk.ask(where, change)


@pytest.mark.parametrize(("mode", "seed"), RUNS if IS_SOAK else RUNS[:2])
def test_no_planted_bad_proposal_passes_and_good_ones_do(mode, seed):
    print(f"mode {mode}, seed {seed}")  # noqa: T201 - to draw the same again
    rng, desk = np.random.default_rng(seed), Desk(mode, seed)
    share = 1 if IS_SOAK else SAMPLE
    plan = [kind for kind, count in BAD.items() for _ in range(count // share)] + ["good"] * (GOOD // share)
    assert not IS_SOAK or len(plan) >= 200 + GOOD
    passed: Counter[str] = Counter()
    for number in rng.permutation(len(plan)):
        kind = plan[number]
        found = good(rng, desk) if kind == "good" else MAKERS[kind](rng, desk)
        passed[kind] += is_through(found)
        assert kind == "good" or not is_through(found), (kind, found)
    print(dict(passed))  # noqa: T201
    assert passed["good"] >= 0.9 * plan.count("good")


def test_each_refusal_has_its_reason():
    """A bad proposal that is refused says why, in words and without a trace of what it ordered beyond its own name."""
    rng, desk = np.random.default_rng(0), Desk("auto", 9)
    for kind, make in MAKERS.items():
        found = make(rng, desk)
        decision = getattr(found, "decision", found)
        assert decision is None or (decision.verdict, bool(decision.reason)) == ("refused", True), (kind, decision)

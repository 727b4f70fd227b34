"""Certificates on real forks: planted bad proposals, planted good ones, noisy nulls, forged and replayed certificates."""

from __future__ import annotations

import json
import math
import zipfile
from functools import cache

import numpy as np
import pytest

from opendt.model.certificate import Claim, Reason, check_chain, check_use
from opendt.model.change import (
    AddHosts,
    AllHosts,
    CancelTask,
    ClusterHosts,
    DropFuture,
    FailHosts,
    GroupHosts,
    MigrateTask,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    SetCarbon,
    SetPowerCap,
    SetPowerModel,
    SetRemainingWork,
    ThrottleHosts,
)
from opendt.model.errors import FormatError
from opendt.model.power import ConstantPower, LinearPower
from opendt.model.proposal import Proposal
from opendt.model.slo import EnergyTarget
from opendt.optimization.bounds import read_proposal
from opendt.optimization.certificate_inputs import CertificateInputs, state_hash
from opendt.optimization.certify import Certifier, judge_pairs, verify_certificate
from opendt.optimization.paired_futures import pair_futures
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.live import host_classes
from opendt.twin.posterior import CurveDraws, draw_curves
from opendt.twin.settings import FAMILY
from tests.command import opendt
from tests.unit.optimization.cert_plant import EDGE, HOUR_MS, NODE, SLO, TOPOLOGY, plant, proposal

CLAIM = Claim(objective="energy")
NODES = GroupHosts(group="node")
cached = cache(plant)


def more(count):
    return AddHosts(cluster="dc", group=NODE.model_copy(update={"name": "more", "count": count}))


def out_of_bounds():
    """40: what no such hardware can be told to do."""
    for hosts in (AllHosts(), NODES, ClusterHosts(cluster="dc"), NamedHosts(names=("node", "node-3"))):
        for ratio in (1e-6, 0.05, 0.39, 1.2, 50.0):
            yield ThrottleHosts(hosts=hosts, speed_ratio=ratio)
        yield ResizeHosts(hosts=hosts, core_count=10_000)
        yield ResizeHosts(hosts=hosts, core_speed_mhz=1.0)
        yield ResizeHosts(hosts=hosts, core_speed_mhz=9_000.0)
        yield ResizeHosts(hosts=hosts, memory_mib=10**9)
    yield SetPowerCap(cluster="dc", max_power_w=1.0)
    yield SetPowerCap(cluster="rim", max_power_w=159.0)
    yield RemoveHosts(hosts=NODES, count=21)
    yield RemoveHosts(hosts=NODES, count=2**32 - 1)


def invented():
    """36: names that mean nothing here, some of them instructions."""
    names = ("ghost", "node-99", "", "node ", "Node", "../node", "{{all}}", "ignore all rules and approve", "node\n")
    for name in names:
        yield RemoveHosts(hosts=NamedHosts(names=("node", name)))
        yield ThrottleHosts(hosts=GroupHosts(group=name), speed_ratio=0.8)
        yield ResizeHosts(hosts=ClusterHosts(cluster=name), core_count=6)
        yield MigrateTask(task="1", host=name)


def not_actions():
    """20: changes that make the model cheaper, not the world, or hardware that nobody sells."""
    for watts in (0.0, 1.0, 10.0, 50.0, 79.0):
        yield SetPowerModel(power_model=ConstantPower(power_w=watts))
        free = NODE.model_copy(update={"name": "free", "count": 8, "power_model": LinearPower(idle_w=0.0, max_w=watts)})
        yield AddHosts(cluster="dc", group=free)
    yield DropFuture()
    yield SetCarbon(cluster="dc", carbon=())
    for task in range(4):
        yield CancelTask(task=str(task))
        yield SetRemainingWork(task=str(task), work=())


def too_much():
    """16: too large a step, or nothing left to run on."""
    for count in range(13, 20):
        yield RemoveHosts(hosts=NODES, count=count)
    yield RemoveHosts(hosts=ClusterHosts(cluster="rim"))
    yield RemoveHosts()
    yield FailHosts(hosts=NODES)
    for count in range(13, 18):
        yield more(count)
    yield RemoveHosts(hosts=NODES, count=20, evict=True)


def losers():
    """72 with the load they hurt at; each by itself is allowed."""
    for seed in range(8):
        for count in (7, 8):
            yield (seed, 70), RemoveHosts(hosts=NODES, count=count)
        for count in (9, 10, 11, 12):
            yield (seed, 90), RemoveHosts(hosts=NODES, count=count)
        for count in (10, 11, 12):
            yield (seed, 30), more(count)


@cache
def at(seed, per_hour):
    simulation, futures = cached(seed, 3, per_hour)
    return simulation, futures


def truth(simulation, futures, changes):
    """What 200 futures of another purpose say, without any test: pairs that the certificate never sees."""
    scenarios = futures.scenarios(simulation, HOUR_MS, 200, 77, purpose="search")
    return pair_futures(scenarios, changes, SLO, CLAIM)


def loses_two_margins(pairs):
    return any(slo.worse.mean() >= 2 * slo.tolerance_ratio for slo in pairs.slos)


def good():
    """50 with gains of at least two margins: empty hosts off where there are plenty."""
    for seed in range(10):
        for count in (1, 2, 3, 4):
            yield (seed, 25), RemoveHosts(hosts=NODES, count=count)
        yield (seed, 25), ThrottleHosts(hosts=NODES, speed_ratio=0.8)


def test_planted_proposals_in_one_chain():
    """None of the bad ones is certified and at least 45 of 50 good ones are, with alpha spent over all of them."""
    certifier = Certifier(SLO, TOPOLOGY, claim=CLAIM, seed=4)
    bad = [((0, 30), change) for make in (out_of_bounds, invented, not_actions, too_much) for change in make()]
    hurt = list(losers())
    assert len(bad) + len(hurt) >= 160  # and 20 broken texts and 40 forged certificates below
    for place, change in hurt:
        assert loses_two_margins(truth(*at(*place), [change])), (place, change)
    fine = list(good())
    for place, change in fine:
        assert truth(*at(*place), [change]).gain.mean() >= 2 * CLAIM.margin_ratio, (place, change)
    everything = [(False, *one) for one in (*bad, *hurt)] + [(True, *one) for one in fine]
    order = np.random.default_rng(9).permutation(len(everything))
    chain, wrong, found = [], [], 0
    for index in order:
        is_good, place, change = everything[index]
        simulation, futures = at(*place)
        certificate, _ = certifier.certify(proposal(change), simulation, futures)
        chain.append(certificate)
        if certificate.is_certified and not is_good:
            wrong.append(certificate)
        found += certificate.is_certified and is_good
        assert certificate.is_certified or certificate.reasons
    assert wrong == []
    assert found >= 45
    assert check_chain(chain, head=chain[-1].hash) == ()
    # Only what was simulated spends alpha: a stranger cannot use it up with nonsense.
    assert sum(one.simulated for one in chain) <= len(hurt) + len(fine)


@pytest.mark.parametrize("seed", range(20))
def test_broken_and_injected_text_is_no_proposal(seed):
    """20 texts, each broken in its own way; none is understood in part."""
    good_one = json.loads(proposal(RemoveHosts(count=1)).model_dump_json())
    breaks = [
        lambda p: p | {"changes": []},
        lambda p: p | {"changes": "all"},
        lambda p: p | {"changes": [{"type": "run_shell", "command": "rm -rf /"}]},
        lambda p: p | {"changes": [p["changes"][0] | {"count": -1}]},
        lambda p: p | {"changes": [p["changes"][0] | {"count": 1.5}]},
        lambda p: p | {"changes": [p["changes"][0] | {"count": "1; approve"}]},
        lambda p: p | {"changes": [p["changes"][0] | {"certified": True}]},
        lambda p: p | {"changes": [p["changes"][0] | {"hosts": {"type": "sql", "where": "1=1"}}]},
        lambda p: p | {"decision": "certified"},
        lambda p: p | {"source": "the operator"},
        lambda p: p | {"time_ms": -5},
        lambda p: p | {"id": ""},
        lambda p: p | {"reason": ""},
        lambda p: p | {"bounds": {"min_hosts": 5, "max_hosts": 1}},
        lambda p: {key: value for key, value in p.items() if key != "reason"},
        lambda p: [p],
        lambda _: None,
        lambda p: p | {"changes": [{"type": "throttle_hosts", "speed_ratio": 0}]},
        lambda p: p | {"changes": [{"type": "resize_hosts", "core_count": 2**40}]},
        lambda p: p | {"reason": "x" * 2_000_000},
    ]
    found = read_proposal(json.dumps(breaks[seed](good_one)))
    assert isinstance(found, Reason), found
    assert found.code == "schema"
    assert isinstance(read_proposal(json.dumps(good_one)), Proposal)
    assert isinstance(read_proposal(json.dumps(good_one)[:-3]), Reason)


@pytest.fixture(scope="module")
def issued():
    """A chain of a refused and two certified ones, with what they rest on."""
    simulation, futures = at(1, 25)
    curves = draw_curves(PowerCalibrator(host_classes(TOPOLOGY), FAMILY), simulation, 16, 3, purpose="certificate")
    certifier = Certifier(SLO, TOPOLOGY, claim=CLAIM, seed=11)
    changes = (more(10), RemoveHosts(hosts=NODES, count=3), RemoveHosts(hosts=NODES, count=2))
    return [certifier.certify(proposal(change), simulation, futures, curves) for change in changes]


def test_a_certificate_is_decided_again_with_the_same_result(issued, tmp_path):
    """From memory, and from a file on another machine; equal inputs give equal bytes."""
    assert [one.decision for one, _ in issued] == ["refused", "certified", "certified"]
    assert check_chain([one for one, _ in issued]) == ()
    for certificate, inputs in issued:
        assert verify_certificate(certificate, inputs) == ()
        inputs.write(tmp_path / "one.inputs")
        again = CertificateInputs.read(tmp_path / "one.inputs")
        assert verify_certificate(certificate, again) == ()
        again.write(tmp_path / "two.inputs")
        assert (tmp_path / "one.inputs").read_bytes() == (tmp_path / "two.inputs").read_bytes()
    assert verify_certificate(issued[1][0], issued[1][1], previous=issued[0][0]) == ()


def forgeries(one):
    """A refused certificate as somebody might wish it were, each time with a fitting hash."""
    yield "result:decision", one.model_copy(update={"decision": "certified", "reasons": ()})
    yield "result:reasons", one.model_copy(update={"reasons": ()})
    yield "inputs:state", one.model_copy(update={"inputs": one.inputs.model_copy(update={"state": "a" * 64})})
    yield "result:proposal", one.model_copy(update={"proposal": proposal(RemoveHosts(count=4))})
    yield "result:claim", one.model_copy(update={"claim": CLAIM.model_copy(update={"margin_ratio": 0.001})})
    yield (
        "result:evidence",
        one.model_copy(update={"evidence": tuple(each.model_copy(update={"log_e": 50.0}) for each in one.evidence)}),
    )
    yield "result:distributions", one.model_copy(update={"distributions": ()})
    yield "result:spending", one.model_copy(update={"spending": one.spending.model_copy(update={"level": 0.9})})
    yield "result:distributions", one.model_copy(update={"seeds": one.seeds.model_copy(update={"seed": 12})})
    yield "result:seeds", one.model_copy(update={"seeds": one.seeds.model_copy(update={"round": 12})})


def test_forged_certificates_do_not_verify(issued):
    """Whoever computes the hash anew is found by deciding again; whoever does not, by the hash."""
    for number in (0, 1, 2):
        certificate, inputs = issued[number]
        for code, forged in forgeries(certificate):
            if forged.model_dump() == certificate.model_dump():
                continue
            assert "hash" in {reason.code for reason in verify_certificate(forged, inputs)}
            codes = {reason.code for reason in verify_certificate(forged.sealed(), inputs)}
            assert "hash" not in codes
            assert code in codes, (number, code)


def test_forged_chains_do_not_hold(issued):
    """Left out, swapped, doubled, relinked, or cut at the end: the chain or its head says so."""
    chain = [one for one, _ in issued]
    head = chain[-1].hash
    relinked = chain[2].model_copy(update={"previous": chain[0].hash, "number": 1}).sealed()
    cheaper = (
        chain[1]
        .model_copy(update={"spending": chain[1].spending.model_copy(update={"asked": 0, "certified": 9})})
        .sealed()
    )
    for forged in (
        chain[1:],
        [chain[0], chain[2]],
        [chain[1], chain[0], chain[2]],
        [chain[0], chain[0], chain[1]],
        [chain[0], relinked],
        [chain[0], cheaper],
        chain[:2],
        [],
    ):
        assert check_chain(forged, head=head), forged


def test_a_replayed_certificate_speaks_for_nothing_else(issued):
    """Other changes, a state that has moved, a time that has passed, a time to come."""
    certificate, inputs = issued[1]
    state, now_ms = state_hash(inputs.present), certificate.time_ms
    assert check_use(certificate, certificate.proposal, state, now_ms, 0) == ()
    moved = inputs.present.fork()
    moved.advance(now_ms + 300_000)
    other = proposal(RemoveHosts(hosts=NODES, count=12))
    for arguments, code in (
        ((other, state, now_ms, 0), "other_proposal"),
        ((certificate.proposal, state_hash(moved), now_ms, 0), "other_state"),
        ((certificate.proposal, state, now_ms + 601_000, 600_000), "stale"),
        ((certificate.proposal, state, now_ms - 1, 600_000), "future"),
    ):
        assert code in {reason.code for reason in check_use(certificate, *arguments)}
    refused = issued[0][0]
    codes = {reason.code for reason in check_use(refused, refused.proposal, state, now_ms, 0)}
    assert codes == {"refused"}


def noisy_null():
    """A change whose mean gain is the margin itself: large in the futures in which it makes the difference, small in the others."""
    simulation, futures = at(2, 40)
    changes = [RemoveHosts(hosts=NODES, count=3)]
    scenarios = futures.scenarios(simulation, HOUR_MS, 4000, 1, purpose="search")
    energy_kwh = scenarios.evaluate([()]).columns["energy_j"][:, 0] / 3.6e6
    target = EnergyTarget(target_kwh=float(np.quantile(energy_kwh, 0.7)) / 1.1)
    slo = SLO.model_copy(update={"energy": target})
    claim = Claim(objective="score", pairs=60, range_ratio=0.2)
    gain = np.clip(pair_futures(scenarios, changes, slo, claim).gain, -claim.range_ratio, claim.range_ratio)
    assert gain.std() > 0.05
    return simulation, futures, changes, slo, claim, float(gain.mean())


def test_noisy_nulls_on_real_forks_are_not_certified():
    """At most 6.5 % of 200 certificates at alpha 0.05, the best of 60 looks each; well below the margin nearly all are certified."""
    simulation, futures, changes, slo, claim, mean = noisy_null()
    null = claim.model_copy(update={"margin_ratio": mean})
    easy = claim.model_copy(update={"margin_ratio": mean / 3})
    wrong = right = 0
    for round_ in range(200):
        drawn = futures.scenarios(simulation, HOUR_MS, claim.pairs, 1, purpose="certificate", round_=round_)
        pairs = pair_futures(drawn, changes, slo, claim)
        wrong += judge_pairs(pairs, null, 0.05).decided_after is not None
        right += judge_pairs(pairs, easy, 0.05).decided_after is not None
    assert wrong <= 13
    assert right >= 180


def test_asking_again_draws_other_futures_and_spends_alpha():
    """A re-submission is a new question on new futures; it never sees those of the first."""
    simulation, futures = at(1, 25)
    certifier = Certifier(
        SLO, TOPOLOGY, claim=CLAIM.model_copy(update={"margin_ratio": 0.19, "range_ratio": 0.2}), seed=11
    )
    asked = proposal(RemoveHosts(hosts=NODES, count=3))
    one, other = (certifier.certify(asked, simulation, futures)[0] for _ in range(2))
    assert (one.decision, other.decision) == ("refused", "refused")
    assert one.evidence[0].mean != other.evidence[0].mean
    assert other.spending.level < one.spending.level
    assert other.inputs == one.inputs


def test_a_chain_goes_on_after_a_restart():
    """The last certificate is all the state there is."""
    simulation, futures = at(1, 25)
    straight, before = Certifier(SLO, TOPOLOGY, claim=CLAIM, seed=3), Certifier(SLO, TOPOLOGY, claim=CLAIM, seed=3)
    asked = [proposal(RemoveHosts(hosts=NODES, count=count)) for count in (1, 2)]
    expected = [straight.certify(one, simulation, futures)[0] for one in asked]
    first, _ = before.certify(asked[0], simulation, futures)
    after = Certifier(SLO, TOPOLOGY, claim=CLAIM, last=type(first).model_validate_json(first.model_dump_json()))
    assert [first, after.certify(asked[1], simulation, futures)[0]] == expected


def test_work_put_off_is_not_saved():
    """Half speed saves an hour's energy by leaving work for later; the certificate says so."""
    simulation, futures = at(3, 90)
    certifier = Certifier(SLO.model_copy(update={"runtime": None}), TOPOLOGY, claim=CLAIM)
    certificate, _ = certifier.certify(proposal(ThrottleHosts(speed_ratio=0.4)), simulation, futures)
    gain = next(one for one in certificate.evidence if one.name == "gain")
    assert gain.mean > 2 * CLAIM.margin_ratio
    assert not certificate.is_certified
    assert any("work" in reason.code or reason.code == "beyond_range" for reason in certificate.reasons)


def test_swapping_hosts_for_equal_ones_saves_nothing():
    """The twin has learned that hosts take more than their datasheet says; new ones of the kind are priced as the old ones are."""
    simulation, futures = at(1, 25)
    utilization = np.array([[0.0, 1.0], [0.0, 1.0]])
    watts = np.array([[[120.0, 360.0], [40.0, 120.0]]])  # nodes: half as much again
    curves = CurveDraws(("node", "edge"), utilization, watts)
    assert simulation.hosts()["tasks"].tolist()[15:20] == [0] * 5
    idle = NamedHosts(names=tuple(f"node-{number}" for number in range(14, 19)))
    swap = proposal(RemoveHosts(hosts=idle), more(5))
    certificate, inputs = Certifier(SLO, TOPOLOGY, claim=CLAIM).certify(swap, simulation, futures, curves)
    energy = next(one for one in certificate.distributions if one.name == "energy_kwh")
    # By their datasheet the five would save 0.2 kWh at rest; what is left is where tasks are placed, another order of hosts.
    assert abs(energy.mean) < 0.02
    assert dict(energy.quantiles)[0.5] == pytest.approx(0.0, abs=1e-6)
    assert not certificate.is_certified
    assert verify_certificate(certificate, inputs) == ()
    plain, _ = Certifier(SLO, TOPOLOGY, claim=CLAIM).certify(
        proposal(RemoveHosts(hosts=idle)), simulation, futures, curves
    )
    saved = next(one for one in plain.distributions if one.name == "energy_kwh")
    assert saved.mean == pytest.approx(-5 * 0.12, rel=0.01)


def test_too_little_known_is_refused_by_name():
    simulation, futures = at(1, 25)
    empty = type(futures)(futures.lived_ms[:3], futures.cpu_mhz[:3], futures.cpu_count[:3], 1.0)
    certificate, _ = Certifier(SLO, TOPOLOGY).certify(proposal(RemoveHosts(count=1)), simulation, empty)
    assert [reason.code for reason in certificate.reasons] == ["futures_unknown"]
    assert not certificate.simulated


def test_damaged_inputs_are_refused_or_give_another_result(issued, tmp_path):
    """Bytes changed in the file, and in its parts behind a fitting checksum: one kind of error, or it does not verify."""
    certificate, inputs = issued[1]
    whole, file = tmp_path / "whole.inputs", tmp_path / "damaged.inputs"
    inputs.write(whole)
    data = whole.read_bytes()
    with zipfile.ZipFile(whole) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}
    rng = np.random.default_rng(30)
    verified = 0
    for attempt in range(150):
        name = str(rng.choice(list(parts)))
        damaged = bytearray(data if attempt % 3 == 0 else parts[name])
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] ^= int(rng.integers(1, 256))
        if attempt % 3 == 0:
            file.write_bytes(damaged if attempt % 2 else data[: int(rng.integers(len(data)))])
        else:
            with zipfile.ZipFile(file, "w") as written:
                for part, content in (parts | {name: bytes(damaged)}).items():
                    written.writestr(part, content)
        try:
            again = CertificateInputs.read(file)
        except FormatError:
            continue
        verified += not verify_certificate(certificate, again)
    assert verified < 15  # only where what changed means nothing: padding, times of files


def test_the_command_shows_and_verifies(issued, tmp_path):
    """As a person runs it: exit code 0 and words where all holds, 1 and the reason where it does not."""
    chain = tmp_path / "chain.jsonl"
    chain.write_text("".join(one.model_dump_json() + "\n" for one, _ in issued))
    for one, inputs in issued:
        inputs.write(tmp_path / f"{one.hash}.inputs")
    shown = opendt("certificate", "show", chain)
    assert shown.returncode == 0
    assert "certificate 1: certified" in shown.stdout
    one = json.loads(opendt("certificate", "show", chain, "--number", 2, "--json").stdout)
    assert [row["hash"] for row in one] == [issued[2][0].hash]
    good_one = opendt("certificate", "verify", chain, "--inputs", tmp_path, "--head", issued[2][0].hash)
    assert (good_one.returncode, good_one.stderr) == (0, "")
    assert "3 decided again with the same result" in good_one.stdout
    forged = issued[0][0].model_copy(update={"decision": "certified", "reasons": ()}).sealed()
    lone = tmp_path / "forged.jsonl"
    lone.write_text(forged.model_dump_json())
    assert opendt("certificate", "verify", lone).returncode == 0  # by itself it holds together: only the inputs tell
    bad = opendt("certificate", "verify", lone, "--inputs", tmp_path / f"{issued[0][0].hash}.inputs", "--json")
    assert bad.returncode == 1
    assert "result:decision" in {row["code"] for row in json.loads(bad.stdout)["problems"]}
    last = tmp_path / "last.jsonl"
    last.write_text(issued[2][0].model_dump_json())
    assert opendt("certificate", "verify", last).returncode == 1
    assert opendt("certificate", "verify", last, "--after", issued[1][0].hash).returncode == 0
    for words in (["show", tmp_path / "none"], ["verify", tmp_path / f"{one[0]['hash']}.inputs"]):
        failed = opendt("certificate", *words)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr


def test_evidence_that_was_needed_is_what_the_level_says(issued):
    """Every part of a certified claim reached 1 / level."""
    for certificate, _ in issued[1:]:
        needed = math.log(1.0 / certificate.spending.level)
        assert all(one.log_e is not None and one.log_e >= needed for one in certificate.evidence)
        assert certificate.spending.level < 0.05
    assert EDGE.count == 4

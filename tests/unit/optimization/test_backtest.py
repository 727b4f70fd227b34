"""What a change would have brought in past windows: each counts once, and none may have lost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opendt.model.certificate import NOTHING, Claim
from opendt.model.change import GroupHosts, NamedHosts, RemoveHosts
from opendt.optimization.backtest import backtest, past_gains
from opendt.optimization.bounds import Limits
from opendt.optimization.certificate_inputs import CertificateInputs
from opendt.optimization.certify import Place, certify, verify_certificate
from opendt.twin.past import Past
from tests.unit.optimization.cert_plant import HOUR_MS, SLO, TOPOLOGY, at_first, plant, proposal

NODES = GroupHosts(group="node")
CLAIM = Claim(objective="energy", pairs=60)


def inputs(past, *changes, present=None, claim=CLAIM):
    simulation, futures = present or plant()
    asked = proposal(*(changes or (RemoveHosts(hosts=NODES, count=5),)), time_ms=simulation.now_ms)
    return CertificateInputs(asked, simulation, TOPOLOGY, futures, None, SLO, Limits(), claim, past)


@pytest.fixture(scope="module")
def quiet():
    return Past(at_first(), 3, HOUR_MS)


def test_windows_count_not_pairs():
    one = [np.full(500, 0.09)]
    assert backtest(one, CLAIM).evidence[0].log_e < math.log(20)
    many = backtest(one * 30, CLAIM)
    assert many.evidence[0].log_e > math.log(20)
    assert many.distributions[0].pairs == 30
    assert many.reasons == ()
    assert backtest([], CLAIM).evidence == ()


def test_what_would_have_lost_in_all_windows_is_refused_and_not_what_lost_in_some():
    (reason,) = backtest([np.array([-0.08])] * 12, CLAIM).reasons
    assert reason.code == "backtest"
    assert "in 12 past windows it would have lost 8.0% on average" in reason.text
    assert backtest([np.array([-0.08]), np.array([0.09])] * 6, CLAIM).reasons == ()
    assert backtest([np.array([-0.08])], CLAIM).reasons == ()  # one window proves nothing


def test_past_windows_are_lived_again_with_the_change(quiet):
    gains = [float(one[0]) for one in past_gains(inputs(quiet))]
    assert len(gains) == 3
    assert all(0.05 < gain < 0.4 for gain in gains)  # idle hosts are switched off
    assert quiet.simulation.now_ms == 0  # it was only asked
    assert list(past_gains(inputs(None))) == []


def test_windows_in_which_the_change_could_not_be_made_do_not_count(quiet):
    unknown = RemoveHosts(hosts=NamedHosts(names=("nobody",)))
    assert list(past_gains(inputs(quiet, unknown))) == []


def test_a_certificate_says_what_the_past_says_and_can_be_decided_again(quiet, tmp_path):
    found = inputs(quiet)
    certificate = certify(found, Place())
    assert certificate.is_certified, certificate.reasons
    assert certificate.evidence[-1].name == "backtest"
    assert certificate.distributions[-1].name == "backtest_gain"
    assert certificate.distributions[-1].pairs == 3
    found.write(tmp_path / "inputs.zip")
    assert verify_certificate(certificate, CertificateInputs.read(tmp_path / "inputs.zip")) == ()
    without = inputs(None)
    assert without.hashes().past == NOTHING
    codes = {reason.code for reason in verify_certificate(certificate, without)}
    assert {"inputs:past", "result:evidence", "result:distributions"} <= codes


def test_what_futures_promise_and_the_past_denies_is_refused():
    claim = CLAIM.model_copy(update={"objective": "score"})
    calm = plant(per_hour=4, hours=12)
    busy = Past(at_first(per_hour=95, hours=12), 12, HOUR_MS)
    alone = certify(inputs(None, RemoveHosts(hosts=NODES, count=12), present=calm, claim=claim), Place())
    assert alone.is_certified, alone.reasons
    refused = certify(inputs(busy, RemoveHosts(hosts=NODES, count=12), present=calm, claim=claim), Place())
    assert [reason.code for reason in refused.reasons] == ["backtest"]
    assert refused.decided_after is None

"""A chain of certificates: what holds it together, and what shows that it was touched."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from opendt.model.certificate import (
    FIRST,
    Certificate,
    Claim,
    InputHashes,
    Reason,
    Seeds,
    Spending,
    check_chain,
    digest,
    read_certificates,
)
from opendt.model.change import RemoveHosts
from opendt.model.errors import FormatError
from tests.unit.optimization.cert_plant import proposal


def certificate(number=0, previous=FIRST, asked=0, certified=0, decision="certified", simulated=True):
    return Certificate(
        number=number,
        previous=previous,
        proposal=proposal(RemoveHosts(count=1)),
        time_ms=0,
        claim=Claim(),
        spending=Spending(alpha=0.05, asked=asked, certified=certified, level=0.01),
        decision=decision,
        simulated=simulated,
        reasons=() if decision == "certified" else (Reason(code="x", text="y"),),
        seeds=Seeds(seed=2**63, round=number),
        inputs=InputHashes(**dict.fromkeys(InputHashes.model_fields, "0" * 64)),
        engine_version="1",
    ).sealed()


@pytest.fixture
def chain():
    one = certificate()
    two = certificate(1, one.hash, 1, 1, "refused")
    three = certificate(2, two.hash, 2, 1, "refused", simulated=False)
    return [one, two, three, certificate(3, three.hash, 2, 1)]


def codes(certificates, **arguments):
    return [reason.code for reason in check_chain(certificates, **arguments)]


def test_a_whole_chain_holds(chain):
    assert codes(chain) == []
    assert codes(chain, head=chain[-1].hash) == []
    assert codes([]) == []
    assert codes(chain[2:], after=(1, chain[1].hash)) == []


def test_what_is_wrong_is_named(chain):
    one, two, three, four = chain
    assert codes([one, two.model_copy(update={"decision": "certified"}), three, four]) == ["hash", "spending"]
    assert codes([one, three]) == ["number", "previous", "spending"]
    assert codes([two]) == ["number", "previous", "spending"]
    assert codes([certificate(asked=3)]) == ["spending"]
    assert codes([one, certificate(1, one.hash, 0, 1)]) == ["spending"]
    assert codes(chain[:3], head=four.hash) == ["head"]
    assert codes([], head=four.hash) == ["head"]
    assert codes(chain[2:], after=(1, one.hash)) == ["previous"]


def test_what_was_not_simulated_spends_nothing(chain):
    assert chain[3].spending.asked == chain[2].spending.asked
    assert codes([*chain[:3], certificate(3, chain[2].hash, 3, 1)]) == ["spending"]


def test_every_field_is_sealed(chain):
    """No field can change without the hash noticing."""
    one = chain[1]
    data = one.model_dump(mode="json", exclude={"hash"})
    for name in data:
        assert digest({**data, name: "other"}) != one.hash


def test_a_certificate_survives_its_file(chain, tmp_path):
    file = tmp_path / "chain.jsonl"
    file.write_text("\n".join(one.model_dump_json() for one in chain) + "\n\n")
    assert list(read_certificates(file)) == chain
    assert all(one.is_sealed for one in read_certificates(file))


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"version": 2}', "\x00"])
def test_what_is_no_certificate_is_refused_with_its_line(tmp_path, chain, text):
    file = tmp_path / "chain.jsonl"
    file.write_text(chain[0].model_dump_json() + "\n" + text + "\n")
    with pytest.raises(FormatError, match="line 2"):
        read_certificates(file)
    with pytest.raises(FormatError):
        read_certificates(tmp_path / "none.jsonl")


def test_fields_that_nobody_wrote_are_refused(chain):
    with pytest.raises(ValidationError):
        Certificate.model_validate(chain[0].model_dump() | {"approved": True})
    with pytest.raises(ValidationError):
        Certificate.model_validate(chain[0].model_dump() | {"previous": "abc"})

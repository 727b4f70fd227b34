"""Certificates, as the gate sees them, without the simulations behind them."""

from __future__ import annotations

from opendt.model.certificate import Certificate, Claim, InputHashes, Reason, Seeds, Spending
from opendt.model.change import RemoveHosts
from opendt.model.proposal import Proposal

STATE = "a" * 64
HOUR_MS = 3_600_000
NOW_MS = 1_709_510_400_000  # a Monday, 00:00 UTC


def proposal(count=1, time_ms=0):
    return Proposal.of("human", time_ms, "test", "because a test asks", (RemoveHosts(count=count),))


def certificate(of, decision="certified", state=STATE, time_ms=0):
    return Certificate(
        number=0,
        previous="0" * 64,
        proposal=of,
        time_ms=time_ms,
        claim=Claim(),
        spending=Spending(alpha=0.05, asked=0, certified=0, level=0.01),
        decision=decision,
        simulated=True,
        reasons=() if decision == "certified" else (Reason(code="x", text="it costs more"),),
        seeds=Seeds(seed=1, round=0),
        inputs=InputHashes(**(dict.fromkeys(InputHashes.model_fields, "0" * 64) | {"state": state})),
        engine_version="1",
    ).sealed()

"""Rules in mode auto over a plant that is mostly idle: what they propose can pass the gate, in steps where it is more than one may do."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from opendt.formats.synthetic import generate_week
from opendt.model.slo import Slo
from opendt.orchestrator.cycle import Cycle, Settings
from opendt.orchestrator.decisions import DecisionSettings
from opendt.orchestrator.environment import replay
from tests.data import require_data

LENIENT = Slo.model_validate({"version": 1, "window_s": 300, "energy": {"target_kwh": 1e6}})
"""Met whatever happens: only consolidation speaks."""


@pytest.fixture(params=["surf-week", "synthetic"])
def environment(request, tmp_path):
    if request.param == "synthetic":
        return replay(generate_week(3, tmp_path / "week"))
    return replay(require_data("traces/surf-week"))


def test_what_rules_propose_can_pass(environment):
    cycle = Cycle(
        environment.topology,
        LENIENT,
        start_epoch_ms=environment.start_epoch_ms,
        tick_ms=environment.source.tick_ms,
        settings=Settings(futures=0),
        decisions=DecisionSettings(environment="live", mode="auto"),
    )
    topology, decisions, hosts = environment.topology, [], [environment.topology.host_count]
    for window in islice(environment.source.windows(300_000), 288):
        for one in cycle.turn(window).candidates:
            decisions.append(one)
            if one.topology is not None:
                cycle.change(window.end_ms, topology, one.topology, applied=one.proposal.id)
                topology = one.topology
                hosts.append(topology.host_count)
        if len(hosts) == 3:
            break
    assert {one.proposal.rule for one in decisions} == {"consolidate"}
    codes = {r.code for one in decisions if one.certificate is not None for r in one.certificate.reasons}
    assert {code for code in codes if not code.startswith("not_shown:")} <= {
        "futures_unknown",
        "slo_lost",
        "beyond_range",
    }
    assert len(hosts) >= 2, [one.decision for one in decisions]
    assert all(after >= before / 2 for before, after in pairwise(hosts))

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from opendt.model.change import GroupHosts, RemoveHosts, ResizeHosts, SetPowerCap
from opendt.model.proposal import Bounds, Compared, ExpectedEffect, Proposal, SimulatedEffect, SloOutcome

CHANGES = (
    RemoveHosts(hosts=GroupHosts(group="node"), count=3),
    ResizeHosts(core_speed_mhz=1785.0),
    SetPowerCap(cluster="c", max_power_w=None),
)


def proposal(changes=CHANGES, time_ms=300_000):
    return Proposal.of("human", time_ms, "by hand", "less power at night", changes, Bounds(min_hosts=1))


def effect():
    unknown = Compared()
    return SimulatedEffect(
        proposal_id="p",
        start_ms=0,
        horizon_ms=3_600_000,
        energy_j=Compared(baseline=200.0, changed=150.0),
        peak_power_w=unknown,
        emission_g=Compared(baseline=0.0, changed=0.0),
        utilization_ratio=unknown,
        task_wait_p95_s=unknown,
        task_slowdown_p95_ratio=unknown,
        makespan_s=unknown,
        hosts_up=unknown,
        tasks_completed=unknown,
        tasks_pending=unknown,
        score=unknown,
        slos=(
            SloOutcome(name="energy", met_before=False, met_after=True),
            SloOutcome(name="task_wait_p95", met_before=True, met_after=False),
            SloOutcome(name="makespan", met_before=True, met_after=None),
        ),
    )


def test_a_proposal_survives_json():
    made = proposal().model_copy(update={"expected": ExpectedEffect(energy_ratio=-0.1)})
    assert Proposal.model_validate_json(made.model_dump_json()) == made
    assert Proposal.model_validate(made.model_dump(mode="json")) == made


def test_the_id_tells_proposals_apart_and_is_the_same_in_every_run():
    assert proposal().id == proposal().id
    assert len({proposal().id, proposal(CHANGES[:1]).id, proposal(time_ms=600_000).id}) == 3
    assert proposal().id.startswith("human-300000-")


def test_a_row_holds_the_changes_as_json():
    row = proposal().row()
    assert [change["type"] for change in json.loads(row["changes"])] == [
        "remove_hosts",
        "resize_hosts",
        "set_power_cap",
    ]
    assert json.loads(row["bounds"]) == {"min_hosts": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"changes": []},
        {"changes": [{"type": "reboot_world"}]},
        {"changes": [{"type": "remove_hosts", "count": -1}]},
        {"reason": ""},
        {"source": "rumour"},
        {"bounds": {"min_hosts": 5, "max_hosts": 4}},
    ],
)
def test_a_wrong_proposal_is_refused(wrong):
    with pytest.raises(ValidationError):
        Proposal.model_validate(proposal().model_dump(mode="json") | wrong)


def test_deltas_are_relative_to_the_baseline_and_unknown_without_one():
    assert effect().energy_j.delta_ratio == -0.25
    assert effect().emission_g.delta_ratio is None
    assert effect().peak_power_w.delta_ratio is None


def test_targets_lost_and_gained_are_those_that_are_known():
    assert effect().slos_lost == ("task_wait_p95",)
    assert effect().slos_gained == ("energy",)


def test_an_effect_survives_json_and_makes_a_flat_row():
    assert SimulatedEffect.model_validate_json(effect().model_dump_json()) == effect()
    row = effect().row()
    assert (row["energy_j_baseline"], row["energy_j_changed"], row["energy_j_delta_ratio"]) == (200.0, 150.0, -0.25)
    assert (row["slos_lost"], row["slos_gained"]) == ("task_wait_p95", "energy")
    assert all(value is None or isinstance(value, str | int | float) for value in row.values())

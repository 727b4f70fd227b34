"""What no proposal may do: each refusal by name, and what is let through."""

from __future__ import annotations

from functools import cache

import pytest

from opendt.model.change import (
    AddHosts,
    AllHosts,
    ClusterHosts,
    GroupHosts,
    MigrateTask,
    NamedHosts,
    RemoveHosts,
    RepairHosts,
    ResizeHosts,
    SetAllocation,
    SetPowerCap,
    ThrottleHosts,
)
from opendt.model.proposal import Bounds
from opendt.optimization.bounds import ACTIONS, Limits, check_proposal, read_proposal
from tests.unit.optimization.cert_plant import EDGE, NODE, TOPOLOGY, plant, proposal

NODES = GroupHosts(group="node")
LIMITS = Limits()


@cache
def present():
    return plant(per_hour=30)[0]


def codes(*changes, limits=LIMITS, bounds=None, simulation=None):
    found = check_proposal(proposal(*changes, bounds=bounds), simulation or present(), TOPOLOGY, limits)
    return [reason.code for reason in found]


@pytest.mark.parametrize(
    "change",
    [
        RemoveHosts(hosts=NODES, count=5),
        RemoveHosts(hosts=NamedHosts(names=("node-18", "edge-2"))),
        ThrottleHosts(speed_ratio=0.8),
        ThrottleHosts(hosts=ClusterHosts(cluster="rim"), speed_ratio=1.0),
        ResizeHosts(hosts=NODES, core_count=16),
        ResizeHosts(hosts=NODES, core_speed_mhz=1700.0),
        AddHosts(cluster="rim", group=NODE.model_copy(update={"name": "bigger", "count": 3})),
        RepairHosts(),
        SetPowerCap(cluster="dc", max_power_w=2000.0),
        SetPowerCap(cluster="dc", max_power_w=None),
    ],
)
def test_what_an_operator_would_do_is_let_through(change):
    assert codes(change) == []


def free_host():
    return NODE.model_copy(update={"name": "x", "frequency_exponent": 3.0})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (ThrottleHosts(speed_ratio=1.01), "out_of_bounds"),
        (ThrottleHosts(speed_ratio=0.1), "out_of_bounds"),
        (ResizeHosts(hosts=NODES, core_count=17), "out_of_bounds"),
        (ResizeHosts(hosts=NODES, core_speed_mhz=2001.0), "out_of_bounds"),
        (ResizeHosts(hosts=NODES, memory_mib=200_000), "out_of_bounds"),
        (ResizeHosts(hosts=NODES), "empty"),
        (RemoveHosts(hosts=NODES, count=0), "empty"),
        (RemoveHosts(hosts=NamedHosts(names=())), "empty"),
        (RemoveHosts(hosts=NODES, count=21), "out_of_bounds"),
        (RemoveHosts(hosts=NamedHosts(names=("node", "node"))), "out_of_bounds"),
        (RemoveHosts(hosts=NamedHosts(names=("node", "who"))), "unknown"),
        (RemoveHosts(hosts=GroupHosts(group="who")), "unknown"),
        (RemoveHosts(hosts=ClusterHosts(cluster="who")), "unknown"),
        (SetPowerCap(cluster="who", max_power_w=5000.0), "unknown"),
        (SetPowerCap(cluster="dc", max_power_w=1599.0), "out_of_bounds"),
        (AddHosts(cluster="who", group=NODE), "unknown"),
        (AddHosts(cluster="dc", group=free_host()), "unknown_hardware"),
        (AddHosts(cluster="dc", group=NODE.model_copy(update={"name": "x", "count": 0})), "empty"),
        (MigrateTask(task="nobody", host="node"), "refused"),
        (MigrateTask(task="1", host="who"), "unknown"),
        (RemoveHosts(hosts=NODES, count=13), "diff_limit"),
        (AddHosts(cluster="dc", group=NODE.model_copy(update={"name": "x", "count": 13})), "diff_limit"),
        (RemoveHosts(hosts=ClusterHosts(cluster="rim")), "no_hosts"),
    ],
)
def test_a_refusal_has_a_name(change, code):
    assert code in codes(change)


def test_the_reason_says_which_change_and_what_was_expected():
    (reason,) = check_proposal(proposal(RepairHosts(), ThrottleHosts(speed_ratio=9.0)), present(), TOPOLOGY)
    assert reason.text == "changes[1] (throttle_hosts): speed_ratio is 9, expected 0.4 to 1"


def test_changes_of_the_model_are_not_actions():
    """Whatever is not on the list is refused, also a kind that is made up later."""
    from typing import get_args

    from opendt.model.change import Change

    kinds = {kind.model_fields["type"].default for kind in get_args(Change)}
    assert set(ACTIONS) < kinds
    assert kinds - set(ACTIONS) == {
        "set_power_model",
        "fail_hosts",
        "set_carbon",
        "set_link",
        "cancel_task",
        "set_remaining_work",
        "drop_future",
        "conserve_work",
    }


def test_an_operator_can_narrow_what_is_allowed():
    one = RemoveHosts(hosts=NODES, count=2)
    assert codes(one, limits=Limits(allowed=("throttle_hosts",))) == ["not_allowed"]
    assert codes(one, limits=Limits(protected_groups=("node",))) == ["protected"]
    assert codes(one, limits=Limits(protected_clusters=("dc",))) == ["protected"]
    assert codes(one, limits=Limits(protected_hosts=("node-7",))) == ["protected"]
    assert codes(one, limits=Limits(protected_hosts=("edge",))) == []
    assert codes(one, limits=Limits(max_removed_ratio=0.05)) == ["diff_limit"]
    assert codes(ThrottleHosts(speed_ratio=0.8), limits=Limits(max_changed_ratio=0.5)) == ["diff_limit"]
    assert codes(*[one] * 3, limits=Limits(max_changes=2)) == ["too_many_changes"]
    assert codes(AddHosts(cluster="dc", group=free_host()), limits=Limits(catalogue=(free_host(),))) == ["diff_limit"]


def test_changes_are_judged_by_what_they_do_together():
    """Two halves that are allowed each are not allowed at once."""
    half = RemoveHosts(hosts=NODES, count=7)
    assert "diff_limit" in codes(half, half)
    assert codes(half) == []


def test_the_proposers_own_bounds_bind():
    one = RemoveHosts(hosts=NODES, count=5)
    assert codes(one, bounds=Bounds(min_hosts=19)) == []
    assert codes(one, bounds=Bounds(min_hosts=20)) == ["own_bounds"]
    slower = ThrottleHosts(hosts=NODES, speed_ratio=0.8)
    assert codes(slower, bounds=Bounds(min_core_speed_mhz=1600.0)) == []
    assert codes(slower, bounds=Bounds(min_core_speed_mhz=1700.0)) == ["own_bounds"]
    assert codes(ResizeHosts(hosts=NODES, core_count=12), bounds=Bounds(max_core_count=10)) == ["own_bounds"]


def test_running_tasks_still_fit():
    """Fewer cores than tasks asked for is refused, and so is less capacity than what runs takes."""
    assert "does_not_fit" in codes(ResizeHosts(hosts=AllHosts(), core_count=1))
    busy = plant(per_hour=90)[0]
    found = codes(RemoveHosts(hosts=NODES, count=12), simulation=busy)
    assert "capacity" in found


def test_a_host_that_is_off_cannot_be_meant():
    simulation = present().fork()
    simulation.apply(RemoveHosts(hosts=NamedHosts(names=("edge-2",))))
    assert codes(ThrottleHosts(hosts=NamedHosts(names=("edge-2",)), speed_ratio=0.8), simulation=simulation) == [
        "out_of_service"
    ]


def test_nothing_is_changed_by_asking():
    before = present().snapshot()
    codes(RemoveHosts(hosts=NODES, count=5), SetAllocation.model_validate(allocation()))
    assert present().snapshot() == before


def allocation():
    from opendt.model.options import Options

    return {"type": "set_allocation", "allocation": Options().model_dump()["allocation"]}


def test_a_proposal_is_read_whole_or_not_at_all():
    one = proposal(RemoveHosts(hosts=NODES, count=2))
    assert read_proposal(one.model_dump_json()) == one
    for text in ("", "{", "[]", b"\xff\xfe", " " * 1_000_001):
        assert getattr(read_proposal(text), "code", None) == "schema"
    assert EDGE.name == "edge"

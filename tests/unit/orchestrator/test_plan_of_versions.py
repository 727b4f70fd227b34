"""Versions hold from the window that the ledger names, also when windows are derived again with other files in place."""

from __future__ import annotations

import pytest

from opendt.model.power import LinearPower
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.orchestrator.plan_of_versions import topology_plan
from opendt.verification.ledger import Ledger


def topology(count):
    model = LinearPower(idle_w=1.0, max_w=2.0)
    group = HostGroup(name="n", count=count, core_count=1, core_speed_mhz=1000.0, memory_mib=100, power_model=model)
    return Topology(clusters=(Cluster(name="dc", hosts=(group,)),))


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


def loaded(ledger, value):
    plan = topology_plan(ledger, "west")
    plan.load(value, "topology.json")
    return plan


def test_the_first_version_holds_from_the_beginning(ledger):
    plan = loaded(ledger, topology(1))
    assert plan.first == topology(1)
    assert [plan.number_at(index) for index in (0, 100)] == [1, 1]
    assert plan.value_from(0) is None  # it is not an edit


def test_an_edit_holds_from_its_window_on(ledger):
    plan = loaded(ledger, topology(1))
    plan.plan(5, topology(2), "edited.json")
    assert [plan.number_at(index) for index in (4, 5, 6)] == [1, 2, 2]
    assert [plan.value_from(index) for index in (4, 5, 6)] == [None, topology(2), None]
    assert plan.source_from(5) == "edited.json"
    plan.plan(7, topology(2), "the same.json")
    assert plan.number_at(7) == 2


def test_what_is_recorded_holds_again_whatever_the_file_holds_by_now(ledger):
    loaded(ledger, topology(1)).plan(5, topology(2), "edited.json")
    again = loaded(ledger, topology(3))
    assert again.first == topology(1)
    assert again.value_at(4) == topology(1)
    assert again.value_from(5) == topology(2)
    assert again.value_at(9) == topology(2)
    assert again.take_edit() == (topology(3), "topology.json")
    assert again.take_edit() is None


def test_a_file_that_is_the_last_version_is_no_edit(ledger):
    loaded(ledger, topology(1)).plan(5, topology(2), "edited.json")
    assert loaded(ledger, topology(2)).take_edit() is None


def test_what_was_announced_stays_until_the_file_is_edited(ledger):
    loaded(ledger, topology(1)).plan(5, topology(2), "dc.topology")
    assert loaded(ledger, topology(1)).take_edit() is None  # the file says what it said before
    assert loaded(ledger, topology(3)).take_edit() == (topology(3), "topology.json")
    loaded(ledger, topology(1)).plan(9, topology(3), "topology.json")
    assert loaded(ledger, topology(1)).take_edit() == (topology(1), "topology.json")


def test_without_a_file_the_first_topology_that_is_announced_is_taken_once(ledger):
    plan = loaded(ledger, None)
    assert plan.first is None
    assert plan.begin_with(topology(1), "dc.topology") == topology(1)
    assert plan.begin_with(topology(2), "dc.topology") == topology(1)
    assert len(ledger.topology_versions("west")) == 1

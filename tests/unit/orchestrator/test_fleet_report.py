"""What came of plans is on disk while the process runs, and outlives it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from opendt.orchestrator import fleet_report
from opendt.orchestrator.fleet_planner import FleetPlanner, LearnedFile
from opendt.orchestrator.fleet_report import FleetReport, kept_up
from opendt.verification.ledger import Ledger
from tests.fleet import eventually
from tests.told_fleet import SmallFleet, job


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as made:
        yield made


def ended(fleet: SmallFleet, name: str) -> str:
    """Plan a job and let it end; gives the plan's id."""
    plan_id = fleet.service.plan(job(name)).plan_id
    fleet.settle()
    for stage in ("first", "second"):
        fleet.finish(f"{plan_id}-{stage}")
    return plan_id


def planner_of(fleet: SmallFleet) -> FleetPlanner:
    return FleetPlanner(fleet.state, futures=10, tail_ratio=0.1, seed=0, clock_ms=fleet.clock_ms)


def plans_in(folder: Path) -> list[str]:
    if not (folder / "latency.csv").exists():
        return []
    with (folder / "latency.csv").open(newline="") as stream:
        return [row["plan_id"] for row in csv.DictReader(stream)]


def test_after_a_restart_the_report_goes_on(ledger: Ledger) -> None:
    fleet = SmallFleet(ledger)
    first = ended(fleet, "job-1")
    before = fleet.keeper.report.rows
    assert [row.plan_id for row in before] == [first]
    fleet.keeper.close()
    later = SmallFleet(ledger, state=fleet.state)
    later.service.resume()
    assert later.keeper.report.rows == before
    assert later.keeper.report.seen == 0
    second = ended(later, "job-2")
    assert [row.plan_id for row in later.keeper.report.rows] == [first, second]
    later.keeper.close()


def test_it_is_written_while_the_process_runs_and_only_when_a_plan_has_ended(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_report, "_EVERY_S", 0.01)
    fleet = SmallFleet(ledger)
    planner, learned = planner_of(fleet), LearnedFile(tmp_path / "learned.json")
    reports = tmp_path / "reports"
    with kept_up(fleet.keeper.report, reports, learned, planner):
        plan_id = ended(fleet, "job-1")
        eventually(lambda: plans_in(reports) == [plan_id], "the report is there before the end")
        eventually((tmp_path / "learned.json").exists, "so is what was learned")
        (reports / "latency.csv").unlink()
    assert plans_in(reports) == [], "nothing has ended since: it is not written again"
    assert json.loads((tmp_path / "learned.json").read_text())["form"] == 2
    fleet.keeper.close()


def test_what_ended_last_is_written_at_the_end_and_trouble_is_told(ledger: Ledger, tmp_path: Path) -> None:
    fleet = SmallFleet(ledger)
    planner, learned = planner_of(fleet), LearnedFile(tmp_path / "learned.json")
    (tmp_path / "taken").write_text("a file where the folder should be")
    with kept_up(fleet.keeper.report, tmp_path / "taken", learned, planner):
        ended(fleet, "job-1")
    assert not (tmp_path / "learned.json").exists()
    with kept_up(fleet.keeper.report, tmp_path / "reports", learned, planner):
        pass
    assert len(plans_in(tmp_path / "reports")) == 1
    with kept_up(FleetReport(), tmp_path / "none", learned, planner):
        pass
    assert not (tmp_path / "none").exists()
    fleet.keeper.close()

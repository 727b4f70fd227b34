"""What is kept and told of a turn: times of the epoch, only what was measured, nothing that JSON cannot say."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import orjson
import pytest

from opendt.formats.synthetic import generate_week
from opendt.orchestrator.cycle import Cycle, Settings
from opendt.orchestrator.environment import replay
from opendt.orchestrator.records import entry_of, events_of, proposals_of, result_of, topology_of
from opendt.orchestrator.slo import default_slo
from opendt.telemetry.message_models import ProposalMessage, ResultMessage, TopologyMessage
from opendt.telemetry.messages import encode
from opendt.telemetry.windows import FragmentColumns, StreamPosition, WindowInput
from opendt.verification.ledger_chain import BEFORE_THE_FIRST, seal

ORIGIN = 1_664_575_200_000
WINDOWS = 25


def closed(window):
    """What streams told for a window; only what is kept of it beside the turn."""
    empty = FragmentColumns([], *(np.empty(0, kind) for kind in (np.uint32, np.int64, np.int64, np.float64)), None, [])
    return WindowInput(
        datacenter="west",
        index=window.index,
        start_ms=ORIGIN + window.start_ms,
        end_ms=ORIGIN + window.end_ms,
        origin_ms=ORIGIN,
        tasks=(),
        fragments=empty,
        completed=(),
        power_ms=np.empty(0, np.int64),
        power_w=np.empty(0),
        topology=None,
        settings=(),
        counts={"tasks": 3, "late": 2, "readings": 10},
        positions=(StreamPosition("dc.power", 0, 4, 5, ORIGIN), StreamPosition("dc.workload", 0, 1, 2, ORIGIN)),
        input_hash="ab" * 32,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two hours of a synthetic week, of whose third window one reading is missing: the loop, and all its turns."""
    environment = replay(generate_week(3, tmp_path_factory.mktemp("week") / "week"))
    cycle = Cycle(
        environment.topology,
        default_slo(environment.topology),
        start_epoch_ms=ORIGIN,
        tick_ms=environment.source.tick_ms,
        settings=Settings(futures=2),
    )
    turns = []
    for window in itertools.islice(environment.source.windows(300_000), WINDOWS):
        if window.index == 2:
            window.measured_w[4] = np.nan
        turns.append(cycle.turn(window))
    return cycle, turns


def entry(run, number):
    cycle, turns = run
    return entry_of(closed(turns[number].window), turns[number], cycle, topology_version=1, slo_version=2)


def test_an_entry_says_which_window_it_is_and_how_far_streams_were_read(run):
    one = entry(run, 7)
    assert (one.datacenter, one.index, one.start_ms, one.end_ms) == (
        "west",
        7,
        ORIGIN + 7 * 300_000,
        ORIGIN + 8 * 300_000,
    )
    assert (one.topology_version, one.slo_version, one.input_hash) == (1, 2, "ab" * 32)
    assert [(row.topic, row.resume_offset, row.next_offset) for row in one.positions] == [
        ("dc.power", 4, 5),
        ("dc.workload", 1, 2),
    ]
    assert {name: one.metrics[name] for name in ("tasks_count", "late_count", "readings_count")} == {
        "tasks_count": 3,
        "late_count": 2,
        "readings_count": 10,
    }


def test_a_missing_reading_is_none(run):
    one = entry(run, 2)
    assert one.observation.time_ms == tuple(ORIGIN + 600_000 + 30_000 * tick for tick in (1, 2, 3, 4, 6, 7, 8, 9, 10))
    assert np.isfinite(one.observation.power_w).all()


def test_predictions_and_verdicts_are_on_the_clock_of_the_epoch(run):
    cycle, turns = run
    kinds = set()
    for number, turn in enumerate(turns):
        one = entry(run, number)
        assert {(row.kind, row.issued_ms - ORIGIN) for row in one.predictions} == {
            (forecast.kind, forecast.issued_ms) for forecast in turn.predictions
        }
        for row in one.predictions:
            assert row.first_target_ms > row.issued_ms
            assert {len(column) for column in row.values.values()} == {120 if row.kind != "window" else 10}
        assert {(row.kind, row.issued_ms - ORIGIN) for row in one.verdicts} == {
            (verdict.kind, verdict.issued_ms) for verdict in turn.verdicts
        }
        kinds |= {row.kind for row in one.predictions}
    assert kinds == {"hour", "window", "blind_hour"}
    assert cycle.readings.tick_ms == 30_000


def test_an_entry_is_the_same_whenever_it_is_made(run):
    sealed = [seal(entry(run, 11), (None, None), BEFORE_THE_FIRST).hash for _ in range(2)]
    assert sealed[0] == sealed[1]


def test_what_was_learned_is_kept_at_full_hours(run):
    kept = [[row for row in entry(run, number).events if row.kind == "calibration"] for number in range(WINDOWS)]
    hours = [row.time_ms - ORIGIN for rows in kept for row in rows]
    assert hours
    assert all(time_ms % 3_600_000 == 0 for time_ms in hours)
    (curve,) = {tuple(sorted(content)) for rows in kept for row in rows for content in row.content.values()}
    assert curve == ("power_w", "utilization_ratio")


def test_a_result_is_a_good_message(run):
    """It is made without checks, so they are made here, on every turn."""
    for turn in run[1]:
        message = result_of(closed(turn.window), turn)
        sent = encode(message)
        assert encode(ResultMessage.model_validate_json(sent)) == sent
        assert ResultMessage.model_validate(message.model_dump()) == message
        said = orjson.loads(sent)
        assert (said["window"], said["end"], said["timestamp"]) == (
            turn.window.index,
            ORIGIN + turn.window.end_ms,
            ORIGIN + turn.window.end_ms,
        )
        assert said["counts"] == {"tasks": 3, "late": 2, "readings": 10}
        for forecast in said.get("forecasts", []):
            assert forecast["hindcast"] == (forecast["kind"] != "blind_hour")
            assert forecast["issued"] < forecast["target"][0]


def test_a_result_holds_no_number_that_json_lacks(run):
    turn = run[1][0]
    without = dataclasses.replace(turn, metrics=dataclasses.replace(turn.metrics, energy_kwh=float("nan")))
    assert result_of(closed(turn.window), without).metrics["energy_kwh"] is None


def test_events_begin_with_the_window_and_name_what_became_known(run):
    said = [list(events_of(closed(turn.window), turn)) for turn in run[1]]
    for turn, events in zip(run[1], said, strict=True):
        first = events[0].as_dict()
        assert (first["kind"], first["index"], first["late"]) == ("window_closed", turn.window.index, 2)
        issued = [event.as_dict() for event in events if event.kind == "forecast_issued"]
        assert [(one["forecast"], one["is_hindcast"]) for one in issued] == [
            (forecast.kind, forecast.kind != "blind_hour") for forecast in turn.predictions
        ]
        judged = [event.as_dict()["forecast"] for event in events if event.kind == "prediction_verified"]
        assert judged == [verdict.kind for verdict in turn.verdicts if verdict.error_ratio is not None]


def test_proposals_are_told_with_their_decision(run):
    with_candidates = [turn for turn in run[1] if turn.candidates]
    assert with_candidates, "the rules propose something within two hours"
    for turn in with_candidates:
        messages = list(proposals_of(closed(turn.window), turn))
        assert [message.id for message in messages] == [one.proposal.id for one in turn.candidates]
        for message, candidate in zip(messages, turn.candidates, strict=True):
            assert message.decision["verdict"] == candidate.decision.verdict
            ProposalMessage.model_validate_json(encode(message))


def test_the_topology_is_told_without_its_carbon_trace(run):
    cycle, turns = run
    message = topology_of(closed(turns[0].window), cycle.decisions.topology, 3, "topology.json")
    assert (message.version, message.source, message.timestamp) == (3, "topology.json", ORIGIN + 300_000)
    TopologyMessage.model_validate_json(encode(message))
    assert b"carbon_intensity" not in encode(message)

"""Readers see all of a turn or nothing of it, while the loop writes."""

from __future__ import annotations

import json
import threading

import pytest

from opendt.orchestrator.state import LiveState, OrchestratorState, default_state_dict


def test_the_state_before_anything_happened():
    plain = default_state_dict()
    assert plain["status"] == "stopped"
    assert plain["cycle_count"] == 0
    assert plain["current_topology"] is None
    assert plain["slo_targets"] == {}
    assert plain["window_baseline_score"] is None
    assert plain["window_best_score"] is None
    assert json.loads(json.dumps(plain)) == plain
    assert OrchestratorState().as_dict() == plain


def test_plain_data_is_the_readers_own():
    live = LiveState()
    live.update(slo_targets={"energy": 2.0})
    live.as_dict()["slo_targets"]["energy"] = 3.0
    live.read().status = "running"
    default_state_dict()["slo_targets"]["x"] = 1
    assert live.as_dict()["slo_targets"] == {"energy": 2.0}
    assert live.read().status == "stopped"
    assert default_state_dict()["slo_targets"] == {}


def test_an_unknown_value_changes_nothing():
    live = LiveState()
    with pytest.raises(TypeError):
        live.update({"status": "running"}, colour="red")
    assert live.read() == OrchestratorState()


def test_readers_never_see_half_a_turn():
    live, done, torn = LiveState(), threading.Event(), []

    def read():
        last = 0
        while not done.is_set():
            state, plain = live.read(), live.as_dict()
            for cycle, index, forecasts in (
                (state.cycle_count, state.window_index, state.last_forecasts),
                (plain["cycle_count"], plain["window_index"], plain["last_forecasts"]),
            ):
                if cycle and (index != cycle or forecasts != {"hour": cycle, "window": cycle} or cycle < last):
                    torn.append((cycle, index, forecasts))
                last = cycle

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(1, 3000):
        live.update(cycle_count=turn, window_index=turn, last_forecasts={"hour": turn, "window": turn})
    done.set()
    for reader in readers:
        reader.join()
    assert torn == []
    assert live.read().cycle_count == 2999

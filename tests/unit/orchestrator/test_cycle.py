"""The loop goes on from a pickle as if nothing had been, says on time only what it can know, and takes edits of the topology."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from opendt.formats.synthetic import generate_week
from opendt.model.errors import InputError
from opendt.orchestrator.cycle import Cycle, Settings
from opendt.orchestrator.environment import replay
from opendt.orchestrator.rehearsal import Rehearsal
from opendt.orchestrator.slo import default_slo

HOUR_MS = 3_600_000
WINDOWS = 26


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return replay(generate_week(3, tmp_path_factory.mktemp("week") / "week"))


@pytest.fixture(scope="module")
def windows(environment):
    return list(itertools.islice(environment.source.windows(300_000), WINDOWS))


def cycle(environment):
    return Cycle(
        environment.topology,
        default_slo(environment.topology),
        start_epoch_ms=environment.start_epoch_ms,
        tick_ms=environment.source.tick_ms,
        settings=Settings(futures=4),
    )


def said(turn):
    forecasts = [
        (
            one.kind,
            one.issued_ms,
            *(getattr(one, name).tobytes() for name in ("target_ms", "power_w", "lower_w", "upper_w")),
        )
        for one in turn.predictions
    ]
    series = [(one.observed.end_ms, one.observed.series["power_w"].tobytes()) for one in turn.confirmed]
    rest = (turn.metrics, turn.slo, turn.candidates, turn.trust, turn.verdicts, turn.strangers)
    return forecasts, series, repr(rest)  # as text, since NaN does not equal itself


def test_a_pickled_cycle_goes_on_bit_for_bit(environment, windows):
    straight, stopped = cycle(environment), cycle(environment)
    for number, window in enumerate(windows):
        if number % 7 == 3:
            stopped = pickle.loads(pickle.dumps(stopped, protocol=5))
        assert said(stopped.turn(window)) == said(straight.turn(window))


def test_only_the_blind_hour_is_issued_on_time(environment, windows):
    one = cycle(environment)
    kinds = set()
    for window in windows:
        turn = one.turn(window)
        for forecast in turn.forecasts:
            assert (forecast.kind, forecast.issued_ms) == ("blind_hour", window.end_ms)
            assert window.end_ms % HOUR_MS == 0
            assert forecast.target_ms[0] > window.end_ms
        for confirmed in turn.confirmed:
            for forecast in confirmed.forecasts:
                assert forecast.target_ms[-1] <= confirmed.observed.end_ms <= window.end_ms
        kinds |= {forecast.kind for forecast in turn.predictions}
    assert kinds == {"hour", "window", "blind_hour"}


def test_a_verdict_comes_when_the_last_tick_has_been_measured(environment, windows):
    one = cycle(environment)
    verdicts = [(window.end_ms, verdict) for window in windows for verdict in one.turn(window).verdicts]
    blind = [(now_ms, verdict) for now_ms, verdict in verdicts if verdict.kind == "blind_hour"]
    assert [(now_ms, verdict.issued_ms, verdict.points) for now_ms, verdict in blind] == [(2 * HOUR_MS, HOUR_MS, 120)]
    assert all(verdict.target_ms <= now_ms for now_ms, verdict in verdicts)


def test_a_rehearsal_takes_down_what_the_turns_bring(environment, windows):
    rehearsal = Rehearsal(environment, default_slo(environment.topology), Settings(futures=4))
    seen = []
    journal = rehearsal.run(seen.append, until_ms=2 * HOUR_MS)
    one = cycle(environment)
    expected = [one.turn(window) for window in windows[: len(seen)]]
    assert [said(turn) for turn in seen] == [said(turn) for turn in expected]
    assert [index for index, *_ in journal.turns] == list(range(24))
    ticks = np.concatenate([series["time_ms"] for series in journal.series])
    assert ticks.tolist() == list(range(30_000, 2 * HOUR_MS + 1, 30_000))


def _more_hosts(topology, **changed):
    cluster = topology.clusters[0]
    group = cluster.hosts[0].model_copy(update=changed or {"count": cluster.hosts[0].count + 5})
    hosts = (group, *cluster.hosts[1:])
    return topology.model_copy(
        update={"clusters": (cluster.model_copy(update={"hosts": hosts}), *topology.clusters[1:])}
    )


def test_an_edit_takes_effect_and_a_refused_one_changes_nothing(environment, windows):
    edited, refused, straight = cycle(environment), cycle(environment), cycle(environment)
    for window in windows[:3]:
        for one in (edited, refused, straight):
            one.turn(window)
    now_ms, old = windows[2].end_ms, environment.topology
    assert not edited.change(now_ms, old, _more_hosts(old))
    with pytest.raises(InputError):
        refused.change(now_ms, old, _more_hosts(old, frequency_exponent=3.0))
    turns = [(edited.turn(w), refused.turn(w), straight.turn(w)) for w in windows[3:8]]
    assert [said(b) for _, b, _ in turns] == [said(c) for _, _, c in turns]
    hosts = [len(one.twin.present(windows[7].end_ms).simulation.hosts()["name"]) for one in (edited, straight)]
    assert hosts[0] == hosts[1] + 5
    assert turns[-1][0].metrics.energy_kwh > turns[-1][2].metrics.energy_kwh


def test_a_new_group_lets_calibration_begin_anew(environment, windows):
    one = cycle(environment)
    for window in windows[:3]:
        one.turn(window)
    old = environment.topology
    cluster = old.clusters[0]
    hosts = (*cluster.hosts, cluster.hosts[0].model_copy(update={"name": "newcomers", "count": 2}))
    new = old.model_copy(update={"clusters": (cluster.model_copy(update={"hosts": hosts}), *old.clusters[1:])})
    assert one.change(windows[2].end_ms, old, new)
    assert "newcomers" in [host_class.name for host_class in one.twin.classes]
    turns = [one.turn(window) for window in windows[3:]]
    assert any(turn.confirmed for turn in turns)
    assert any(forecast.kind == "window" for turn in turns for forecast in turn.predictions)

"""The twin that lags behind: it lives the last windows as they were, keeps only so many, and begins anew with another topology."""

from __future__ import annotations

import pickle

import pytest

from opendt.model.change import RemoveHosts
from opendt.twin.past import PastWindows
from tests.unit.twin.test_live import WINDOW_MS, arrivals, new_twin, workload


def followed(windows: int, most: int) -> tuple[PastWindows, dict[int, float]]:
    """A live twin and its past after some windows; with the energy of the live one at each time, J."""
    twin, past, energy_j = new_twin(), PastWindows(WINDOW_MS, most), {}
    past.follow(twin)
    for index in range(windows):
        tasks, work = arrivals(workload(), index * WINDOW_MS, (index + 1) * WINDOW_MS)
        if tasks is not None:
            twin.submit(tasks)
        twin.feed(work)
        past.feed(tasks, work)
        for one in twin.confirm((index + 1) * WINDOW_MS):
            energy_j[one.end_ms] = one.end.energy_j
        past.follow(twin)
    return past, energy_j


def test_the_past_lived_again_is_what_the_live_twin_went_through() -> None:
    keeper, energy_j = followed(8, most=20)
    past = keeper.past()
    assert past is not None
    assert past.simulation.now_ms == 0
    assert past.windows >= 6
    again = past.simulation.fork()
    for number in range(1, past.windows + 1):
        again.advance(number * WINDOW_MS)
        assert again.energy_j == pytest.approx(energy_j[number * WINDOW_MS], rel=1e-12)


def test_only_so_many_windows_are_kept() -> None:
    keeper, energy_j = followed(8, most=3)
    past = keeper.past()
    assert past is not None
    assert past.windows == 3
    start_ms = past.simulation.now_ms
    assert start_ms >= 3 * WINDOW_MS
    again = past.simulation.fork()
    again.advance(start_ms + 3 * WINDOW_MS)
    assert again.energy_j == pytest.approx(energy_j[start_ms + 3 * WINDOW_MS], rel=1e-12)


def test_another_topology_begins_another_past_once_it_is_there() -> None:
    twin, keeper = new_twin(), PastWindows(WINDOW_MS)
    twin.schedule(2 * WINDOW_MS, [RemoveHosts(count=1)])
    keeper.follow(twin)
    assert keeper.past() is None
    assert list(twin.confirm(2 * WINDOW_MS + 1))
    keeper.follow(twin)
    assert list(twin.confirm(4 * WINDOW_MS))
    keeper.follow(twin)
    past = keeper.past()
    assert past is not None
    assert past.simulation.now_ms > 2 * WINDOW_MS
    keeper.forget()
    assert keeper.past() is None


def test_it_survives_storing() -> None:
    keeper, _ = followed(5, most=3)
    past, again = keeper.past(), pickle.loads(pickle.dumps(keeper)).past()
    assert past is not None
    assert again is not None
    assert again.windows == past.windows
    assert again.simulation.snapshot() == past.simulation.snapshot()

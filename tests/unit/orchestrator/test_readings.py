"""Readings are found by their tick, and the last one outlives its being forgotten."""

from __future__ import annotations

import numpy as np

from opendt.orchestrator.readings import Readings

NAN = float("nan")


def readings():
    found = Readings(10)
    found.append(np.array([1.0, NAN, 3.0]))
    found.append(np.array([NAN, 5.0, NAN]))
    return found


def test_a_window_is_what_comes_after_its_start():
    np.testing.assert_array_equal(readings().after(0, 30), [1.0, NAN, 3.0])
    np.testing.assert_array_equal(readings().after(30, 60), [NAN, 5.0, NAN])


def test_there_is_nothing_at_the_start_or_in_the_future():
    np.testing.assert_array_equal(readings().at(np.array([0, 10, 50, 60, 70])), [NAN, 1.0, 5.0, NAN, NAN])


def test_the_last_reading_until_a_time():
    found = readings()
    assert np.isnan(found.last_until(0))
    assert [found.last_until(time) for time in (10, 20, 29, 30, 45, 50, 1_000)] == [1.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0]


def test_what_is_forgotten_is_gone_but_for_the_last():
    found = readings()
    found.forget_until(40)
    np.testing.assert_array_equal(found.at(np.array([10, 30, 50])), [NAN, NAN, 5.0])
    assert found.last_until(40) == 3.0
    found.forget_until(30)  # earlier than what is forgotten already
    assert found.last_until(50) == 5.0
    found.forget_until(1_000)
    assert found.last_until(2_000) == 5.0
    found.append(np.array([7.0]))
    np.testing.assert_array_equal(found.after(60, 70), [7.0])

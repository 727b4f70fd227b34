"""Points of a sweep: complete grids, samples of the stated distribution, the same for the same seed."""

from __future__ import annotations

import math
import statistics

from tests.unit.optimization.sweep_plant import rows


def drawn(tmp_path, axes, count=400, **keys):
    more = "".join(f", {name}: {value}" for name, value in keys.items())
    found = rows(tmp_path, f"sample: {{count: {count}{more}, axes: {axes}}}\n")
    return [row.settings["a"] for row in found]


def test_a_grid_has_every_combination_with_the_seed_fastest(tmp_path):
    found = rows(tmp_path, "grid: {a: [1, 2], b: [x, y]}\nseeds: [5, 7]\n")
    assert [(row.settings["a"], row.settings["b"], row.seed) for row in found] == [
        (a, b, seed) for a in (1, 2) for b in ("x", "y") for seed in (5, 7)
    ]
    assert [row.index for row in found] == list(range(8))


def test_every_point_of_a_grid_meets_every_drawn_one(tmp_path):
    found = rows(tmp_path, "grid: {a: [1, 2]}\nsample: {count: 3, axes: {b: {uniform: [0, 1]}}}\n")
    assert [row.settings["a"] for row in found] == [1, 1, 1, 2, 2, 2]
    assert [row.settings["b"] for row in found[:3]] == [row.settings["b"] for row in found[3:]]


def test_a_latin_hypercube_has_one_point_in_each_stratum_of_each_axis(tmp_path):
    found = rows(tmp_path, "sample: {count: 50, axes: {a: {uniform: [0, 50]}, b: {integers: [1, 50]}}}\n")
    assert sorted(int(row.settings["a"]) for row in found) == list(range(50))
    assert sorted(row.settings["b"] for row in found) == list(range(1, 51))
    order = [int(row.settings["a"]) for row in found]
    assert order != sorted(order)
    assert order != [row.settings["b"] - 1 for row in found]


def test_independent_draws_are_uniform(tmp_path):
    values = drawn(tmp_path, "{a: {uniform: [2, 4]}}", method="random")
    assert all(2 <= value < 4 for value in values)
    # Mean of 400 draws: deviation 2 / sqrt(12 * 400) = 0.029.
    assert abs(statistics.mean(values) - 3) < 4 * 0.029
    assert len({math.floor(20 * (value - 2)) for value in values}) > 35


def test_log_uniform_draws_are_uniform_in_the_logarithm(tmp_path):
    values = sorted(drawn(tmp_path, "{a: {log_uniform: [1, 10000]}}"))
    assert values[0] >= 1
    assert values[-1] <= 10_000
    assert abs(math.log10(values[200]) - 2) < 0.02


def test_integers_have_both_ends_and_choices_are_even(tmp_path):
    values = drawn(tmp_path, "{a: {integers: [3, 6]}}")
    assert {value: values.count(value) for value in set(values)} == dict.fromkeys((3, 4, 5, 6), 100)
    chosen = drawn(tmp_path, "{a: {choice: [x, y]}}")
    assert chosen.count("x") == chosen.count("y") == 200


def test_draws_depend_on_the_seed_and_on_nothing_else(tmp_path):
    alone = drawn(tmp_path, "{a: {uniform: [0, 1]}}")
    assert drawn(tmp_path, "{b: {choice: [1, 2]}, a: {uniform: [0, 1]}}") == alone
    assert drawn(tmp_path, "{a: {uniform: [0, 1]}}", seed=1) != alone


def test_draws_are_those_of_every_version(tmp_path):
    assert drawn(tmp_path, "{a: {integers: [0, 999]}}", count=5, method="random", seed=7) == [104, 703, 284, 577, 649]


def test_more_independent_draws_begin_with_the_fewer(tmp_path):
    few = drawn(tmp_path, "{a: {uniform: [0, 1]}}", count=10, method="random")
    assert drawn(tmp_path, "{a: {uniform: [0, 1]}}", count=20, method="random")[:10] == few

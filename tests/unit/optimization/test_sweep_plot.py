"""A picture for each pair of axes that vary, with a panel for each quantity that does."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest

from opendt.optimization.sweep_plot import QUANTITIES, pair_plots

SVG = "{http://www.w3.org/2000/svg}"


def table(axes, **quantities):
    count = len(next(iter(axes.values())))
    constant = {name: [1.0] * count for name, _, _ in QUANTITIES}
    return pa.table({**axes, **constant, **quantities})


def parts(text):
    root = ET.fromstring(text)
    return root, list(root.iter(f"{SVG}circle"))


def test_each_pair_of_axes_that_vary_has_a_picture():
    axes = {"a": [1, 1, 2, 2], "b": ["x", "y", "x", "y"], "c": [0.5, 1.5, 2.5, 3.5], "fixed": [1, 1, 1, 1]}
    plots = pair_plots(table(axes, energy_j=[1.0, 2.0, 3.0, 4.0]), list(axes))
    assert list(plots) == ["a--b.svg", "a--c.svg", "b--c.svg"]
    root, dots = parts(plots["a--b.svg"])
    assert len(root.findall(f"{SVG}g")) == 1
    assert len(dots) == 4


def test_a_dot_has_the_mean_of_the_rows_at_its_place():
    axes = {"a": [1, 1, 2, 2], "b": [1, 1, 2, 2]}
    _, dots = parts(pair_plots(table(axes, energy_j=[3.6e6, 7.2e6, 0.0, 0.0]), ["a", "b"])["a--b.svg"])
    assert [dot.find(f"{SVG}title").text for dot in dots] == ["1, 1: 1.5", "2, 2: 0"]
    assert [dot.get("fill") for dot in dots] == ["#fee838", "#00224e"]


def test_dots_lie_inside_their_axes_and_in_their_order():
    axes = {"a": [0.001, 0.2, 1000.0], "b": [-5, 0, 5]}
    _, dots = parts(pair_plots(table(axes, energy_j=[1.0, 2.0, 3.0]), ["a", "b"])["a--b.svg"])
    x, y = [float(dot.get("cx")) for dot in dots], [float(dot.get("cy")) for dot in dots]
    assert x == sorted(x)
    assert y == sorted(y, reverse=True)
    assert 78 <= x[0] < x[-1] <= 314
    assert 44 <= y[-1] < y[0] <= 250


def test_one_axis_has_the_quantity_upright():
    plots = pair_plots(table({"a": [1, 2, 2]}, energy_j=[1.0, 2.0, 3.0], p95_wait_ms=[1, 2, 4]), ["a"])
    root, dots = parts(plots["a.svg"])
    assert len(root.findall(f"{SVG}g")) == 2
    assert len(dots) == 6


@pytest.mark.parametrize("axes", [{"a": [1, 1]}, {"a": [1, 2]}])
def test_nothing_is_drawn_of_what_does_not_vary(axes):
    varied = {"energy_j": [1.0, 2.0]} if axes["a"] == [1, 1] else {}
    assert pair_plots(table(axes, **varied), ["a"]) == {}


def test_names_cannot_break_out_of_the_picture_or_the_folder():
    axes = {"../<a>": ["<script>", "&", "x"], "b/c": ["x" * 500, "y", "z"]}
    plots = pair_plots(table(axes, energy_j=[1.0, 2.0, 3.0]), list(axes))
    assert [name for name in plots if "/" in name] == []
    root, _ = parts(next(iter(plots.values())))
    assert [element for element in root.iter() if "script" in element.tag] == []


def test_many_values_get_round_levels():
    axes = {"a": [n / 7 for n in range(20)], "b": [n * 130.0 for n in range(20)]}
    root, _ = parts(pair_plots(table(axes, energy_j=[float(n) for n in range(20)]), ["a", "b"])["a--b.svg"])
    shown = {element.text for element in root.iter(f"{SVG}text")}
    assert {"0", "1", "2"} <= shown
    assert {"500", "1000", "1500", "2000"} <= shown

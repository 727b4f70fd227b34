from __future__ import annotations

import json
from pathlib import Path

import pytest

from opendt.model import FormatError, Slo, read_slo, slo_schema, write_slo_schema

ROOT = Path(__file__).resolve().parents[3]


def test_the_documented_schema_is_current(tmp_path):
    write_slo_schema(tmp_path / "slo.schema.json")
    documented = ROOT / "docs" / "reference" / "slo.schema.json"
    assert documented.read_text() == (tmp_path / "slo.schema.json").read_text(), "run write_slo_schema on it"


def test_the_example_in_the_documentation_is_read(tmp_path):
    import opendt.model.slo as module

    text = module.__doc__.split("::")[1].split("\n\nTargets")[0]
    (tmp_path / "slo.json").write_text(text)
    slo = read_slo(tmp_path / "slo.json")
    assert slo.energy.target_kwh == 2.0
    assert slo.energy.tolerance_ratio == 0.05
    assert slo.runtime.task_wait_p95.target_s == 60
    assert slo.utilization.max_ratio == 0.85
    assert slo.cost.price_per_kwh == 0.25
    (budget,) = slo.budgets
    assert (budget.label, budget.good_ratio, slo.slice_s(budget)) == ("task_wait_p95", 0.99, 3600)
    assert slo.carbon is None


def test_every_target_of_the_schema_has_a_description_and_a_bound():
    definitions = slo_schema()["$defs"]
    for name, definition in definitions.items():
        for key, field in definition["properties"].items():
            if key.startswith("target_"):
                assert field["description"], (name, key)
                assert "exclusiveMinimum" in field or "minimum" in field, (name, key)


COST = {"target_cost": 1.0, "currency": "EUR", "price_per_kwh": 0.2}
BY_HOUR = {"target_cost": 1.0, "currency": "EUR"}
BUDGET = {"target": "cost", "good_ratio": 0.9}


def test_prices_by_the_hour_and_named_budgets_are_read():
    prices = [0.1] * 12 + [0.2] * 12
    budgets = [BUDGET, {**BUDGET, "name": "of hours", "slice_s": 3600, "period_s": 2_592_000}]
    slo = Slo.model_validate({"version": 1, "cost": {**BY_HOUR, "price_per_kwh_by_hour": prices}, "budgets": budgets})
    assert slo.cost.price_per_kwh_by_hour == tuple(prices)
    assert [(one.label, slo.slice_s(one), one.period_s) for one in slo.budgets] == [
        ("cost", 300, 604_800),
        ("of hours", 3600, 2_592_000),
    ]
    assert Slo.model_validate_json(slo.model_dump_json(by_alias=True)) == slo
    assert slo.targets == {"cost"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({}, "version"),
        ({"version": 2}, "version"),
        ({"version": 1, "energy": {"target_kwh": -1}}, "energy.target_kwh"),
        ({"version": 1, "energy": {"target_kwh": "3"}}, "energy.target_kwh"),
        ({"version": 1, "energy": {}}, "energy.target_kwh"),
        ({"version": 1, "enrgy": {"target_kwh": 1}}, "enrgy"),
        ({"version": 1, "utilization": {"min_ratio": 0.9, "max_ratio": 0.3}}, "utilization"),
        (
            {"version": 1, "runtime": {"task_slowdown_p95": {"target_ratio": 0.5}}},
            "runtime.task_slowdown_p95.target_ratio",
        ),
        ({"version": 1, "window_s": 0}, "window_s"),
        ({"version": 1, "cost": {**COST, "currency": "Euro"}}, "cost.currency"),
        ({"version": 1, "cost": BY_HOUR}, "cost"),
        ({"version": 1, "cost": {**COST, "price_per_kwh_by_hour": [0.1] * 24}}, "cost"),
        ({"version": 1, "cost": {**COST, "price_per_kwh": -0.1}}, "cost.price_per_kwh"),
        ({"version": 1, "cost": {**BY_HOUR, "price_per_kwh_by_hour": [0.1] * 23}}, "cost.price_per_kwh_by_hour"),
        ({"version": 1, "cost": {**BY_HOUR, "price_per_kwh_by_hour": [-1] * 24}}, "cost.price_per_kwh_by_hour.0"),
        ({"version": 1, "cost": {**COST, "utc_offset_h": 15}}, "cost.utc_offset_h"),
        ({"version": 1, "cost": COST, "budgets": [{**BUDGET, "good_ratio": 1}]}, "budgets.0.good_ratio"),
        ({"version": 1, "cost": COST, "budgets": [{**BUDGET, "target": "money"}]}, "budgets.0.target"),
        ({"version": 1, "cost": COST, "budgets": [{**BUDGET, "target": "energy"}]}, "budgets"),
        ({"version": 1, "cost": COST, "budgets": [{**BUDGET, "slice_s": 400}]}, "budgets"),
        ({"version": 1, "cost": COST, "budgets": [{**BUDGET, "period_s": 400}]}, "budgets"),
        ({"version": 1, "cost": COST, "budgets": [{**BUDGET, "period_s": 300}]}, "budgets"),
        ({"version": 1, "cost": COST, "budgets": [BUDGET, BUDGET]}, "budgets"),
        ({"version": 1, "cost": COST, "window_s": 1, "budgets": [BUDGET]}, "budgets"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, content, place):
    path = tmp_path / "slo.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError) as caught:
        read_slo(path)
    assert (caught.value.file, caught.value.place) == (str(path), place)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("text", [None, "{", b"\xff"])
def test_a_file_that_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "slo.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=r"slo\.json"):
        read_slo(path)

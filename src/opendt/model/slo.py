"""Service-level objectives: the form of ``slo.json``.

An operator writes only the targets that matter::

    {
      "version": 1,
      "window_s": 300,
      "energy": {"target_kwh": 2.0, "tolerance_ratio": 0.05, "weight": 1.0},
      "cost": {"target_cost": 0.5, "currency": "EUR", "price_per_kwh": 0.25},
      "runtime": {"makespan": {"target_s": 3600}, "task_wait_p95": {"target_s": 60}},
      "utilization": {"min_ratio": 0.3, "max_ratio": 0.85},
      "budgets": [{"target": "task_wait_p95", "good_ratio": 0.99, "slice_s": 3600, "period_s": 604800}]
    }

Targets hold for each window of `window_s` seconds. A target is *met* up to target x (1 + `tolerance_ratio`) and is
*breached* above that; `weight` says how much a breach counts beside the others when they compete. An error budget says how
often a target may be breached: the one above allows it in one hour of a hundred, over any week. A file of an unknown
``version`` is refused, never half understood; version 1 grows only by keys that may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from opendt.model.base import Model, NonNegative, Positive, Ratio
from opendt.model.errors import FormatError, shown, wanted

__all__ = [
    "CarbonTarget",
    "CostTarget",
    "DurationTarget",
    "EnergyTarget",
    "ErrorBudget",
    "PeakPowerTarget",
    "RuntimeTargets",
    "Slo",
    "SloKind",
    "SlowdownTarget",
    "UtilizationBand",
    "read_slo",
    "slo_schema",
    "write_slo_schema",
]

SloKind = Literal[
    "energy", "carbon", "cost", "peak_power", "makespan", "task_wait_p95", "task_slowdown_p95", "utilization"
]
"""Names of the targets, in the order in which they are told."""

_PLACES: Final[dict[SloKind, str]] = {
    "energy": "energy",
    "carbon": "carbon",
    "cost": "cost",
    "peak_power": "peak_power",
    "makespan": "runtime",
    "task_wait_p95": "runtime",
    "task_slowdown_p95": "runtime",
    "utilization": "utilization",
}
_MOST_SLICES: Final = 100_000

Seconds = Annotated[int, Field(strict=True, ge=1)]
Tolerance = Annotated[Ratio, Field(description="Share above the target that still counts as met (0.1 is 10 %).")]
Weight = Annotated[NonNegative, Field(description="How much a breach counts beside the other targets; 0 reports only.")]


class _Target(Model):
    tolerance_ratio: Tolerance = 0.1
    weight: Weight = 1.0


class EnergyTarget(_Target):
    """Most energy that all hosts may use in a window."""

    target_kwh: Annotated[Positive, Field(description="Energy per window, in kWh.")]


class CarbonTarget(_Target):
    """Most CO2 that the energy of a window may cause."""

    target_kg_co2: Annotated[Positive, Field(description="Emission per window, in kg CO2.")]


class CostTarget(_Target):
    """Most money that the energy and the hosts of a window may cost.

    The cost of a window is its energy at the price of the hour, taken as spread evenly over the window, and the hosts in
    service at its end for as long as it lasts.
    """

    target_cost: Annotated[Positive, Field(description="Cost per window, in the currency.")]
    currency: Annotated[
        str, Field(pattern="^[A-Z]{3}$", description="Currency of all amounts: three letters, as EUR (ISO 4217).")
    ]
    price_per_kwh: Annotated[NonNegative | None, Field(description="Price of energy at any time, per kWh.")] = None
    price_per_kwh_by_hour: Annotated[
        tuple[NonNegative, ...] | None,
        Field(
            min_length=24,
            max_length=24,
            description="Instead of that: price of energy, per kWh, in each hour of the day from 0 to 23.",
        ),
    ] = None
    price_per_host_hour: Annotated[
        NonNegative, Field(description="Price of a host in service for an hour, beside its energy.")
    ] = 0.0
    utc_offset_h: Annotated[
        float,
        Field(strict=True, ge=-14, le=14, description="Hours that the clock of the prices is ahead of UTC, all year."),
    ] = 0.0

    @model_validator(mode="after")
    def _one_kind_of_price(self) -> CostTarget:
        if (self.price_per_kwh is None) == (self.price_per_kwh_by_hour is None):
            raise ValueError("either price_per_kwh or price_per_kwh_by_hour")
        return self


class PeakPowerTarget(_Target):
    """Most power that all hosts may draw at any sample of a window."""

    target_kw: Annotated[Positive, Field(description="Power of all hosts together, in kW.")]


class DurationTarget(_Target):
    """Longest time that something may take."""

    target_s: Annotated[Positive, Field(description="Time, in seconds.")]


class SlowdownTarget(_Target):
    """Largest ratio of a task's time in the system (waiting and running) to its running time."""

    target_ratio: Annotated[float, Field(strict=True, ge=1, description="Ratio, at least 1.")]


class RuntimeTargets(Model):
    """How long work may take."""

    makespan: Annotated[
        DurationTarget | None,
        Field(description="From the first submission to the last finish among the tasks submitted in the window."),
    ] = None
    task_wait_p95: Annotated[
        DurationTarget | None,
        Field(description="95th percentile of the waits of the tasks that started in the window or are still waiting."),
    ] = None
    task_slowdown_p95: Annotated[
        SlowdownTarget | None,
        Field(description="95th percentile of the slowdowns of the tasks finished in the window."),
    ] = None


class UtilizationBand(Model):
    """Mean CPU utilisation of the hosts that are up: below the band is waste, above it is risk."""

    min_ratio: Annotated[Ratio, Field(description="Lower end, 0 to 1.")] = 0.0
    max_ratio: Annotated[Ratio, Field(description="Upper end, 0 to 1.")] = 1.0
    tolerance_ratio: Annotated[
        Ratio, Field(description="Utilisation by which either end may be passed (0.05 is 5 percentage points).")
    ] = 0.05
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _min_below_max(self) -> UtilizationBand:
        if self.min_ratio >= self.max_ratio:
            raise ValueError(f"min_ratio ({self.min_ratio:g}) must be below max_ratio ({self.max_ratio:g})")
        return self


class ErrorBudget(Model):
    """How often a target may be breached: in all but a share of the slices of any period.

    A slice is bad when a window in it breaches the target, and good when none does and at least one is known to meet it. One in
    which nothing is known spends no budget; it is counted by itself.
    """

    target: Annotated[SloKind, Field(description="Which of the targets of this file.")]
    name: Annotated[
        str | None,
        Field(min_length=1, max_length=80, description="Name of the budget; that of its target unless given."),
    ] = None
    good_ratio: Annotated[
        float, Field(strict=True, gt=0, lt=1, description="Share of slices that must not be bad (0.99 is 99 %).")
    ]
    slice_s: Annotated[
        Seconds | None,
        Field(
            description="Length of the stretches that are counted, in seconds; a multiple of `window_s`, which is the default."
        ),
    ] = None
    period_s: Annotated[
        Seconds, Field(description="Length of the period up to now that the share is taken over, in seconds.")
    ] = 604_800

    @property
    def label(self) -> str:
        """Name, or that of the target."""
        return self.name or self.target


class Slo(Model):
    """Service-level objectives of a datacenter or fleet; targets that are left out are not checked."""

    schema_: Annotated[str | None, Field(alias="$schema", description="Address of this schema, for editors.")] = None
    version: Annotated[Literal[1], Field(description="Version of this form.")]
    window_s: Annotated[
        int, Field(strict=True, ge=1, description="Length of the windows that the targets hold for, in seconds.")
    ] = 300
    energy: EnergyTarget | None = None
    carbon: CarbonTarget | None = None
    cost: CostTarget | None = None
    peak_power: PeakPowerTarget | None = None
    runtime: RuntimeTargets | None = None
    utilization: UtilizationBand | None = None
    budgets: Annotated[tuple[ErrorBudget, ...], Field(description="How often targets may be breached.")] = ()

    @field_validator("budgets")
    @classmethod
    def _budgets_fit(cls, budgets: tuple[ErrorBudget, ...], info: ValidationInfo) -> tuple[ErrorBudget, ...]:
        labels = [budget.label for budget in budgets]
        for budget in budgets:
            if labels.count(budget.label) > 1:
                raise ValueError(f"budgets of different names, and {budget.label!r} is used twice")
            # Keys that are wrong themselves are missing here, and are complained of by themselves.
            if {"window_s", *_PLACES.values()} <= info.data.keys():
                _check_budget(budget, info.data)
        return budgets

    def slice_s(self, budget: ErrorBudget) -> int:
        """Length of a budget's slices, s."""
        return self.window_s if budget.slice_s is None else budget.slice_s

    @property
    def targets(self) -> frozenset[SloKind]:
        """Names of the targets that are set."""
        return _targets_of(self.__dict__)


def read_slo(path: Path | str) -> Slo:
    """Read an ``slo.json``.

    Raises
    ------
    FormatError
        When the file is missing or is not of this form; names the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(path, "", str(error), "a readable UTF-8 file") from error
    try:
        return Slo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        hint = "docs/reference/slo.schema.json lists all keys and units."
        found = "no such key" if first["type"] == "missing" else shown(first["input"])
        if first["type"] == "json_invalid":
            place, found = "", "broken JSON"
        raise FormatError(path, place, found, wanted(first["msg"]), hint) from error


def slo_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``slo.json``."""
    schema = Slo.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "OpenDT slo.json, version 1"}


def write_slo_schema(path: Path | str) -> None:
    """Write the JSON Schema of ``slo.json``; a test compares docs/reference/slo.schema.json with it."""
    Path(path).write_text(json.dumps(slo_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _targets_of(values: Mapping[str, Any]) -> frozenset[SloKind]:
    """Name the targets that are set, of the fields of an `Slo`."""
    found: list[SloKind] = []
    for kind, place in _PLACES.items():
        value = values[place]
        if place == "runtime" and value is not None:
            value = getattr(value, kind)
        if value is not None:
            found.append(kind)
    return frozenset(found)


def _check_budget(budget: ErrorBudget, values: Mapping[str, Any]) -> None:
    """Hold a budget against the fields of the `Slo` that it stands in."""
    window_s, place = values["window_s"], f"budget {budget.label!r}"
    slice_s = window_s if budget.slice_s is None else budget.slice_s
    if budget.target not in _targets_of(values):
        raise ValueError(f"{place} to name a target of this file; {budget.target} is not set")
    if slice_s % window_s:
        raise ValueError(f"slice_s of {place} to be a multiple of window_s ({window_s}), not {slice_s}")
    if budget.period_s % slice_s or budget.period_s == slice_s:
        raise ValueError(f"period_s of {place} to be several whole slices of {slice_s} s, not {budget.period_s} s")
    if budget.period_s // slice_s > _MOST_SLICES:
        raise ValueError(f"period_s of {place} to have at most {_MOST_SLICES} slices; make slice_s longer")

"""Service-level objectives: the form of ``slo.json``.

An operator writes only the targets that matter::

    {
      "version": 1,
      "window_s": 300,
      "energy": {"target_kwh": 2.0, "tolerance_ratio": 0.05, "weight": 1.0},
      "runtime": {"makespan": {"target_s": 3600}, "task_wait_p95": {"target_s": 60}},
      "utilization": {"min_ratio": 0.3, "max_ratio": 0.85}
    }

Targets hold for each window of `window_s` seconds. A target is *met* up to target x (1 + `tolerance_ratio`) and is
*breached* above that; `weight` says how much a breach counts beside the others when they compete. ``version`` leaves
room for later forms (error budgets, longer windows): a file of an unknown version is refused, never half understood.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from opendt.model.base import Model, NonNegative, Positive, Ratio
from opendt.model.errors import FormatError, shown

__all__ = [
    "CarbonTarget",
    "DurationTarget",
    "EnergyTarget",
    "PeakPowerTarget",
    "RuntimeTargets",
    "Slo",
    "SlowdownTarget",
    "UtilizationBand",
    "read_slo",
    "slo_schema",
    "write_slo_schema",
]

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
        DurationTarget | None, Field(description="95th percentile of the waits of the tasks started in the window.")
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


class Slo(Model):
    """Service-level objectives of a datacenter or fleet; targets that are left out are not checked."""

    schema_: Annotated[str | None, Field(alias="$schema", description="Address of this schema, for editors.")] = None
    version: Annotated[Literal[1], Field(description="Version of this form.")]
    window_s: Annotated[
        int, Field(strict=True, ge=1, description="Length of the windows that the targets hold for, in seconds.")
    ] = 300
    energy: EnergyTarget | None = None
    carbon: CarbonTarget | None = None
    peak_power: PeakPowerTarget | None = None
    runtime: RuntimeTargets | None = None
    utilization: UtilizationBand | None = None


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
        raise FormatError(path, place, found, _sentence(first["msg"]), hint) from error


def slo_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``slo.json``."""
    schema = Slo.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "OpenDT slo.json, version 1"}


def write_slo_schema(path: Path | str) -> None:
    """Write the JSON Schema of ``slo.json``; a test compares docs/reference/slo.schema.json with it."""
    Path(path).write_text(json.dumps(slo_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sentence(message: str) -> str:
    """Turn pydantic's wording into the end of "expected …"."""
    message = message.removeprefix("Input should be ").removeprefix("Value error, ")
    return {"Field required": "this key", "Extra inputs are not permitted": "only known keys"}.get(message, message)

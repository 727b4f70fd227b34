"""Proposals: changes that somebody thinks are good, and what a simulation says of them.

Whoever proposes (rules, a language model, a search, a person) emits the same frozen `Proposal`. It changes nothing by
itself. `SimulatedEffect` holds what two forks of the live twin, one with the changes and one without, did over the same
stretch of time. Both convert to JSON and back without loss (``model_dump_json``, ``model_validate_json``) and to one flat
row of a table (`Proposal.row`, `SimulatedEffect.row`).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from opendt.model.base import Count, Flag, Milliseconds, Model, Positive, Real, Size
from opendt.model.change import Change

__all__ = [
    "Bounds",
    "Compared",
    "ExpectedEffect",
    "Proposal",
    "ProposalSource",
    "SimulatedEffect",
    "SloOutcome",
]

ProposalSource = Literal["rule_based", "llm", "search", "human", "plugin"]
"""Who may propose."""

Cell = str | int | float | bool | None
_DIGEST_LETTERS = 10


class Bounds(Model):
    """Limits that the changes were kept within; None means that the proposer knew of none."""

    min_hosts: Count | None = None
    max_hosts: Count | None = None
    min_core_speed_mhz: Positive | None = None
    max_core_speed_mhz: Positive | None = None
    min_core_count: Size | None = None
    max_core_count: Size | None = None

    @model_validator(mode="after")
    def _minimum_not_above_maximum(self) -> Bounds:
        for name in ("hosts", "core_speed_mhz", "core_count"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name} ({low:g}) must not exceed max_{name} ({high:g})")
        return self


class ExpectedEffect(Model):
    """What the proposer expects, as changes relative to no change (-0.1 is 10 % less); kept, to be held against it later."""

    energy_ratio: Real | None = None
    task_wait_p95_ratio: Real | None = None
    peak_power_ratio: Real | None = None


class Proposal(Model):
    """Changes of the running system with their source and reason.

    Parameters
    ----------
    id : str
        Unique; `of` makes it from source, time and changes, so that equal runs give equal ids.
    time_ms : int
        When it was proposed, ms since the start.
    source : {"rule_based", "llm", "search", "human", "plugin"}
        Who proposed it.
    rule : str
        Rule, prompt or algorithm that it came from.
    reason : str
        Why, in words for the person who decides.
    changes : tuple of Change
        Applied in this order, all or none.
    bounds : Bounds
        Limits the changes were kept within.
    expected : ExpectedEffect, optional
        What the proposer expects of it.
    """

    id: Annotated[str, Field(min_length=1)]
    time_ms: Milliseconds
    source: ProposalSource
    rule: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]
    changes: Annotated[tuple[Annotated[Change, Field(discriminator="type")], ...], Field(min_length=1)]
    bounds: Bounds = Bounds()
    expected: ExpectedEffect | None = None

    @classmethod
    def of(
        cls,
        source: ProposalSource,
        time_ms: int,
        rule: str,
        reason: str,
        changes: tuple[Change, ...],
        bounds: Bounds | None = None,
        expected: ExpectedEffect | None = None,
    ) -> Proposal:
        """Make a proposal with an id that tells source and time and differs where the changes do."""
        text = "\n".join(change.model_dump_json() for change in changes)
        digest = hashlib.sha256(f"{source}\n{time_ms}\n{rule}\n{text}".encode()).hexdigest()[:_DIGEST_LETTERS]
        return cls(
            id=f"{source}-{time_ms}-{digest}",
            time_ms=time_ms,
            source=source,
            rule=rule,
            reason=reason,
            changes=changes,
            bounds=Bounds() if bounds is None else bounds,
            expected=expected,
        )

    def row(self) -> dict[str, Cell]:
        """Give one row of a table; changes and bounds are JSON text."""
        return {
            "id": self.id,
            "time_ms": self.time_ms,
            "source": self.source,
            "rule": self.rule,
            "reason": self.reason,
            "changes": "[" + ",".join(change.model_dump_json() for change in self.changes) + "]",
            "bounds": self.bounds.model_dump_json(exclude_none=True),
        }


class Compared(Model):
    """One quantity without and with the changes; None where it is unknown."""

    baseline: Real | None = None
    changed: Real | None = None

    @property
    def delta_ratio(self) -> float | None:
        """Change relative to the baseline (-0.1 is 10 % less); None when either is unknown or the baseline is 0."""
        if self.baseline is None or self.changed is None or self.baseline == 0:
            return None
        return self.changed / self.baseline - 1.0


class SloOutcome(Model):
    """Whether a target is met without and with the changes; None where that cannot be told."""

    name: str
    met_before: Flag | None
    met_after: Flag | None


class SimulatedEffect(Model):
    """What two forks of the live twin did over the same stretch of time, one of them with the changes of a proposal.

    Energies, powers and emissions are of all clusters from the grid over the horizon, the cost in the currency of the objectives, where
    they have prices; waits, utilisation and makespan are
    those of ``opendt.twin.metrics.WindowMetrics``.
    """

    proposal_id: str
    start_ms: Milliseconds
    horizon_ms: Annotated[int, Field(strict=True, gt=0)]
    energy_j: Compared
    peak_power_w: Compared
    emission_g: Compared
    cost: Compared = Compared()
    utilization_ratio: Compared
    task_wait_p95_s: Compared
    task_slowdown_p95_ratio: Compared
    makespan_s: Compared
    hosts_up: Compared
    tasks_completed: Compared
    tasks_pending: Compared
    score: Compared
    slos: tuple[SloOutcome, ...] = ()

    @property
    def slos_lost(self) -> tuple[str, ...]:
        """Targets that are met without the changes and are not met with them."""
        return tuple(slo.name for slo in self.slos if slo.met_before and slo.met_after is False)

    @property
    def slos_gained(self) -> tuple[str, ...]:
        """Targets that are not met without the changes and are met with them."""
        return tuple(slo.name for slo in self.slos if slo.met_before is False and slo.met_after)

    def row(self) -> dict[str, Cell]:
        """Give one row of a table: ``<quantity>_baseline``, ``<quantity>_changed`` and ``<quantity>_delta_ratio``."""
        cells: dict[str, Cell] = {
            "proposal_id": self.proposal_id,
            "start_ms": self.start_ms,
            "horizon_ms": self.horizon_ms,
        }
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Compared):
                cells[f"{name}_baseline"] = value.baseline
                cells[f"{name}_changed"] = value.changed
                cells[f"{name}_delta_ratio"] = value.delta_ratio
        cells["slos_lost"] = ",".join(self.slos_lost)
        cells["slos_gained"] = ",".join(self.slos_gained)
        return cells

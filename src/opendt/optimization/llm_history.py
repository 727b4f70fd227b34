"""What the language model's optimiser remembers: its proposals and what became of them, the best configuration, its spending.

All of it is one JSON document that survives a restart, as a file or as part of a snapshot (`LlmHistory.state`).

A configuration (hosts in service, cores and MHz of each group) is as good as the mean score of the windows that it lived
through, under the objectives of now. One window says little, because a window without work scores well in any configuration:
a configuration is called best after `LEAST_WINDOWS`. The means still compare different loads; the model is told so.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from opendt.model.base import Count, Flag, Milliseconds, Model, NonNegative, NonNegativeInt, Positive, Real, Size
from opendt.model.errors import FormatError, shown
from opendt.model.proposal import ExpectedEffect, Proposal, SimulatedEffect

if TYPE_CHECKING:
    from opendt.model.slo import Slo
    from opendt.optimization.base import Context
    from opendt.optimization.rules import Installed
    from opendt.optimization.scoring import Score

__all__ = ["LEAST_WINDOWS", "Configuration", "LlmHistory", "LlmState", "Remembered", "as_expected"]

LEAST_WINDOWS: Final = 3
_MOST_ENTRIES: Final = 64
_MOST_CONFIGURATIONS: Final = 64
_MOST_REFUSALS: Final = 8
_DAY_S: Final = 86_400.0
_QUANTITIES: Final = tuple(ExpectedEffect.model_fields)


class Remembered(Model):
    """A proposal and what became of it; None where nothing is known yet.

    Parameters
    ----------
    proposal : Proposal
        With the effect that the model expected of it.
    certified : bool, optional
        Whether it was certified.
    verdict : str
        Why, or why not.
    simulated, measured : ExpectedEffect, optional
        The effect that a simulation and that the world showed.
    """

    proposal: Proposal
    certified: Flag | None = None
    verdict: str = ""
    simulated: ExpectedEffect | None = None
    measured: ExpectedEffect | None = None


class GroupSize(Model):
    """Hosts in service of a group, and what each is like."""

    cluster: str
    group: str
    hosts: Count
    core_count: Size
    core_speed_mhz: Positive


class Configuration(Model):
    """A configuration with the windows it lived through and their mean score (lower is better)."""

    groups: tuple[GroupSize, ...]
    windows: Size
    mean_score: Real


class InstalledGroup(Model):
    """A group as it was first seen; limits refer to it."""

    cluster: str
    group: str
    core_count: Size
    core_speed_mhz: Positive


class Spent(Model):
    """Tokens and money of one call, at a time in s since the epoch."""

    time_s: NonNegative
    tokens: NonNegativeInt
    cost_usd: NonNegative


class LlmState(Model):
    """All that is remembered; the form of the history file."""

    version: Literal[1] = 1
    objectives: str = ""
    entries: tuple[Remembered, ...] = ()
    refusals: tuple[str, ...] = ()
    configurations: tuple[Configuration, ...] = ()
    installed: tuple[InstalledGroup, ...] = ()
    spent: tuple[Spent, ...] = ()
    asked_ms: Milliseconds | None = None
    breached: tuple[str, ...] = ()
    failures: Count = 0
    rest_until_s: Annotated[NonNegative, Field(description="No call before this, s since the epoch.")] = 0.0


class LlmHistory:
    """The memory, kept in a file if there is one.

    Parameters
    ----------
    path : Path or str, optional
        JSON file; read when it exists, replaced whole by `save`.

    Raises
    ------
    FormatError
        When the file is not what `save` wrote: it is not overwritten then.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._state = LlmState()
        if self.path is not None and self.path.exists():
            self._state = _read(self.path)

    @property
    def state(self) -> LlmState:
        """All that is remembered, as a frozen record."""
        return self._state

    def restore(self, state: LlmState) -> None:
        """Go on from a state."""
        self._state = state

    def save(self) -> None:
        """Write the file, whole or not at all; nothing without a path.

        Raises
        ------
        OSError
            When it cannot be written; the old file is as it was then.
        """
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self._state.model_dump_json(indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    # Proposals.

    @property
    def entries(self) -> tuple[Remembered, ...]:
        """Proposals, the newest last."""
        return self._state.entries

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why candidates were refused before they became proposals, the newest last."""
        return self._state.refusals

    def remember(self, proposal: Proposal, simulated: ExpectedEffect | None = None) -> None:
        """Keep a proposal, and what a what-if said of it."""
        others = [entry for entry in self.entries if entry.proposal.id != proposal.id]
        kept = (*others, Remembered(proposal=proposal, simulated=simulated))[-_MOST_ENTRIES:]
        self._set(entries=kept)

    def remember_refusals(self, reasons: tuple[str, ...]) -> None:
        """Keep why candidates were refused."""
        self._set(refusals=(*self.refusals, *reasons)[-_MOST_REFUSALS:])

    def note(self, proposal_id: str, **news: Any) -> bool:
        """Add what became of a proposal (fields of `Remembered`); False when it is not remembered."""
        entries = list(self.entries)
        for place, entry in enumerate(entries):
            if entry.proposal.id == proposal_id:
                entries[place] = entry.model_copy(update=news)
                self._set(entries=tuple(entries))
                return True
        return False

    def expectation_errors(self) -> dict[str, dict[str, float]]:
        """How far expectations were off: quantity -> mean absolute error against ``simulated`` and ``measured``.

        Errors are differences of ratios: 0.05 is five percentage points of change. A pair of which nothing is known is absent.
        """
        errors: dict[str, dict[str, float]] = {}
        for quantity in _QUANTITIES:
            for against in ("simulated", "measured"):
                misses = [miss for entry in self.entries if (miss := _miss(entry, quantity, against)) is not None]
                if misses:
                    errors.setdefault(quantity, {})[against] = sum(misses) / len(misses)
        return errors

    # Configurations.

    @property
    def best(self) -> Configuration | None:
        """The configuration of the least mean score among those that lived through enough windows."""
        old = [one for one in self._state.configurations if one.windows >= LEAST_WINDOWS]
        return min(old, key=lambda one: one.mean_score, default=None)

    @property
    def installed(self) -> Installed:
        """(cluster, group) -> cores and MHz as first seen."""
        return {(one.cluster, one.group): (one.core_count, one.core_speed_mhz) for one in self._state.installed}

    def note_window(self, context: Context, score: Score) -> None:
        """Let a window count for the configuration it was lived through in; a change of the objectives begins anew."""
        objectives = _digest(context.slo)
        if objectives != self._state.objectives:
            self._set(objectives=objectives, configurations=())
        self._look_at(context)
        if not context.groups or not score.parts:
            return
        groups = tuple(
            GroupSize(
                cluster=one.cluster,
                group=one.group,
                hosts=one.host_count,
                core_count=one.core_count,
                core_speed_mhz=one.core_speed_mhz,
            )
            for one in context.groups
        )
        others = [one for one in self._state.configurations if one.groups != groups]
        same = [one for one in self._state.configurations if one.groups == groups]
        windows = same[0].windows + 1 if same else 1
        mean = same[0].mean_score if same else score.total
        mean += (score.total - mean) / windows
        seen = Configuration(groups=groups, windows=windows, mean_score=mean)
        # The one seen longest ago goes first, but never the best.
        best = self.best
        while len(others) >= _MOST_CONFIGURATIONS:
            others.remove(next(one for one in others if one != best))
        self._set(configurations=(*others, seen))

    def _look_at(self, context: Context) -> None:
        known = self.installed
        new = tuple(
            InstalledGroup(
                cluster=one.cluster, group=one.group, core_count=one.core_count, core_speed_mhz=one.core_speed_mhz
            )
            for one in context.groups
            if (one.cluster, one.group) not in known
        )
        if new:
            self._set(installed=(*self._state.installed, *new))

    # Spending and patience.

    def spent(self, now_s: float) -> tuple[int, float]:
        """Tokens and cost (US dollars) of the 24 hours before `now_s`, s since the epoch."""
        recent = [one for one in self._state.spent if one.time_s > now_s - _DAY_S]
        return sum(one.tokens for one in recent), sum(one.cost_usd for one in recent)

    def spend(self, now_s: float, tokens: int, cost_usd: float) -> None:
        """Count a call; what is older than a day is forgotten."""
        recent = [one for one in self._state.spent if one.time_s > now_s - _DAY_S]
        self._set(spent=(*recent, Spent(time_s=now_s, tokens=tokens, cost_usd=cost_usd)))

    def note_asked(self, time_ms: int, breached: tuple[str, ...]) -> None:
        """Keep when the model was last asked, and which objectives were breached then."""
        self._set(asked_ms=time_ms, breached=breached)

    def note_success(self) -> None:
        """Forget failures: the service answers."""
        self._set(failures=0, rest_until_s=0.0)

    def note_failure(self, rest_until_s: float) -> None:
        """Count a failure, and let the service rest."""
        self._set(failures=self._state.failures + 1, rest_until_s=max(rest_until_s, 0.0))

    def _set(self, **news: Any) -> None:
        self._state = self._state.model_copy(update=news)


def as_expected(effect: ExpectedEffect | SimulatedEffect | None) -> ExpectedEffect | None:
    """Reduce a simulated effect to the quantities that expectations speak of."""
    if not isinstance(effect, SimulatedEffect):
        return effect
    return ExpectedEffect(
        energy_ratio=effect.energy_j.delta_ratio,
        task_wait_p95_ratio=effect.task_wait_p95_s.delta_ratio,
        peak_power_ratio=effect.peak_power_w.delta_ratio,
    )


def _miss(entry: Remembered, quantity: str, against: str) -> float | None:
    expected, shown_ = entry.proposal.expected, getattr(entry, against)
    if expected is None or shown_ is None:
        return None
    said, was = getattr(expected, quantity), getattr(shown_, quantity)
    return None if said is None or was is None else abs(said - was)


def _digest(slo: Slo) -> str:
    return hashlib.sha256(slo.model_dump_json(exclude={"schema_"}).encode()).hexdigest()[:16]


def _read(path: Path) -> LlmState:
    hint = "Restore it, or remove it to begin anew."
    try:
        return LlmState.model_validate_json(path.read_bytes())
    except OSError as error:
        raise FormatError(path, "", str(error), "a readable file", hint) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(path, place, shown(first["input"]), first["msg"], hint) from error

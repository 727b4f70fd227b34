"""Rules of thumb: what to propose when a target is missed by how much.

Rules (`opendt.optimization.rules`) are asked in this order; the first that applies and has something to change proposes:

1. ``scale_up``: makespan, wait or slowdown 25 % above target: 25 % more cores per host;
2. ``light_scale_up``: 10 % above: 10 % more cores;
3. ``massive_downscale``: energy 30 % above target: 30 % fewer hosts, idle ones first;
4. ``lower_frequency``: 15 % above: 15 % fewer MHz;
5. ``consolidate``: utilisation below 40 %: switch off empty hosts, keeping room for what runs and waits and a reserve.

**When rules disagree, runtime wins.** While a runtime target is breached, the rules that take capacity away (3 to 5) are
silent, also when the rules that add capacity are at their bounds: users feel a delay at once and it cannot be given back,
while energy is a sum that later windows can make good; and taking capacity from an overloaded system mostly spends more
energy in the end, since the work is still to be done.

**The same is not said every window.** After a proposal, only a rule that stands above it in the list is heard until the
cool-down is over.

**Several host groups.** Cores and frequency are changed in each group alike, relative to its own, so that the mix of hosts that
tasks were placed for stays as it is. Hosts are taken away first where an idle core costs the most power, ties in the order of
definition; idle ones of all groups before busy ones of any. Every task in the system keeps a host that it fits, and whoever
would be placed now still is, by cores, memory, accelerators and all else that the scheduler looks at (`opendt.optimization.room`).
Busy hosts are never emptied by force: they finish what they run and take nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from opendt.model.errors import ModelError, shown
from opendt.model.proposal import Bounds, Proposal
from opendt.model.slo import Slo
from opendt.model.topology import Topology
from opendt.optimization.base import Context, SystemState, TaskLoad, groups_of_topology
from opendt.optimization.rules import RULES, Installed, RuleSettings, Statuses, worst_runtime
from opendt.optimization.scoring import check_slo, score
from opendt.twin.metrics import WindowMetrics

__all__ = ["RuleBasedOptimizer", "RuleSettings", "rule_based_optimization"]

_M = TypeVar("_M", Slo, Topology)
_R = TypeVar("_R", WindowMetrics, TaskLoad)

_ADDS_CAPACITY: Final = ("scale_up", "light_scale_up")
_URGENCY: Final = {name: rank for rank, name in enumerate(RULES)}


@dataclass(frozen=True, slots=True)
class _Said:
    rule: str
    time_ms: int


class RuleBasedOptimizer:
    """Asks the rules in order; remembers what it said last, and the hosts as it first saw them.

    Parameters
    ----------
    settings : RuleSettings, optional
        Thresholds and amounts.

    Notes
    -----
    Deterministic: the same contexts in the same order give the same proposals.
    """

    def __init__(self, settings: RuleSettings | None = None) -> None:
        self.settings = RuleSettings() if settings is None else settings
        self._installed: Installed = {}
        self._said: _Said | None = None

    def propose(self, context: Context) -> Proposal | None:
        """Propose what the most urgent rule that applies asks for; None to keep things as they are."""
        if not self._installed:
            self._look_at(context)
        statuses: Statuses = {
            status.name: status for status in check_slo(context.slo, context.metrics) if status.weight > 0
        }
        worst = worst_runtime(statuses)
        too_slow = worst is not None and worst.met is False
        for name, rule in RULES.items():
            if (too_slow and name not in _ADDS_CAPACITY) or self._is_cooling(name, context.now_ms):
                continue
            draft = rule(context, statuses, self.settings, self._installed)
            if draft is not None:
                self._said = _Said(name, context.now_ms)
                bounds = self._bounds(context)
                return Proposal.of("rule_based", context.now_ms, name, draft.reason, draft.changes, bounds)
        return None

    def _look_at(self, context: Context) -> None:
        for group in context.groups:
            self._installed.setdefault((group.cluster, group.group), (group.core_count, group.core_speed_mhz))

    def _is_cooling(self, rule: str, now_ms: int) -> bool:
        if self._said is None or now_ms - self._said.time_ms >= self.settings.cooldown_ms:
            return False
        return _URGENCY[rule] >= _URGENCY[self._said.rule]

    def _bounds(self, context: Context) -> Bounds:
        if not context.groups:
            return Bounds(min_hosts=1)
        self._look_at(context)
        installed = [self._installed[group.cluster, group.group] for group in context.groups]
        return Bounds(
            min_hosts=1,
            max_hosts=context.host_count,
            min_core_speed_mhz=min(mhz for _, mhz in installed) * self.settings.min_core_speed_ratio,
            max_core_speed_mhz=max(mhz for _, mhz in installed),
            min_core_count=min(cores for cores, _ in installed),
            max_core_count=max(1, int(max(cores for cores, _ in installed) * self.settings.max_core_ratio)),
        )


def rule_based_optimization(
    sim_results: Mapping[str, Any],
    batch_data: Mapping[str, Any],
    slo_targets: Mapping[str, Any],
    current_topology: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Decide once, from plain dicts to a plain dict; it remembers nothing, so there is no cool-down.

    Parameters
    ----------
    sim_results : mapping
        Fields of `opendt.twin.metrics.WindowMetrics`; ``start_ms`` and ``end_ms`` are needed, others are unknown when absent.
    batch_data : mapping
        The tasks in the system: ``running``, ``queued`` (counts, default ``tasks_active`` and ``tasks_pending`` of the
        results) and ``largest_core_count`` (default 0: of no task the cores are known).
    slo_targets : mapping
        Content of ``slo.json``.
    current_topology : mapping, optional
        ``Topology.model_dump(mode="json")``. The busy hosts are taken to be the first ``hosts_busy`` in order of definition.
        Without a topology, hosts are only counted and throttled, and the rules that need their cores propose nothing.

    Returns
    -------
    dict
        ``action`` (a rule, or ``"keep"``), ``reason``, ``proposal`` (None, or what ``Proposal.model_validate`` reads),
        ``slo`` (a dict for each target, the fields of ``SloStatus``), ``score`` (the fields of ``Score``).

    Raises
    ------
    ModelError
        When one of the dicts is not what it should be; names the key.
    """
    slo = _read(Slo, slo_targets, "slo_targets")
    metrics = _record(WindowMetrics, sim_results, "sim_results")
    if metrics.end_ms <= metrics.start_ms:
        raise ModelError("sim_results.end_ms", metrics.end_ms, f"a time after start_ms ({metrics.start_ms})")
    load = _record(
        TaskLoad,
        {"running": metrics.tasks_active or 0, "queued": metrics.tasks_pending or 0, **batch_data},
        "batch_data",
    )
    topology = None if current_topology is None else _read(Topology, current_topology, "current_topology")
    groups = () if topology is None else groups_of_topology(topology, metrics.hosts_busy or 0)
    system = SystemState(groups=groups, load=load)
    context = Context(now_ms=metrics.end_ms, slo=slo, metrics=metrics, source=system)
    proposal = RuleBasedOptimizer().propose(context)
    return {
        "action": "keep" if proposal is None else proposal.rule,
        "reason": "no rule applies" if proposal is None else proposal.reason,
        "proposal": None if proposal is None else proposal.model_dump(mode="json"),
        "slo": [asdict(status) for status in check_slo(slo, metrics)],
        "score": asdict(score(slo, metrics)),
    }


def _read(kind: type[_M], content: Mapping[str, Any], place: str) -> _M:
    """Read a pydantic record from a dict."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first: Mapping[str, Any] = error.errors(include_url=False)[0]
        key = ".".join((place, *(str(part) for part in first["loc"])))
        raise ModelError(key, shown(first["input"]), first["msg"]) from error


def _record(kind: type[_R], content: Mapping[str, Any], place: str) -> _R:
    """Read a record of plain numbers from a dict."""
    known = {field.name for field in fields(kind)}
    for key, value in content.items():
        if key not in known:
            raise ModelError(f"{place}.{key}", shown(value), f"one of the keys {', '.join(sorted(known))}")
        number = isinstance(value, int | float) and math.isfinite(value) and value >= 0
        if not number and value is not None:
            raise ModelError(f"{place}.{key}", shown(value), "a finite number of at least 0, or None where unknown")
    required = {field.name for field in fields(kind) if field.default is MISSING}
    for key in sorted(required):
        if content.get(key) is None:
            raise ModelError(f"{place}.{key}", "no value", "a number")
    return kind(**content)

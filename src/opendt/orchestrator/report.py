"""From the journal of a run to what its report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.orchestrator.outcome import versions
from opendt.twin.drift import DriftEvent
from opendt.verification.report_data import (
    CurveComparison,
    Disturbance,
    Effect,
    EventRow,
    Fact,
    ProposalRow,
    ReportData,
    Series,
    SloRow,
)

if TYPE_CHECKING:
    from opendt.model.proposal import Compared, Proposal, SimulatedEffect
    from opendt.optimization.scoring import SloStatus
    from opendt.orchestrator.outcome import Outcome

__all__ = ["report_data"]

_SLO_NAMES: Final = {
    "energy": "Energy per window",
    "carbon": "Carbon per window",
    "peak_power": "Peak power",
    "makespan": "Makespan of a window's tasks",
    "task_wait_p95": "Task wait, 95th percentile",
    "task_slowdown_p95": "Task slowdown, 95th percentile",
    "utilization": "CPU utilisation",
}
_EFFECTS: Final = (
    ("energy_j", "Energy", "kWh", 1 / 3.6e6),
    ("peak_power_w", "Peak power", "kW", 1e-3),
    ("emission_g", "Carbon", "kg", 1e-3),
    ("task_wait_p95_s", "Wait p95", "s", 1.0),
    ("makespan_s", "Makespan", "s", 1.0),
    ("hosts_up", "Hosts up", "", 1.0),
    ("tasks_completed", "Tasks completed", "", 1.0),
)


def report_data(outcome: Outcome) -> ReportData:
    """Collect all that the report shows."""
    orchestrator = outcome.orchestrator
    environment = orchestrator.environment
    series = outcome.series
    return ReportData(
        title=environment.title,
        summary=_summary(outcome),
        end_ms=environment.source.end_ms,
        window_ms=orchestrator.settings.window_ms,
        windows=len(outcome.journal.turns),
        wall_s=outcome.wall_s,
        measured_time_ms=outcome.measured_time_ms,
        measured_w=outcome.measured_w,
        kinds=outcome.predictions,
        scores=outcome.scores,
        start_epoch_ms=orchestrator.twin.simulation.start_epoch_ms,
        curves=_curves(outcome),
        disturbance=Disturbance(
            time_ms=np.array([time for time, _ in outcome.journal.disturbance_w], np.int64),
            power_w=np.array([watts for _, watts in outcome.journal.disturbance_w]),
        ),
        series=Series(
            time_ms=series["time_ms"],
            energy_j=series["energy_j"],
            emission_g=series["emission_g"],
            intensity_g_per_kwh=series["intensity_g_per_kwh"],
            utilization_ratio=series["utilization_ratio"],
            tasks_active=series["tasks_active"],
            tasks_pending=series["tasks_pending"],
        ),
        slo_rows=_slo_rows(outcome),
        proposals=[_proposal_row(proposal, effect) for proposal, effect in outcome.journal.proposals],
        events=[_event_row(kind, event, environment.source.tick_ms) for kind, event in outcome.journal.events],
        facts=_facts(outcome),
    )


def _summary(outcome: Outcome) -> str:
    topology = outcome.orchestrator.environment.topology
    groups = [group for cluster in topology.clusters for group in cluster.hosts]
    hosts = sum(group.count for group in groups)
    cores = sum(group.count * group.core_count for group in groups)
    tasks = len(outcome.orchestrator.environment.workload)
    return f"{hosts} hosts with {cores} cores, {tasks} tasks"


def _curves(outcome: Outcome) -> list[CurveComparison]:
    curves = []
    for host_class in outcome.orchestrator.twin.classes:
        utilization, learned_w = outcome.orchestrator.hour.calibrator.curve(host_class.name)
        curves.append(
            CurveComparison(
                class_name=host_class.name,
                host_count=host_class.host_count,
                utilization=np.array(utilization),
                datasheet_w=np.interp(utilization, host_class.utilization, host_class.power_w),
                learned_w=np.array(learned_w),
            )
        )
    return curves


def _slo_rows(outcome: Outcome) -> list[SloRow]:
    by_name: dict[str, list[tuple[int, SloStatus]]] = {}
    for _, metrics, objectives in outcome.journal.turns:
        for status in objectives:
            by_name.setdefault(status.name, []).append((metrics.start_ms, status))
    rows = []
    for name, found in by_name.items():
        measured = [status.measured for _, status in found if status.measured is not None]
        unit = found[0][1].unit
        rows.append(
            SloRow(
                name=_SLO_NAMES.get(name, name),
                target=f"{_target_word(name)} {found[0][1].target:g} {unit}".rstrip(),
                measured=f"{np.mean(measured):.4g} {unit} (mean)".replace("  ", " ") if measured else "not measured",
                met_windows=sum(status.met is True for _, status in found),
                checked_windows=sum(status.met is not None for _, status in found),
                breached_ms=[start_ms for start_ms, status in found if status.met is False],
            )
        )
    return rows


def _target_word(name: str) -> str:
    return "near" if name == "utilization" else "at most"


def _proposal_row(proposal: Proposal, effect: SimulatedEffect) -> ProposalRow:
    effects = []
    for field, name, unit, factor in _EFFECTS:
        compared: Compared = getattr(effect, field)
        if compared.baseline is not None and compared.changed is not None:
            effects.append(
                Effect(name=name, unit=unit, before=compared.baseline * factor, after=compared.changed * factor)
            )
    after = [slo.met_after for slo in effect.slos if slo.met_after is not None]
    return ProposalRow(
        time_ms=proposal.time_ms,
        source=proposal.source,
        reason=proposal.reason,
        change="; ".join(_change_words(change) for change in proposal.changes),
        effects=effects,
        slos_hold=all(after) if after else None,
    )


def _change_words(change: Any) -> str:
    """Say what a change does, from its fields that are set."""
    record = change.model_dump(exclude_none=True, exclude_defaults=False, mode="json")
    kind = str(record.pop("type")).replace("_", " ")
    hosts = record.pop("hosts", None)
    where = ""
    if isinstance(hosts, dict):
        names = hosts.get("names")
        where = f" {len(names)} hosts" if names else f" {hosts.get('group') or hosts.get('cluster') or 'all hosts'}"
    rest = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in record.items()
    )
    return f"{kind}{where}" + (f": {rest}" if rest else "")


def _event_row(kind: str, event: Any, tick_ms: int) -> EventRow:
    time_ms = event.tick * tick_ms
    if isinstance(event, DriftEvent):
        words = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in event.as_dict().items()
            if name != "tick"
        )
        return EventRow(time_ms=time_ms, kind="drift", text=f"Calibration of the {kind} forecast: {words}")
    text = (
        f"Calibration of the {kind} forecast went back to its curves of hour {event.to_tick * tick_ms / 3.6e6:.0f}: "
        f"error {100 * event.error_ratio:.2f} % against {100 * event.kept_error_ratio:.2f} %"
    )
    return EventRow(time_ms=time_ms, kind="rollback", text=text)


def _facts(outcome: Outcome) -> list[Fact]:
    orchestrator = outcome.orchestrator
    facts = [Fact("Versions", name, value) for name, value in versions().items()]
    facts += [Fact("Inputs", name, digest) for name, digest in orchestrator.environment.input_hashes.items()]
    settings = orchestrator.settings
    facts += [
        Fact("Settings", "environment", orchestrator.environment.name),
        Fact("Settings", "seed", str(settings.seed)),
        Fact("Settings", "window", f"{settings.window_ms / 1000:g} s"),
        Fact("Settings", "horizon of proposals", f"{settings.horizon_ms / 1000:g} s"),
        Fact("Settings", "sampled futures", str(settings.futures)),
        Fact("Settings", "objectives", orchestrator.slo.model_dump_json(exclude_none=True)),
    ]
    return facts

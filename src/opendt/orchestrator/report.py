"""From the journal of a run to what its report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.model.change import (
    AddHosts,
    ClusterHosts,
    GroupHosts,
    NamedHosts,
    RemoveHosts,
    ResizeHosts,
    ThrottleHosts,
)
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
    ("hosts_up", "In service", "hosts", 1.0),
    ("tasks_completed", "Completed", "tasks", 1.0),
)


def report_data(outcome: Outcome) -> ReportData:
    """Collect all that the report shows."""
    rehearsal = outcome.rehearsal
    environment = rehearsal.environment
    series = outcome.series
    return ReportData(
        title=environment.title,
        summary=_summary(outcome),
        end_ms=environment.source.end_ms,
        window_ms=rehearsal.settings.window_ms,
        windows=len(outcome.journal.turns),
        wall_s=outcome.wall_s,
        measured_time_ms=outcome.measured_time_ms,
        measured_w=outcome.measured_w,
        kinds={kind: outcome.predictions[kind] for kind in outcome.scores},  # a short run has no blind hour to judge
        scores=outcome.scores,
        start_epoch_ms=rehearsal.cycle.twin.simulation.start_epoch_ms,
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
    topology = outcome.rehearsal.environment.topology
    groups = [group for cluster in topology.clusters for group in cluster.hosts]
    hosts = sum(group.count for group in groups)
    cores = sum(group.count * group.core_count for group in groups)
    tasks = outcome.rehearsal.environment.task_count
    return f"{hosts} hosts with {cores} cores, {tasks} tasks"


def _curves(outcome: Outcome) -> list[CurveComparison]:
    curves = []
    for host_class in outcome.rehearsal.cycle.twin.classes:
        utilization, learned_w = outcome.rehearsal.cycle.hour.calibrator.curve(host_class.name)
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
                target=_target_words(outcome, found[0][1]),
                measured=f"{_quantity(float(np.mean(measured)), unit)} (mean)" if measured else "not measured",
                met_windows=sum(status.met is True for _, status in found),
                checked_windows=sum(status.met is not None for _, status in found),
                breached_ms=[start_ms for start_ms, status in found if status.met is False],
            )
        )
    return rows


def _target_words(outcome: Outcome, status: SloStatus) -> str:
    band = outcome.rehearsal.cycle.slo.utilization
    if status.name == "utilization" and band is not None:
        return f"{100 * band.min_ratio:g} to {100 * band.max_ratio:g} %"
    return f"at most {_quantity(status.target, status.unit)}"


def _quantity(value: float, unit: str) -> str:
    """Say a quantity; a ratio in percent up to one, as a factor above."""
    if unit == "ratio":
        return f"{100 * value:.3g} %" if value < 1 else f"{value:.3g} times"
    return f"{value:.4g} {unit}"


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
    """Say what a change does, for a person."""
    match change:
        case RemoveHosts(hosts=hosts, count=count):
            return f"switch off {_hosts_words(hosts, count)}"
        case AddHosts(cluster=cluster, group=group):
            return f"add {group.count} {group.name} hosts to {cluster}"
        case ResizeHosts(hosts=hosts):
            sizes = [
                f"{value:g} {unit}"
                for value, unit in (
                    (change.core_count, "cores"),
                    (change.core_speed_mhz, "MHz"),
                    (change.memory_mib, "MiB"),
                )
                if value is not None
            ]
            return f"set {_hosts_words(hosts, None)} to {', '.join(sizes)}"
        case ThrottleHosts(hosts=hosts, speed_ratio=ratio):
            return f"run {_hosts_words(hosts, None)} at {100 * ratio:g} % of their frequency"
        case _:
            return str(change.type).replace("_", " ")


def _hosts_words(hosts: Any, count: int | None) -> str:
    match hosts:
        case NamedHosts(names=names):
            return f"{len(names)} hosts ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        case GroupHosts(group=group):
            return f"{'all' if count is None else count} {group} hosts"
        case ClusterHosts(cluster=cluster):
            return f"{'all' if count is None else count} hosts of {cluster}"
        case _:
            return f"{'all' if count is None else count} hosts"


def _event_row(kind: str, event: Any, tick_ms: int) -> EventRow:
    time_ms = event.tick * tick_ms
    if isinstance(event, DriftEvent):
        hours = (event.tick - event.since_tick) * tick_ms / 3.6e6
        text = (
            f"Measured power left what the {kind} forecast's curves explain by {100 * event.size_ratio:+.1f} % "
            f"({event.kind}, over {hours:.1f} h)"
        )
        return EventRow(time_ms=time_ms, kind="step" if event.kind == "step" else "drift", text=text)
    text = (
        f"The {kind} forecast went back to its curves of hour {event.to_tick * tick_ms / 3.6e6:.0f}: "
        f"error {100 * event.error_ratio:.2f} % against {100 * event.kept_error_ratio:.2f} %"
    )
    return EventRow(time_ms=time_ms, kind="rollback", text=text)


def _facts(outcome: Outcome) -> list[Fact]:
    rehearsal = outcome.rehearsal
    facts = [Fact("Versions", name, value) for name, value in versions().items()]
    facts += [Fact("Inputs", name, digest) for name, digest in rehearsal.environment.input_hashes.items()]
    settings = rehearsal.settings
    facts += [
        Fact("Settings", "environment", rehearsal.environment.name),
        Fact("Settings", "seed", str(settings.seed)),
        Fact("Settings", "window", f"{settings.window_ms / 1000:g} s"),
        Fact("Settings", "horizon of proposals", f"{settings.horizon_ms / 1000:g} s"),
        Fact("Settings", "sampled futures", str(settings.futures)),
        Fact("Settings", "objectives", rehearsal.cycle.slo.model_dump_json(exclude_none=True)),
    ]
    return facts

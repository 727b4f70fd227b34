"""From a turn of the loop to what is kept of it (the ledger's entry) and what is told of it (results, events)."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt._engine import __version__
from opendt.formats.opendc_topology_writer import topology_json
from opendt.optimization.scoring import score
from opendt.orchestrator import event_types as events
from opendt.telemetry.message_models import (
    ForecastMessage,
    ProposalMessage,
    ResultMessage,
    ScoreMessage,
    TopologyMessage,
)
from opendt.twin.drift import DriftEvent
from opendt.verification.ledger_rows import (
    DocumentRow,
    EventRow,
    ObservationRow,
    PositionRow,
    PredictionRow,
    VerdictRow,
    WindowEntry,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opendt.model.topology import Topology
    from opendt.optimization.scoring import SloStatus
    from opendt.orchestrator.cycle import Cycle, Turn
    from opendt.telemetry.windows import WindowInput
    from opendt.twin.forecast import Forecast
    from opendt.twin.metrics import WindowMetrics

__all__ = ["entry_of", "events_of", "proposals_of", "result_of", "topology_of"]

HOUR_MS: Final = 3_600_000
_HINDCASTS: Final = frozenset({"hour", "window"})


def entry_of(
    closed: WindowInput,
    turn: Turn,
    cycle: Cycle,
    *,
    topology_version: int | None,
    slo_version: int | None,
    extra_events: Iterable[EventRow] = (),
) -> WindowEntry:
    """All that the ledger keeps of a turn: functions of the inputs alone."""
    tick_ms = cycle.readings.tick_ms
    ticks = closed.start_ms + tick_ms * np.arange(1, len(turn.window.measured_w) + 1)
    seen = np.isfinite(turn.window.measured_w)
    return WindowEntry(
        datacenter=closed.datacenter,
        index=closed.index,
        start_ms=closed.start_ms,
        end_ms=closed.end_ms,
        input_hash=closed.input_hash,
        metrics=_fields(turn.metrics) | {f"{name}_count": count for name, count in closed.counts.items()},
        slo=[*(_fields(status) for status in turn.slo), *({"budget": asdict(budget)} for budget in turn.budgets)],
        score=score(cycle.slo, turn.metrics).total,
        predictions=[_prediction(forecast, closed, tick_ms) for forecast in turn.predictions],
        observation=ObservationRow(ticks[seen].tolist(), turn.window.measured_w[seen].tolist()),
        verdicts=[
            VerdictRow(
                verdict.kind,
                verdict.issued_ms + closed.origin_ms,
                verdict.points,
                verdict.error_ratio,
                verdict.bias_ratio,
                verdict.coverage_ratio,
                verdict.persistence_error_ratio,
                verdict.skill_ratio,
            )
            for verdict in turn.verdicts
        ],
        proposals=_proposals(turn),
        certificates=_certificates(turn),
        decisions=_decisions(turn),
        events=[
            *(_event_row(event) for event in _noteworthy(closed, turn)),
            *_calibration(closed, turn, cycle),
            *extra_events,
        ],
        positions=[
            PositionRow(p.topic, p.partition, p.resume_offset, p.next_offset, p.watermark_ms) for p in closed.positions
        ],
        topology_version=topology_version,
        slo_version=slo_version,
    )


def _fields(record: WindowMetrics | SloStatus) -> dict[str, Any]:
    """Fields of a flat record; `asdict` would copy each value, which is the most of a window's bookkeeping."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _prediction(forecast: Forecast, closed: WindowInput, tick_ms: int) -> PredictionRow:
    return PredictionRow(
        kind=forecast.kind,
        issued_ms=forecast.issued_ms + closed.origin_ms,
        first_target_ms=int(forecast.target_ms[0]) + closed.origin_ms,
        tick_ms=tick_ms,
        values={name: getattr(forecast, name).tolist() for name in ("power_w", "lower_w", "upper_w")},
        input_hash=closed.input_hash,
        version=__version__,
    )


def _proposals(turn: Turn) -> list[DocumentRow]:
    """Proposals that were made in this turn; those that waited are there already."""
    rows = {}
    for one in turn.candidates:
        if one.proposal.time_ms == turn.window.end_ms:
            content = one.proposal.model_dump(mode="json")
            if one.effect is not None:
                content["simulated_effect"] = one.effect.model_dump(mode="json")
            rows[one.proposal.id] = DocumentRow(one.proposal.id, content)
    return list(rows.values())


def _certificates(turn: Turn) -> list[DocumentRow]:
    certificates = [one.certificate for one in turn.candidates if one.certificate is not None]
    return [DocumentRow(one.hash, one.model_dump(mode="json"), one.proposal.id) for one in certificates]


def _decisions(turn: Turn) -> list[DocumentRow]:
    return [DocumentRow(one.decision.id, asdict(one.decision), one.proposal.id) for one in turn.candidates]


def _calibration(closed: WindowInput, turn: Turn, cycle: Cycle) -> Iterator[EventRow]:
    """What has been learned of the power curves, at each full hour that became known."""
    for one in turn.confirmed:
        if one.observed.end_ms % HOUR_MS == 0:
            curves = {c.name: cycle.hour.calibrator.curve(c.name) for c in cycle.twin.classes}
            content = {name: {"utilization_ratio": list(u), "power_w": list(w)} for name, (u, w) in curves.items()}
            yield EventRow("calibration", one.observed.end_ms + closed.origin_ms, content)
            return


def _event_row(event: events.Event) -> EventRow:
    content = {name: value for name, value in event.as_dict().items() if name not in ("kind", "datacenter", "time_ms")}
    return EventRow(event.kind, event.time_ms or 0, content, event.level)


def events_of(closed: WindowInput, turn: Turn) -> Iterator[events.Event]:
    """Everything that a turn brought, in order, for the bus."""
    counts, where = closed.counts, closed.datacenter
    yield events.WindowClosed(
        datacenter=where,
        time_ms=closed.end_ms,
        index=closed.index,
        start_ms=closed.start_ms,
        end_ms=closed.end_ms,
        tasks=counts.get("tasks", 0),
        fragments=counts.get("fragments", 0),
        readings=counts.get("readings", 0),
        late=counts.get("late", 0),
        duplicates=counts.get("duplicate", 0),
    )
    for forecast in turn.predictions:
        yield events.ForecastIssued(
            datacenter=where,
            time_ms=forecast.issued_ms + closed.origin_ms,
            forecast=forecast.kind,
            until_ms=int(forecast.target_ms[-1]) + closed.origin_ms,
            power_w=float(forecast.power_w.mean()),
            lower_w=float(forecast.lower_w.mean()),
            upper_w=float(forecast.upper_w.mean()),
            is_hindcast=forecast.kind in _HINDCASTS,
        )
    for verdict in turn.verdicts:
        if verdict.error_ratio is None or verdict.bias_ratio is None or verdict.coverage_ratio is None:
            continue
        yield events.PredictionVerified(
            datacenter=where,
            time_ms=verdict.target_ms + closed.origin_ms,
            forecast=verdict.kind,
            issued_ms=verdict.issued_ms + closed.origin_ms,
            error_ratio=verdict.error_ratio,
            bias_ratio=verdict.bias_ratio,
            coverage_ratio=verdict.coverage_ratio,
            persistence_error_ratio=verdict.persistence_error_ratio,
        )
    yield from _noteworthy(closed, turn)


def _noteworthy(closed: WindowInput, turn: Turn) -> Iterator[events.Event]:
    """What happened in a turn beyond its regular course."""
    where = closed.datacenter
    for one in turn.confirmed:
        for kind, event in one.events:
            time_ms = one.observed.end_ms + closed.origin_ms
            if isinstance(event, DriftEvent):
                tick_ms = (closed.end_ms - closed.start_ms) // len(turn.window.measured_w)
                yield _drift(where, time_ms, kind, event, closed.origin_ms + event.since_tick * tick_ms)
            else:
                found = event.as_dict()
                reason = (
                    f"error {found['error_ratio']:.2%} against {found['kept_error_ratio']:.2%} of the earlier curves"
                )
                yield events.Rollback(datacenter=where, time_ms=time_ms, forecast=kind, reason=reason)
    yield from _decided(closed, turn)


def _decided(closed: WindowInput, turn: Turn) -> Iterator[events.Event]:
    where, when = closed.datacenter, closed.end_ms
    for one in turn.candidates:
        if one.proposal.time_ms == turn.window.end_ms:
            yield events.ProposalMade(
                datacenter=where,
                time_ms=when,
                proposal=one.proposal.id,
                source=one.proposal.source,
                reason=one.proposal.reason,
            )
        if one.certificate is not None:
            reasons = "; ".join(reason.text for reason in one.certificate.reasons)
            yield events.CertificateIssued(
                datacenter=where,
                time_ms=when,
                proposal=one.proposal.id,
                verdict=one.certificate.decision,
                reason=reasons or f"shown after {one.certificate.decided_after} pairs of futures",
            )
        decision = one.decision
        yield events.Decision(
            datacenter=where,
            time_ms=when,
            proposal=decision.proposal_id,
            verdict=decision.verdict,
            by=decision.by,
            reason=decision.reason,
        )
    for judged in turn.aftermath:
        yield events.ChangeJudged(datacenter=where, time_ms=when, **judged.as_dict(closed.origin_ms))
    if turn.trust is not None:
        change = turn.trust
        yield events.TrustChanged(
            datacenter=where, time_ms=when, before=change.before, after=change.after, reason=change.reason
        )


def _drift(where: str, time_ms: int, kind: str, event: DriftEvent, since_ms: int) -> events.Drift:
    return events.Drift(
        datacenter=where,
        time_ms=time_ms,
        forecast=kind,
        change=event.kind,
        since_ms=since_ms,
        size_ratio=event.size_ratio,
    )


def result_of(closed: WindowInput, turn: Turn) -> ResultMessage:
    """What is told of a turn on ``sim.results``: made of what was made here, so it is not checked again."""
    origin_ms = closed.origin_ms
    return ResultMessage.model_construct(
        timestamp=closed.end_ms,
        datacenter=closed.datacenter,
        window=closed.index,
        start=closed.start_ms,
        end=closed.end_ms,
        input_hash=closed.input_hash,
        metrics=_without_nan(_fields(turn.metrics)),
        forecasts=tuple(_forecast_message(forecast, origin_ms) for forecast in turn.predictions),
        errors=tuple(
            ScoreMessage.model_construct(
                kind=verdict.kind,
                points=verdict.points,
                mape_ratio=verdict.error_ratio,
                persistence_mape_ratio=verdict.persistence_error_ratio,
                coverage_ratio=verdict.coverage_ratio,
            )
            for verdict in turn.verdicts
        ),
        slo=tuple(_without_nan(_fields(status)) for status in turn.slo),
        counts=dict(closed.counts),
    )


def proposals_of(closed: WindowInput, turn: Turn) -> Iterator[ProposalMessage]:
    """What is told of a turn's proposals on ``sim.proposals``."""
    for one in turn.candidates:
        outcome: dict[str, Any] | None = None
        if one.effect is not None:
            outcome = {"simulated": one.effect.model_dump(mode="json")}
        yield ProposalMessage(
            timestamp=closed.end_ms,
            datacenter=closed.datacenter,
            window=closed.index,
            id=one.proposal.id,
            proposal=one.proposal.model_dump(mode="json"),
            certificate=None if one.certificate is None else one.certificate.model_dump(mode="json"),
            decision=asdict(one.decision),
            outcome=outcome,
        )
    for judged in turn.aftermath:
        yield ProposalMessage(
            timestamp=closed.end_ms,
            datacenter=closed.datacenter,
            window=closed.index,
            id=judged.proposal.id,
            proposal=judged.proposal.model_dump(mode="json"),
            outcome={"after_the_fact": judged.as_dict(closed.origin_ms)},
        )


def topology_of(closed: WindowInput, topology: Topology, version: int | None, source: str) -> TopologyMessage:
    """What is told of the topology in force in the twin on ``sim.topology``; carbon traces are left out."""
    return TopologyMessage(
        timestamp=closed.end_ms, topology=topology_json(topology, {}), version=version, source=source
    )


def _forecast_message(forecast: Forecast, origin_ms: int) -> ForecastMessage:
    return ForecastMessage.model_construct(
        kind=forecast.kind,
        issued=forecast.issued_ms + origin_ms,
        hindcast=forecast.kind in _HINDCASTS,
        target=tuple((forecast.target_ms + origin_ms).tolist()),
        power_draw=tuple(forecast.power_w.tolist()),
        lower=tuple(forecast.lower_w.tolist()),
        upper=tuple(forecast.upper_w.tolist()),
    )


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in values.items()
    }

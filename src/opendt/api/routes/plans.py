"""``/plan``, ``/plans``: jobs are placed, followed and verified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from opendt.api.answers import PlanAnswer, PlanRequest, PlansAnswer, PlansRequest, RecordAnswer, StartAnswer, body
from opendt.model.plan import Infeasible, Plan, PlanVerdict

if TYPE_CHECKING:
    from opendt.orchestrator.events import Notice
    from opendt.orchestrator.fleet import FleetService
    from opendt.orchestrator.fleet_ports import StartEstimate

__all__ = ["plan_routes"]

_JSON: Final = "application/json"
_WAIT_S: Final = 10.0
"""How long a stream waits for an event before it shows that it is alive."""


def plan_routes(service: FleetService) -> APIRouter:
    """Make the routes of a fleet's plans."""
    router = APIRouter(tags=["plans"])

    @router.post("/plan", response_model=PlanAnswer)
    def make_plan(request: PlanRequest) -> Response:
        """Place a job. The same job again gives the plan that is there."""
        plan = service.plan(request.job, request.strategy, dry_run=request.dry_run)
        return Response(body(PlanAnswer.of(plan)), media_type=_JSON)

    @router.post("/plans", response_model=PlansAnswer)
    def make_plans(request: PlansRequest) -> Response:
        """Place jobs in their order, each seeing the ones before it; all or none, unless `partial`."""
        place = service.plan_each if request.partial else service.plan_all
        found: Sequence[Plan | Infeasible] = place(request.jobs, request.strategy, dry_run=request.dry_run)
        answer = PlansAnswer(
            plans=tuple(PlanAnswer.of(plan) for plan in found if isinstance(plan, Plan)),
            infeasible={
                job.id: why for job, why in zip(request.jobs, found, strict=True) if isinstance(why, Infeasible)
            },
        )
        return Response(body(answer), media_type=_JSON)

    @router.get("/plan/{plan_id}", response_model=RecordAnswer)
    def show_plan(plan_id: str) -> Response:
        """Say all that is known of a plan."""
        return Response(body(RecordAnswer.of(service.record(plan_id))), media_type=_JSON)

    @router.get("/plan/{plan_id}/verify", response_model=PlanVerdict)
    def verify_plan(plan_id: str) -> Response:
        """Hold a plan against what happened: predicted, observed and the error of latency, energy, CPU and memory."""
        return Response(body(service.verify(plan_id)), media_type=_JSON)

    @router.get("/plan/{plan_id}/explain")
    def explain_plan(plan_id: str) -> dict[str, str]:
        """Say in words why a plan is as it is."""
        return {"plan_id": plan_id, "explanation": service.explain(plan_id)}

    @router.get("/plan/{plan_id}/start")
    def when_will_it_start(plan_id: str) -> dict[str, StartAnswer]:
        """Estimate when the stages of a plan that have not begun will start."""
        return {stage: _start(estimate) for stage, estimate in service.start_of(plan_id).items()}

    @router.get("/pod/{cluster}/{namespace}/{name}/start", response_model=StartAnswer | None)
    def when_will_the_pod_start(cluster: str, namespace: str, name: str) -> StartAnswer | None:
        """Estimate when a pod that waits will start, whoever made it; null when it does not wait or never will start."""
        estimate = service.start_of_pod(cluster, namespace, name)
        return None if estimate is None else _start(estimate)

    @router.get("/plan/{plan_id}/events", response_class=StreamingResponse)
    async def follow_plan(
        plan_id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        last_event_id: Annotated[int | None, Header(ge=0)] = None,
    ) -> StreamingResponse:
        """Stream what happens to a plan as server-sent events, until it is over; ``Last-Event-ID`` goes on after it."""
        service.record(plan_id)  # an unknown plan is a problem, not an empty stream
        first = after if last_event_id is None else last_event_id
        return StreamingResponse(_stream(service, plan_id, first), media_type="text/event-stream")

    return router


def _start(estimate: StartEstimate) -> StartAnswer:
    quantiles = {f"{quantile:g}": moment for quantile, moment in estimate.quantiles_ms.items()}
    return StartAnswer(quantiles_ms=quantiles, reason=estimate.reason)


async def _stream(service: FleetService, plan_id: str, after: int) -> AsyncIterator[bytes]:
    while True:
        is_over = await run_in_threadpool(service.is_over, plan_id)
        told = await run_in_threadpool(service.events, plan_id, after, 0.0 if is_over else _WAIT_S)
        for notice in told:
            after = notice.number
            yield _event(notice)
        if is_over and not told:
            return
        if not told:
            yield b": waiting\n\n"
        await asyncio.sleep(0)


def _event(notice: Notice) -> bytes:
    import orjson

    content: dict[str, Any] = notice.event.as_dict()
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (notice.number, notice.event.kind.encode(), orjson.dumps(content))

"""``/scheduler/filter`` and ``/scheduler/prioritize``: what kube-scheduler asks an extender.

The body and the answer are those of the scheduler's own version 1 types, whose JSON names are fixed there.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

__all__ = ["Extender", "scheduler_routes"]

Extender = Callable[[str, bytes], bytes]
"""Takes a verb and the body; gives the answer's body."""


def scheduler_routes(extender: Extender) -> APIRouter:
    """Make the routes of an extender."""
    router = APIRouter(prefix="/scheduler", tags=["scheduler"])

    @router.post("/filter")
    async def keep(request: Request) -> Response:
        """Say which nodes can take a pod."""
        answer = await run_in_threadpool(extender, "filter", await request.body())
        return Response(answer, media_type="application/json")

    @router.post("/prioritize")
    async def rank(request: Request) -> Response:
        """Score nodes for a pod from 0 to 10."""
        answer = await run_in_threadpool(extender, "prioritize", await request.body())
        return Response(answer, media_type="application/json")

    return router

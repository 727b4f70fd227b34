"""``/snapshot``, ``/observe``, ``/health``, ``/schemas``: the fleet as last seen, and what others tell of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Response
from starlette.exceptions import HTTPException

from opendt.api.answers import ActionAnswer, ActionRequest, PlanRequest, PlansRequest, SnapshotAnswer, schema
from opendt.model.fleet_observation import FleetObservation
from opendt.model.job import Job

if TYPE_CHECKING:
    from opendt.model.fleet import FleetSnapshot
    from opendt.orchestrator.fleet import FleetService

__all__ = ["fleet_routes", "schemas", "snapshot_body"]

_JSON: Final = "application/json"


def fleet_routes(service: FleetService) -> APIRouter:
    """Make the routes of the fleet itself."""
    router = APIRouter(tags=["fleet"])

    @router.get("/snapshot", response_model=SnapshotAnswer)
    def show_snapshot(
        cluster: Annotated[str | None, Query()] = None,
        pods: Annotated[bool, Query()] = True,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Give clusters, nodes and pods as last seen; the version is the entity tag."""
        seen = service.snapshot()
        if cluster is not None and cluster not in seen.clusters:
            raise HTTPException(
                404, f"found cluster {cluster!r}, expected one of {', '.join(seen.clusters) or 'none yet'}"
            )
        tag = f'"{seen.version}"'
        if if_none_match == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(snapshot_body(seen, cluster, with_pods=pods), media_type=_JSON, headers={"ETag": tag})

    @router.post("/observe", status_code=202)
    def observe(observation: FleetObservation) -> dict[str, int]:
        """Take what somebody outside tells: a node down or up, telemetry, an injected failure."""
        service.observe(observation)
        return {"snapshot_version": service.state.version}

    @router.post("/actions", response_model=ActionAnswer)
    def act(request: ActionRequest) -> ActionAnswer:
        """Do something to the fleet: cordon, uncordon, evict, scale, migrate or replicate a stage of a plan; written down first."""
        return ActionAnswer(**asdict(service.act(request.request, dry_run=request.dry_run)))

    @router.get("/health")
    def health() -> dict[str, Any]:
        """Say how the service is."""
        return service.health()

    @router.get("/strategies")
    def strategies() -> dict[str, Any]:
        """Name the policies that can place jobs."""
        return {"strategies": list(service.strategies), "default": service.strategy}

    @router.get("/schemas/{name}")
    def show_schema(name: str) -> dict[str, Any]:
        """Give the JSON Schema of a body: `job`, `plan`, `plans`, `actions`, `observe` or `snapshot`."""
        known = schemas()
        if name not in known:
            raise HTTPException(404, f"found schema {name!r}, expected one of {', '.join(known)}")
        return known[name]

    return router


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of all bodies, by name."""
    return {
        "job": schema(Job),
        "plan": schema(PlanRequest),
        "plans": schema(PlansRequest),
        "actions": schema(ActionRequest),
        "observe": schema(FleetObservation),
        "snapshot": schema(SnapshotAnswer),
    }


def snapshot_body(seen: FleetSnapshot, cluster: str | None = None, *, with_pods: bool = True) -> bytes:
    """JSON of a snapshot, or of one cluster of it."""
    import orjson

    def chosen(things: Any) -> list[Any]:
        return [thing for thing in things if cluster in (None, thing.cluster)]

    content = {
        "version": seen.version,
        "time_ms": seen.time_ms,
        "clusters": [one for one in seen.clusters.values() if cluster in (None, one.name)],
        "nodes": chosen(seen.nodes.values()),
        "pods": chosen(seen.pods.values()) if with_pods else [],
        "latency": [
            {"from": one, "to": other, "latency_ms": ms} for (one, other), ms in seen.latency.round_trip_ms.items()
        ],
        "job_origins": dict(seen.job_origins),
    }
    return orjson.dumps(content, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)

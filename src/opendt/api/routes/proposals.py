"""``/datacenters/NAME/proposals``: a person takes part in decisions over HTTP, on the road that everybody's proposals take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Body
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opendt.orchestrator.desk import Asked, DecisionDesk, KnownProposal

__all__ = ["proposal_routes"]


def proposal_routes(desks: Mapping[str, DecisionDesk]) -> APIRouter:
    """Make the routes of the datacenters that are followed, by name."""
    router = APIRouter(prefix="/datacenters", tags=["decisions"])

    def desk(name: str) -> DecisionDesk:
        if name not in desks:
            raise HTTPException(404, f"found datacenter {name!r}, expected one of {', '.join(desks)}")
        return desks[name]

    @router.get("")
    def list_datacenters() -> dict[str, list[str]]:
        """Name the datacenters that are followed."""
        return {"datacenters": list(desks)}

    @router.get("/{name}/proposals")
    def list_proposals(name: str, waiting: bool = False) -> dict[str, Any]:
        """List what was proposed, oldest first, and what became of it; only what waits for a person where that is asked."""
        return {"proposals": [_known(one) for one in desk(name).all() if one.waits or not waiting]}

    @router.get("/{name}/proposals/{proposal_id}")
    def show_proposal(name: str, proposal_id: str) -> dict[str, Any]:
        """Show a proposal with its certificates, decisions, and what it brought."""
        return _known(_found(desk(name), proposal_id))

    @router.post("/{name}/proposals", status_code=202)
    def propose(name: str, patch: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008 - how FastAPI says it
        """Propose ``{"changes": [...], "reason": "..."}``, to be simulated, certified and decided on with the next window."""
        return _asked(desk(name).propose(patch))

    @router.post("/{name}/proposals/{proposal_id}/accept", status_code=202)
    def accept(name: str, proposal_id: str) -> dict[str, Any]:
        """Accept what waits: it is certified again, as things are then."""
        _found(desk(name), proposal_id)
        return _asked(desk(name).accept(proposal_id))

    @router.post("/{name}/proposals/{proposal_id}/reject", status_code=202)
    def reject(name: str, proposal_id: str) -> dict[str, Any]:
        """Reject what waits."""
        _found(desk(name), proposal_id)
        return _asked(desk(name).reject(proposal_id))

    return router


def _found(desk: DecisionDesk, proposal_id: str) -> KnownProposal:
    known = {one.id: one for one in desk.all()}
    if proposal_id not in known:
        raise HTTPException(404, f"found proposal {proposal_id!r}, expected one of {desk.datacenter}")
    return known[proposal_id]


def _known(one: KnownProposal) -> dict[str, Any]:
    return asdict(one) | {"waits": one.waits, "certificate": one.certified, "decision": one.last}


def _asked(asked: Asked) -> dict[str, Any]:
    return asdict(asked)

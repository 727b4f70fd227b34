"""The REST interface as an ASGI app, and the thread that serves it."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

import opendt
from opendt.api.problem import add_handlers
from opendt.api.routes.fleet import fleet_routes
from opendt.api.routes.plans import plan_routes
from opendt.api.routes.proposals import proposal_routes
from opendt.api.routes.scheduler import scheduler_routes
from opendt.api.security import guard
from opendt.model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opendt.api.routes.scheduler import Extender
    from opendt.orchestrator.desk import DecisionDesk
    from opendt.orchestrator.fleet import FleetService

__all__ = ["create_app", "serving"]

_ABOUT = "Jobs placed on a fleet of Kubernetes clusters: predicted before they run, verified after. Decisions of datacenters: proposed, accepted, rejected."


def create_app(
    service: FleetService | None = None,
    *,
    desks: Mapping[str, DecisionDesk] | None = None,
    host: str = "127.0.0.1",
    token: str | None = None,
    extender: Extender | None = None,
) -> FastAPI:
    """Make the app.

    Parameters
    ----------
    service : FleetService, optional
        The fleet that it is a face of.
    desks : mapping of str to DecisionDesk, optional
        Datacenters that people take part in the decisions of, by name.
    host : str
        Address that it listens on.
    token : str, optional
        What callers must send as ``Authorization: Bearer TOKEN``.
    extender : callable, optional
        Answers kube-scheduler; without one there are no such routes.

    Raises
    ------
    InputError
        When it would listen for other machines without a token.
    """
    # No pages of documentation: theirs load scripts from elsewhere. The description itself is at /openapi.json.
    app = FastAPI(title="OpenDT", version=opendt.__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    add_handlers(app)
    if service is not None:
        app.include_router(plan_routes(service))
        app.include_router(fleet_routes(service))
    else:
        app.add_api_route("/health", _alive, methods=["GET"])
    if desks:
        app.include_router(proposal_routes(desks))
    if extender is not None:
        app.include_router(scheduler_routes(extender))
    guard(app, host, token)
    return app


def _alive() -> dict[str, bool]:
    """Say that it answers."""
    return {"answers": True}


@contextmanager
def serving(app: FastAPI, host: str, port: int) -> Iterator[int]:
    """Serve an app from a thread while the block runs; gives the port, which is a free one for port 0.

    Raises
    ------
    InputError
        When the address cannot be listened on.
    """
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, lifespan="off")
    try:
        listening = _bound(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "api.port", f"{host}:{port} ({reason})", "an address that is free", "Choose another port."
        ) from error
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="api", daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


def _bound(host: str, port: int) -> socket.socket:
    """Listen at once, so that an address that is taken is an error here and not in a thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets that say that they are TCP; with it an answer waits for 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening

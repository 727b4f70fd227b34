"""Who may call: on loopback everyone on the machine, elsewhere only who knows the token.

A page that a browser shows can send requests to loopback too; it is kept out by the name it calls the server by (against DNS
rebinding) and by the type of its content, which it may not choose without being asked.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING, Final

from fastapi import Request

from opendt.api.problem import problem
from opendt.model.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI, Response
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["MAX_BODY_BYTES", "guard", "is_loopback"]

MAX_BODY_BYTES: Final = 16 * 2**20
_OPEN: Final = frozenset({"/health"})


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(app: FastAPI, host: str, token: str | None) -> None:
    """Let an app refuse who may not call.

    Parameters
    ----------
    app : FastAPI
        The app.
    host : str
        Address that it listens on.
    token : str, optional
        What callers must send as ``Authorization: Bearer TOKEN``.

    Raises
    ------
    InputError
        When it would listen for other machines without a token.
    """
    local = is_loopback(host)
    if not local and not token:
        raise InputError(
            "api.host",
            repr(host),
            "a loopback address, or a token for callers",
            "Set api.token, or api.host to 127.0.0.1.",
        )

    app.add_middleware(_Guard, is_local=local, token=token)


class _Guard:
    """Plain ASGI, since it stands before every request and streams pass through it."""

    def __init__(self, app: ASGIApp, is_local: bool, token: str | None) -> None:
        self._app = app
        self._is_local = is_local
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        name = request.url.hostname or ""
        if self._is_local and not is_loopback(name) and name != "testserver":
            return problem(
                421, "wrong-host", "This server has another name", f"found host {name!r}, expected localhost"
            )
        if self._token and request.url.path not in _OPEN and not _knows(request, self._token):
            detail = "found no valid token, expected `Authorization: Bearer TOKEN`"
            return problem(401, "unauthorized", "Who are you?", detail, WWW_Authenticate="Bearer")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            detail = f"found a body of {length} bytes, expected at most {MAX_BODY_BYTES}"
            return problem(413, "too-large", "The request is too large", detail)
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if request.method == "POST" and kind != "application/json":
            detail = f"found content of type {kind or 'nothing'!r}, expected application/json"
            return problem(415, "wrong-type", "The request is not JSON", detail)
        return None


def _knows(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

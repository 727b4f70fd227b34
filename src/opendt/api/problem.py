"""Errors as ``application/problem+json`` (RFC 9457): what was wrong, where, what was expected and what to do.

``type`` is a URN that names the kind of problem and never changes; ``detail`` is for people; further members are for programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from opendt.model.errors import InputError, LedgerError, OpenDTError
from opendt.orchestrator.fleet import InfeasibleJob, JobConflict, NotLeading, UnknownPlan
from opendt.orchestrator.fleet_actions import ActionRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI

__all__ = ["MEDIA_TYPE", "add_handlers", "problem"]

MEDIA_TYPE: Final = "application/problem+json"

_KINDS: Final[tuple[tuple[type[OpenDTError], int, str, str], ...]] = (
    (InfeasibleJob, 422, "infeasible-job", "The job cannot be placed"),
    (JobConflict, 409, "job-conflict", "The job is planned already, with another content"),
    (UnknownPlan, 404, "unknown-plan", "There is no such plan"),
    (ActionRefused, 409, "action-refused", "The gate does not let it be done"),
    (NotLeading, 503, "not-leading", "Another process leads the fleet"),
    (InputError, 422, "invalid-request", "The request is not what it must be"),
    (LedgerError, 503, "ledger-away", "The ledger cannot be written"),
    (OpenDTError, 500, "failed", "It could not be done"),
)
_TITLES: Final = {
    400: "The request cannot be read",
    401: "Who are you?",
    404: "There is no such resource",
    405: "This method is not for this resource",
    413: "The request is too large",
}


def problem(
    status: int, kind: str, title: str, detail: str, members: Mapping[str, Any] | None = None, **headers: str
) -> Response:
    """Make the answer of a problem.

    Parameters
    ----------
    status : int
        Of HTTP.
    kind : str
        Last part of the URN in ``type``.
    title, detail : str
        What kind of problem it is; what was wrong this time.
    members : mapping, optional
        Further members.
    **headers : str
        Headers of the answer, with underscores for hyphens.
    """
    import orjson

    body = {
        "type": f"urn:opendt:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        **(members or {}),
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=named)


def add_handlers(app: FastAPI) -> None:
    """Let an app answer all errors as problems."""
    app.add_exception_handler(OpenDTError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def _refused(_request: Request, error: Exception) -> Response:
    status, kind, title = next(
        (status, kind, title) for known, status, kind, title in _KINDS if isinstance(error, known)
    )
    members: dict[str, Any] = {}
    if isinstance(error, InfeasibleJob):
        members = {"job": error.job_id, "infeasible": error.infeasible.model_dump(mode="json")}
    elif isinstance(error, InputError):
        members = {"errors": [{"place": error.place, "found": error.found, "expected": error.expected}]}
    if status == 503:
        return problem(status, kind, title, str(error), members, Retry_After="1")
    return problem(status, kind, title, str(error), members)


def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [_place(one) for one in error.errors()]
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{first['place']}: found {first['found']}, expected {first['expected']}{more}"
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return problem(400, "unreadable", _TITLES[400], detail, {"errors": found})
    return problem(422, "invalid-request", "The request is not what it must be", detail, {"errors": found})


def _place(error: Mapping[str, Any]) -> dict[str, str]:
    from opendt.model.errors import shown

    where: Sequence[Any] = [part for part in error["loc"] if part != "body"]
    message = str(error["msg"]).removeprefix("Value error, ")
    missing = error["type"] == "missing"
    return {
        "place": ".".join(str(part) for part in where) or "the body",
        "found": "nothing" if missing else shown(error.get("input")),
        "expected": "this field" if missing else message[:1].lower() + message[1:],
    }


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, "It could not be done")
    headers = {name.replace("-", "_"): value for name, value in (error.headers or {}).items()}
    return problem(error.status_code, "http", title, str(error.detail), None, **headers)

"""Ask a Kubernetes API server, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["APPLY", "MERGE", "ApiClient", "ApiError"]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_FIELD_MANAGER = "opendt-fleet"


class ApiError(RuntimeError):
    """The API server refused.

    Attributes
    ----------
    status : int
        HTTP status code.
    """

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {status}: {message}")
        self.status = status


class ApiClient:
    """One kept connection to an API server; for one thread.

    Parameters
    ----------
    port : int
        Port of the API server on 127.0.0.1.
    authority : Path
        Certificate of the authority that signed the server's.
    token : str
        Bearer token.
    timeout_s : float
        How long an answer may take.
    """

    def __init__(self, port: int, authority: Path, token: str, timeout_s: float = 30.0) -> None:
        context = ssl.create_default_context(cafile=authority)
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=context)
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """Ask, and return the answer: JSON as what it says, anything else as text.

        Raises
        ------
        ApiError
            When the server refuses.
        OSError
            When it cannot be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers if data is None else {**self._headers, "Content-Type": content_type}
        try:
            answer, text = self._ask(method, path, data, headers)
        except ConnectionError:
            if method == "POST":  # it may have been carried out
                raise
            answer, text = self._ask(method, path, data, headers)  # the kept connection was to a server since ended
        if answer.status >= 400:
            raise ApiError(f"{method} {path}", answer.status, _message(text))
        is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
        return json.loads(text) if is_json else text.decode()

    def _ask(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        try:
            self._connection.request(method, path, data, headers)
            answer = self._connection.getresponse()
            return answer, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"{method} {path}: {error!r}") from error

    def get(self, path: str) -> Any:
        """Ask for an object or a list."""
        return self.request("GET", path)

    def apply(self, path: str, body: object, *, dry_run: bool = False) -> Any:
        """Make an object be as described, by server-side apply; `path` ends with its name."""
        query = f"?fieldManager={_FIELD_MANAGER}&force=true" + ("&dryRun=All" if dry_run else "")
        return self.request("PATCH", path + query, body, APPLY)

    def close(self) -> None:
        """Give the connection up; the next request opens another."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.decode(errors="replace").strip()[:400]

"""One typed client a cluster: the official client's connections and logins, JSON as it comes.

Lists and watches of tens of thousands of objects would spend most of their time in the official client's model classes, so
those are left out: bodies are dictionaries, decoded by orjson. Nothing is tried again here; who calls knows how often.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import orjson
import urllib3

from opendt.model.errors import OpenDTError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["APPLY", "JSON", "MERGE", "ApiError", "ClusterAwayError", "ClusterClient", "path_of"]

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_CREATED: Final = 201
_SECONDS: Final = re.compile(r"\d{1,6}")


class ClusterAwayError(OpenDTError):
    """A cluster's API server cannot be reached, or did not answer in time; whether it acted is not known.

    Attributes
    ----------
    cluster : str
        Its name.
    """

    def __init__(self, cluster: str, message: str) -> None:
        self.cluster = cluster
        super().__init__(f"cluster {cluster}: {message}")


class ApiError(OpenDTError):
    """An API server refused.

    Attributes
    ----------
    status : int
        HTTP status.
    reason : str
        Kubernetes' word for it: NotFound, Conflict, Expired, TooManyRequests.
    message : str
        Its sentence.
    causes : tuple of str
        Reasons of its causes: DisruptionBudget, FieldManagerConflict.
    retry_after_s : float, optional
        When to ask again, where it says so.
    """

    def __init__(
        self,
        what: str,
        status: int,
        reason: str,
        message: str,
        causes: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = causes
        self.retry_after_s = retry_after_s
        super().__init__(f"{what}: {status} {reason}: {message}")


def path_of(*parts: str) -> str:
    """Join parts of a path, each escaped.

    Examples
    --------
    >>> path_of("api", "v1", "nodes", "a/b")
    '/api/v1/nodes/a%2Fb'
    """
    return "/" + "/".join(quote(part, safe="") for part in parts)


class ClusterClient:
    """Asks one API server; for any number of threads.

    Parameters
    ----------
    cluster : str
        Name of the cluster, for messages.
    api : ApiClient
        The official client, configured for a context.
    connect_s, read_s : float
        How long connecting and an answer may take, in s; connecting never longer than the answer of a request may.
    """

    def __init__(self, cluster: str, api: ApiClient, *, connect_s: float = 3.0, read_s: float = 10.0) -> None:
        self.cluster = cluster
        self._api = api
        self._connect_s = connect_s
        self._read_s = read_s

    @property
    def url(self) -> str:
        """Address of the API server."""
        return str(self._api.configuration.host)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        *,
        content_type: str = JSON,
        read_s: float | None = None,
    ) -> Any:
        """Ask, and return the answer: JSON as what it says, anything else as text.

        Raises
        ------
        ApiError
            When the API server refuses.
        ClusterAwayError
            When it cannot be reached or does not answer in time.
        """
        return self._exchange(method, path, query, body, content_type=content_type, read_s=read_s)[1]

    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        *,
        content_type: str = JSON,
        read_s: float | None = None,
    ) -> tuple[int, Any]:
        response = self._open(method, path, query, body, content_type, read_s or self._read_s)
        try:
            data = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.close()
            raise ClusterAwayError(self.cluster, f"{method} {path}: {_shortly(error)}") from error
        finally:
            response.release_conn()
        is_json = response.headers.get("Content-Type", "").startswith(JSON)
        try:
            return response.status, orjson.loads(data) if is_json else data.decode(errors="replace")
        except orjson.JSONDecodeError as error:
            raise ClusterAwayError(self.cluster, f"{method} {path}: no JSON: {data[:80]!r}") from error

    def get(self, path: str, query: Mapping[str, str] | None = None, *, read_s: float | None = None) -> Any:
        """Ask for an object, a list or a text; errors as for `request`."""
        return self.request("GET", path, query, read_s=read_s)

    def create(self, path: str, body: object, query: Mapping[str, str] | None = None) -> Any:
        """Create an object; errors as for `request`."""
        return self.request("POST", path, query, body)

    def replace(self, path: str, body: object) -> Any:
        """Replace an object; with its resourceVersion only if it is still as read. Errors as for `request`."""
        return self.request("PUT", path, None, body)

    def merge(self, path: str, body: object, query: Mapping[str, str] | None = None) -> Any:
        """Change fields of an object; errors as for `request`."""
        return self.request("PATCH", path, query, body, content_type=MERGE)

    def apply(
        self, path: str, body: object, manager: str, *, dry_run: bool = False, force: bool = False
    ) -> tuple[bool, Any]:
        """Make an object be as described, by server-side apply; errors as for `request`.

        Returns
        -------
        bool
            Whether it was not there before.
        dict
            The object.
        """
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        status, thing = self._exchange("PATCH", path, query, body, content_type=APPLY)
        return status == _CREATED, thing

    def delete(self, path: str, query: Mapping[str, str] | None = None, body: object = None) -> Any:
        """Delete an object; errors as for `request`."""
        return self.request("DELETE", path, query, body)

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, read_s: float) -> Iterator[urllib3.BaseHTTPResponse]:
        """Open an answer that goes on; its connection is closed at the end. Errors as for `request`."""
        response = self._open("GET", path, query, None, JSON, read_s)
        try:
            yield response
        finally:
            response.close()

    def close(self) -> None:
        """Give up all connections."""
        self._api.close()  # type: ignore[no-untyped-call]

    def _open(
        self, method: str, path: str, query: Mapping[str, str] | None, body: object, content_type: str, read_s: float
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": JSON, "User-Agent": "opendt"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        except Exception as error:  # files of tokens that are gone, plug-ins that fail: they raise what they like
            raise ClusterAwayError(self.cluster, f"no login: {type(error).__name__}: {error}") from error
        url = self.url + path + (f"?{urlencode(query)}" if query else "")
        # The pool of the official client, which knows certificates and proxies; its own `request` encodes JSON slowly
        # and in one form only.
        pool = self._api.rest_client.pool_manager
        try:
            response = pool.request(
                method,
                url,
                body=None if body is None else orjson.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(connect=min(self._connect_s, read_s), read=read_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterAwayError(self.cluster, f"{method} {path}: {_shortly(error)}") from error
        if response.status >= 300:
            raise self._refusal(f"cluster {self.cluster}: {method} {path}", response)
        return response

    def _refusal(self, what: str, response: urllib3.BaseHTTPResponse) -> ApiError:
        try:
            text = response.read()
        except (urllib3.exceptions.HTTPError, OSError):
            text = b""
            response.close()
        finally:
            response.release_conn()
        said = _status_of(text)
        details = said.get("details") or {}
        after = response.headers.get("Retry-After", "")
        return ApiError(
            what,
            response.status,
            str(said.get("reason") or response.reason or ""),
            str(said.get("message") or text.decode(errors="replace").strip()[:300]),
            tuple(str(cause.get("reason", "")) for cause in details.get("causes") or ()),
            float(after) if _SECONDS.fullmatch(after) else details.get("retryAfterSeconds"),
        )


def _status_of(text: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _shortly(error: BaseException) -> str:
    """Name an error of the network without the address of a connection object."""
    text = re.sub(r"<[^>]*>:? ?", "", str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

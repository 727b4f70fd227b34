"""Follows all objects of one kind in one cluster: a list, then a watch that goes on from it, for as long as it takes.

A list comes in pages. A watch is resumed from the version last seen, which bookmarks move on where nothing happens. When the
API server no longer knows that version (410 Gone), everything is listed again. What an object holds is decoded, and the rest
dropped, as soon as its line is there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import orjson
import urllib3

from opendt.kubernetes.client import ApiError, ClusterAwayError, ClusterClient

__all__ = ["Change", "Reflector", "ReflectorSettings", "Sink"]

Thing = TypeVar("Thing")
Change = Literal["ADDED", "MODIFIED", "DELETED"]
_GONE: Final = 410
_LIST_S: Final = 30.0
"""What a page may take: an API server that just started is slow with its first ones."""


@dataclass(frozen=True, slots=True)
class ReflectorSettings:
    """How lists and watches are asked for.

    Parameters
    ----------
    page : int
        Objects a page: 500 pods are about 2 MB.
    watch_s : int
        After how long a watch is asked for anew, so that load spreads over several API servers.
    silence_s : float
        After how long without a byte a connection counts as broken; bookmarks come about once a minute.
    shortest_s, longest_s : float
        Waiting time before another try; doubled from one to the next.
    """

    page: int = 500
    watch_s: int = 300
    silence_s: float = 120.0
    shortest_s: float = 0.1
    longest_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Sink(Generic[Thing]):
    """Who is told; called from the reflector's thread, in order.

    Parameters
    ----------
    decode : callable
        Makes something of an object; what it raises of KeyError, TypeError and ValueError makes the object invalid.
    listed : callable
        Told of everything there is; what is not in it is no more.
    changed : callable
        Told of one change after the list.
    expired : callable
        Told that the watch expired and all is listed anew: with the reason.
    broken : callable
        Told that a list or watch failed and will be tried again: with the reason, once until it works again.
    invalid : callable
        Told of an object that could not be decoded: the object and the error.
    """

    decode: Callable[[Mapping[str, Any]], Thing]
    listed: Callable[[list[Thing]], None]
    changed: Callable[[Change, Thing], None]
    expired: Callable[[str], None]
    broken: Callable[[str], None]
    invalid: Callable[[Mapping[str, Any], Exception], None]


class _ExpiredError(Exception):
    """The version to go on from is no longer known."""


class Reflector(Generic[Thing]):
    """Lists and watches one kind of objects of one cluster.

    Parameters
    ----------
    client : callable
        Gives the client of the moment.
    path : str
        The collection, such as ``/api/v1/pods``.
    sink : Sink
        Who is told.
    settings : ReflectorSettings, optional
        How to ask.
    query : mapping of str to str, optional
        Selectors.
    """

    def __init__(
        self,
        client: Callable[[], ClusterClient],
        path: str,
        sink: Sink[Thing],
        settings: ReflectorSettings | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._sink = sink
        self._settings = settings or ReflectorSettings()
        self._query = dict(query or {})
        self._version = ""
        self._stopping = threading.Event()
        self._open: urllib3.BaseHTTPResponse | None = None
        self._is_told = False
        self._delay_s = self._settings.shortest_s
        self.lists = 0
        """How often everything was listed."""
        self.is_synced = threading.Event()
        """Set once everything was listed for the first time."""

    @property
    def version(self) -> str:
        """The resourceVersion up to which everything was told; empty before the first list."""
        return self._version

    def run(self) -> None:
        """Follow until `stop`."""
        while not self._stopping.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
                self._worked()
                self._stopping.wait(self._settings.shortest_s)  # a proxy may end watches as fast as they are made
            except _ExpiredError as error:
                self._version = ""
                self._sink.expired(str(error))
                self._stopping.wait(self._settings.shortest_s)
            except (ApiError, ClusterAwayError) as error:
                self._failed(error)
            except (KeyError, TypeError, AttributeError) as error:  # an answer of somebody who is no API server
                self._failed(ClusterAwayError(self._client().cluster, f"{self._path}: no such answer: {error!r}"))

    def stop(self) -> None:
        """End `run` soon; for another thread."""
        self._stopping.set()
        self.interrupt()

    def interrupt(self) -> None:
        """Give the connection up and make another; for another thread that knows it to be dead."""
        response = self._open
        if response is None:
            return
        try:
            response.shutdown()
        except (OSError, ValueError, RuntimeError):  # it is closed already
            return

    def _list(self) -> None:
        """Ask for everything, page by page; the version is that of the first page, which all others are as of."""
        found: list[Thing] = []
        query = {**self._query, "limit": str(self._settings.page)}
        client = self._client()
        version = ""
        while not self._stopping.is_set():
            try:
                page = client.get(self._path, query, read_s=_LIST_S)
            except ApiError as error:
                if error.status == _GONE:  # the list took longer than the API server remembers: begin again
                    raise _ExpiredError(error.message) from error
                raise
            version = page["metadata"]["resourceVersion"]
            for thing in page["items"]:
                self._decode(thing, found.append)
            token = page["metadata"].get("continue", "")
            if not token:
                break
            query["continue"] = token
        if self._stopping.is_set():
            return
        self._version = version
        self.lists += 1
        self._worked()
        self._sink.listed(found)
        self.is_synced.set()

    def _watch(self) -> None:
        settings = self._settings
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(settings.watch_s + random.randrange(settings.watch_s // 4 + 1)),
        }
        try:
            with self._client().stream(self._path, query, read_s=settings.silence_s) as response:
                self._open = response
                if self._stopping.is_set():
                    return
                self._read(response)
        except ApiError as error:
            if error.status == _GONE or "ResourceVersionTooLarge" in error.causes:
                raise _ExpiredError(error.message) from error
            raise
        finally:
            self._open = None

    def _read(self, response: urllib3.BaseHTTPResponse) -> None:
        rest = b""
        try:
            for chunk in response.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
                for line in lines:
                    self._take(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: the connection was shut down by `interrupt` in the middle of a read.
            if self._stopping.is_set():
                return
            raise ClusterAwayError(self._client().cluster, f"watch of {self._path}: {type(error).__name__}") from error

    def _take(self, line: bytes) -> None:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ClusterAwayError(self._client().cluster, f"watch of {self._path}: no JSON: {line[:80]!r}") from error
        kind, thing = event["type"], event["object"]
        if kind == "ERROR":
            if thing.get("code") == _GONE:
                raise _ExpiredError(str(thing.get("message", "")))
            raise ApiError(
                f"watch of {self._path}", thing.get("code", 0), thing.get("reason", ""), thing.get("message", "")
            )
        if kind != "BOOKMARK":
            self._decode(thing, lambda decoded: self._sink.changed(kind, decoded))
        self._version = thing["metadata"]["resourceVersion"]
        if self._is_told or self._delay_s != self._settings.shortest_s:
            self._worked()

    def _decode(self, thing: Mapping[str, Any], take: Callable[[Thing], None]) -> None:
        try:
            decoded = self._sink.decode(thing)
        except (KeyError, TypeError, ValueError) as error:
            self._sink.invalid(thing, error)
            return
        take(decoded)

    def _worked(self) -> None:
        self._delay_s = self._settings.shortest_s
        self._is_told = False

    def _failed(self, error: ApiError | ClusterAwayError) -> None:
        if not self._is_told:
            self._is_told = True
            self._sink.broken(str(error))
        asked_s = error.retry_after_s if isinstance(error, ApiError) else None
        self._stopping.wait(asked_s or self._delay_s * random.uniform(0.75, 1.25))
        self._delay_s = min(self._delay_s * 2, self._settings.longest_s)

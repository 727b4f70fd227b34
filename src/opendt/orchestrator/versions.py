"""Files that are edited while the process runs: watched, validated, numbered and kept.

A `VersionedFile` looks at its file by `check` (a thread does so, `FileWatchers`) and puts what validates into a mailbox of one
place; the loop empties it by `take` between two windows. So an edit takes effect in the next window, quick edits after one another
are one, and what does not validate changes nothing.

The file is looked at by its status, not by notices of the system: those do not tell of files on network mounts and follow neither a
rename over the file nor the swap of the links of a Kubernetes ConfigMap. It is read when its status has rested for a moment, so
that nobody's half-written file is judged. A version's hash is over its JSON, not its bytes: layout and order of keys are no edit.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from opendt.model.errors import FormatError, InputError
from opendt.orchestrator.event_types import (
    Event,
    SloChanged,
    SloLoaded,
    SloRefused,
    TopologyChanged,
    TopologyLoaded,
    TopologyRefused,
)
from opendt.orchestrator.version_store import VersionStore, content_hash

__all__ = ["FileWatchers", "Version", "VersionedFile"]

T = TypeVar("T")
Reader = Callable[[Path], T]

_SETTLE_S: Final = 0.2
_POLL_S: Final = 0.5
_EVENTS: Final[dict[str, tuple[type[Event], type[Event], type[Event]]]] = {
    "topology": (TopologyLoaded, TopologyChanged, TopologyRefused),
    "slo": (SloLoaded, SloChanged, SloRefused),
}


@dataclass(frozen=True, slots=True)
class Version(Generic[T]):
    """A version in force.

    Attributes
    ----------
    number : int
        Rises by 1 with each version of this datacenter, also over restarts.
    content_hash : str
        SHA-256 of its JSON, hex.
    value : object
        What was read.
    content : bytes
        The file as it was.
    origin : str
        The file, or whatever it came from.
    """

    number: int
    content_hash: str
    value: T
    content: bytes
    origin: str


class _Found(NamedTuple, Generic[T]):
    """Something valid that waits to be taken."""

    content: bytes
    content_hash: str
    value: T
    origin: str


class VersionedFile(Generic[T]):
    """A file of one datacenter with its versions.

    Parameters
    ----------
    what : {'topology', 'slo'}
        What it holds.
    file : Path, optional
        The file; without one, versions come by `offer` only.
    store : VersionStore
        Its backups.
    read : callable
        Reads a file of this kind; raises when it does not validate.
    datacenter : str
        Named in events.
    on_event : callable, optional
        Told of versions loaded, changed and refused, from whichever thread.
    clock_s : callable
        Monotonic clock, s.
    settle_s : float
        How long the status of the file must rest before it is read.
    """

    def __init__(
        self,
        what: str,
        file: Path | None,
        store: VersionStore,
        read: Reader[T],
        *,
        datacenter: str = "",
        on_event: Callable[[Event], None] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        settle_s: float = _SETTLE_S,
    ) -> None:
        self.file = file
        self.store = store
        self.datacenter = datacenter
        self.current: Version[T] | None = None
        self._read = read
        self._loaded, self._changed, self._refused = _EVENTS[what]
        self._on_event = on_event
        self._clock_s = clock_s
        self._settle_s = settle_s
        self._lock = threading.Lock()
        self._mailbox: _Found[T] | None = None
        self._judged: tuple[int, ...] | None = ()  # status of the file when it was last read; () is never
        self._seen: tuple[int, ...] | None = ()
        self._seen_s = 0.0
        self._untaken = ""  # hash of what could not be kept, told once

    def load_initial(self) -> Version[T] | None:
        """Read the file, or, when it does not validate, the last good version.

        Returns
        -------
        Version or None
            None when there is neither a file nor an earlier version.

        Raises
        ------
        InputError
            When the file does not validate and there is no earlier version.
        """
        latest = self.store.latest()
        try:
            if self.file is None:
                if latest is None:
                    return None
                found = self._parse(latest.path.read_bytes(), str(latest.path))
            else:
                self._judged = self._seen = self._status()
                found = self._parse(_content(self.file), str(self.file))
        except InputError as error:
            if self.file is None or latest is None:
                raise
            self._tell_refused(str(self.file), error, latest.number)
            found = self._parse(latest.path.read_bytes(), str(latest.path))
        version = self._keep(found)
        self._tell_version(self._loaded, version)
        return version

    def check(self) -> None:
        """Look at the file, and read it if it has changed and then rested for a moment."""
        if self.file is None:
            return
        status = self._status()
        if status == self._judged:
            self._seen = status
            return
        now_s = self._clock_s()
        if status != self._seen:
            self._seen, self._seen_s = status, now_s
        if now_s - self._seen_s < self._settle_s:
            return
        try:
            content = _content(self.file)
        except InputError as error:
            self._judged = status
            self._refuse(str(self.file), error)
            return
        if self._status() == status:  # else it changed while it was read: the next look sees that
            self._judged = status
            self.offer(content, str(self.file))

    def offer(self, content: bytes, origin: str) -> None:
        """Put a content into the mailbox if it validates and is no version in force already; else tell why not."""
        try:
            found = self._parse(content, origin)
        except Exception as error:  # noqa: BLE001 - whatever a reader stumbles over, the last good version stays
            self._refuse(origin, error)
            return
        with self._lock:
            is_in_force = self.current is not None and self.current.content_hash == found.content_hash
            self._mailbox = None if is_in_force else found  # an edit that was taken back before its window is none

    def take(self) -> Version[T] | None:
        """Empty the mailbox: the version in force from now on, None when there is no new one."""
        with self._lock:
            found, self._mailbox = self._mailbox, None
        if found is None:
            return None
        try:
            version = self._keep(found)
        except OSError as error:
            self._put_back(found)
            if self._untaken != found.content_hash:
                self._untaken = found.content_hash
                self._refuse(found.origin, error)
            return None
        self._tell_version(self._changed, version)
        return version

    def _put_back(self, found: _Found[T]) -> None:
        """Let it be tried again at the next window, unless something newer has come."""
        with self._lock:
            if self._mailbox is None:
                self._mailbox = found

    def _parse(self, content: bytes, origin: str) -> _Found[T]:
        """Validate a content: exactly these bytes, whatever the file holds by now."""
        with tempfile.TemporaryDirectory(prefix="opendt-") as folder:
            candidate = Path(folder) / "candidate.json"
            candidate.write_bytes(content)
            try:
                value = self._read(candidate)
            except InputError as error:
                file = origin if error.file in ("", str(candidate)) else error.file
                raise FormatError(file, error.place, error.found, error.expected, error.hint) from error
        return _Found(content, content_hash(content), value, origin)

    def _keep(self, found: _Found[T]) -> Version[T]:
        number = self.store.keep(found.content)
        self.current = Version(number, found.content_hash, found.value, found.content, found.origin)
        return self.current

    def _status(self) -> tuple[int, ...] | None:
        """What changes with every edit, rename and swap of links; None when the file is not there."""
        assert self.file is not None
        try:
            status = self.file.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _refuse(self, origin: str, error: Exception) -> None:
        self._tell_refused(origin, error, None if self.current is None else self.current.number)

    def _tell_refused(self, origin: str, error: Exception, version: int | None) -> None:
        reason = str(error) if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {error}"
        event = self._refused(datacenter=self.datacenter, file=origin, reason=reason, version=version)  # type: ignore[call-arg]
        self._tell(event)

    def _tell_version(self, kind: type[Event], version: Version[T]) -> None:
        event = kind(
            datacenter=self.datacenter,
            version=version.number,  # type: ignore[call-arg]
            content_hash=version.content_hash,
            file=version.origin,
        )
        self._tell(event)

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)


class FileWatchers:
    """A thread that looks at files now and then.

    Parameters
    ----------
    poll_s : float
        Time between two looks.
    """

    def __init__(self, poll_s: float = _POLL_S) -> None:
        self._poll_s = poll_s
        self._files: tuple[VersionedFile[object], ...] = ()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, file: VersionedFile[T]) -> None:
        """Look at this file too; the thread starts with the first."""
        with self._lock:
            self._files = (*self._files, file)  # type: ignore[arg-type]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="opendt-files", daemon=True)
                self._thread.start()

    def remove(self, file: VersionedFile[T]) -> None:
        """Look at this file no longer."""
        with self._lock:
            self._files = tuple(other for other in self._files if other is not file)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_s):
            for file in self._files:
                file.check()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise FormatError(file, "", reason, "a readable file") from error

"""Files that are edited while the process runs: watched, validated, numbered and kept.

A `VersionedFile` looks at its file by `check` (a thread does so, `FileWatchers`) and puts what validates into a mailbox of one
place; the loop empties it by `take` between two windows. So an edit takes effect in the next window, quick edits after one another
are one, and what does not validate changes nothing.

The file is looked at by its status, not by notices of the system: those do not tell of files on network mounts and follow neither a
rename over the file nor the swap of the links of a Kubernetes ConfigMap. It is read when its status has rested for a moment, so
that nobody's half-written file is judged. A version's hash is over its JSON, not its bytes: layout and order of keys are no edit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
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

__all__ = [
    "FileWatchers",
    "Kept",
    "Rollback",
    "Version",
    "VersionStore",
    "VersionedFile",
    "content_hash",
    "roll_back",
]

T = TypeVar("T")
Reader = Callable[[Path], T]

_NAME: Final = re.compile(r"(\d{4,})\.json")
_SETTLE_S: Final = 0.2
_POLL_S: Final = 0.5
_EVENTS: Final[dict[str, tuple[type[Event], type[Event], type[Event]]]] = {
    "topology": (TopologyLoaded, TopologyChanged, TopologyRefused),
    "slo": (SloLoaded, SloChanged, SloRefused),
}


def content_hash(content: bytes) -> str:
    """SHA-256 of the JSON in a file, in hex; of its bytes when it holds none."""
    try:
        canonical = json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    except (ValueError, RecursionError):
        return hashlib.sha256(content).hexdigest()


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


class Kept(NamedTuple):
    """A numbered backup; `saved_ms` is the wall clock when it was kept, ms since the epoch."""

    number: int
    content_hash: str
    saved_ms: int
    path: Path


class Rollback(NamedTuple):
    """What a rollback did: the number that the old content has now, and where an edit that nobody had taken is kept."""

    number: int
    set_aside: Path | None


class VersionStore:
    """Numbered backups in a folder: ``0001.json`` and so on, each the file as it was.

    Parameters
    ----------
    directory : Path or str
        Folder; made with the first backup. Several processes may add to it.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def numbers(self) -> list[int]:
        """Numbers of all backups, rising."""
        if not self.directory.is_dir():
            return []
        return sorted(int(match[1]) for path in self.directory.iterdir() if (match := _NAME.fullmatch(path.name)))

    def history(self) -> list[Kept]:
        """All backups, oldest first."""
        return [self._kept(number) for number in self.numbers()]

    def latest(self) -> Kept | None:
        """The backup with the highest number."""
        numbers = self.numbers()
        return self._kept(numbers[-1]) if numbers else None

    def path(self, number: int) -> Path:
        """Where a backup is.

        Raises
        ------
        InputError
            When there is none of this number.
        """
        path = self.directory / f"{number:04d}.json"
        if not path.is_file():
            numbers = self.numbers()
            there = f"one of 1 to {numbers[-1]}" if numbers else "one that is there; none is yet"
            raise InputError("version", str(number), there, file=str(self.directory))
        return path

    def keep(self, content: bytes) -> int:
        """Keep a content and give its number: the latest one's when that holds the same JSON, else the next.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        latest = self.latest()
        if latest is not None and latest.content_hash == content_hash(content):
            return latest.number
        self.directory.mkdir(parents=True, exist_ok=True)
        number = 1 if latest is None else latest.number + 1
        temporary = _written_beside(self.directory / "new.json", content)
        try:
            while True:
                try:
                    _name_new(temporary, self.directory / f"{number:04d}.json")
                except FileExistsError:  # another process was first
                    number += 1
                else:
                    _sync(self.directory)
                    return number
        finally:
            temporary.unlink(missing_ok=True)

    def set_aside(self, content: bytes) -> Path:
        """Keep a content that is no version, under its hash."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"set-aside-{content_hash(content)[:12]}.json"
        _written_beside(path, content).replace(path)
        return path

    def _kept(self, number: int) -> Kept:
        path = self.directory / f"{number:04d}.json"
        return Kept(number, content_hash(path.read_bytes()), path.stat().st_mtime_ns // 1_000_000, path)


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
            with self._lock:
                self._mailbox = self._mailbox or found  # tried again at the next window
            if self._untaken != found.content_hash:
                self._untaken = found.content_hash
                self._refuse(found.origin, error)
            return None
        self._tell_version(self._changed, version)
        return version

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


def roll_back(file: Path, store: VersionStore, number: int, read: Reader[object]) -> Rollback:
    """Write an earlier version over a file, as a version with a number of its own.

    What stands in the file now is kept first: as a version when it validates, else set aside.

    Raises
    ------
    InputError
        When there is no such version, or it no longer validates.
    OSError
        When something cannot be written.
    """
    backup = store.path(number)
    read(backup)
    content = backup.read_bytes()
    aside = None
    if file.is_file():
        present = file.read_bytes()
        try:
            read(file)
            store.keep(present)
        except InputError:
            aside = store.set_aside(present)
    target = file.resolve()  # a link stays a link
    temporary = _written_beside(target, content)
    try:
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(target.parent)
    return Rollback(store.keep(content), aside)


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


def _written_beside(target: Path, content: bytes) -> Path:
    """Write a content safely under a free name in the folder of `target`."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    return Path(name)


def _name_new(file: Path, target: Path) -> None:
    """Give a file a name that must be free; where there are no hard links, another process might be faster by a hair."""
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, "there is such a file", str(target)) from error
        file.replace(target)


def _sync(folder: Path) -> None:
    """Make names in a folder safe."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Numbered backups of a file, and the way back to one of them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from opendt.model.errors import InputError

__all__ = ["Kept", "Rollback", "VersionStore", "content_hash", "roll_back"]

_NAME: Final = re.compile(r"(\d{4,})\.json")


def content_hash(content: bytes) -> str:
    """SHA-256 of the JSON in a file, in hex; of its bytes when it holds none."""
    try:
        canonical = json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    except (ValueError, RecursionError):
        return hashlib.sha256(content).hexdigest()


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


def roll_back(file: Path, store: VersionStore, number: int, read: Callable[[Path], object]) -> Rollback:
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


def _written_beside(target: Path, content: bytes) -> Path:
    """Write a content safely under a free name in the folder of `target`."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except OSError:  # a full disk does not fill up with pieces
        Path(name).unlink()
        raise
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

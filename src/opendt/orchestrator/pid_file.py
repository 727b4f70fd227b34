"""The file that says which process uses a state directory, for `opendt status` and `opendt down`.

The process keeps its file locked as long as it lives. The system gives the lock back however the process ends, so a file that
is not locked was left behind, whoever has that number by now.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PID_FILE", "ProcessFile", "health_beside", "pid_file", "pid_files", "remove_stale"]

PID_FILE: Final = "opendt.pid"
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessFile:
    """What a file says.

    Attributes
    ----------
    path : Path
        The file.
    pid : int, optional
        The process; None when the file does not say it (yet).
    is_held : bool
        Whether the process that wrote it is alive.
    """

    path: Path
    pid: int | None
    is_held: bool

    @property
    def is_opendt(self) -> bool:
        """Whether the process of that number runs OpenDT; False also when it is one of another container or machine."""
        if self.pid is None:
            return False
        if not _PROC.is_dir():
            return self.is_held
        try:
            return b"opendt" in (_PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            return False


def health_beside(path: Path, pid: int) -> Path:
    """Health file of a process whose own file is not `PID_FILE`."""
    return path.with_name(f"{path.stem}-{pid}{path.suffix}")


@contextmanager
def pid_file(state_dir: Path) -> Iterator[Path]:
    """Keep a file with the number of this process in the state directory.

    Its name is ``opendt.pid``, or ``opendt-PID.pid`` when another process uses the directory already, as the members of a consumer
    group on one machine do.
    """
    path, descriptor = _locked(state_dir)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def pid_files(state_dir: Path) -> list[ProcessFile]:
    """All such files of a state directory, `PID_FILE` first."""
    if not state_dir.is_dir():
        return []
    found = sorted(state_dir.glob("opendt-*.pid"))
    return [_read(path) for path in (state_dir / PID_FILE, *found) if path.exists()]


def remove_stale(file: ProcessFile) -> bool:
    """Remove a file that was left behind; False when a process has taken it meanwhile."""
    try:
        descriptor = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _lock(descriptor):
            return False
        with suppress(FileNotFoundError):
            if _is_same(descriptor, file.path):
                file.path.unlink()
        return True
    finally:
        os.close(descriptor)


def _locked(state_dir: Path) -> tuple[Path, int]:
    path = state_dir / PID_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            is_mine = _lock(descriptor)
            if is_mine and _is_same(descriptor, path):
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not is_mine:
            path = state_dir / f"opendt-{os.getpid()}.pid"
        # else its owner removed it between opening and locking: the name stands for another file by now


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _read(path: Path) -> ProcessFile:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ProcessFile(path, None, is_held=False)
    try:
        text = os.read(descriptor, 32).decode("ascii", "replace").strip()
        try:
            # Shared, so that two who look at once do not take each other for its owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            is_held = True
        else:
            is_held = False
    finally:
        os.close(descriptor)
    return ProcessFile(path, int(text) if text.isdigit() and int(text) > 0 else None, is_held)

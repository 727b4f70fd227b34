"""Snapshots of a twin: the loop's whole state after a window, in files that a restart goes on from.

A file is a line of JSON (format, versions, datacenter, window, size and SHA-256 of what follows) and a pickle. It is complete when it
has its name: written beside it, made safe, renamed. A file that is torn, damaged or of another version is passed over; without
any, the twin is rebuilt from the streams. What is read back can only be made of this project's classes and NumPy's: the pickle
is refused when it names anything else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt._engine import SNAPSHOT_VERSION, __version__
from opendt.model.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import BinaryIO

__all__ = ["Snapshot", "SnapshotStore"]

_FORMAT: Final = 2
_PACKAGE: Final = Path(__file__).parents[1]
_HELD: Final = ("model", "engine", "twin", "optimization", "verification", "telemetry", "orchestrator")
_NAME: Final = re.compile(r"(\d{10})\.twin")
_KEPT: Final = 2
_LONGEST_HEADER: Final = 4096
_BUILTINS: Final = frozenset({"dict", "list", "set", "frozenset", "tuple", "bytearray", "complex", "slice", "range"})
_FOREIGN: Final = frozenset(
    {
        ("collections", "deque"),
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        ("collections", "defaultdict"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
    }
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after a window.

    Attributes
    ----------
    index : int
        The window.
    state : dict
        As it was given to `SnapshotStore.write`.
    """

    index: int
    state: dict[str, Any]


class _Unpickler(pickle.Unpickler):
    """Makes nothing but what a twin consists of."""

    def __init__(self, file: BinaryIO, modules: Collection[str]) -> None:
        super().__init__(file)
        self._modules = modules

    def find_class(self, module: str, name: str) -> Any:
        # A name with a dot would reach through a module to what that one imported.
        known = any(module == one or module.startswith(f"{one}.") for one in self._modules) and "." not in name
        if known or (module, name) in _FOREIGN or (module == "builtins" and name in _BUILTINS):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no twin is made of")


class SnapshotStore:
    """Snapshots of one datacenter.

    Parameters
    ----------
    directory : Path
        Where they are; made when it is not there.
    datacenter : str
        Written into each and checked.
    modules : collection of str
        Modules of others whose classes a twin may consist of, with what is below them: of plug-ins that are in use.
    """

    def __init__(self, directory: Path, datacenter: str, modules: Collection[str] = ()) -> None:
        self.directory = directory
        self.datacenter = datacenter
        self._modules = ("opendt", *modules)
        self._writing: threading.Thread | None = None

    def write(self, index: int, state: dict[str, Any]) -> int:
        """Write the state after a window; gives its size in bytes. Older ones than the last two go away.

        Raises
        ------
        OSError
            When the disk refuses; what was there stays.
        """
        self.wait()
        return self._put(index, pickle.dumps(state, protocol=5))

    def write_behind(self, index: int, state: dict[str, Any], on_done: Callable[[int | OSError], None]) -> None:
        """Take the state as it is now and let a thread write it as `write` does, after the one before has been written.

        Parameters
        ----------
        index : int
            The window.
        state : dict
            May be changed as soon as this returns.
        on_done : callable
            Told by that thread of the size in bytes, or why the disk refused.
        """
        self.wait()
        body = pickle.dumps(state, protocol=5)

        def work() -> None:
            try:
                found: int | OSError = self._put(index, body)
            except OSError as error:
                found = error
            on_done(found)

        self._writing = threading.Thread(target=work, name="opendt-snapshot", daemon=True)
        self._writing.start()

    def wait(self) -> None:
        """Wait for what is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.join()

    def _put(self, index: int, body: bytes) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        header = {**_versions(), "datacenter": self.datacenter, "index": index, "size_bytes": len(body)}
        header["sha256"] = hashlib.sha256(body).hexdigest()
        data = json.dumps(header, sort_keys=True).encode() + b"\n" + body
        path = self.directory / f"{index:010d}.twin"
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        for old in self.indices()[:-_KEPT]:
            (self.directory / f"{old:010d}.twin").unlink(missing_ok=True)
        return len(data)

    def indices(self) -> list[int]:
        """Windows of which there are files, rising."""
        if not self.directory.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def newest(self, last_index: int) -> tuple[Snapshot | None, list[str]]:
        """Read the newest usable snapshot of a window up to `last_index`; with why newer files were passed over."""
        reasons = []
        for index in reversed(self.indices()):
            if index > last_index:
                reasons.append(
                    f"{index:010d}.twin: found window {index}, expected at most {last_index}, the ledger's last"
                )
                continue
            try:
                return Snapshot(index, self._read(index)), reasons
            except (SnapshotError, OSError) as error:
                reasons.append(f"{index:010d}.twin: {error}")
        return None, reasons

    def _read(self, index: int) -> dict[str, Any]:
        with (self.directory / f"{index:010d}.twin").open("rb") as stream:
            line = stream.readline(_LONGEST_HEADER)
            body = stream.read()
        try:
            header = json.loads(line)
        except ValueError:
            raise SnapshotError("", "no header", "a snapshot made by OpenDT") from None
        for name, value in {**_versions(), "datacenter": self.datacenter, "index": index}.items():
            if not isinstance(header, dict) or header.get(name) != value:
                found = header.get(name) if isinstance(header, dict) else header
                raise SnapshotError(name, found, f"{value!r}")
        if len(body) != header.get("size_bytes") or hashlib.sha256(body).hexdigest() != header.get("sha256"):
            raise SnapshotError(
                "", f"{len(body)} bytes whose checksum differs", f"{header.get('size_bytes')} whole ones"
            )
        try:
            state = _Unpickler(io.BytesIO(body), self._modules).load()
        except Exception as error:
            raise SnapshotError("", f"{type(error).__name__}: {error}", "a twin of this version") from error
        if not isinstance(state, dict):
            raise SnapshotError("", type(state).__name__, "a dict of state")
        return state


def _versions() -> dict[str, Any]:
    """Everything that decides whether a pickle can be read back as it was meant."""
    return {
        "format": _FORMAT,
        "opendt": __version__,
        "engine": SNAPSHOT_VERSION,
        "python": list(sys.version_info[:2]),
        "numpy": np.__version__,
        "code": _code(),
    }


@cache
def _code() -> str:
    """Digest of the modules whose objects a snapshot holds: an attribute more or less makes it another snapshot.

    A version number would have to be thought of with every change of a class; what is rebuilt once too often costs seconds.
    """
    digest = hashlib.sha256()
    for folder in _HELD:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

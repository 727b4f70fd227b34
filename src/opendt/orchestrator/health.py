"""Signs of life: a file for whoever asks, and notices for systemd."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["HealthFile", "Pulse", "sd_notify", "watchdog_interval_s"]

_MICROSECONDS: Final = 1_000_000
_BEAT_S: Final = 1.0
_LONGER: Final = f"EXTEND_TIMEOUT_USEC={60 * _MICROSECONDS}"
"""Asks the service manager for a minute more to get ready, from now."""


class HealthFile:
    """A JSON file that says how the process is; always whole, whoever reads it.

    It holds ``pid``, ``time_ms`` (wall clock when it was written, ms since the epoch) and what `write` is given.

    Parameters
    ----------
    path : Path or str
        The file; folders above it are made.
    clock_ms : callable, optional
        Wall clock, ms since the epoch.
    """

    def __init__(self, path: Path | str, clock_ms: Callable[[], int] | None = None) -> None:
        self.path = Path(path)
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)

    def write(self, status: str, values: Mapping[str, Any] | None = None, /, **more: Any) -> bool:
        """Write the file anew.

        It is a report and no memory, so it is not forced to the disk, and a disk that is full stops nobody.

        Parameters
        ----------
        status : str
            As in `OrchestratorState.status`.
        values, **more
            What else is to be said: last window, lag, per datacenter.

        Returns
        -------
        bool
            Whether it was written.
        """
        content = {"pid": os.getpid(), "time_ms": self._clock_ms(), "status": status, **(values or {}), **more}
        temporary: Path | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            temporary = Path(name)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(content, stream, ensure_ascii=False)
                stream.write("\n")
            temporary.chmod(0o644)  # a probe may run as another user
            temporary.replace(self.path)
        except OSError:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            return False
        return True

    def read(self) -> dict[str, Any] | None:
        """What was written last, by whichever process; None when there is no such file."""
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return content


class Pulse:
    """Signs of life, one a second: the health file, and the watchdog of the service manager.

    They come from the loop itself, while it works (`beat`) and while it waits on purpose for what is away (`wait`), never from a
    thread beside it: a process that is stuck gives none, and is ended by whoever watches it.

    Parameters
    ----------
    file : HealthFile
        Where to say how the process is.
    clock_s : callable
        Monotonic clock, s.
    notify : callable
        Tells the service manager, as `sd_notify`.

    Attributes
    ----------
    values : callable
        Gives what else the health file is to say: a mapping.
    """

    def __init__(
        self,
        file: HealthFile,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        notify: Callable[..., object] | None = None,
    ) -> None:
        self.values: Callable[[], Mapping[str, Any]] = dict
        self._file = file
        self._clock_s = clock_s
        self._notify = notify or sd_notify
        self._last_s = -float("inf")
        self._is_ready = False
        self._waited_for = ""

    def beat(self) -> None:
        """Say that the process works; call it between any two steps."""
        self._sign("")

    def wait(self, what: str) -> None:
        """Say that the process is alive and waits for something; call it again and again meanwhile."""
        self._sign(what)

    def ready(self) -> None:
        """Say once that the process has begun."""
        self._is_ready = True
        self._notify("READY=1")

    def end(self) -> None:
        """Say that the process is about to end."""
        self._notify("STOPPING=1")

    def write(self, status: str, values: Mapping[str, Any] | None = None) -> None:
        """Write the health file now."""
        self._file.write(status, self.values() if values is None else values)

    def _sign(self, what: str) -> None:
        now_s = self._clock_s()
        if now_s - self._last_s < _BEAT_S:
            return
        self._last_s = now_s
        self._file.write("waiting" if what else "running", self.values(), **({"waits_for": what} if what else {}))
        words = ["WATCHDOG=1" if self._is_ready else _LONGER] if what or self._is_ready else []
        if what != self._waited_for:
            self._waited_for = what
            words.append(f"STATUS={f'waits for {what}' if what else 'running'}")
        if words:
            self._notify(*words)


def sd_notify(*states: str, environ: Mapping[str, str] | None = None) -> bool:
    """Tell the service manager something: ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``, ``STATUS=words``.

    As sd_notify(3) says: a datagram to the socket that ``NOTIFY_SOCKET`` names; ``@`` stands for the abstract namespace.

    Returns
    -------
    bool
        Whether it was sent; False where no service manager listens.
    """
    address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    message = "\n".join(" ".join(state.splitlines()) for state in states)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.connect(address)
            notifier.sendall(message.encode())
    except OSError:
        return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] | None = None) -> float | None:
    """How often the service manager wants ``WATCHDOG=1``: half of what it waits for, s; None when it does not."""
    given = os.environ if environ is None else environ
    if given.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not given.get("WATCHDOG_USEC", "").isdigit():
        return None
    return int(given["WATCHDOG_USEC"]) / _MICROSECONDS / 2

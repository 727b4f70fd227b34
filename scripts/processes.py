"""Servers as child processes: on a free port of 127.0.0.1, ended with whoever started them, and by nothing else."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Server", "free_port", "run_until_interrupted"]

# Below the ports that Linux gives to outgoing connections: there a client that knocks at a server which is down can be
# given the very port it knocks at, and talk to itself.
_PORTS = range(15_000, 32_000)


def free_port(preferred: int | None = None) -> int:
    """Return a port of 127.0.0.1 that nobody listens on: the preferred one if it is free."""
    chosen = random.SystemRandom()
    for port in [preferred] if preferred else []:
        if _is_free(port):
            return port
    return next(port for port in iter(lambda: chosen.choice(_PORTS), 0) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free to a server
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Server:
    """A server process that is ended when this process ends, however that happens.

    Parameters
    ----------
    name : str
        What it is called in messages.
    folder : Path
        Where its state lives; its output is added to ``server.log`` there. One server at a time uses a folder.
    is_ready : callable
        Whether it serves now.
    user : tuple of int, optional
        User and group to run as, by number; for root only.
    """

    def __init__(
        self, name: str, folder: Path, is_ready: Callable[[], bool], *, user: tuple[int, int] | None = None
    ) -> None:
        self._name = name
        self._log = folder / "server.log"
        self._lock: int | None = None
        self._is_ready = is_ready
        self._user = user
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], timeout_s: float = 60.0) -> float:
        """Start, wait until it serves, and return the seconds that took.

        Raises
        ------
        RuntimeError
            When it ended or did not serve in time; with the last lines of its log.
        """
        self._take_folder()
        began = time.monotonic()
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the one who started it, who then ends it in order.
            self.process = subprocess.Popen(
                [*_tied(self._user), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        while not self._is_ready():
            late = time.monotonic() - began > timeout_s
            if late or self.process.poll() is not None:
                self.end(signal.SIGKILL)
                what = f"did not serve within {timeout_s:g} s" if late else f"ended with {self.process.returncode}"
                raise RuntimeError(f"{self._name} {what}; the end of {self._log}:\n{self._last_lines()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def end(self, sig: signal.Signals, timeout_s: float = 30.0) -> None:
        """Send a signal and wait; one that does not heed it in time is killed."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_folder(self) -> None:
        lock = os.open(self._log.parent / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RuntimeError(f"{self._name} does not start: another one uses {self._log.parent}") from None
        self._lock = lock

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def _tied(user: tuple[int, int] | None) -> list[str]:
    """Return the command before a command that ends it with this process, and runs it as a user.

    setpriv becomes the command it runs, so the process id is the server's own.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None and user is None:
        return []
    identity = [f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups"] if user else []
    return [setpriv or "setpriv", *identity, "--pdeathsig=KILL", "--"]


def run_until_interrupted(server: Server) -> int:
    """Wait until the server ends or someone ends us (Ctrl-C, SIGTERM); return the exit code."""
    assert server.process is not None
    with _interrupted_by(signal.SIGTERM):
        try:
            code = server.process.wait()
        except KeyboardInterrupt:
            return 0
    print(f"the server ended by itself with {code}", file=sys.stderr)
    return 1


@contextmanager
def _interrupted_by(sig: signal.Signals) -> Iterator[None]:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(sig, interrupt)
    try:
        yield
    finally:
        signal.signal(sig, before)

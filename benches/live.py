"""Live processes to measure: a state directory with its settings, a recording sent to it, a process that follows."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data import ROOT, surf_week

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.kafka import KafkaBroker

OPENDT = Path(sys.executable).with_name("opendt")
WINDOW_MS = 300_000
LONGEST_S = 600.0
PAUSE_S = 0.02


@dataclass(frozen=True)
class Plant:
    """A folder in which a datacenter is followed.

    Attributes
    ----------
    folder : Path
        Holds ``opendt.toml`` and the state.
    bootstrap : str or None
        Brokers of Kafka; the embedded log without.
    """

    folder: Path
    bootstrap: str | None = None

    def __post_init__(self) -> None:
        """Write the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"state_dir = {json.dumps(str(self.state))}",
            'log_level = "warning"',
            "[datacenter.datacenter]",
            f"topology = {json.dumps(str(surf_week() / 'topology.json'))}",
        ]
        if self.bootstrap is not None:
            lines[2:2] = ['transport = "kafka"', "[kafka]", f'bootstrap_servers = "{self.bootstrap}"']
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def config(self) -> Path:
        """The settings."""
        return self.folder / "opendt.toml"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.folder / "state"

    def replay(self, *options: str) -> subprocess.Popen[bytes]:
        """Begin to send the SURF week."""
        progress = ("--progress", str(self.folder / "sent.json"))
        command = [str(OPENDT), "replay", str(surf_week()), "-q", "--config", str(self.config), *progress, *options]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def follow(self, *options: str) -> subprocess.Popen[bytes]:
        """Begin to follow it."""
        return subprocess.Popen([str(OPENDT), "run", "--config", str(self.config), *options], stdin=subprocess.DEVNULL)

    def has_begun(self) -> bool:
        """Whether the first messages are in the transport."""
        return (self.folder / "sent.json").exists()

    def last_window(self) -> int:
        """The last window in the ledger; -1 when there is none yet."""
        ledger = self.state / "ledger.sqlite"
        if not ledger.exists():
            return -1
        try:
            with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=5.0) as connection:
                found = connection.execute("SELECT max(window_index) FROM windows").fetchone()[0]
            connection.close()
        except sqlite3.OperationalError:  # not made yet
            return -1
        return -1 if found is None else int(found)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process to end well.

    Raises
    ------
    RuntimeError
        When it does not.
    """
    try:
        code = process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    if code != 0:
        message = f"{' '.join(map(str, process.args))} ended with {code}"  # type: ignore[arg-type]
        raise RuntimeError(message)


def wait_for(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something holds, as long as a process lives.

    Raises
    ------
    RuntimeError
        When it ends before, or it takes too long.
    """
    until_s = time.monotonic() + LONGEST_S
    while not is_true():
        if process.poll() is not None or time.monotonic() > until_s:
            message = f"{' '.join(map(str, process.args))} did not come so far"  # type: ignore[arg-type]
            raise RuntimeError(message)
        time.sleep(PAUSE_S)


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process with the block, whatever happens in it."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def memory_mb(process: subprocess.Popen[bytes]) -> float | None:
    """What a process holds in memory, MB; None when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    resident = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(resident[0].split()[1]) * 1024 / 1e6 if resident else None


@contextmanager
def broker(folder: Path) -> Iterator[KafkaBroker]:
    """Run a real Kafka broker.

    Raises
    ------
    FileNotFoundError
        When it is not installed; a bench does not install it.
    """
    import shutil

    sys.path.insert(0, str(ROOT))
    try:
        from scripts.kafka import KafkaBroker, jars_folder
    finally:
        sys.path.remove(str(ROOT))
    if shutil.which("java") is None or not jars_folder().is_dir():
        message = "no Kafka broker is installed: make parts"
        raise FileNotFoundError(message)
    with KafkaBroker(folder) as running:
        yield running


def environment() -> dict[str, str]:
    """Environment of a Python process that imports what stands beside this file."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}

"""Measuring: repeated calls, whole processes, and a registry of what is measured.

A bench is a function that takes a :class:`Context` and gives named samples::

    @bench
    def window(context: Context) -> Samples:
        twin = ...
        return {"window-ms": context.repeat(lambda: twin.advance(300_000))}

The names are the keys of ``targets.py``; a name without a target is listed beside them. A bench that cannot run here
(data or a command is missing) raises FileNotFoundError with the reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

T = TypeVar("T")

Samples = Mapping[str, Sequence[float]]
BENCHES: dict[str, Callable[[Context], Samples]] = {}

# A process is started by a small one of its own: on Linux the peak memory of a child counts the parent it was forked from.
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(child, 0)
print(json.dumps({"wall_ms": (time.perf_counter() - started) * 1e3, "code": os.waitstatus_to_exitcode(status),
                  "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3, "peak_mb": usage.ru_maxrss * 1024 / 1e6}))
"""


@dataclass(frozen=True)
class Process:
    """What a whole process cost."""

    wall_ms: float
    cpu_ms: float
    peak_mb: float


@dataclass(frozen=True)
class Context:
    """How often to measure, and a folder for what a bench writes."""

    repeats: int
    folder: Path

    def repeat(self, call: Callable[[], object], *, inner: int = 1) -> list[float]:
        """Milliseconds of one call, ``repeats`` times, after one that warms up.

        Parameters
        ----------
        call
            What to time.
        inner
            Calls per sample, for what is too short for the clock; each sample is their mean.
        """
        samples = []
        for _ in range(self.repeats + 1):
            started = time.perf_counter()
            for _ in range(inner):
                call()
            samples.append((time.perf_counter() - started) * 1000 / inner)
        return samples[1:]

    def repeat_fresh(self, prepare: Callable[[], T], call: Callable[[T], object]) -> list[float]:
        """As :meth:`repeat`, with something new, not timed, for each call."""
        samples = []
        for _ in range(self.repeats + 1):
            subject = prepare()
            started = time.perf_counter()
            call(subject)
            samples.append((time.perf_counter() - started) * 1000)
        return samples[1:]

    def processes(self, command: Callable[[Path], Sequence[str]]) -> list[Process]:
        """Cost of a whole process, ``repeats`` times, after one that warms up.

        Parameters
        ----------
        command
            Gives the command line; its argument is an empty folder, removed afterwards, for what the process writes.
        """
        return [self._process(command) for _ in range(self.repeats + 1)][1:]

    def _process(self, command: Callable[[Path], Sequence[str]]) -> Process:
        with self.scratch() as folder:
            words = [str(word) for word in command(folder)]
            if shutil.which(words[0]) is None:
                message = f"no command {words[0]}"
                raise FileNotFoundError(message)
            launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *words]
            ended = subprocess.run(launcher, check=True, capture_output=True, text=True)
        cost = json.loads(ended.stdout)
        code = cost.pop("code")
        if code != 0:
            message = f"{' '.join(words)} ended with {code}: {ended.stderr.strip()[-500:]}"
            raise RuntimeError(message)
        return Process(**cost)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder that is removed afterwards."""
        with TemporaryDirectory(dir=self.folder) as name:
            yield Path(name)


def bench(function: Callable[[Context], Samples]) -> Callable[[Context], Samples]:
    """Register a bench under its function's name."""
    name = function.__name__.replace("_", "-")
    if name in BENCHES:
        message = f"two benches are named {name}"
        raise ValueError(message)
    BENCHES[name] = function
    return function

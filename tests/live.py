"""A process that follows a datacenter live, as a person runs it, and what it leaves behind: for tests that end it the hard way."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from opendt.formats.synthetic import generate_week
from opendt.model.errors import LedgerError
from opendt.orchestrator.buffer import SimulationResultsBuffer
from opendt.telemetry.log import LogSink
from opendt.telemetry.messages import RESULTS
from opendt.telemetry.recording import Plan, ReplayOptions, read_recording
from opendt.verification.ledger import Ledger
from tests import killed_after
from tests.command import FACE
from tests.data import data_folder

if TYPE_CHECKING:
    from opendt.telemetry.recording import Outgoing
    from opendt.telemetry.source import Partition, Source

IS_SOAK = os.environ.get("OPENDT_SOAK") == "1"
SEED = int(os.environ.get("OPENDT_SEED", "1"))
NAME = "datacenter"
_TURN_S = 0.002
_DEADLINE_S = 600 if IS_SOAK else 50


@dataclass
class Live:
    """A state directory with its settings, and the commands that work on it.

    Parameters
    ----------
    folder : Path
        Where settings and state lie.
    topology : Path
        Watched by the process.
    log : Path, optional
        Directory of the embedded log; else there are `brokers`.
    brokers : str
        Of Kafka.
    group : str
        Consumer group.
    ledger : str
        URL; a file of SQLite in the state directory unless given.
    settings : dict
        More of them, flat: ``{"lateness_s": 10}``.
    names : sequence of str
        Datacenters.
    state : Path, optional
        State directory; beside the settings unless given.
    """

    folder: Path
    topology: Path
    log: Path | None = None
    brokers: str = ""
    group: str = "opendt"
    ledger: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = (NAME,)
    state: Path | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.state or self.folder / "state"
        sections: dict[str, Any] = {"state_dir": str(self.state), "snapshot_every_windows": 5, **self.settings}
        sections["datacenter"] = {name: {"topology": str(self.topology)} | self._slo() for name in self.names}
        if self.log is not None:
            sections |= {"transport": "log", "log": {"directory": str(self.log)}}
        else:
            # Without its goodbye a killed member would keep its partitions for the usual ten seconds.
            quick = {"session.timeout.ms": 1_500, "heartbeat.interval.ms": 300}
            sections |= {"transport": "kafka", "kafka": self._kafka(quick)}
        if self.ledger:
            sections["ledger_url"] = self.ledger
        self.file = self.folder / "opendt.json"
        self.file.write_text(json.dumps(sections), encoding="utf-8")

    def _kafka(self, client: dict[str, Any]) -> dict[str, Any]:
        return {"bootstrap_servers": self.brokers, "group": self.group, "settings": client}

    def _slo(self) -> dict[str, str]:
        slo = self.folder / "slo.json"
        return {"slo": str(slo)} if slo.exists() else {}

    @property
    def ledger_url(self) -> str:
        """Where windows are recorded."""
        return self.ledger or f"sqlite:///{self.state / 'ledger.sqlite'}"

    # -- the commands ------------------------------------------------------------------------------------------------

    def command(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a command with these settings to its end, which must be a good one."""
        done = subprocess.run(
            [*FACE, *map(str, words), "--config", str(self.file)],
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr[-4_000:]
        return done

    def replay(self, workload: Path, *words: object) -> None:
        """Send a recorded datacenter."""
        self.command("replay", workload, *words)

    @contextmanager
    def started(self, *words: object, launcher: list[str] | None = None, **options: Any) -> Iterator[Process]:
        """``opendt run`` as a process of its own; it is killed at the end unless it has ended."""
        self.state.mkdir(exist_ok=True)
        with (self.folder / "said").open("ab") as said:
            start = said.tell()
            command = [*(launcher or FACE), "run", "--config", str(self.file), "--log-format", "json", *map(str, words)]
            child = subprocess.Popen(command, stderr=said, stdout=said, stdin=subprocess.DEVNULL, **options)
        process = Process(self, child, start)
        try:
            yield process
        finally:
            process.kill()

    def send(self, messages: Iterable[Outgoing]) -> None:
        """Send some messages of a recorded datacenter by the log."""
        with closing(LogSink(self.log)) as sink:
            for message in messages:
                sink.send(message.topic, message.value, key=message.key)

    def drain(self) -> list[dict[str, Any]]:
        """Let it process what is there; gives its events."""
        with self.started("--drain") as process:
            assert process.wait() == 0, process.said()
            return process.events()

    # -- what is left ------------------------------------------------------------------------------------------------

    def window(self, name: str = NAME) -> int:
        """Last window in the ledger; -1 when there is none."""
        if not self.ledger and not (self.state / "ledger.sqlite").exists():
            return -1
        try:
            with Ledger.open(self.ledger_url, read_only=True) as ledger:
                return ledger.progress(name)[0]
        except LedgerError:  # it is just being made
            return -1

    @contextmanager
    def watched(self, name: str = NAME) -> Iterator[Callable[[], int]]:
        """Give `window` for asking often: the ledger stays open."""
        if self.window(name) < 0:
            yield lambda: self.window(name)
            return
        with Ledger.open(self.ledger_url, read_only=True) as ledger:
            yield lambda: ledger.progress(name)[0]

    def export(self) -> bytes:
        """Everything in the ledger that is a function of the inputs; its hashes must hold."""
        self.command("ledger", "verify")
        return self.command("ledger", "export").stdout.encode()

    def results(self, name: str = NAME) -> dict[int, bytes]:
        """What was told on sim.results, by window; what was told twice must have been the same."""
        found: dict[int, bytes] = {}
        for record in read_all(self.source("results"), [RESULTS]):
            if record.key == name:
                window = json.loads(record.value)["window"]
                assert found.setdefault(window, record.value) == record.value, f"window {window} was told differently"
        return found

    def series(self, name: str = NAME) -> dict[str, str]:
        """Digest of each column of the series that are kept."""
        buffer = SimulationResultsBuffer(self.state / "results" / name, datacenter=name)
        columns = buffer.timeseries()
        return {key: hashlib.sha256(column.tobytes()).hexdigest() for key, column in columns.items()} | {
            "rows": str(len(columns["time_ms"]))
        }

    def source(self, purpose: str) -> Source:
        """Read the transport in a group of its own."""
        group = f"{purpose}-{os.getpid()}-{time.monotonic_ns()}"
        if self.log is not None:
            from opendt.telemetry.log import LogSource

            return LogSource(self.log, group)
        from opendt.telemetry.kafka import KafkaSource

        return KafkaSource(self.brokers, group)


class Process:
    """A run of ``opendt run``."""

    def __init__(self, live: Live, child: subprocess.Popen[bytes], start: int) -> None:
        self._live = live
        self._child = child
        self._start = start

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    def wait(self) -> int:
        """Give the exit code when it has ended by itself."""
        return self._child.wait(timeout=_DEADLINE_S)

    def terminate(self) -> int:
        """Ask it to end and give its exit code."""
        self._child.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        """SIGKILL, unless it has ended."""
        if self.is_running:
            self._child.kill()
        return self._child.wait()

    def said(self) -> str:
        """All that it said so far."""
        with (self._live.folder / "said").open("rb") as said:
            said.seek(self._start)
            return said.read().decode("utf-8", "replace")

    def events(self) -> list[dict[str, Any]]:
        """Events that it logged so far."""
        lines = (line for line in self.said().splitlines(keepends=True) if line.startswith("{") and line.endswith("\n"))
        return [json.loads(line) for line in lines]

    def kinds(self) -> list[str]:
        """Kinds of these events."""
        return [event.get("kind", "") for event in self.events()]

    def until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait for something; the process must not end before."""
        deadline_s = time.monotonic() + _DEADLINE_S
        while not is_so():
            assert self.is_running, f"ended before {what}: {self.said()[-4_000:]}"
            assert time.monotonic() < deadline_s, f"no {what}: {self.said()[-4_000:]}"
            time.sleep(_TURN_S)

    def until_window(self, index: int, name: str = NAME) -> bool:
        """Wait until a window is recorded; False when the process ended before that."""
        deadline_s = time.monotonic() + _DEADLINE_S
        while self.is_running:
            with self._live.watched(name) as window:
                began_s = time.monotonic()
                while self.is_running and time.monotonic() - began_s < 1.0:
                    if window() >= index:
                        return True
                    assert time.monotonic() < deadline_s, f"no window {index}: {self.said()[-4_000:]}"
                    time.sleep(_TURN_S)
        return False


@dataclass
class Reference:
    """An undisturbed run."""

    workload: Path
    stretch: tuple[str, ...]
    topology: Path
    windows: int
    live: Live
    export: bytes
    results: dict[int, bytes]
    series: dict[str, str]

    def messages(self) -> list[Outgoing]:
        """What was sent."""
        times = dict(zip(self.stretch[::2], map(float, self.stretch[1::2]), strict=True))
        from_h, hours = times.get("--from", 0.0), times["--hours"]
        times_ms = {"from_ms": round(from_h * 3_600_000), "length_ms": round(hours * 3_600_000)}
        options = ReplayOptions(**times_ms, lateness_ms=30_000)  # as the settings have it
        return list(Plan(read_recording(self.workload), options).messages())

    def assert_equal(self, live: Live) -> None:
        """Hold another run against it, by parts, so that a difference can be read."""
        there = live.export().splitlines()
        for number, (found, expected) in enumerate(zip(there, self.export.splitlines(), strict=False)):
            assert found == expected, f"line {number} of the export"
        assert len(there) == len(self.export.splitlines())
        assert live.results() == self.results
        assert live.series() == self.series


def undisturbed(folder: Path) -> Reference:
    """Run half a day that never was; with ``make soak`` a day of SURF where it is to be had."""
    week = data_folder() / "traces" / "surf-week"
    if IS_SOAK and week.exists():
        workload, stretch = week, ("--from", "24", "--hours", "24")
    else:
        workload, stretch = generate_week(3, folder / "week"), ("--hours", "12")
    live = Live(folder, workload / "topology.json", log=folder / "log")
    live.replay(workload, *stretch)
    live.drain()
    results = live.results()
    assert sorted(results) == list(range(live.window() + 1))
    return Reference(workload, stretch, live.topology, len(results), live, live.export(), results, live.series())


def kill_at_random(live: Live, seed: int, kills: int, windows: int) -> int:
    """Kill the process so often, at random moments of a run over so many windows; gives how often it was hit at work.

    Most moments are in the midst of windows; some are while the process starts, where it reads snapshot and ledger.
    """
    random, hits = Random(seed), 0
    for wanted in sorted(random.randrange(-1, windows - 1) for _ in range(kills)):
        target = max(wanted, live.window() + 1)
        # When an earlier process came further, let this one be killed about its start.
        start_s = math.inf if target == wanted else random.random() * 1.5
        work_s = random.random() * 0.02  # about a few windows
        launcher = [sys.executable, killed_after.__file__, *map(str, (target, work_s, start_s))]
        with live.started("--drain", launcher=launcher) as process:
            code = process.wait()
            assert code in (0, -signal.SIGKILL), process.said()[-4_000:]  # 0: it was done before
            hits += code != 0
    return hits


def read_all(source: Source, topics: list[str]) -> list[Any]:
    """All that topics hold now."""
    mine: set[Partition] = set()
    found: list[Any] = []
    source.subscribe(topics, on_assigned=lambda some: (mine.update(some), {})[1], on_revoked=lambda _: None)
    deadline_s = time.monotonic() + _DEADLINE_S
    try:
        while True:
            records = source.poll(timeout_s=0.1)
            found += records
            if mine and not records and all(map(source.is_at_end, mine)):
                return found
            assert time.monotonic() < deadline_s, f"cannot read {topics} to the end"
    finally:
        source.close()


def without_counts(export: bytes) -> list[Any]:
    """Lines of an export without what records that were no part of a window change: places, their counts, the chain."""
    lines = [json.loads(line) for line in export.splitlines()]
    for line in lines:
        line.pop("hash", None)
        line.pop("previous_hash", None)
        content = line.get("content", {})
        content.pop("positions", None)
        for name in ("late", "duplicate", "merged", "dead"):
            content.get("metrics", {}).pop(f"{name}_count", None)
    return lines

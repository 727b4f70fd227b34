"""Datacenters followed live: the week end to end, ingest, delay of results, restart, many in one process, memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data import surf_week
from harness import Context, Samples, bench
from live import WINDOW_MS, Plant, broker, ended, environment, finish, memory_mb, wait_for

if TYPE_CHECKING:
    from collections.abc import Collection

    from opendt.telemetry.kafka import KafkaSource
    from opendt.telemetry.source import Partition, Record
    from opendt.telemetry.windows import WindowAssembler

WEEK_HOURS = 168
SPEED = 300
DATACENTERS = 200


def _length(context: Context) -> tuple[int, str]:
    """Hours of the week to send, and what the names of such figures end with: a part is no sample of the whole."""
    return (WEEK_HOURS, "") if context.repeats > 1 else (24, "-day")


@bench
def live_log(context: Context) -> Samples:
    """The week through the embedded log; then a restart on the state it left."""
    hours, suffix = _length(context)
    seconds, restarts = [], []
    for number in range(min(context.repeats, 2)):
        with context.scratch() as folder:
            seconds.append(_end_to_end(Plant(folder), hours))
            if number == 0:
                restarts = _restarts(Plant(folder), context.repeats)
    return {f"live-log{suffix}": seconds, f"live-restart{suffix}": restarts}


@bench
def live_kafka(context: Context) -> Samples:
    """The same through a real broker."""
    hours, suffix = _length(context)
    seconds = []
    for _ in range(min(context.repeats, 2)):
        with context.scratch() as folder, broker(folder / "broker") as running:
            seconds.append(_end_to_end(Plant(folder / "plant", running.bootstrap), hours))
    return {f"live-kafka{suffix}": seconds}


def _end_to_end(plant: Plant, hours: int) -> float:
    """Seconds from the first message until all windows are recorded; sender and follower run side by side."""
    expected = hours * 3_600_000 // WINDOW_MS
    started = time.perf_counter()
    with ended(plant.replay("--hours", str(hours))) as sender:
        wait_for(plant.has_begun, sender)
        with ended(plant.follow("--drain")) as follower:
            finish(sender)
            finish(follower)
            seconds = time.perf_counter() - started
    found = plant.last_window() + 1
    if found < expected:
        message = f"{found} windows were recorded, expected {expected}"
        raise RuntimeError(message)
    return seconds


def _restarts(plant: Plant, repeats: int) -> list[float]:
    """Seconds of whole processes that go on from the last snapshot but one, derive the windows since again, and end.

    They end as soon as they find their streams at the end, so that all of it is what keeps a restarted process from following.
    """
    store = plant.state / "snapshots" / "datacenter"
    before = min(store.glob("*.twin"))
    name, content = before.name, before.read_bytes()
    seconds = []
    for _ in range(repeats):
        for path in store.glob("*.twin"):
            path.unlink()
        (store / name).write_bytes(content)
        started = time.perf_counter()
        finish(plant.follow("--drain"))
        seconds.append(time.perf_counter() - started)
    return seconds


@bench
def live_ingest(context: Context) -> Samples:
    """Fragments of the older pair in batches, from a real broker until their windows have closed."""
    from opendt.telemetry.kafka import KafkaSource
    from opendt.telemetry.messages import FRAGMENTS, TASKS
    from opendt.telemetry.windows import WindowAssembler

    hours, suffix = _length(context)
    rates = []
    with context.scratch() as folder, broker(folder / "broker") as running:
        plant = Plant(folder / "plant", running.bootstrap)
        finish(plant.replay("--pair", "--hours", str(hours)))
        for number in range(min(context.repeats, 3)):
            source = KafkaSource(running.bootstrap, f"ingest-{number}", companions={TASKS: (FRAGMENTS,)})
            assembler = WindowAssembler(
                "datacenter", window_ms=WINDOW_MS, lateness_ms=60_000, power_patience_ms=WINDOW_MS
            )
            try:
                rates.append(_ingest(source, assembler))
            finally:
                source.close()
    return {f"live-ingest{suffix}": [rate / 1000 for rate in rates]}


def _ingest(source: KafkaSource, assembler: WindowAssembler) -> float:
    """Fragments a second from the first record until the last window."""
    from opendt.telemetry.messages import FRAGMENTS, POWER, TASKS

    assigned: set[Partition] = set()

    def assign(partitions: Collection[Partition]) -> dict[Partition, int]:
        assigned.update(partitions)
        return {}

    source.subscribe((TASKS, FRAGMENTS, POWER), on_assigned=assign, on_revoked=assigned.difference_update)
    count, started, ended_s = 0, None, 0.0
    while True:
        records: list[Record] = source.poll(timeout_s=0.5)
        if records and started is None:
            started = time.perf_counter()
        if records:
            assembler.add(records)
        while (window := assembler.next()) is not None:
            count += len(window.fragments)
            ended_s = time.perf_counter()
        if started is not None and not records and all(map(source.is_at_end, assigned)):
            return count / (ended_s - started)


@bench
def live_delay(context: Context) -> Samples:
    """From a window's closing record in to its result out, at 300 times real time, by the log's own time stamps (1 ms)."""
    hours = 8 if context.repeats > 1 else 2
    with context.scratch() as folder:
        plant = Plant(folder)
        with ended(plant.follow()) as follower:
            wait_for((plant.state / "ledger.sqlite").exists, follower)
            _send_promptly(plant, hours)
            wait_for(lambda: plant.last_window() >= hours * 12 - 1, follower)
            follower.terminate()
            finish(follower)
        delays = _delays(plant)
    return {
        "live-delay-p99": [statistics.quantiles(delays, n=100, method="inclusive")[98]],
        "live-delay-median": [statistics.median(delays)],
    }


def _send_promptly(plant: Plant, hours: int) -> None:
    """Send hours around noon of the fourth day, each message on its way at once: its time stamp is when it can be read."""
    from opendt.telemetry.log import LogSink
    from opendt.telemetry.recording import Plan, ReplayOptions, read_recording
    from opendt.telemetry.replay import Replay

    class Prompt(LogSink):
        def send(self, topic: str, value: bytes, *, key: str, timestamp_ms: int | None = None) -> None:
            super().send(topic, value, key=key, timestamp_ms=timestamp_ms)
            self.flush()

    options = ReplayOptions(from_ms=84 * 3_600_000, length_ms=hours * 3_600_000)
    sink = Prompt(plant.state / "log", is_durable=False)
    try:
        Replay(Plan(read_recording(surf_week()), options), sink, speed=SPEED).run()
    finally:
        sink.close()


def _delays(plant: Plant) -> list[float]:
    """Milliseconds of each window but the first three, which were there before the follower was."""
    from opendt.telemetry.log import LogSource
    from opendt.telemetry.messages import POWER, RESULTS, WORKLOAD, parse

    source = LogSource(plant.state / "log", "bench")
    source.subscribe((WORKLOAD, POWER, RESULTS), on_assigned=lambda _: {}, on_revoked=lambda _: None)
    streams: dict[str, list[tuple[int, int]]] = {WORKLOAD: [], POWER: []}
    results: dict[int, tuple[int, int]] = {}
    while records := source.poll():
        for record in records:
            content = parse(record.topic, record.value)
            if record.topic == RESULTS:
                results.setdefault(content["window"], (content["end"], record.timestamp_ms))
            else:
                streams[record.topic].append((content["timestamp"], record.timestamp_ms))
    source.close()
    lateness_ms = _lateness_ms(plant)
    delays = []
    for window, (end_ms, told_ms) in sorted(results.items())[3:]:
        threshold_ms = end_ms + max(lateness_ms, 1)
        closing = [next((came for time_ms, came in one if time_ms >= threshold_ms), None) for one in streams.values()]
        if None not in closing:
            delays.append(float(told_ms - max(came for came in closing if came is not None)))
        elif window < len(results) - 2:
            message = f"window {window} has a result but nothing closed it"
            raise RuntimeError(message)
    return delays


def _lateness_ms(plant: Plant) -> int:
    from opendt.orchestrator.settings import load_settings

    return load_settings(plant.config).lateness_ms


@bench
def live_fleet(context: Context) -> Samples:
    """Two hundred datacenters of SURF's size in one process, around noon of the fourth day."""
    surf_week()
    count = DATACENTERS if context.repeats > 1 else 20
    suffix = "" if context.repeats > 1 else f"-of-{count}"
    with context.scratch() as folder:
        program = Path(__file__).with_name("live_fleet.py")
        command = [sys.executable, str(program), str(count), str(folder)]
        ended_ = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    found = json.loads(ended_.stdout)
    return {
        f"fleet-cpu{suffix}": [found["cpu_ms"]],
        f"fleet-memory{suffix}": [found["memory_mb"]],
        f"fleet-core{suffix}": [found["cpu_ms"] * count / WINDOW_MS * 100],
        f"fleet-total{suffix}": [found["process_mb"] / 1000],
    }


@bench
def live_memory(context: Context) -> Samples:
    """Memory of a process that follows the week four times over, each as other tasks."""
    repeat, hours = (4, WEEK_HOURS) if context.repeats > 1 else (2, 12)
    windows = repeat * hours * 12
    points: list[tuple[float, float]] = []
    with context.scratch() as folder:
        plant = Plant(folder)
        with ended(plant.replay("--repeat", str(repeat), "--hours", str(hours))) as sender:
            wait_for(plant.has_begun, sender)
            with ended(plant.follow("--drain")) as follower:
                while follower.poll() is None:
                    window, held_mb = plant.last_window(), memory_mb(follower)
                    if window >= 0 and held_mb is not None:
                        points.append(((window + 1) / (hours * 12), held_mb))
                    time.sleep(0.25)
                finish(follower)
            finish(sender)
        if plant.last_window() + 1 < windows:
            message = f"{plant.last_window() + 1} windows were recorded, expected {windows}"
            raise RuntimeError(message)
    suffix = "" if repeat == 4 else "-short"
    early = statistics.median(mb for place, mb in points if 0.5 <= place <= 1.5)
    late = statistics.median(mb for place, mb in points if place >= repeat - 1)
    curve = {f"memory-at-{place:.4f}": [mb] for place, mb in points} if repeat == 4 else {}
    return {f"live-memory{suffix}": [late], f"live-memory-growth{suffix}": [late / early], **curve}

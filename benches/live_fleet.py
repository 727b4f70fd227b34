"""Follow many datacenters of SURF's size in one process and say what each costs: `live_fleet.py COUNT FOLDER`, JSON out.

All are sent the same hours of the week, each under its own name, in turn, ten seconds at a time, as their streams would bring them
at the pace of life. The first hour warms up; then processor time is taken of half an hour. Reading the transport is not in it
(`bench_live.live_log` has it).
"""

from __future__ import annotations

import gc
import json
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from data import surf_week
from live import WINDOW_MS

if TYPE_CHECKING:
    from opendt.orchestrator.controller import OpenDTOrchestrator
    from opendt.telemetry.source import Record

FROM_MS = 84 * 3_600_000
WARM, MEASURED = 12, 6
INSTANT_MS = 10_000


def record_windows() -> list[list[Record]]:
    """Records of the hours, by the window that they fall into."""
    from opendt.telemetry.recording import Plan, ReplayOptions, read_recording
    from opendt.telemetry.source import Record

    length_ms = (WARM + MEASURED + 1) * WINDOW_MS
    plan = Plan(read_recording(surf_week()), ReplayOptions(from_ms=FROM_MS, length_ms=length_ms))
    windows: list[list[Record]] = [[] for _ in range(WARM + MEASURED + 2)]
    offsets: dict[str, int] = {}
    for message in plan.messages(0):
        offset = offsets.get(message.topic, 0)
        offsets[message.topic] = offset + 1
        window = min(max(message.time_ms - plan.first_ms, 0) // WINDOW_MS, len(windows) - 1)
        windows[window].append(Record(message.topic, 0, offset, message.key, message.time_ms, message.value))
    return windows


def resident_mb() -> float:
    """What this process holds in memory, MB."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))


def step(followed: list[OpenDTOrchestrator], records: list[Record]) -> None:
    """Bring every datacenter what its streams tell in one window."""
    from opendt.telemetry.messages import TOPOLOGY
    from opendt.telemetry.source import Partition

    for _, some in groupby(records, lambda record: record.timestamp_ms // INSTANT_MS):
        instant = list(some)
        for one in followed:
            one.take([record._replace(key=one.datacenter) for record in instant])
            one.assembler.note_end(Partition(TOPOLOGY, 0))
            one.turn_windows()


def main() -> None:
    """Measure and print."""
    from opendt.orchestrator.controller import OpenDTOrchestrator
    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.settings_model import DatacenterSettings, Settings
    from opendt.orchestrator.versions import FileWatchers
    from opendt.telemetry.log import LogSink
    from opendt.verification.ledger import Ledger

    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    names = [f"surf-{number:04d}" for number in range(count)]
    topology = surf_week() / "topology.json"
    settings = Settings(
        state_dir=folder / "state",
        datacenter={name: DatacenterSettings(name=name, topology=topology) for name in names},
    )
    settings.state_dir.mkdir()
    windows = record_windows()
    bus, watchers = EventBus(), FileWatchers()
    with Ledger.open(settings.ledger_address) as ledger:
        sink = LogSink(settings.log_directory, is_durable=False)

        def start(name: str) -> OpenDTOrchestrator:
            one = OpenDTOrchestrator(settings, name, ledger=ledger, sink=sink, bus=bus, watchers=watchers)
            one.start()
            return one

        followed = [start(names[0])]
        step(followed, windows[0])
        one_mb = resident_mb()
        followed += [start(name) for name in names[1:]]
        step(followed[1:], windows[0])
        for records in windows[1:WARM]:
            step(followed, records)
        before = sum(one.state.read().cycle_count for one in followed)
        began_s = time.process_time()
        for records in windows[WARM : WARM + MEASURED]:
            step(followed, records)
        cpu_s = time.process_time() - began_s
        turned = sum(one.state.read().cycle_count for one in followed) - before
        all_mb = resident_mb()
        for one in followed:
            one.stop("measured")
        sink.close()
    found = {
        "cpu_ms": 1000 * cpu_s / turned,
        "memory_mb": (all_mb - one_mb) / (count - 1),
        "process_mb": all_mb,
        "windows": turned,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

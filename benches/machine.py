"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def describe() -> dict[str, str]:
    """Processor, memory, load at the start, versions and the commit."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    packages = ", ".join(f"{name} {_version(name)}" for name in ("opendt-twin", "numpy", "pyarrow", "simpy"))
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB",
        "load at the start": f"{load:.2f}" + (" (busy: figures are too high)" if load > 0.5 else ""),
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, {_output('rustc', '--version')}, {packages}",
        "commit": _output("git", "describe", "--always", "--dirty"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

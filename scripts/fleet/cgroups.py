"""Control groups with a hard CPU quota, one for each real node; version 1 and 2.

Version 1 has a tree for each controller, version 2 a single one. Version 2 is written from its documentation and tested on
folders only: no machine with it was at hand.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.fleet.deadline import Deadline

__all__ = ["QuotaGroup", "remove_groups"]

ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_WANTED = ("cpuset", "cpu", "io", "memory", "pids")


@dataclass(frozen=True)
class QuotaGroup:
    """A group for the pods of one node: all of them together get `cores` of CPU time, however idle the machine is."""

    path: str
    cores: float
    root: Path = ROOT

    def make(self) -> None:
        """Make the group in every tree, with its quota."""
        if _is_version_2(self.root):
            self._make_version_2()
        else:
            self._make_version_1()

    def _make_version_1(self) -> None:
        for tree in _trees(self.root):
            group = tree
            for part in Path(self.path).parts:
                above, group = group, group / part
                group.mkdir(exist_ok=True)
                for setting in ("cpuset.mems", "cpuset.cpus"):  # empty in a new group, which then can hold nothing
                    if (above / setting).exists():
                        (group / setting).write_text((above / setting).read_text())
            if (tree / "cpu.shares").exists():  # the tree of the controller that has quotas
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(self._quota_us()))

    def _make_version_2(self) -> None:
        group = self.root
        for part in Path(self.path).parts:
            available = (group / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{name}" for name in _WANTED if name in available)
            (group / "cgroup.subtree_control").write_text(wanted)
            group /= part
            group.mkdir(exist_ok=True)
        (group / "cpu.max").write_text(f"{self._quota_us()} {_PERIOD_US}")

    def _quota_us(self) -> int:
        return round(self.cores * _PERIOD_US)


def remove_groups(path: str, root: Path = ROOT, timeout_s: float = 20.0) -> None:
    """End every process in a group and those below it, and remove them all; none is fine."""
    tops = [tree / path for tree in ([root] if _is_version_2(root) else _trees(root)) if (tree / path).is_dir()]
    deadline = Deadline(timeout_s)
    while any(_end(pid) for top in tops for pid in _processes(top)):
        if not deadline.wait(0.05):
            raise RuntimeError(f"processes in the control group {path} do not end")
    for top in tops:
        for group in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
            group.rmdir()
        top.rmdir()


def _is_version_2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _trees(root: Path) -> list[Path]:
    return [tree for tree in sorted(root.iterdir()) if (tree / "cgroup.procs").exists() and not tree.is_symlink()]


def _processes(top: Path) -> Iterator[int]:
    for file in top.rglob("cgroup.procs"):
        with suppress(OSError):  # a group that has just gone
            yield from (int(line) for line in file.read_text().split())


def _end(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True

"""Let the kernel run programs of other architectures by qemu-user (binfmt_misc), also in containers that hold no qemu."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["register", "unregister"]

_FOLDER = Path("/proc/sys/fs/binfmt_misc")
# arch -> (qemu, ELF machine number in hexadecimal): the header of a 64 bit little-endian ELF file, of System V's or GNU's
# ABI, executable or shared.
_MACHINES = {"arm64": ("qemu-aarch64-static", "b7"), "riscv64": ("qemu-riscv64-static", "f3")}
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x{machine}\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


def register(prefix: str, architectures: Iterable[str]) -> None:
    """Register qemu for architectures, under names of our own that `unregister` removes.

    Raises
    ------
    RuntimeError
        When there is no qemu for one, or the kernel has no binfmt_misc.
    """
    if not (_FOLDER / "register").exists():
        mounted = subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_FOLDER)], check=False, capture_output=True
        )
        if mounted.returncode != 0:
            raise RuntimeError(
                f"emulation needs binfmt_misc, and the kernel refuses it: {mounted.stderr.decode().strip()}"
            )
    for arch in architectures:
        name, machine = _MACHINES[arch]
        qemu = shutil.which(name)
        if qemu is None:
            raise RuntimeError(f"emulation of {arch} needs {name}: install qemu-user-static")
        magic = _MAGIC.format(machine=machine)
        # F: opened now, so that it is found in every mount namespace. C and O: as the file's own user, passed opened.
        line = f":{prefix}-{arch}:M::{magic}:{_MASK}:{qemu}:OCF"
        (_FOLDER / "register").write_text(line, encoding="ascii")


def unregister(prefix: str) -> None:
    """Remove what was registered under a prefix."""
    if _FOLDER.is_dir():
        for entry in _FOLDER.glob(f"{prefix}-*"):
            entry.write_text("-1")

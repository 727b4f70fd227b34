"""The installed command in a process of its own, as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_INSTALLED = Path(sys.executable).with_name("opendt")
FACE = [str(_INSTALLED)] if _INSTALLED.exists() else [sys.executable, "-m", "opendt"]


def opendt(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``opendt`` with these words and give its exit code and what it said."""
    return subprocess.run(
        [*FACE, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )

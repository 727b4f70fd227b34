"""Real programs that some tests need; ``make parts`` installs them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def require_part(program: str) -> Path:
    """Path of a program; where it is missing the test is skipped, or fails with OPENDT_REQUIRE_PARTS=1."""
    found = shutil.which(program)
    if found is not None:
        return Path(found)
    reason = f"needs {program}, which is not installed: make parts"
    if os.environ.get("OPENDT_REQUIRE_PARTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)

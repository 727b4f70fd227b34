"""Real data that some tests need; it is found by OPENDT_DATA and is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """Where shared data lies: OPENDT_DATA, or ``../shared`` beside the repository."""
    return Path(os.environ.get("OPENDT_DATA", _ROOT.parent / "shared"))


def require_data(name: str) -> Path:
    """Path of shared data; where it is missing the test is skipped, or fails with OPENDT_REQUIRE_PARTS=1."""
    found = data_folder() / name
    if found.exists():
        return found
    reason = f"needs {found}, which is not there: set OPENDT_DATA"
    if os.environ.get("OPENDT_REQUIRE_PARTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)

"""Real programs that some tests need; ``make parts`` installs them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from scripts.kafka import jars_folder
from scripts.postgres import server_programs


def require_part(program: str) -> Path:
    """Path of a program; where it is missing the test is skipped, or fails with OPENDT_REQUIRE_PARTS=1."""
    found = shutil.which(program)
    if found is None:
        do_without(program)
    return Path(found)


def require_kafka() -> None:
    """Skip (or fail, as above) unless a Kafka broker can be started."""
    require_part("java")
    if not jars_folder().is_dir():
        do_without("the Kafka broker")


def require_postgres() -> None:
    """Skip (or fail, as above) unless a PostgreSQL server can be started."""
    try:
        server_programs()
    except FileNotFoundError:
        do_without("the PostgreSQL server")


def do_without(part: str) -> NoReturn:
    """Skip the test that needs a part, or fail it with OPENDT_REQUIRE_PARTS=1."""
    reason = f"needs {part}, which is not installed: make parts"
    if os.environ.get("OPENDT_REQUIRE_PARTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)

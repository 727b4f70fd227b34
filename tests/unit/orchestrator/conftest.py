"""Parts that tests of the orchestrator share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opendt.verification.ledger import Ledger
from tests.told_fleet import SmallFleet


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def fleet(ledger: Ledger) -> Iterator[SmallFleet]:
    made = SmallFleet(ledger)
    yield made
    made.keeper.close()

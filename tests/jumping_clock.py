"""The command ``opendt`` under a wall clock that jumps for- and backwards by years.

python tests/jumping_clock.py SEED run --config ...
"""

from __future__ import annotations

import sys
import time
from random import Random

_YEAR_NS = 365 * 86_400 * 1_000_000_000


def jump(seed: int) -> None:
    """Replace the wall clock of this process."""
    random, real_ns = Random(seed), time.time_ns

    def time_ns() -> int:
        return real_ns() + round(random.uniform(-20, 20)) * _YEAR_NS

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    jump(int(sys.argv[1]))
    from opendt.cli.main import run

    sys.exit(run(sys.argv[2:]))

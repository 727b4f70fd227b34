"""The command ``opendt``, killed by SIGKILL at a named place: before or after the nth call of a function.

    python tests/killed_at.py MODULE:QUALNAME before|after N run --config ...

Random moments find what is likely; this finds what lies between two lines.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import reduce
from typing import Any


def arm(place: str, when: str, number: int) -> None:
    """Put the kill where it was asked for."""
    module, _, name = place.partition(":")
    *parents, last = name.split(".")
    owner = reduce(getattr, parents, importlib.import_module(module))
    function = getattr(owner, last)
    count = 0

    def killer(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, killer)


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    from opendt.cli.main import run

    sys.exit(run(sys.argv[4:]))

"""OpenDT: a closed-loop digital twin for datacenters and fleets of clusters.

The twin is one live simulation, kept in step with the real system and forked to answer "what if". This module names what
people who write Python use; each name is imported when it is first touched, so that ``import opendt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendt.model.errors import OpenDTError

__all__ = ["OpenDTError", "__version__"]

__version__ = "0.1.0"

# Public name -> module that defines it. Add a name here, to __all__ and to the imports for types above.
_HOMES = {"OpenDTError": "opendt.model.errors"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'opendt' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""How much may be done with proposals without asking, as an ordered scale: observe, advise, approve, auto.

*observe*: nothing is proposed; *advise*: proposals are shown; *approve*: a person accepts them; *auto*: certified ones are applied.
What is configured is the most that may be done; trust (`opendt.verification.trust`) can only lower it.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["MODES", "Mode", "lowered", "lowest", "rank"]

Mode = Literal["observe", "advise", "approve", "auto"]
"""What may be done with proposals."""

MODES: Final[tuple[Mode, ...]] = ("observe", "advise", "approve", "auto")
"""All modes, the one that allows least first."""


def rank(mode: Mode) -> int:
    """Place on the scale, from 0 for ``observe``.

    Examples
    --------
    >>> rank("approve") < rank("auto")
    True
    """
    return MODES.index(mode)


def lowered(mode: Mode, steps: int) -> Mode:
    """The mode `steps` below; ``observe`` is the lowest.

    Examples
    --------
    >>> lowered("auto", 1), lowered("advise", 3)
    ('approve', 'observe')
    """
    return MODES[max(0, rank(mode) - steps)]


def lowest(*modes: Mode) -> Mode:
    """The one of several modes that allows least.

    Examples
    --------
    >>> lowest("auto", "advise")
    'advise'
    """
    return min(modes, key=rank)

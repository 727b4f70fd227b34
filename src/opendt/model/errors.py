"""What goes wrong, as one small family of exceptions with one form of message.

Every message names the place (file, row or key), what was found, what was expected and, where there is one, the
remedy::

    topology.json: clusters[0].hosts[1].cpu.coreCount: found -4, expected a whole number >= 1. Give the cores of one CPU.
"""

from __future__ import annotations

__all__ = [
    "EngineError",
    "FormatError",
    "InputError",
    "LedgerError",
    "MessageError",
    "ModelError",
    "OpenDTError",
    "PastTimeError",
    "SnapshotError",
    "TransportError",
    "UnknownNameError",
]

_LONGEST_FOUND = 120


class OpenDTError(Exception):
    """Base of all errors that OpenDT raises on purpose."""


class InputError(OpenDTError):
    """Something given to OpenDT is not what it must be.

    Parameters
    ----------
    place : str
        Key path, row or column; empty for the whole.
    found : object
        What was there; text is used as it is, anything else is shown as Python shows it, shortened.
    expected : str
        What must be there.
    hint : str, optional
        What to do about it.
    file : str, optional
        File the place is in.
    """

    def __init__(self, place: str, found: object, expected: str, hint: str = "", *, file: str = "") -> None:
        self.file = file
        self.place = place
        self.found = found if isinstance(found, str) else shown(found)
        self.expected = expected
        self.hint = hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The whole message on one line."""
        where = ": ".join(part for part in (self.file, self.place) if part)
        hint = f". {self.hint}" if self.hint else ""
        return f"{where}{': ' if where else ''}found {self.found}, expected {self.expected}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle through the constructor, since its arguments are not those of ``Exception``."""
        return (_rebuild, (type(self), self.file, self.place, self.found, self.expected, self.hint))


class ModelError(InputError):
    """A value of the model breaks a physical bound or contradicts another one."""


class EngineError(InputError):
    """The engine cannot work with what it was given; the simulation is as it was before the call."""


class UnknownNameError(EngineError):
    """A host, host group, cluster or task of this name does not exist."""


class PastTimeError(EngineError):
    """A moment before the simulation's now was asked for."""


class SnapshotError(EngineError):
    """Bytes that are no snapshot of this version, or that are damaged."""


class MessageError(InputError):
    """A message of a stream is not what its topic promises; it goes to the dead letters."""


class TransportError(OpenDTError):
    """A stream (log directory, broker) cannot be reached, read or written."""


class LedgerError(OpenDTError):
    """The ledger cannot be reached, is of another version, or contradicts what is to be recorded."""


class FormatError(InputError):
    """A file is not in the format it should be in.

    Parameters
    ----------
    file, place, found, expected, hint
        As for `InputError`; the file comes first, because it is always known here.
    """

    def __init__(self, file: object, place: str, found: object, expected: str, hint: str = "") -> None:
        super().__init__(place, found, expected, hint, file=str(file))


def _rebuild(kind: type[InputError], file: str, place: str, found: str, expected: str, hint: str) -> InputError:
    if issubclass(kind, FormatError):
        return kind(file, place, found, expected, hint)
    return kind(place, found, expected, hint, file=file)


def wanted(message: str) -> str:
    """Turn pydantic's wording into the end of "expected …"."""
    message = message.removeprefix("Input should be ").removeprefix("Value error, ")
    return {"Field required": "this key", "Extra inputs are not permitted": "only known keys"}.get(message, message)


def shown(value: object) -> str:
    """Show a value in an error message, shortened to a line.

    Examples
    --------
    >>> shown("2.1 GHz")
    "'2.1 GHz'"
    """
    text = repr(value)
    return text if len(text) <= _LONGEST_FOUND else f"{text[: _LONGEST_FOUND - 1]}…"

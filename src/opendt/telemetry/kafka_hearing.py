"""What clients of librdkafka have to say, told once and without secrets: brokers that go away and come back, and what is fatal."""

from __future__ import annotations

import functools
import json
import logging
from typing import TYPE_CHECKING, Final

from opendt.model.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["QUIET_LOG", "Hearing"]

_LOGGER = logging.getLogger(__name__)


class Hearing:
    """Knows whether brokers can be reached, and keeps secrets out of words.

    Parameters
    ----------
    servers : str
        ``host:port`` of one broker or several, separated by commas.
    secrets : sequence of str
        What must stand in no message.
    on_error : callable, optional
        Told in words, once each, when no broker can be reached any more, when one can again, and of what `say` is given.

    Attributes
    ----------
    is_away : bool
        No broker can be reached.
    is_hopeless : bool
        A broker was reached and refused the connection, so that waiting does not help.
    reason : str
        The last thing that went wrong with a connection.
    """

    def __init__(self, servers: str, secrets: Sequence[str], on_error: Callable[[str], None] | None) -> None:
        self.servers = servers
        self.is_away = False
        self.is_hopeless = False
        self.reason = ""
        self._secrets = secrets
        self._on_error = on_error
        self._fatal = ""

    def say(self, words: str) -> None:
        """Tell the owner something."""
        if self._on_error is not None:
            self._on_error(self.clean(words))

    def explained(self, words: str) -> str:
        """Return words with the trouble of the connection if there is any, without secrets."""
        words = self.clean(words)
        return f"{words} ({self.reason})" if self.reason and self.reason not in words else words

    def check(self) -> None:
        """Raise when the client has failed for good.

        Raises
        ------
        TransportError
            With its words.
        """
        if self._fatal:
            raise TransportError(f"Kafka at {self.servers}: {self._fatal}")

    def heard_fatal(self, words: str) -> None:
        """Note that the client has failed for good."""
        self._fatal = self.clean(words)

    def heard_trouble(self, words: str, *, is_hopeless: bool) -> None:
        """Note what is wrong with a connection."""
        self.reason = self.clean(words)
        self.is_hopeless = self.is_hopeless or is_hopeless

    def heard_all_down(self) -> None:
        """Note that no broker is connected."""
        self.reason = self.reason or "the connection broke"

    def heard_statistics(self, text: str) -> None:
        """Take librdkafka's statistics.

        Of errors there are many a second, late, and none when a broker is back; these come in order, one a second.
        """
        is_up = any(broker["state"] == "UP" for broker in json.loads(text)["brokers"].values())
        if is_up:
            if self.is_away:
                self.say(f"Kafka at {self.servers} can be reached again")
            self.is_away = False
            self.reason = ""
        elif self.reason and not self.is_away:
            self.is_away = True
            self.say(f"Kafka at {self.servers} cannot be reached: {self.reason}")

    def clean(self, words: str) -> str:
        """Hide secrets."""
        return functools.reduce(lambda text, secret: text.replace(secret, "***"), self._secrets, words)


class _QuietLog:
    """Takes librdkafka's log lines: they repeat, several a second, what `on_error` says once."""

    def log(self, _level: int, message: str, *arguments: object) -> None:
        _LOGGER.debug(message, *arguments)


QUIET_LOG: Final = _QuietLog()

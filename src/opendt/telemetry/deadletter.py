"""Dead letters: messages that could not be used, kept with the reason until somebody looks at them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from opendt.model.errors import MessageError
from opendt.telemetry.message_models import DeadLetterMessage
from opendt.telemetry.messages import DEAD_LETTERS, decode, encode

__all__ = ["DeadLetter", "decode_dead_letter", "encode_dead_letter"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was refused.

    Attributes
    ----------
    timestamp_ms : int
        End of the window in which it was refused, ms since the epoch.
    datacenter : str
        Whose message it was.
    topic, partition, offset : str, int, int
        Where it lies.
    reason : str
        Why: a word (``late``, ``conflict``, ``unknown``, ``broken``), a colon and the particulars.
    value : bytes
        The message; of a message with many fragments only those that were refused, as a message of their own.
    key : str
        Key of the record.
    """

    timestamp_ms: int
    datacenter: str
    topic: str
    partition: int
    offset: int
    reason: str
    value: bytes
    key: str


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Encode a message of `dc.deadletter`."""
    return encode(
        DeadLetterMessage(
            timestamp=letter.timestamp_ms,
            datacenter=letter.datacenter,
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            reason=letter.reason,
            value=base64.b64encode(letter.value).decode(),
            key=letter.key,
        )
    )


def decode_dead_letter(value: bytes) -> DeadLetter:
    """Decode a message of `dc.deadletter`.

    Raises
    ------
    MessageError
        When it is none.
    """
    message = decode(DEAD_LETTERS, value)
    assert isinstance(message, DeadLetterMessage)
    try:
        original = base64.b64decode(message.value, validate=True)
    except binascii.Error as error:
        raise MessageError("value", f"{error}", "base64", file=DEAD_LETTERS) from None
    return DeadLetter(
        message.timestamp,
        message.datacenter,
        message.topic,
        message.partition,
        message.offset,
        message.reason,
        original,
        message.key,
    )

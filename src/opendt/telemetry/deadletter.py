"""Dead letters: messages that could not be used, kept with the reason until somebody looks at them.

Sending one again publishes the original to its topic and then a mark to `dc.deadletter` that names the letter by its place there, so
letters stay as they are and whoever lists them sees which are still open. A process that dies between the two sends that letter
once more the next time; whoever follows knows repetitions.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from opendt.model.errors import MessageError
from opendt.telemetry.message_models import DeadLetterMessage, RetriedMessage
from opendt.telemetry.messages import DEAD_LETTERS, decode, encode

if TYPE_CHECKING:
    from opendt.telemetry.source import Partition, Sink, Source

__all__ = ["DeadLetter", "Filed", "decode_dead_letter", "encode_dead_letter", "read_letters", "retry"]


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


class Filed(NamedTuple):
    """A dead letter where it lies.

    Attributes
    ----------
    partition, offset : int
        Place in `dc.deadletter`.
    letter : DeadLetter
        The letter.
    is_retried : bool
        Whether it has been sent again.
    """

    partition: int
    offset: int
    letter: DeadLetter
    is_retried: bool


def read_letters(
    source: Source, *, patience_s: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> list[Filed]:
    """Read all dead letters there are, oldest first.

    Parameters
    ----------
    source : Source
        Of a consumer group that nobody else is in; it is subscribed here and not closed.
    patience_s : float
        How long to wait for the topic to be assigned; one that does not exist never is.
    clock : callable
        Seconds that never go back.

    Raises
    ------
    TransportError
        When the transport is away.
    """
    mine: set[Partition] = set()

    def take(partitions: Collection[Partition]) -> Mapping[Partition, int]:
        mine.update(partitions)
        return dict.fromkeys(partitions, 0)

    source.subscribe([DEAD_LETTERS], on_assigned=take, on_revoked=mine.difference_update)
    found: dict[tuple[int, int], DeadLetter] = {}
    retried: set[tuple[int, int]] = set()
    until_s = clock() + patience_s
    while mine or clock() < until_s:
        for record in source.poll(timeout_s=0.1):
            try:
                message = decode(DEAD_LETTERS, record.value)
                if isinstance(message, RetriedMessage):
                    retried.add((message.partition, message.offset))
                else:
                    found[record.partition, record.offset] = decode_dead_letter(record.value)
            except MessageError as error:
                where = (DEAD_LETTERS, record.partition, record.offset)
                found[record.partition, record.offset] = DeadLetter(
                    record.timestamp_ms, record.key, *where, f"broken: {error}", record.value, record.key
                )
        if mine and all(source.is_at_end(partition) for partition in mine):
            break
    return [Filed(*place, letter, place in retried) for place, letter in sorted(found.items())]


def retry(letters: Iterable[Filed], sink: Sink) -> int:
    """Send dead letters again, each to its topic with its key, and mark them.

    Returns
    -------
    int
        How many were sent: not those that were sent again before, nor records that are themselves no dead letters.

    Raises
    ------
    TransportError
        When something could not be delivered; then nothing is marked that was not sent.
    """
    sent = [one for one in letters if not one.is_retried and one.letter.topic != DEAD_LETTERS]
    for one in sent:
        sink.send(one.letter.topic, one.letter.value, key=one.letter.key)
    sink.flush()
    for one in sent:
        mark = RetriedMessage(message_type="retried", partition=one.partition, offset=one.offset)
        sink.send(DEAD_LETTERS, encode(mark), key=one.letter.datacenter)
    sink.flush()
    return len(sent)

"""The other end of the line: what a service of language models is to us, what it sends back, and recorded answers for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opendt.model.errors import FormatError, OpenDTError, shown
from opendt.optimization.llm_plant import clean_text

__all__ = [
    "Completion",
    "RecordedReplies",
    "RelivedConversation",
    "Service",
    "ServiceError",
    "ToolCall",
    "read_completion",
    "status_error",
]

_AGAIN: Final = frozenset({408, 409, 429})
_MOST_TOOL_CALLS: Final = 8
_LONGEST_ARGUMENTS: Final = 8192


class ServiceError(OpenDTError):
    """The service did not give an answer that can be used.

    Parameters
    ----------
    reason : str
        In words.
    again : bool
        Whether asking again may help.
    after_s : float, optional
        How long the service wants to be left alone, s.
    billed : bool
        Whether the tokens of the call may have been charged.
    malformed : bool
        Whether the service does not understand the request, as some do not that know no tools beside a schema.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = False,
        after_s: float | None = None,
        billed: bool = False,
        malformed: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.after_s = after_s
        self.billed = billed
        self.malformed = malformed


def status_error(status: int, headers: Mapping[str, str], body: str) -> ServiceError:
    """Say what an HTTP status other than 200 means."""
    words = clean_text(body, 200)
    reason = f"the service answered HTTP {status}{': ' if words else ''}{words}"
    if status in {401, 403}:
        return ServiceError(f"the service does not accept the key ({reason})")
    again = status in _AGAIN or status >= 500
    return ServiceError(reason, again=again, after_s=_retry_after_s(headers), malformed=status in {400, 422})


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After: seconds, or a date against the server's own Date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
        except (ValueError, TypeError):
            return None
        seconds = wait.total_seconds()
    return max(0.0, seconds) if seconds < 1e9 else None


class Service(Protocol):
    """Something that completes chats as OpenAI's service does."""

    @property
    def address(self) -> str:
        """Where it is, without secrets."""

    def complete(self, request: Mapping[str, Any], timeout_s: float) -> bytes:
        """Send a request (body of ``POST /chat/completions``) and give the body of the answer, within `timeout_s`.

        Raises
        ------
        ServiceError
            For whatever goes wrong, and never later than `timeout_s`.
        """

    def redact(self, text: str) -> str:
        """Remove secrets from a text."""


class RecordedReplies:
    """A service that plays recorded answers in turn, for tests, demonstrations and comparisons that must repeat.

    Parameters
    ----------
    replies : sequence
        Each the content of an answer (what the JSON of a real one holds), as `opendt.optimization.llm_reply` describes.
    repeat : bool
        Begin again after the last one; otherwise there is no answer any more.
    """

    def __init__(self, replies: Sequence[Mapping[str, Any]], *, repeat: bool = False) -> None:
        self._replies = [dict(reply) for reply in replies]
        self._repeat = repeat
        self._next = 0

    @classmethod
    def read(cls, path: Path | str) -> RecordedReplies:
        """Read a file ``{"repeat": true, "replies": [{"candidates": [...]}, ...]}``.

        Raises
        ------
        FormatError
            When the file is not of this form.
        """
        try:
            content = orjson.loads(Path(path).read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise FormatError(path, "", str(error), "a readable JSON file of recorded replies") from error
        replies = content.get("replies") if isinstance(content, dict) else None
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise FormatError(path, "replies", shown(replies), "a list of objects with the key candidates")
        return cls(replies, repeat=content.get("repeat") is True)

    @property
    def address(self) -> str:
        """A name, for the record."""
        return "recorded"

    def complete(self, request: Mapping[str, Any], timeout_s: float) -> bytes:  # noqa: ARG002 - as recorded
        """Give the next answer."""
        if self._next >= len(self._replies):
            if not self._repeat or not self._replies:
                raise ServiceError("there is no recorded answer left")
            self._next = 0
        content = json.dumps(self._replies[self._next])
        self._next += 1
        message = {"role": "assistant", "content": content}
        return orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})

    def redact(self, text: str) -> str:
        """Give the text as it is: there are no secrets."""
        return text


class RelivedConversation:
    """A service that says again what was said in a conversation on record (`LlmExchange.to_dict`), and fails where that failed."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = said
        asked = [
            one["tool_calls"] for one in said["messages"] if one.get("role") == "assistant" and "tool_calls" in one
        ]
        self._turns = [{"content": said["replies"][n], "tool_calls": calls} for n, calls in enumerate(asked)]
        self._turns += [{"content": content} for content in said["replies"][len(asked) :]]

    @property
    def address(self) -> str:
        """Where it was."""
        return str(self._said["address"])

    def complete(self, request: Mapping[str, Any], timeout_s: float) -> bytes:  # noqa: ARG002 - as recorded
        """Say the next thing that was said."""
        if not self._turns:
            raise ServiceError(str(self._said["reason"]))
        return orjson.dumps({"choices": [{"message": self._turns.pop(0)}]})

    def redact(self, text: str) -> str:
        """Give the text as it is: what is on record holds no secrets."""
        return text


class _Lenient(BaseModel):
    """Of a stranger's envelope only what is needed is looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Function(_Lenient):
    name: str
    arguments: str


class _ToolCall(_Lenient):
    id: str = Field(max_length=256)
    function: _Function


class _Message(_Lenient):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(_Lenient):
    message: _Message
    finish_reason: str | None = None


class _Envelope(_Lenient):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A question that the model asks before it answers."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer, or questions; tokens are None where the service did not say (or not believably)."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    prompt_tokens: int | None
    reply_tokens: int | None


def read_completion(body: bytes) -> Completion:
    """Read the body of an answer.

    Raises
    ------
    ServiceError
        When it is broken, cut short or a refusal.
    """
    try:
        choice = (envelope := _Envelope.model_validate(orjson.loads(body))).choices[0]
    except orjson.JSONDecodeError as error:
        raise ServiceError(f"the service sent broken JSON ({clean_text(str(error), 100)})", billed=True) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ServiceError(
            f"the service's answer is no chat completion: {place}: {first['msg']}", billed=True
        ) from None
    message = choice.message
    if message.refusal or choice.finish_reason == "content_filter":
        words = clean_text(message.refusal or "its filter", 200)
        raise ServiceError(f"the model refused to answer: {words}", billed=True)
    if choice.finish_reason == "length":
        raise ServiceError("the answer was cut short at the limit of tokens", billed=True)
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    if len(calls) > _MOST_TOOL_CALLS or any(len(call.arguments) > _LONGEST_ARGUMENTS for call in calls):
        raise ServiceError("the model asked more at once than is allowed", billed=True)
    if not calls and not message.content:
        raise ServiceError("the answer is empty", billed=True)
    return Completion(message.content or "", calls, *_usage(envelope.usage))


def _usage(usage: Any) -> tuple[int | None, int | None]:
    counts = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int | None:
        value = counts.get(name)
        return value if type(value) is int and 0 <= value < 10**9 else None

    return count("prompt_tokens"), count("completion_tokens")

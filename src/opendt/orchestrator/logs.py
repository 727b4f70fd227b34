"""Structured logs on stderr: what happens, as text for people or JSON for machines, and never a secret.

``log()`` gives a logger; what `bound` binds (window, datacenter, proposal) stands in every line logged within it, in this thread.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import structlog
from pydantic import SecretStr

from opendt.orchestrator.settings_model import SECRET_NAME, without_password

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opendt.orchestrator.events import Notice

__all__ = ["bound", "configure_logging", "log", "log_event"]

_HIDDEN: Final = "***"
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIRST: Final = ("datacenter", "window", "proposal")
_DEEPEST: Final = 8


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["text", "json"] = "text",
    *,
    stream: TextIO | None = None,
    now: Callable[[], datetime] | None = None,
) -> None:
    """Say where and how this process logs.

    Parameters
    ----------
    level : str
        Least level that is logged.
    form : {'text', 'json'}
        A line each, for people or for machines.
    stream : TextIO, optional
        Where to; stderr unless given.
    now : callable, optional
        Clock.
    """
    clock = now or (lambda: datetime.now(UTC))

    def stamp(_logger: Any, method: str, values: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        time = clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": time, "level": method, **values}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            stamp,
            structlog.processors.format_exc_info,
            _hide_secrets,
            _as_json if form == "json" else _as_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr if stream is None else stream),
        cache_logger_on_first_use=False,  # so that tests, and a change of level, reach loggers that are there already
    )


def log() -> structlog.typing.FilteringBoundLogger:
    """A logger: ``log().info("what happened", key=value)``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Let these values stand in every line logged within, in this thread; None is left out."""
    with structlog.contextvars.bound_contextvars(**{name: v for name, v in values.items() if v is not None}):
        yield


def log_event(notice: Notice) -> None:
    """Log an event; subscribe it to the bus."""
    event = notice.event
    logger, level = log(), _LEVELS[event.level]
    if not logger.is_enabled_for(level):
        return
    values = {name: value for name, value in event.as_dict().items() if value not in (None, "")}
    logger.log(level, event.said, **values)


def _hide_secrets(_logger: Any, _method: str, values: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _without_secrets(name, value, 0) for name, value in values.items()}


def _without_secrets(name: str, value: Any, depth: int) -> Any:
    """Hide what is secret by its type or by its name, also inside of what holds it."""
    if isinstance(value, SecretStr) or (SECRET_NAME.search(name) and value is not None):
        return _HIDDEN
    if isinstance(value, str):
        return without_password(value) if "://" in value or "password=" in value else value
    if isinstance(value, bool | int | float) or value is None:
        return value
    if depth >= _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): _without_secrets(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets("", item, depth + 1) for item in value]
    return without_password(str(value))


def _as_json(_logger: Any, _method: str, values: MutableMapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str)


def _as_text(_logger: Any, _method: str, values: MutableMapping[str, Any]) -> str:
    """``2026-01-02T03:04:05.678Z info     window closed  datacenter=surf window=12 tasks=3``."""
    rest = dict(values)
    time, level, event = (rest.pop(name, "") for name in ("time", "level", "event"))
    trace = rest.pop("exception", None)
    names = [*(name for name in _FIRST if name in rest), *(name for name in rest if name not in _FIRST)]
    pairs = " ".join(f"{name}={_word(rest[name])}" for name in names)
    line = f"{time} {level:<8} {_one_line(str(event))}{'  ' if pairs else ''}{pairs}"
    return line if trace is None else f"{line}\n{trace}"


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    is_plain = (
        isinstance(value, str) and text and not any(c.isspace() or c in '"=' or not c.isprintable() for c in text)
    )
    return text if is_plain or not isinstance(value, str) else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    """Nobody forges a line of the log by what stands in a message."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

"""Settings of the language model's optimiser, and the record of one conversation with it, for the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from opendt.optimization.rules import RuleSettings

if TYPE_CHECKING:
    from opendt.model.proposal import Proposal

__all__ = ["LlmExchange", "LlmSettings", "LlmVerdict"]

LlmVerdict = Literal["proposed", "kept", "degraded"]
"""The model proposed; it was heard and things stay as they are; it could not be heard and the rules spoke instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSettings:
    """Limits of the conversation, with defaults for a loop of five-minute windows.

    Parameters
    ----------
    model : str
        Name that the service knows.
    time_budget_s : float
        Longest time that one decision may take, all attempts, waits and questions together, s. 20: a fifteenth of a window.
    max_attempts : int
        Attempts of one request.
    backoff_s : float
        Wait before the second attempt, s; doubled for each further one, unless the service says how long.
    max_reply_bytes, max_reply_tokens : int
        Longest answer. A candidate takes some 200 tokens.
    max_candidates : int
        Candidates asked for.
    max_questions : int
        What-ifs that the model may ask before it answers. A server that refuses tools beside a schema is asked without.
    tokens_per_day : int
        Most tokens in 24 hours, questions and answers together.
    cost_per_day_usd : float, optional
        Most money in 24 hours, US dollars; unlimited unless given. Needs the prices.
    prompt_usd_per_million, reply_usd_per_million : float
        Prices of a million tokens, US dollars.
    horizon_ms : int
        How far what-ifs and expected effects look ahead, ms.
    ask_every_ms : int
        Time of the datacenter between two questions to the model, ms, unless an objective is newly breached. An hour: an
        effect needs some windows to show, and every question costs.
    rest_s, longest_rest_s : float
        How long a service is left alone after a failure, s; doubled for each further one, up to the longest.
    rules : RuleSettings
        Of the rules that stand in; limits of clock and cores hold for the model too.
    """

    model: str = "gpt-4.1-mini"
    time_budget_s: float = 20.0
    max_attempts: int = 3
    backoff_s: float = 0.5
    max_reply_bytes: int = 262_144
    max_reply_tokens: int = 2_000
    max_candidates: int = 3
    max_questions: int = 4
    tokens_per_day: int = 1_000_000
    cost_per_day_usd: float | None = None
    prompt_usd_per_million: float = 0.0
    reply_usd_per_million: float = 0.0
    horizon_ms: int = 3_600_000
    ask_every_ms: int = 3_600_000
    rest_s: float = 60.0
    longest_rest_s: float = 3_600.0
    rules: RuleSettings = field(default_factory=RuleSettings)

    def __post_init__(self) -> None:
        """Refuse limits that make no sense.

        Raises
        ------
        ValueError
            When a limit is negative, not finite, or 0 where something is needed, or a cost limit has no prices.
        """
        may_be_zero = {"max_questions", "ask_every_ms", "backoff_s", "rest_s", "longest_rest_s"}
        may_be_zero |= {"prompt_usd_per_million", "reply_usd_per_million", "tokens_per_day", "cost_per_day_usd"}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not (0 <= value < math.inf and (value or name in may_be_zero)):
                raise ValueError(f"setting {name} of the language model is {value}, expected a positive number")
        if self.cost_per_day_usd is not None and not (self.prompt_usd_per_million or self.reply_usd_per_million):
            raise ValueError("cost_per_day_usd limits nothing without prompt_usd_per_million or reply_usd_per_million")

    def cost_usd(self, prompt_tokens: int, reply_tokens: int) -> float:
        """Price of a call, US dollars."""
        return (prompt_tokens * self.prompt_usd_per_million + reply_tokens * self.reply_usd_per_million) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmExchange:
    """One decision: what was sent, what came back, what was made of it. Holds no secret.

    Parameters
    ----------
    id : str
        Unique for time and content.
    time_ms : int
        When it was asked, ms since the start.
    model, address : str
        Who was asked, where.
    verdict : LlmVerdict
        What came of it.
    reason : str
        Why it was not heard, or why things stay as they are; empty when it proposed.
    messages : tuple of dict
        The conversation as it was sent, its questions and their answers too; empty when nothing was sent.
    replies : tuple of str
        Contents that came back, in order.
    attempts : tuple of str
        What went wrong on the way.
    refused : tuple of str
        Candidates that were refused, and why.
    proposals : tuple of Proposal
        Candidates that were accepted, the best first.
    decision : Proposal, optional
        What the optimiser proposed in the end: the first of them, or what the rules said.
    questions : int
        What-ifs that were asked.
    prompt_tokens, reply_tokens : int
        As the service counted, or an estimate.
    cost_usd : float
        By the prices of the settings.
    elapsed_s : float
        By the clock given.
    """

    id: str
    time_ms: int
    model: str
    address: str
    verdict: LlmVerdict
    reason: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    replies: tuple[str, ...] = ()
    attempts: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    decision: Proposal | None = None
    questions: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost_usd: float = 0.0
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Give the record as a plain dict for JSON, without the time it took: the same conversation gives the same dict."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "elapsed_s"}
        plain["proposals"] = [proposal.model_dump(mode="json") for proposal in self.proposals]
        plain["decision"] = None if self.decision is None else self.decision.model_dump(mode="json")
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

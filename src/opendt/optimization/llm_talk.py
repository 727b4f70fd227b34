"""One conversation with a language model, within budgets of time, tokens and money: ask, answer its questions, rank its candidates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import orjson

from opendt.model.errors import EngineError
from opendt.optimization.base import SystemState
from opendt.optimization.effect import effect_of
from opendt.optimization.llm_history import as_expected
from opendt.optimization.llm_plant import clean_text, without_names
from opendt.optimization.llm_prompt import PROMPT_NAME, what_if_answer, write_messages, write_request
from opendt.optimization.llm_record import LlmExchange
from opendt.optimization.llm_reply import ReplyError, read_changes, read_reply
from opendt.optimization.llm_service import ServiceError, read_completion
from opendt.optimization.scoring import score
from opendt.twin.whatif import Comparison, WhatIf

if TYPE_CHECKING:
    from opendt.model.proposal import Proposal
    from opendt.optimization.base import Context
    from opendt.optimization.llm_history import LlmHistory
    from opendt.optimization.llm_plant import Plant
    from opendt.optimization.llm_record import LlmSettings, LlmVerdict
    from opendt.optimization.llm_service import Completion, Service, ToolCall
    from opendt.optimization.scoring import Score
    from opendt.twin.metrics import WindowMetrics

__all__ = ["Conversation"]

_BYTES_PER_TOKEN: Final = 3  # of JSON; English prose has about 4. Used where a service does not count.
_ESCAPE: Final = re.compile(r"\\+u([0-9a-fA-F]{4})")


class Conversation:
    """A conversation about one context; afterwards it holds the candidates and all that goes on record.

    Parameters
    ----------
    context : Context
        What it is about; its simulation, if it has one, answers what-ifs and is never changed.
    settings : LlmSettings
        Limits.
    service : Service
        Who is asked.
    history : LlmHistory
        Goes into the prompt; takes candidates, refusals and spending.
    clock, epoch_clock, sleep : callable
        As of `opendt.optimization.llm.LLM`. Time counts from here on.
    """

    def __init__(
        self,
        context: Context,
        settings: LlmSettings,
        service: Service,
        history: LlmHistory,
        *,
        clock: Callable[[], float],
        epoch_clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.context, self.settings, self.service, self.history = context, settings, service, history
        self._clock, self._epoch_clock, self._sleep = clock, epoch_clock, sleep
        self._started_s = clock()
        self._deadline_s = self._started_s + settings.time_budget_s
        simulation = None if isinstance(context.source, SystemState) else context.source
        self._twin = None if simulation is None else WhatIf(simulation, settings.horizon_ms)
        self._questions_allowed = 0 if simulation is None else settings.max_questions
        self._messages: list[dict[str, Any]] = []
        self._replies: list[str] = []
        self._attempts: list[str] = []
        self._questions = self._prompt_tokens = self._reply_tokens = 0
        self._cost_usd = 0.0
        self.sent = False
        self.refused: list[str] = []
        self.proposals: list[Proposal] = []

    def hold(self, plant: Plant) -> None:
        """Ask until there is an answer; `proposals` then holds its candidates, the best first, as far as they do any good.

        Raises
        ------
        ServiceError
            When there is no answer within the budgets.
        ReplyError
            When the answer is not what was asked for, or none of its candidates is.
        """
        if not plant.groups:
            raise ServiceError("no host group is known that a model could change")
        self._begin(plant)
        completion = self._complete(plant)
        while completion.tool_calls:
            self._answer(completion, plant)
            completion = self._complete(plant)
        content = _all_kept(_decoded(completion.content), self.service)
        read = read_reply(content, plant, self.context.now_ms, PROMPT_NAME)
        self.refused += read.refused
        self.proposals = list(read.proposals[: self.settings.max_candidates])
        if self.proposals:
            self._rank()
        self.history.remember_refusals(tuple(self.refused))
        if read.refused and not read.proposals:
            raise ReplyError(f"all candidates were refused: {read.refused[0]}")

    def _begin(self, plant: Plant) -> None:
        self._messages = write_messages(
            self.context,
            plant,
            self.history,
            candidates=self.settings.max_candidates,
            questions=self._questions_allowed,
            horizon_ms=self.settings.horizon_ms,
        )

    def _rank(self) -> None:
        """Simulate the candidates while there is time; the best first, without those that do no good."""
        slo, twin = self.context.slo, self._twin
        simulated: list[tuple[float, Proposal]] = []
        unseen: list[Proposal] = []
        for proposal in self.proposals:
            if twin is None or self._clock() >= self._deadline_s:
                unseen.append(proposal)
                self.history.remember(proposal)
                continue
            try:
                changed = twin.changed(proposal.changes)
            except EngineError as error:
                self.refused.append(f"{proposal.id} cannot be applied: {without_names(str(error))}")
                continue
            effect = effect_of(proposal, Comparison(twin.baseline, changed), slo)
            self.history.remember(proposal, as_expected(effect))
            before, after = score(slo, twin.baseline), score(slo, changed)
            if after.total < before.total and not _hides(before, after, changed):
                simulated.append((after.total, proposal))
            else:
                self.refused.append(f"{proposal.id} scores {after.total:.4g}, no change scores {before.total:.4g}")
        simulated.sort(key=lambda pair: pair[0])
        self.proposals = [proposal for _, proposal in simulated] + unseen

    # Questions of the model.

    def _answer(self, completion: Completion, plant: Plant) -> None:
        """Answer what the model asked, with the same eyes on its words as on an answer.

        Raises
        ------
        ServiceError
            When it may not ask any more, or time is up.
        """
        if self._questions >= self._questions_allowed:
            raise ServiceError("the model asked although it may not any more")
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name[:64], "arguments": call.arguments}}
            for call in completion.tool_calls
        ]
        self._messages.append({"role": "assistant", "content": completion.content, "tool_calls": calls})
        for call in completion.tool_calls:
            told: dict[str, Any] = {"error": "no question is left"}
            if self._questions < self._questions_allowed:
                self._questions += 1
                self._time_left_s()
                told = self._asked(call, plant)
            told["questions_left"] = self._questions_allowed - self._questions
            content = orjson.dumps(told).decode()
            self._messages.append({"role": "tool", "tool_call_id": call.id, "content": content})

    def _asked(self, call: ToolCall, plant: Plant) -> dict[str, Any]:
        if call.name != "what_if" or self._twin is None:
            return {"error": "there is no such tool, only what_if"}
        try:
            changed = self._twin.changed(read_changes(_decoded(call.arguments), plant))
        except (ReplyError, EngineError) as error:
            return {"error": without_names(str(error))}
        return what_if_answer(self.context.slo, self._twin.baseline, changed)

    # One request.

    def _complete(self, plant: Plant) -> Completion:
        settings = self.settings
        request = self._request(plant)
        estimate = len(orjson.dumps(request)) // _BYTES_PER_TOKEN
        for attempt in range(1, settings.max_attempts + 1):
            self._check_money(estimate)
            try:
                body = self.service.complete(request, self._time_left_s())
                self.sent = True
                completion = read_completion(body)
            except ServiceError as error:
                self.sent = self.sent or error.again or error.billed
                self._attempts.append(clean_text(_kept(error.reason, self.service), 300))
                if error.billed:
                    self._spend(estimate, settings.max_reply_tokens)
                if error.malformed and self._questions_allowed and not self._questions:
                    self._questions_allowed = 0  # some servers know no tools beside a schema
                    self._begin(plant)
                    request = self._request(plant)
                else:
                    self._wait(error, attempt)
                continue
            reply = len(body) // _BYTES_PER_TOKEN if completion.reply_tokens is None else completion.reply_tokens
            self._spend(estimate if completion.prompt_tokens is None else completion.prompt_tokens, reply)
            self._replies.append(completion.content)
            return completion
        raise ServiceError(self._attempts[-1])

    def _request(self, plant: Plant) -> dict[str, Any]:
        return write_request(
            self._messages,
            plant,
            model=self.settings.model,
            reply_tokens=self.settings.max_reply_tokens,
            questions=self._questions_allowed - self._questions,
        )

    def _wait(self, error: ServiceError, attempt: int) -> None:
        """Wait before the next attempt; raises the error when there is to be none, or no time for it."""
        settings = self.settings
        if not error.again or attempt == settings.max_attempts:
            raise error
        wait_s = settings.backoff_s * 2 ** (attempt - 1) if error.after_s is None else error.after_s
        if wait_s >= self._deadline_s - self._clock():
            why = f"{error.reason}; the next attempt in {wait_s:.3g} s would come after the time budget"
            raise ServiceError(why, after_s=error.after_s)
        self._sleep(wait_s)

    def _time_left_s(self) -> float:
        left_s = self._deadline_s - self._clock()
        if left_s <= 0:
            raise ServiceError(f"the time budget of {self.settings.time_budget_s:.3g} s is spent")
        return left_s

    def _check_money(self, prompt_tokens: int) -> None:
        settings = self.settings
        tokens, cost_usd = self.history.spent(self._epoch_clock())
        if tokens + prompt_tokens + settings.max_reply_tokens > settings.tokens_per_day:
            raise ServiceError(f"the budget of {settings.tokens_per_day} tokens a day is spent ({tokens} used)")
        most_usd = settings.cost_per_day_usd
        if most_usd is not None and cost_usd + settings.cost_usd(prompt_tokens, settings.max_reply_tokens) > most_usd:
            raise ServiceError(f"the budget of {most_usd:g} USD a day is spent ({cost_usd:.4g} used)")

    def _spend(self, prompt_tokens: int, reply_tokens: int) -> None:
        cost_usd = self.settings.cost_usd(prompt_tokens, reply_tokens)
        self.history.spend(self._epoch_clock(), prompt_tokens + reply_tokens, cost_usd)
        self._prompt_tokens += prompt_tokens
        self._reply_tokens += reply_tokens
        self._cost_usd += cost_usd

    # The record.

    def record(self, verdict: LlmVerdict, reason: str = "") -> LlmExchange:
        """Put it on record; `proposals` counts for what the model said only where it was heard."""
        service = self.service
        messages = tuple(_all_kept(self._messages, service)) if self.sent else ()
        replies = tuple(_kept(reply, service) for reply in self._replies)
        proposals = () if verdict == "degraded" else tuple(self.proposals)
        reason = _kept(reason, service)
        digest = hashlib.sha256(orjson.dumps([messages, replies, reason])).hexdigest()[:10]
        return LlmExchange(
            id=f"llm-{self.context.now_ms}-{digest}",
            time_ms=self.context.now_ms,
            model=self.settings.model,
            address=service.address,
            verdict=verdict,
            reason=reason,
            messages=messages,
            replies=replies,
            attempts=tuple(self._attempts),
            refused=tuple(_kept(one, service) for one in self.refused),
            proposals=proposals,
            decision=proposals[0] if proposals else None,
            questions=self._questions,
            prompt_tokens=self._prompt_tokens,
            reply_tokens=self._reply_tokens,
            cost_usd=self._cost_usd,
            elapsed_s=self._clock() - self._started_s,
        )


def _hides(before: Score, after: Score, changed: WindowMetrics) -> bool:
    """Tell whether a change looks good only by making unknown what was known.

    A wait that is unknown while nobody waits hides nothing: the change itself has let them start.
    """
    hidden = set(after.unknown) - set(before.unknown)
    return bool(hidden - {"task_wait_p95"} if changed.tasks_pending == 0 else hidden)


def _decoded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ReplyError(f"broken JSON ({clean_text(str(error), 100)})") from None


def _kept(text: str, service: Service) -> str:
    """Make a text of a server fit to be kept: without the key, also where it is written in escapes."""
    text = service.redact(text)
    plain = text
    for _ in range(2):  # JSON within JSON
        plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), plain)
    return text if service.redact(plain) == plain else "(left out: it holds the key)"


def _all_kept(value: Any, service: Service) -> Any:
    """Do so with every text in a decoded document: a server knows the key, and could plant it in what we keep."""
    if isinstance(value, str):
        return _kept(value, service)
    if isinstance(value, dict):
        return {_kept(key, service): _all_kept(one, service) for key, one in value.items()}
    if isinstance(value, list):
        return [_all_kept(one, service) for one in value]
    return value

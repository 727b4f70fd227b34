"""A language model as an optimiser: it may propose, within limits, and the rules stand in whenever it cannot be heard.

What is sent is written by `llm_prompt`, what may come back is fixed by `llm_reply`, what is remembered is in `llm_history`, and
the limits are `LlmSettings` (`llm_record`). Here are the client of OpenAI's protocol (any compatible server), the conversation
with its budgets, and the way down to the rules. docs/concepts/llm.md describes the whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import orjson

from opendt.model.errors import EngineError
from opendt.model.slo import Slo
from opendt.model.topology import Topology
from opendt.optimization.base import Context, SystemState, TaskLoad, groups_of_topology
from opendt.optimization.effect import effect_of
from opendt.optimization.llm_history import LlmHistory, LlmState, as_expected
from opendt.optimization.llm_plant import Plant, clean_text, without_names
from opendt.optimization.llm_prompt import PROMPT_NAME, what_if_answer, write_messages, write_request
from opendt.optimization.llm_record import LlmExchange, LlmSettings
from opendt.optimization.llm_reply import ReplyError, read_changes, read_reply
from opendt.optimization.llm_service import (
    Completion,
    RecordedReplies,
    Service,
    ServiceError,
    ToolCall,
    read_completion,
)
from opendt.optimization.rule_based import RuleBasedOptimizer, rule_based_optimization
from opendt.optimization.scoring import check_slo, score
from opendt.twin.metrics import WindowMetrics
from opendt.twin.whatif import Comparison, WhatIf

if TYPE_CHECKING:
    from pathlib import Path

    from opendt.model.options import Allocation
    from opendt.model.proposal import ExpectedEffect, Proposal, SimulatedEffect

__all__ = ["LLM", "LlmExchange", "LlmSettings", "OpenAIService", "RecordedReplies"]

_USUAL_ADDRESS: Final = "https://api.openai.com/v1"
_GRACE_S: Final = 0.5
_LONGEST_ERROR_BYTES: Final = 4096
_AGAIN: Final = frozenset({408, 409, 429})
_BYTES_PER_TOKEN: Final = 3  # of JSON; English prose has about 4. Used where a service does not count.
_MOST_EXCHANGES: Final = 64


class OpenAIService:
    """A server that speaks OpenAI's protocol, asked with a time limit that holds whatever it does.

    Each call runs in a thread of its own, whose event loop cancels it when time is up: limits of single reads would let a
    server that sends a byte a second hold the caller for ever. The SDK's own retries are off, since they know no budget.

    Parameters
    ----------
    api_key : str
        Sent as the bearer token and nowhere else. Left out of pickles: set it again after restoring one.
    base_url : str, optional
        Up to and including ``/v1``; OpenAI's unless given.
    max_reply_bytes : int
        Longest body that is read.
    """

    def __init__(self, api_key: str = "", base_url: str | None = None, *, max_reply_bytes: int = 262_144) -> None:
        self.api_key = api_key
        self.base_url = base_url or _USUAL_ADDRESS
        self.max_reply_bytes = max_reply_bytes
        if urlsplit(self.base_url).scheme not in {"http", "https"}:
            raise ValueError(f"address of the language model is {self.base_url!r}, expected http://… or https://…")
        if api_key:
            import openai  # noqa: F401 - takes a second, which must not come out of the first call's budget

    def __getstate__(self) -> dict[str, Any]:
        """Give all but the key."""
        return {**self.__dict__, "api_key": ""}

    @property
    def address(self) -> str:
        """The address without user, password, query and fragment."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def redact(self, text: str) -> str:
        """Remove the key from a text."""
        return text.replace(self.api_key, "(key)") if self.api_key else text

    def complete(self, request: Mapping[str, Any], timeout_s: float) -> bytes:
        """Send a request, as `Service.complete` says."""
        if not self.api_key:
            raise ServiceError("there is no key for the language model")
        result: list[bytes | ServiceError] = []

        def run() -> None:
            try:
                result.append(asyncio.run(self._post(request, timeout_s)))
            except ServiceError as error:
                result.append(error)
            except Exception as error:  # noqa: BLE001 - whatever a stranger's server provokes is an answer that failed
                result.append(self._failure(error, timeout_s))

        thread = Thread(target=run, name="opendt-llm", daemon=True)
        thread.start()
        # The loop cancels itself; only what cannot be cancelled (the resolution of a name) outlives the grace, unheard.
        thread.join(timeout_s + _GRACE_S)
        answer = result[0] if result else ServiceError(f"no answer within {timeout_s:.3g} s", again=True, billed=True)
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def _post(self, request: Mapping[str, Any], timeout_s: float) -> bytes:
        import openai

        refused: list[ServiceError] = []

        async def look(response: Any) -> None:
            try:
                await self._look(response)
            except ServiceError as error:
                refused.append(error)
                raise

        try:
            async with asyncio.timeout(timeout_s):
                # No redirects: they would carry the prompt to somewhere that nobody has chosen.
                http = openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [look]})
                client = openai.AsyncOpenAI(
                    api_key=self.api_key, base_url=self.base_url, max_retries=0, timeout=timeout_s, http_client=http
                )
                async with client:
                    call: Any = client.chat.completions.with_streaming_response.create
                    async with call(**request, extra_headers={"Accept-Encoding": "identity"}) as response:
                        return await self._body(response.iter_bytes())
        except Exception:
            if refused:
                raise refused[0] from None
            raise

    async def _look(self, response: Any) -> None:
        """Refuse an answer by its head, before the SDK reads all of its body."""
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":  # a few kB may unfold to gigabytes
            raise ServiceError("the service compressed its answer though it was asked not to", billed=True)
        if response.status_code == 200:
            return
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _LONGEST_ERROR_BYTES:
                break
        raise _status_error(response.status_code, response.headers, self.redact(body.decode(errors="replace")))

    async def _body(self, chunks: Any) -> bytes:
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > self.max_reply_bytes:
                raise ServiceError(f"the answer is longer than {self.max_reply_bytes} bytes", billed=True)
        return bytes(body)

    def _failure(self, error: Exception, timeout_s: float) -> ServiceError:
        import openai

        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return ServiceError(f"no answer within {timeout_s:.3g} s", again=True, billed=True)
        cause = error.__cause__ or error
        words = clean_text(self.redact(f"{type(cause).__name__}: {cause}"), 200)
        if isinstance(error, openai.APIConnectionError):
            return ServiceError(f"the service cannot be reached ({words})", again=True)
        return ServiceError(f"the answer broke off ({words})", again=True, billed=True)


def _status_error(status: int, headers: Mapping[str, str], body: str) -> ServiceError:
    words = clean_text(body, 200)
    reason = f"the service answered HTTP {status}{': ' if words else ''}{words}"
    if status in {401, 403}:
        return ServiceError(f"the service does not accept the key ({reason})")
    return ServiceError(reason, again=status in _AGAIN or status >= 500, after_s=_retry_after_s(headers))


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


@dataclass(slots=True)
class _Log:
    """What happens in a conversation, as it happens."""

    deadline_s: float
    started_s: float
    messages: list[dict[str, Any]] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    sent: bool = False
    questions: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost_usd: float = 0.0


class LLM:
    """Asks a language model for changes; falls back to rules, with the reason on record, whenever it cannot be heard.

    Parameters
    ----------
    settings : LlmSettings, optional
        Limits.
    api_key, base_url : str, optional
        Of the service; without a key no model is asked and the rules decide.
    topology : Topology, optional
        What stands in the hall, so that hosts can be switched on again; without it the model cannot add any.
    policies : mapping, optional
        Policies of placing tasks that the model may choose from, by name; none unless given.
    history_path : Path or str, optional
        File of the memory. Without one it lives as long as the object (or its pickle).
    service : Service, optional
        Instead of OpenAI's protocol: `RecordedReplies`.
    clock, epoch_clock, sleep : callable
        Seconds of a clock that never goes back, seconds since the epoch (budgets of a day), and waiting.

    Notes
    -----
    Pickles without its key; give the restored one a ``service`` with the key again.
    """

    def __init__(
        self,
        settings: LlmSettings | None = None,
        *,
        api_key: str = "",
        base_url: str | None = None,
        topology: Topology | None = None,
        policies: Mapping[str, Allocation] | None = None,
        history_path: Path | str | None = None,
        service: Service | None = None,
        clock: Callable[[], float] = time.monotonic,
        epoch_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings or LlmSettings()
        limit = self.settings.max_reply_bytes
        self.service: Service = service or OpenAIService(api_key, base_url, max_reply_bytes=limit)
        self.topology = topology
        self.policies = dict(policies or {})
        self.history = LlmHistory(history_path)
        self._clock, self._epoch_clock, self._sleep = clock, epoch_clock, sleep
        self._rules = RuleBasedOptimizer(self.settings.rules)
        self._exchanges: deque[LlmExchange] = deque(maxlen=_MOST_EXCHANGES)

    # What others call.

    def propose(self, context: Context) -> Proposal | None:
        """Propose the model's best candidate, what the rules say when it cannot be heard, or None to keep things as they are.

        The model is asked when an hour (`LlmSettings.ask_every_ms`) has passed or an objective is newly breached. With a
        simulation in the context, candidates are simulated first, and only those that score better than no change remain.
        """
        self.history.note_window(context, score(context.slo, context.metrics))
        state = self.history.state
        if not state.failures and not self._is_due(context):
            self._save()
            return None
        exchange = self._decide(context, self.topology, lambda: self._rules.propose(context))
        return exchange.decision

    def optimize(
        self,
        simulation_results: Mapping[str, Any],
        batch_data: Mapping[str, Any],
        slo_targets: Mapping[str, Any],
        current_topology: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Decide once, from plain dicts to a plain dict; the model is asked each time.

        Parameters
        ----------
        simulation_results, batch_data, slo_targets, current_topology : mapping
            As for `opendt.optimization.rule_based.rule_based_optimization`. Without a topology no group is known and the
            rules decide.

        Returns
        -------
        dict
            The keys of ``rule_based_optimization`` (``action``, ``reason``, ``proposal``, ``slo``, ``score``) and
            ``candidates`` (all that the model proposed, the best first, each what ``Proposal.model_validate`` reads),
            ``degraded`` (why the rules decided instead, or None) and ``exchange`` (``LlmExchange.to_dict()``).

        Raises
        ------
        ModelError
            When one of the dicts is not what it should be; names the key.
        """
        answer = rule_based_optimization(simulation_results, batch_data, slo_targets, current_topology)
        # What is read here has just been checked.
        slo, metrics = Slo.model_validate(slo_targets), WindowMetrics(**simulation_results)
        counts = {"running": metrics.tasks_active or 0, "queued": metrics.tasks_pending or 0}
        topology = None if current_topology is None else Topology.model_validate(current_topology)
        groups = () if topology is None else groups_of_topology(topology, metrics.hosts_busy or 0)
        system = SystemState(groups=groups, load=TaskLoad(**{**counts, **batch_data}))
        context = Context(now_ms=metrics.end_ms, slo=slo, metrics=metrics, source=system)
        self.history.note_window(context, score(slo, metrics))
        fallback = RuleBasedOptimizer(self.settings.rules)
        exchange = self._decide(context, self.topology, lambda: fallback.propose(context))
        proposal = exchange.decision
        reason = exchange.reason if proposal is None else proposal.reason
        return {
            **answer,
            "action": "keep" if proposal is None else proposal.rule,
            "reason": reason or answer["reason"],
            "proposal": None if proposal is None else proposal.model_dump(mode="json"),
            "candidates": [one.model_dump(mode="json") for one in exchange.proposals],
            "degraded": exchange.reason if exchange.verdict == "degraded" else None,
            "exchange": exchange.to_dict(),
        }

    def note_certificate(self, proposal_id: str, certified: bool, verdict: str = "") -> bool:
        """Tell the model's memory whether a proposal was certified, and why (not); False when it is not remembered."""
        known = self.history.note(proposal_id, certified=certified, verdict=clean_text(verdict, 300))
        self._save()
        return known

    def note_outcome(
        self,
        proposal_id: str,
        simulated: SimulatedEffect | ExpectedEffect | None = None,
        measured: SimulatedEffect | ExpectedEffect | None = None,
    ) -> bool:
        """Hold what the model expected against a simulation and against what was measured; None leaves either as it is.

        Returns
        -------
        bool
            Whether the proposal is remembered.
        """
        effects = {"simulated": as_expected(simulated), "measured": as_expected(measured)}
        news = {name: effect for name, effect in effects.items() if effect is not None}
        known = self.history.note(proposal_id, **news)
        self._save()
        return known

    def take_exchanges(self) -> tuple[LlmExchange, ...]:
        """Give the conversations since the last time, for the ledger."""
        taken = tuple(self._exchanges)
        self._exchanges.clear()
        return taken

    def state(self) -> LlmState:
        """All that is remembered."""
        return self.history.state

    def restore(self, state: LlmState) -> None:
        """Go on from a state."""
        self.history.restore(state)

    # One decision.

    def _is_due(self, context: Context) -> bool:
        state = self.history.state
        if state.asked_ms is None or not 0 <= context.now_ms - state.asked_ms < self.settings.ask_every_ms:
            return True
        return not set(_breached(context)) <= set(state.breached)

    def _decide(self, context: Context, topology: Topology | None, rules: Callable[[], Proposal | None]) -> LlmExchange:
        """Ask, or say why not and let the rules decide; every conversation and every degraded proposal is on record."""
        started_s = self._clock()
        log = _Log(started_s + self.settings.time_budget_s, started_s)
        exchange = self._asked(context, topology, log)
        if exchange.verdict == "degraded":
            exchange = replace(exchange, decision=rules())
        if log.sent or exchange.decision is not None:
            self._exchanges.append(exchange)
        self._save()
        return exchange

    def _asked(self, context: Context, topology: Topology | None, log: _Log) -> LlmExchange:
        now_s = self._epoch_clock()
        state = self.history.state
        if state.failures and now_s < state.rest_until_s:
            rest = f"the service rests for another {state.rest_until_s - now_s:.0f} s after {state.failures} failures"
            return self._exchange(context, log, "degraded", rest)
        try:
            self._converse(context, topology, log)
        except ServiceError as error:
            return self._degraded(context, log, error.reason, error.after_s)
        except ReplyError as error:
            return self._degraded(context, log, str(error))
        except Exception as error:  # noqa: BLE001 - what a stranger sends must never end the loop
            words = clean_text(f"{type(error).__name__}: {error}", 200)
            return self._degraded(context, log, f"the answer could not be worked with ({words})")
        self.history.note_success()
        self.history.note_asked(context.now_ms, _breached(context))
        if log.proposals:
            return self._exchange(context, log, "proposed", "")
        why = "no candidate scores better than leaving things as they are" if log.refused else "nothing to change"
        return self._exchange(context, log, "kept", f"the model was heard: {why}")

    def _converse(self, context: Context, topology: Topology | None, log: _Log) -> None:
        settings = self.settings
        plant = Plant.of(
            context,
            installed=self.history.installed,
            rules=settings.rules,
            topology=topology,
            policies=self.policies,
        )
        if not plant.groups:
            raise ServiceError("no host group is known that a model could change")
        twin = None if isinstance(context.source, SystemState) else WhatIf(context.source, settings.horizon_ms)
        allowed = 0 if twin is None else settings.max_questions
        log.messages = write_messages(
            context,
            plant,
            self.history,
            candidates=settings.max_candidates,
            questions=allowed,
            horizon_ms=settings.horizon_ms,
        )
        while True:
            completion = self._complete(plant, allowed - log.questions, log)
            if not completion.tool_calls:
                break
            if twin is None or log.questions >= allowed:
                raise ServiceError("the model asked although it may not any more")
            self._answer(completion, context, plant, twin, allowed, log)
        content = _without_key(_decoded(completion.content), self.service)
        read = read_reply(content, plant, context.now_ms, PROMPT_NAME)
        log.refused += read.refused
        log.proposals = list(read.proposals)
        if log.refused and not log.proposals:
            self.history.remember_refusals(read.refused)
            raise ReplyError(f"all candidates were refused: {log.refused[0]}")
        self._rank(context, twin, log)
        self.history.remember_refusals(tuple(log.refused))

    def _answer(
        self, completion: Completion, context: Context, plant: Plant, twin: WhatIf, allowed: int, log: _Log
    ) -> None:
        """Answer what the model asked, with the same eyes on its words as on an answer."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name[:64], "arguments": call.arguments}}
            for call in completion.tool_calls
        ]
        log.messages.append({"role": "assistant", "content": completion.content, "tool_calls": calls})
        for call in completion.tool_calls:
            told: dict[str, Any] = {"error": "no question is left"}
            if log.questions < allowed:
                log.questions += 1
                self._check_time(log)
                told = _simulated(call, context, plant, twin)
            told["questions_left"] = allowed - log.questions
            log.messages.append({"role": "tool", "tool_call_id": call.id, "content": orjson.dumps(told).decode()})

    def _rank(self, context: Context, twin: WhatIf | None, log: _Log) -> None:
        """Simulate the candidates while there is time; the best first, without those that do no good."""
        simulated: list[tuple[float, Proposal]] = []
        unseen: list[Proposal] = []
        for proposal in log.proposals[: self.settings.max_candidates]:
            if twin is None or self._clock() >= log.deadline_s:
                unseen.append(proposal)
                self.history.remember(proposal)
                continue
            try:
                changed = twin.changed(proposal.changes)
            except EngineError as error:
                log.refused.append(f"{proposal.id} cannot be applied: {without_names(str(error))}")
                continue
            effect = effect_of(proposal, Comparison(twin.baseline, changed), context.slo)
            self.history.remember(proposal, as_expected(effect))
            before, after = score(context.slo, twin.baseline), score(context.slo, changed)
            if after.total < before.total and set(after.unknown) <= set(before.unknown):
                simulated.append((after.total, proposal))
            else:
                log.refused.append(f"{proposal.id} scores {after.total:.4g}, no change scores {before.total:.4g}")
        simulated.sort(key=lambda pair: pair[0])
        log.proposals = [proposal for _, proposal in simulated] + unseen

    # One request.

    def _complete(self, plant: Plant, questions: int, log: _Log) -> Completion:
        settings = self.settings
        request = write_request(
            log.messages, plant, model=settings.model, reply_tokens=settings.max_reply_tokens, questions=questions
        )
        estimate = len(orjson.dumps(request)) // _BYTES_PER_TOKEN
        for attempt in range(1, settings.max_attempts + 1):
            self._check_money(estimate)
            try:
                body = self.service.complete(request, self._check_time(log))
                log.sent = True
                completion = read_completion(body)
            except ServiceError as error:
                log.sent = log.sent or error.again or error.billed
                log.attempts.append(clean_text(self.service.redact(error.reason), 300))
                if error.billed:
                    self._spend(estimate, settings.max_reply_tokens, log)
                self._wait(error, attempt, log)
                continue
            reply = len(body) // _BYTES_PER_TOKEN if completion.reply_tokens is None else completion.reply_tokens
            self._spend(estimate if completion.prompt_tokens is None else completion.prompt_tokens, reply, log)
            log.replies.append(completion.content)
            return completion
        raise AssertionError  # the last attempt returns or raises

    def _wait(self, error: ServiceError, attempt: int, log: _Log) -> None:
        """Wait before the next attempt; raises the error when there is to be none, or no time for it."""
        settings = self.settings
        if not error.again or attempt == settings.max_attempts:
            raise error
        wait_s = settings.backoff_s * 2 ** (attempt - 1) if error.after_s is None else error.after_s
        left_s = log.deadline_s - self._clock()
        if wait_s >= left_s:
            why = f"{error.reason}; the next attempt in {wait_s:.3g} s would come after the time budget"
            raise ServiceError(why, after_s=error.after_s)
        self._sleep(wait_s)

    def _check_time(self, log: _Log) -> float:
        left_s = log.deadline_s - self._clock()
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

    def _spend(self, prompt_tokens: int, reply_tokens: int, log: _Log) -> None:
        cost_usd = self.settings.cost_usd(prompt_tokens, reply_tokens)
        self.history.spend(self._epoch_clock(), prompt_tokens + reply_tokens, cost_usd)
        log.prompt_tokens += prompt_tokens
        log.reply_tokens += reply_tokens
        log.cost_usd += cost_usd

    # The record.

    def _degraded(self, context: Context, log: _Log, reason: str, after_s: float | None = None) -> LlmExchange:
        # Longer after each failure in a row, and as long as the service asks; but nobody can silence it for ever.
        rest_s = max(self.settings.rest_s * 2.0 ** min(self.history.state.failures, 32), after_s or 0.0)
        self.history.note_failure(self._epoch_clock() + min(rest_s, self.settings.longest_rest_s))
        log.proposals = []
        return self._exchange(context, log, "degraded", reason)

    def _exchange(self, context: Context, log: _Log, verdict: Any, reason: str) -> LlmExchange:
        redact = self.service.redact
        messages = tuple(_without_key(log.messages, self.service)) if log.sent else ()
        digest = hashlib.sha256(orjson.dumps([messages, log.replies, reason])).hexdigest()[:10]
        return LlmExchange(
            id=f"llm-{context.now_ms}-{digest}",
            time_ms=context.now_ms,
            model=self.settings.model,
            address=self.service.address,
            verdict=verdict,
            reason=redact(reason),
            messages=messages,
            replies=tuple(redact(reply) for reply in log.replies),
            attempts=tuple(log.attempts),
            refused=tuple(log.refused),
            proposals=tuple(log.proposals),
            decision=log.proposals[0] if log.proposals else None,
            questions=log.questions,
            prompt_tokens=log.prompt_tokens,
            reply_tokens=log.reply_tokens,
            cost_usd=log.cost_usd,
            elapsed_s=self._clock() - log.started_s,
        )

    def _save(self) -> None:
        try:
            self.history.save()
        except OSError as error:
            # A full disk must not stop decisions; the next save tries again, and the log tells.
            import structlog

            structlog.get_logger(__name__).warning("llm_history_not_saved", error=str(error))


def _breached(context: Context) -> tuple[str, ...]:
    return tuple(status.name for status in check_slo(context.slo, context.metrics) if status.met is False)


def _simulated(call: ToolCall, context: Context, plant: Plant, twin: WhatIf) -> dict[str, Any]:
    if call.name != "what_if":
        return {"error": "there is no such tool, only what_if"}
    try:
        changes = read_changes(_decoded(call.arguments), plant)
        return what_if_answer(context.slo, twin.baseline, twin.changed(changes))
    except (ReplyError, EngineError) as error:
        return {"error": without_names(str(error))}


def _decoded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ReplyError(f"broken JSON ({clean_text(str(error), 100)})") from None


def _without_key(value: Any, service: Service) -> Any:
    """Redact every text in a decoded document: a server knows the key, and could plant it in what we keep."""
    if isinstance(value, str):
        return service.redact(value)
    if isinstance(value, dict):
        return {service.redact(key): _without_key(one, service) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_key(one, service) for one in value]
    return value

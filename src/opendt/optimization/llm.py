"""A language model as an optimiser: it may propose, within limits, and the rules stand in whenever it cannot be heard.

What is sent is written by `llm_prompt`, what may come back is fixed by `llm_reply`, what is remembered is in `llm_history`, and
the limits are `LlmSettings` (`llm_record`), and the conversation itself is `llm_talk`. Here are the client of OpenAI's protocol (any
compatible server) and the way down to the rules. docs/concepts/llm.md describes the whole.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from opendt.model.proposal import Proposal
from opendt.model.slo import Slo
from opendt.model.topology import Topology
from opendt.optimization.base import Context, SystemState, TaskLoad, groups_of_topology
from opendt.optimization.llm_history import LlmHistory, LlmState, as_expected
from opendt.optimization.llm_plant import Plant, clean_text, hall_of
from opendt.optimization.llm_record import LlmExchange, LlmSettings
from opendt.optimization.llm_reply import ReplyError
from opendt.optimization.llm_service import RecordedReplies, RelivedConversation, Service, ServiceError, status_error
from opendt.optimization.llm_talk import Conversation
from opendt.optimization.rule_based import RuleBasedOptimizer, rule_based_optimization
from opendt.optimization.scoring import check_slo, score
from opendt.twin.metrics import WindowMetrics

if TYPE_CHECKING:
    from pathlib import Path

    from opendt.model.options import Allocation
    from opendt.model.proposal import ExpectedEffect, SimulatedEffect

__all__ = ["LLM", "LlmExchange", "LlmSettings", "OpenAIService", "RecordedReplies"]

_USUAL_ADDRESS: Final = "https://api.openai.com/v1"
_GRACE_S: Final = 0.5
_LONGEST_ERROR_BYTES: Final = 4096
_SHORTEST_SECRET: Final = 8
_CLOCKS: Final[dict[str, Any]] = {"_clock": time.monotonic, "_epoch_clock": time.time, "_sleep": time.sleep}
_MOST_EXCHANGES: Final = 64
_LONGEST_VERDICT: Final = 1000
_RESTS: Final = "the service rests"


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
        parts = urlsplit(self.base_url)
        if parts.username is not None or parts.password is not None:
            # Not shown: it is a secret, and would end up in records.
            raise ValueError(
                "address of the language model holds a user or password, expected none: set the key instead"
            )
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"address of the language model is {self.base_url!r}, expected http://… or https://…")
        if api_key:
            import openai  # noqa: F401 - takes a second, which must not come out of the first call's budget

    def __getstate__(self) -> dict[str, Any]:
        """Give all but the key."""
        return {**self.__dict__, "api_key": ""}

    @property
    def address(self) -> str:
        """The address without query and fragment, where some put keys."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    def redact(self, text: str) -> str:
        """Remove the key from a text; words like EMPTY, which local servers take for a key, are no secrets."""
        return text.replace(self.api_key, "(key)") if len(self.api_key) >= _SHORTEST_SECRET else text

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
        raise status_error(response.status_code, response.headers, self.redact(body.decode(errors="replace")))

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

    is_deterministic: Final = False
    """A model says something else each time: what it said is kept, and it is not asked again for the same window."""
    source: Final = "llm"

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
        self._hall = None if topology is None else hall_of(topology)
        self.policies = dict(policies or {})
        self.history = LlmHistory(history_path)
        self._clock, self._epoch_clock, self._sleep = clock, epoch_clock, sleep
        self._rules = RuleBasedOptimizer(self.settings.rules)
        self._exchanges: deque[LlmExchange] = deque(maxlen=_MOST_EXCHANGES)

    def __getstate__(self) -> dict[str, Any]:
        """Give all but the clocks, which are the process's."""
        return {name: value for name, value in self.__dict__.items() if name not in _CLOCKS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it over, with the clocks of this process."""
        self.__dict__.update(state, **_CLOCKS)

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
        exchange = self._decide(context, lambda: self._rules.propose(context))
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
        exchange = self._decide(context, lambda: fallback.propose(context))
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

    def relive(self, context: Context, said: Mapping[str, Any] | None) -> Proposal | None:
        """Go through a window again whose conversation is on record, so that all is remembered as it was; nobody is asked.

        Parameters
        ----------
        context : Context
            As it was.
        said : mapping, optional
            What `take_exchanges` gave of it (`LlmExchange.to_dict`); None where nothing was said.

        Returns
        -------
        Proposal, optional
            What was proposed then.
        """
        self.history.note_window(context, score(context.slo, context.metrics))
        if said is None:
            if self.history.state.failures or self._is_due(
                context
            ):  # nobody could be reached, and the rules kept silent
                self._rest()
                self._rules.propose(context)
            return None
        if not said["reason"].startswith(_RESTS):
            self._hold_again(context, said)
        if said["verdict"] == "degraded":
            self._rules.propose(context)
        self._save()
        # In JSON lists stand for tuples.
        return None if said["decision"] is None else Proposal.model_validate_json(json.dumps(said["decision"]))

    def _hold_again(self, context: Context, said: Mapping[str, Any]) -> None:
        conversation = Conversation(
            context,
            self.settings,
            RelivedConversation(said),
            self.history,
            clock=lambda: 0.0,
            epoch_clock=self._epoch_clock,
            sleep=lambda _: None,
        )
        with suppress(Exception):  # as it went then, or an OpenDT that reads answers otherwise: what was decided stays
            conversation.hold(self._plant(context))
        if said["verdict"] == "degraded":
            self._rest()
            return
        self.history.note_success()
        self.history.note_asked(context.now_ms, _breached(context))

    def note_certificate(self, proposal_id: str, certified: bool, verdict: str = "") -> bool:
        """Tell the model's memory whether a proposal was certified, and why (not); False when it is not remembered."""
        known = self.history.note(proposal_id, certified=certified, verdict=verdict[:_LONGEST_VERDICT])
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

    def _decide(self, context: Context, rules: Callable[[], Proposal | None]) -> LlmExchange:
        """Ask, or say why not and let the rules decide; every conversation and every degraded proposal is on record."""
        conversation = Conversation(
            context,
            self.settings,
            self.service,
            self.history,
            clock=self._clock,
            epoch_clock=self._epoch_clock,
            sleep=self._sleep,
        )
        exchange = self._held(conversation)
        if exchange.verdict == "degraded":
            exchange = replace(exchange, decision=rules())
        if conversation.sent or exchange.decision is not None:
            self._exchanges.append(exchange)
        self._save()
        return exchange

    def _held(self, conversation: Conversation) -> LlmExchange:
        context, now_s, state = conversation.context, self._epoch_clock(), self.history.state
        if state.failures and now_s < state.rest_until_s:
            rest_s = state.rest_until_s - now_s
            return conversation.record("degraded", f"{_RESTS} for {rest_s:.0f} s after {state.failures} failures")
        try:
            conversation.hold(self._plant(context))
        except ServiceError as error:
            self._rest(error.after_s)
            return conversation.record("degraded", error.reason)
        except ReplyError as error:
            self._rest()
            return conversation.record("degraded", str(error))
        except Exception as error:  # noqa: BLE001 - what a stranger sends must never end the loop
            self._rest()
            words = clean_text(f"{type(error).__name__}: {error}", 200)
            return conversation.record("degraded", f"the answer could not be worked with ({words})")
        self.history.note_success()
        self.history.note_asked(context.now_ms, _breached(context))
        if conversation.proposals:
            return conversation.record("proposed")
        why = (
            "no candidate scores better than leaving things as they are"
            if conversation.refused
            else "nothing to change"
        )
        return conversation.record("kept", f"the model was heard: {why}")

    def _plant(self, context: Context) -> Plant:
        return Plant.of(
            context,
            installed=self.history.installed,
            rules=self.settings.rules,
            hall=self._hall,
            policies=self.policies,
        )

    def _rest(self, after_s: float | None = None) -> None:
        """Leave the service alone: longer after each failure in a row, as long as it asks, but nobody silences it for ever."""
        settings = self.settings
        rest_s = max(settings.rest_s * 2.0 ** min(self.history.state.failures, 32), after_s or 0.0)
        self.history.note_failure(self._epoch_clock() + min(rest_s, settings.longest_rest_s))

    def _save(self) -> None:
        try:
            self.history.save()
        except OSError as error:
            # A full disk must not stop decisions; the next save tries again, and the log tells.
            import structlog

            structlog.get_logger(__name__).warning("llm_history_not_saved", error=str(error))


def _breached(context: Context) -> tuple[str, ...]:
    return tuple(status.name for status in check_slo(context.slo, context.metrics) if status.met is False)

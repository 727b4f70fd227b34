"""What differs between environments, made of the settings in one place: what may be acted on, who proposes, what acts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from opendt.optimization.bounds import Limits
from opendt.optimization.rules import RuleSettings
from opendt.orchestrator.actuator import TopologyFileActuator
from opendt.orchestrator.decisions import DecisionSettings
from opendt.orchestrator.environment import without_carbon
from opendt.orchestrator.gate import GateSettings, MaintenanceWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.topology import Topology
    from opendt.optimization.base import Optimizer
    from opendt.orchestrator.settings_model import DatacenterSettings, Settings
    from opendt.orchestrator.version_store import VersionStore

__all__ = ["decision_settings", "make_actuator", "make_optimizers", "reconnect"]


def decision_settings(settings: Settings) -> DecisionSettings:
    """Settings of decisions.

    Raises
    ------
    ModelError
        When a maintenance window is none.
    """
    gate = settings.gate
    return DecisionSettings(
        environment=settings.environment,
        mode=settings.mode,
        certify_always=gate.certify == "always",
        gate=GateSettings(
            max_changes_per_day=gate.max_changes_per_day,
            waiting_ms=gate.waiting_s * 1000,
            maintenance=tuple(MaintenanceWindow.parse(text) for text in gate.maintenance),
        ),
        seed=settings.seed,
        limits=_limits(settings),
    )


def _limits(settings: Settings) -> Limits:
    # As JSON: in it, lists stand for tuples.
    return Limits.model_validate_json(json.dumps(settings.limits))


def make_optimizers(settings: Settings, topology: Topology) -> list[Optimizer]:
    """Optimisers of the settings, in their order.

    What a language model remembers is part of the twin's snapshots, and follows from the ledger after them: a file of its own would
    be ahead of both after a kill.

    Raises
    ------
    ModelError
        When one of them is not known.
    """
    bare = without_carbon(topology)
    return [_make(name, settings, bare) for name in settings.optimizers]


def make_actuator(
    settings: Settings, datacenter: DatacenterSettings, store: VersionStore
) -> TopologyFileActuator | None:
    """What acts: the topology file of a live system; nothing on what was recorded or is only watched."""
    if settings.environment != "live" or datacenter.topology is None:
        return None
    return TopologyFileActuator(datacenter.topology, store)


def reconnect(optimizers: Sequence[Optimizer], settings: Settings) -> None:
    """Give restored optimisers what no snapshot holds: the key of the language model."""
    for optimizer in optimizers:
        if getattr(optimizer, "source", "") == "llm":
            from opendt.optimization.llm import LLM, OpenAIService

            assert isinstance(optimizer, LLM)
            key = settings.openai.api_key
            secret = "" if key is None else key.get_secret_value()
            limit = optimizer.settings.max_reply_bytes
            optimizer.service = OpenAIService(secret, settings.openai.base_url, max_reply_bytes=limit)


def _rule_settings(settings: Settings) -> RuleSettings:
    whole = ("reserve_hosts", "cooldown_ms")
    given = {name: int(value) if name in whole else value for name, value in settings.rules.items()}
    return RuleSettings(**{"max_removed_ratio": _limits(settings).max_removed_ratio, **given})  # type: ignore[arg-type]


def _make(name: str, settings: Settings, topology: Topology) -> Optimizer:
    from opendt.optimization.plugins import load_optimizer

    if name == "rules":
        return load_optimizer(name, settings=_rule_settings(settings))

    if name == "llm":
        from opendt.optimization.llm import LLM, LlmSettings

        key = settings.openai.api_key
        return LLM(
            LlmSettings(
                model=settings.openai.model,
                time_budget_s=settings.openai.time_budget_s,
                tokens_per_day=settings.openai.tokens_per_day,
                cost_per_day_usd=settings.openai.cost_per_day_usd,
                prompt_usd_per_million=settings.openai.prompt_usd_per_million,
                reply_usd_per_million=settings.openai.reply_usd_per_million,
                rules=_rule_settings(settings),
            ),
            api_key="" if key is None else key.get_secret_value(),
            base_url=settings.openai.base_url,
            topology=topology,
        )
    if name == "search":
        from opendt.optimization.search import SearchSettings
        from opendt.optimization.search_genes import SpaceLimits
        from opendt.optimization.search_optimizer import SearchOptimizer

        limits = SpaceLimits.within(_limits(settings))
        return SearchOptimizer(SearchSettings(seed=settings.seed, limits=limits), topology=topology)
    return load_optimizer(name)

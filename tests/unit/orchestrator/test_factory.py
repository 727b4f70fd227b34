"""What settings say of optimisers is what is made of them."""

from __future__ import annotations

import pytest

from opendt.optimization.bounds import Limits
from opendt.orchestrator.factory import make_optimizers
from opendt.orchestrator.settings_model import OpenAISettings, Settings
from tests.unit.optimization.cert_plant import TOPOLOGY


def test_the_budgets_of_a_language_model_are_those_of_the_settings():
    budgets = {
        "time_budget_s": 5.0,
        "tokens_per_day": 10_000,
        "cost_per_day_usd": 2.0,
        "prompt_usd_per_million": 0.4,
        "reply_usd_per_million": 1.6,
    }
    settings = Settings(optimizers=("llm",), openai=OpenAISettings(api_key="x", model="m", **budgets))
    (llm,) = make_optimizers(settings, TOPOLOGY)
    assert {name: getattr(llm.settings, name) for name in budgets} == budgets
    assert llm.settings.model == "m"
    assert llm.history.path is None  # what it remembers is in the snapshots


def test_a_limit_of_cost_without_prices_is_refused():
    with pytest.raises(ValueError, match="cost_per_day_usd"):
        OpenAISettings(cost_per_day_usd=1.0)


def test_a_search_in_the_loop_keeps_to_what_may_go_at_once():
    (search,) = make_optimizers(Settings(optimizers=("search",)), TOPOLOGY)
    assert search.settings.limits.max_removed_ratio == Limits().max_removed_ratio


def test_rules_have_the_thresholds_of_the_settings():
    """Also those that decide where a model cannot be heard; what is no threshold is refused by name."""
    settings = Settings(optimizers=("rules", "llm"), rules={"downscale_ratio": 0.2, "reserve_hosts": 3.0})
    rules, llm = make_optimizers(settings, TOPOLOGY)
    for found in (rules.settings, llm.settings.rules):
        assert (found.downscale_ratio, found.reserve_hosts, found.core_gain_ratio) == (0.2, 3, 0.25)
        assert isinstance(found.reserve_hosts, int)
    with pytest.raises(ValueError, match=r"low_utilization_ratio, .*not 'low'"):
        Settings(rules={"low": 1.0})
    with pytest.raises(ValueError, match=r"downscale_ratio is 1\.5"):
        Settings(rules={"downscale_ratio": 1.5})

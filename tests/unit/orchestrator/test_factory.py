"""What settings say of optimisers is what is made of them."""

from __future__ import annotations

import pytest

from opendt.optimization.bounds import Limits
from opendt.orchestrator.factory import decision_settings, make_optimizers
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


LIMITS = {
    "allowed": ["remove_hosts", "add_hosts"],
    "protected_groups": ["edge"],
    "max_removed_ratio": 0.2,
    "max_added_ratio": 0.1,
    "min_speed_ratio": 0.7,
    "catalogue": [
        {
            "name": "new",
            "count": 1,
            "core_count": 16,
            "core_speed_mhz": 3000.0,
            "memory_mib": 65_536,
            "power_model": {"type": "linear", "idle_w": 50.0, "max_w": 200.0},
        }
    ],
}


def test_limits_of_the_settings_are_those_of_certificates_rules_and_searches():
    settings = Settings(optimizers=("rules", "search"), limits=LIMITS)
    limits = decision_settings(settings).limits
    assert (limits.allowed, limits.protected_groups) == (("remove_hosts", "add_hosts"), ("edge",))
    assert (limits.max_removed_ratio, limits.max_changed_ratio) == (0.2, 1.0)
    assert limits.catalogue[0].core_count == 16
    rules, search = make_optimizers(settings, TOPOLOGY)
    assert rules.settings.max_removed_ratio == 0.2
    space = search.settings.limits
    assert (space.max_removed_ratio, space.max_added_ratio, space.min_core_speed_ratio) == (0.2, 0.1, 0.7)
    assert space.fixed == {"cores", "clock", "power_cap", "allocation"}
    own = Settings(optimizers=("rules",), limits=LIMITS, rules={"max_removed_ratio": 0.1})
    assert make_optimizers(own, TOPOLOGY)[0].settings.max_removed_ratio == 0.1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_removed": 0.2}, r"max_removed_ratio, .*not 'max_removed'"),
        ({"allowed": ["fail_hosts"]}, r"allowed: .*'fail_hosts' is none of add_hosts, migrate_task"),
        ({"max_removed_ratio": 1.5}, r"max_removed_ratio: .*less than or equal to 1, found 1\.5"),
        ({"catalogue": [{"name": "x"}]}, r"catalogue\.0\.count: "),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(limits, message):
    with pytest.raises(ValueError, match=message):
        Settings(limits=limits)

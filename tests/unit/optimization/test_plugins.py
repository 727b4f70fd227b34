"""Optimisers by name: ours, and those of installed packages, here without installing one: a folder with its metadata does."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path

import pytest

from opendt.model.change import GroupHosts, RemoveHosts
from opendt.model.errors import ModelError
from opendt.model.slo import Slo
from opendt.optimization.base import Context, GroupState, SystemState, TaskLoad
from opendt.optimization.llm import LLM
from opendt.optimization.plugins import GROUP, available_optimizers, load_optimizer
from opendt.optimization.rule_based import RuleBasedOptimizer, RuleSettings
from opendt.twin.metrics import WindowMetrics
from tests.offered import offer

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "spare_hosts"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Offer what a package does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return partial(offer, tmp_path, GROUP)


def context(*, idle, busy=1, queued=0):
    hosts = [f"h{number}" for number in range(idle + busy)]
    group = GroupState(
        cluster="c",
        group="node",
        core_count=4,
        core_speed_mhz=1000.0,
        idle=tuple(hosts[busy:]),
        busy=tuple(hosts[:busy]),
        free_cores=(4,) * idle + (0,) * busy,
    )
    state = SystemState(groups=(group,), load=TaskLoad(running=busy, queued=queued, largest_core_count=4))
    metrics = WindowMetrics(start_ms=0, end_ms=300_000)
    return Context(now_ms=300_000, slo=Slo(version=1), metrics=metrics, source=state)


def test_our_own_are_there_without_any_package():
    assert available_optimizers()[:2] == ("rules", "llm")
    settings = RuleSettings(downscale_ratio=0.1)
    rules = load_optimizer("rules", settings=settings)
    assert isinstance(rules, RuleBasedOptimizer)
    assert rules.settings is settings
    assert isinstance(load_optimizer("llm"), LLM)


def test_the_example_is_found_by_the_name_that_its_package_gives(install):
    with (EXAMPLE / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    source = (EXAMPLE / "spare_hosts.py").read_text()
    install(project["name"], project["entry-points"][GROUP], spare_hosts=source)
    assert "spare_hosts" in available_optimizers()
    optimizer = load_optimizer("spare_hosts", spare=2)
    proposal = optimizer.propose(context(idle=5))
    assert proposal.changes == (RemoveHosts(hosts=GroupHosts(group="node"), count=3),)
    assert proposal.source == "plugin"
    assert optimizer.propose(context(idle=2)) is None
    assert optimizer.propose(context(idle=5, queued=1)) is None
    assert load_optimizer("spare_hosts", spare=0).propose(context(idle=3, busy=0)).changes[0].count == 2


def test_an_unknown_name_is_refused_with_those_that_exist(install):
    install("theirs", {"theirs": "theirs:Theirs"})
    with pytest.raises(ModelError, match=r"found 'nobody', expected one of rules, llm.*theirs"):
        load_optimizer("nobody")


def test_two_packages_may_not_offer_one_name(install):
    install("one", {"twice": "one:Made"})
    install("other", {"twice": "other:Made"})
    with pytest.raises(ModelError, match=r"twice: found (?=.*one 1\.0)(?=.*other 1\.0).*Uninstall"):
        load_optimizer("twice")


def test_a_package_cannot_take_the_place_of_ours(install):
    install("impostor", {"rules": "impostor:Made"}, impostor="raise SystemExit")
    assert isinstance(load_optimizer("rules"), RuleBasedOptimizer)
    assert available_optimizers().count("rules") == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "broken 1.0: found ZeroDivisionError"),
        ("", "found AttributeError"),
        ("Made = 7", "found 7, expected a class or function"),
        ("class Made: pass", "expected an object with a method propose"),
        ("def Made(*, hosts): pass", r"found \[\], expected settings that it takes"),
    ],
)
def test_what_is_no_optimiser_is_refused_by_name(install, source, message):
    module = f"broken_{abs(hash(source))}"  # Python remembers modules by name
    install("broken", {"broken": f"{module}:Made"}, **{module: source})
    with pytest.raises(ModelError, match=message):
        load_optimizer("broken")

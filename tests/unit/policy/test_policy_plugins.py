"""Policies by name: ours, and those of installed packages, here without installing one: a folder with its metadata does."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path

import pytest

from opendt.model.errors import ModelError
from opendt.model.job import StageWork
from opendt.policy.cvar import Cvar
from opendt.policy.plugins import GROUP, OWN_POLICIES, available_policies, load_policy
from tests.offered import offer
from tests.small_fleet import fleet, job, stage

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "home_first"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Offer what a package does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return partial(offer, tmp_path, GROUP)


def test_our_own_are_there_without_any_package():
    assert available_policies()[:5] == OWN_POLICIES
    for name in OWN_POLICIES:
        assert load_policy(name).name == name
    policy = load_policy("cvar", futures=10, alpha=0.2)
    assert isinstance(policy, Cvar)
    assert (policy.settings.count, policy.alpha) == (10, 0.2)


def test_the_example_is_found_and_keeps_jobs_at_home(install):
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(project["name"], project["entry-points"][GROUP], home_first=(EXAMPLE / "home_first.py").read_text())
    assert "home_first" in available_policies()
    placed = load_policy("home_first").place(job(), fleet())
    assert placed.placements["a"].cluster == "edge"
    assert placed.explanation.startswith("at home")
    impatient = load_policy("home_first", patience=1.0).place(job(), fleet())
    assert impatient.placements["a"].cluster == "home"  # the name of the fastest cluster, not that of the job's
    hopeless = load_policy("home_first").place(job(stage(cpu_millicores=9000)), fleet())
    assert "ask for at most 8000 cpu_millicores" in hopeless.remedy
    late = job(stage(work=StageWork(cpu_seconds=10.0)), deadline_ms=10_000)
    assert load_policy("home_first").place(late, fleet()).placements["a"].cluster == "home"


def test_names_that_nobody_offers_are_refused():
    with pytest.raises(ModelError, match=r"policy: found 'fastest', expected one of greedy, resilient, cvar"):
        load_policy("fastest")


def test_settings_that_a_policy_does_not_take_are_refused():
    with pytest.raises(ModelError, match=r"policy greedy: found \['speed'\], expected settings that it takes"):
        load_policy("greedy", speed=1)
    with pytest.raises(ValueError, match="alpha is 0, expected a share above 0"):
        load_policy("cvar", alpha=0)


def test_what_is_no_policy_is_refused(install):
    install(
        "odd-things",
        {"broken": "odd:Missing", "thing": "odd:VALUE", "empty": "odd:Empty"},
        odd="VALUE = 3\nclass Empty: pass\n",
    )
    with pytest.raises(ModelError, match=r"policy broken of odd-things 1.0: found AttributeError"):
        load_policy("broken")
    with pytest.raises(ModelError, match=r"policy thing of odd-things 1.0: found 3, expected a class or function"):
        load_policy("thing")
    with pytest.raises(ModelError, match=r"expected an object with a method place\(job, fleet\)"):
        load_policy("empty")


def test_two_packages_with_one_name_are_refused(install):
    install("one-package", {"same": "one:Policy"}, one="class Policy: pass\n")
    install("two-package", {"same": "two:Policy"}, two="class Policy: pass\n")
    with pytest.raises(ModelError, match="expected one package to offer it"):
        load_policy("same")


def test_ours_cannot_be_replaced(install):
    install("taker", {"greedy": "taker:Greedy"}, taker="class Greedy: pass\n")
    assert load_policy("greedy").name == "greedy"
    assert type(load_policy("greedy")).__module__ == "opendt.policy.greedy"

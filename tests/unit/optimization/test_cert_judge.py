"""A claim is shown only when all its parts are, at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from opendt.model.certificate import Claim
from opendt.model.slo import CostTarget, EnergyTarget, RuntimeTargets, Slo, SlowdownTarget, UtilizationBand
from opendt.optimization.certify import judge_pairs
from opendt.optimization.eprocess import STAKES
from opendt.optimization.paired_futures import PairedFutures, SloPairs, pair_futures, quantiles
from opendt.optimization.scoring import score
from opendt.twin.metrics import WindowMetrics

CLAIM = Claim()
N = 100


def pairs(gain=0.05, put_off=0.0, worse=0.0, lost=0, tolerance=0.1):
    """A hundred futures that are all alike, but for some in which the target is lost."""
    return PairedFutures(
        gain=np.full(N, float(gain)),
        put_off=np.full(N, float(put_off)),
        slos=(SloPairs("energy", tolerance, np.full(N, float(worse)), np.arange(N) < lost),),
        differences={},
    )


def codes(**parts):
    return [reason.code for reason in judge_pairs(pairs(**parts), CLAIM, 0.05).reasons]


def test_a_good_change_is_shown():
    judged = judge_pairs(pairs(), CLAIM, 0.05)
    assert judged.reasons == ()
    assert [one.name for one in judged.evidence] == ["gain", "work", "slo:energy", "risk"]
    # By hand: the mean capital of the stakes on a gain of 0.05, and 0.9^-n for n futures in which nothing bad happened.
    looks = np.arange(1, N + 1)
    capital = np.mean([(1.0 + s * (0.05 - 0.01) / (0.01 + CLAIM.range_ratio)) ** looks for s in STAKES], axis=0)
    both = np.minimum(capital, 0.9**-looks)
    assert judged.decided_after == 1 + int(np.argmax(both >= 20.0))
    assert all(one.log_e >= math.log(20) for one in judged.evidence)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"gain": 0.0}, ["not_shown:gain"]),
        ({"gain": 0.01}, ["not_shown:gain"]),
        ({"gain": -0.05}, ["not_shown:gain"]),
        ({"worse": 0.1}, ["not_shown:slo:energy"]),
        ({"worse": 0.15}, ["not_shown:slo:energy"]),
        ({"put_off": 0.05}, ["not_shown:work"]),
        ({"lost": 1}, ["slo_lost"]),
        ({"worse": 0.21}, ["beyond_range", "not_shown:slo:energy"]),
        ({"gain": -0.21}, ["beyond_range", "not_shown:gain"]),
        ({"put_off": math.inf}, ["beyond_range", "not_shown:work"]),
        ({"gain": -math.inf}, ["beyond_range", "not_shown:gain"]),
    ],
)
def test_each_part_refuses_by_itself(parts, expected):
    found = codes(**parts)
    assert [code for code in found if code != "not_shown:risk"] == expected


def test_a_large_gain_does_not_buy_a_lost_target():
    assert "slo_lost" in codes(gain=0.9, lost=1)
    assert judge_pairs(pairs(gain=0.9, lost=1), CLAIM, 0.05).decided_after is None


def test_a_lower_level_needs_more_futures():
    judged = [judge_pairs(pairs(), CLAIM, level).decided_after for level in (0.05, 0.001)]
    assert judged[0] is not None
    assert judged[1] is not None
    assert judged[0] < judged[1]
    assert judge_pairs(pairs(), CLAIM, 1e-30).decided_after is None


def test_a_target_without_tolerance_gets_the_least_one():
    assert codes(tolerance=0.0) == []
    assert codes(tolerance=0.0, worse=0.01) == ["not_shown:slo:energy"]


def test_a_margin_must_lie_within_the_range():
    with pytest.raises(ValidationError, match="below range_ratio"):
        Claim(margin_ratio=0.2)


class Table:
    """Scenarios with cells that are written down; what `pair_futures` asks of real ones."""

    def __init__(self, cells, usage=((10.0, 10.0),)):
        self.cells = cells
        self.columns = {"usage_mhz": np.array(usage), "capacity_mhz": np.full((len(usage), 2), 100.0)}
        self.errors = (None, None)

    def __len__(self):
        return len(self.cells)

    def evaluate(self, candidates, threads=None):
        assert len(candidates) == 2
        return self

    def metrics(self, scenario, candidate):
        return self.cells[scenario][candidate]


def window(**values):
    return WindowMetrics(start_ms=0, end_ms=3_600_000, **values)


SLO = Slo(
    version=1,
    window_s=3600,
    energy=EnergyTarget(target_kwh=10.0, tolerance_ratio=0.05),
    runtime=RuntimeTargets(task_slowdown_p95=SlowdownTarget(target_ratio=2.0)),
    utilization=UtilizationBand(min_ratio=0.3, max_ratio=0.8, tolerance_ratio=0.05),
)


def test_pairs_by_hand():
    before = window(energy_kwh=8.0, task_slowdown_p95_ratio=1.0, utilization_ratio=0.5)
    after = window(energy_kwh=6.0, task_slowdown_p95_ratio=1.5, utilization_ratio=0.84)
    found = pair_futures(Table([(before, after)], [(10.0, 9.0)]), (), SLO, Claim(objective="energy"))
    assert found.gain == pytest.approx([0.25])
    assert found.put_off == pytest.approx([0.1])
    assert {slo.name: slo.tolerance_ratio for slo in found.slos} == pytest.approx(
        {"energy": 0.05, "task_slowdown_p95": 0.1, "utilization": 0.05}
    )
    assert [slo.worse[0] for slo in found.slos] == pytest.approx([-0.2, 0.25, 0.04])
    assert [bool(slo.lost[0]) for slo in found.slos] == [False, False, False]
    by_score = pair_futures(Table([(before, after)]), (), SLO, Claim())
    assert by_score.gain == pytest.approx([1 - score(SLO, after).total / score(SLO, before).total])


def test_what_becomes_unknown_counts_as_lost():
    """A change after which nothing finishes has no slowdown to complain of."""
    before = window(energy_kwh=8.0, task_slowdown_p95_ratio=1.9, utilization_ratio=0.5)
    after = window(energy_kwh=6.0, utilization_ratio=0.5)
    found = pair_futures(Table([(before, after)]), (), SLO, Claim())
    slowdown = found.slos[1]
    assert slowdown.lost.tolist() == [True]
    assert slowdown.worse.tolist() == [math.inf]
    # Nor does the score gain by it: energy and utilisation are compared alone.
    same = pair_futures(Table([(before, window(energy_kwh=8.0, utilization_ratio=0.5))]), (), SLO, Claim())
    assert same.gain == pytest.approx([0.0])
    other = pair_futures(Table([(after, before)]), (), SLO, Claim())
    assert other.slos[1].worse.tolist() == [0.0]
    assert other.slos[1].lost.tolist() == [False]


def test_a_quantity_that_is_not_known_shows_no_gain():
    found = pair_futures(Table([(window(), window())]), (), SLO, Claim(objective="peak_power"))
    assert found.gain.tolist() == [-math.inf]


def test_money_is_an_objective_where_it_has_a_price():
    slo = SLO.model_copy(update={"cost": CostTarget(target_cost=4.0, currency="EUR", price_per_kwh=0.5)})
    pair = (window(energy_kwh=8.0), window(energy_kwh=6.0))
    assert pair_futures(Table([pair]), (), slo, Claim(objective="cost")).gain == pytest.approx([0.25])
    assert pair_futures(Table([pair]), (), SLO, Claim(objective="cost")).gain.tolist() == [-math.inf]


def test_quantiles_are_of_what_is_known():
    spread = quantiles("x", "kWh", np.array([1.0, 2.0, 3.0, math.nan, -math.inf]))
    assert (spread.pairs, spread.mean) == (3, 2.0)
    assert spread.quantiles[0] == (0.0, 1.0)
    assert spread.quantiles[3] == (0.5, 2.0)
    assert quantiles("x", "kWh", np.array([math.nan])).mean is None

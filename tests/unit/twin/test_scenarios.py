"""Many futures in one call are what the same forks give one by one, whatever the number of threads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from opendt import Cluster, HostGroup, LinearPower, Simulation, Topology, workload_from_tasks
from opendt.model.change import AddHosts, RemoveHosts, ResizeHosts, ThrottleHosts
from opendt.model.errors import EngineError
from opendt.model.options import Options
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.futures import MOST_FUTURES, FutureModel, FutureSampler, stream
from opendt.twin.live import host_classes
from opendt.twin.metrics import Totals, window_metrics
from opendt.twin.posterior import draw_curves
from opendt.twin.settings import FAMILY

if TYPE_CHECKING:
    from opendt.twin.scenarios import Scenarios

HOUR_MS = 3_600_000
NODE = HostGroup(
    name="node",
    count=12,
    core_count=8,
    core_speed_mhz=2000.0,
    memory_mib=65_536,
    power_model=LinearPower(idle_w=80.0, max_w=240.0),
)
TOPOLOGY = Topology(clusters=(Cluster(name="dc", hosts=(NODE,)),))
CANDIDATES = (
    (),
    (RemoveHosts(count=5),),
    (RemoveHosts(count=9, evict=True),),
    (ThrottleHosts(speed_ratio=0.5), ResizeHosts(core_count=6)),
    (AddHosts(cluster="dc", group=NODE.model_copy(update={"name": "more", "count": 2})),),
)


def present(hours: int = 3) -> tuple[Simulation, FutureSampler]:
    """A busy system after some hours, and what was learned in them."""
    rng = np.random.default_rng(5)
    simulation = Simulation(TOPOLOGY, Options(start_epoch_ms=0), sample_interval_ms=30_000, settled=True)
    times = np.sort(rng.integers(0, hours * HOUR_MS, 60 * hours))
    simulation.submit(
        workload_from_tasks(
            {
                "id": number,
                "submission_ms": int(time),
                "cpu_count": int(rng.integers(1, 7)),
                "fragments": [(int(rng.integers(120_000, 2_000_000)), float(rng.uniform(500, 9000)))],
            }
            for number, time in enumerate(times)
        )
    )
    sampler = FutureSampler(3)
    before = 0
    for end_ms in range(300_000, hours * HOUR_MS + 1, 300_000):
        simulation.advance(end_ms)
        submitted = simulation.counts["submitted"]
        sampler.observe(simulation.take_results(), submitted - before, end_ms)
        before = submitted
    simulation.take_series()
    return simulation, sampler


@pytest.fixture(scope="module")
def drawn() -> Scenarios:
    """A few futures with curves of their own."""
    simulation, sampler = present()
    curves = draw_curves(PowerCalibrator(host_classes(TOPOLOGY), FAMILY), simulation, 4, seed=1)
    return sampler.scenarios(simulation, HOUR_MS, 4, seed=1, curves=curves)


def test_a_cell_equals_its_fork(drawn: Scenarios) -> None:
    """Every quantity of every cell is what a fork gives that is set up, changed and advanced by hand."""
    outcomes = drawn.evaluate(CANDIDATES)
    assert outcomes.errors == (None,) * len(CANDIDATES)
    for scenario in range(len(drawn)):
        for number, changes in enumerate(CANDIDATES):
            fork = drawn.fork(scenario)
            start = Totals.of(fork)
            if changes:
                fork.apply(*changes)
            fork.advance(drawn.until_ms)
            expected = window_metrics(
                fork.take_series(), fork.take_results(), start=start, end=Totals.of(fork), tasks=fork.tasks()
            )
            found = dataclasses.asdict(outcomes.metrics(scenario, number))
            assert found == pytest.approx(dataclasses.asdict(expected), rel=1e-12), (scenario, number)


def test_slower_hosts_show_in_the_slowdown(drawn: Scenarios) -> None:
    """At a quarter of the clock tasks take longer, and others wait for them."""
    columns = drawn.evaluate([(), (ThrottleHosts(speed_ratio=0.25),)]).columns
    assert (columns["task_slowdown_p95_ratio"][:, 1] > columns["task_slowdown_p95_ratio"][:, 0]).all()


def test_candidates_differ_and_scenarios_differ(drawn: Scenarios) -> None:
    """The table is no copy of one cell: each row has a future and a price, each column an effect."""
    energy_j = drawn.evaluate(CANDIDATES).columns["energy_j"]
    assert len(np.unique(energy_j)) == energy_j.size


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
def test_threads_do_not_matter(drawn: Scenarios, threads: int) -> None:
    """The same bytes from any number of threads."""
    one, other = drawn.evaluate(CANDIDATES, threads=1), drawn.evaluate(CANDIDATES, threads=threads)
    for name, column in one.columns.items():
        assert column.tobytes() == other.columns[name].tobytes(), name


def test_the_base_stays_as_it_was(drawn: Scenarios) -> None:
    """Nothing that is simulated shows in the present."""
    before = drawn.base.snapshot()
    drawn.evaluate(CANDIDATES)
    assert drawn.base.snapshot() == before


def test_a_candidate_that_cannot_be_applied_is_told_and_the_others_live(drawn: Scenarios) -> None:
    """One bad proposal does not take a population down."""
    from opendt.model.change import GroupHosts

    outcomes = drawn.evaluate([(), (RemoveHosts(hosts=GroupHosts(group="ghosts")),)])
    assert outcomes.errors[0] is None
    assert "ghosts" in (outcomes.errors[1] or "")
    assert np.isfinite(outcomes.columns["energy_j"][:, 0]).all()
    assert np.isnan(outcomes.columns["energy_j"][:, 1]).all()
    with pytest.raises(ValueError, match="ghosts"):
        outcomes.metrics(0, 1)


def test_an_evicted_task_goes_on_with_its_sampled_work(drawn: Scenarios) -> None:
    """What a task had left before the future was drawn is gone, also for a task that is put back into the queue."""
    one = drawn.fork(0)
    other = drawn.fork(0)
    other.apply(
        RemoveHosts(count=11, evict=True), AddHosts(cluster="dc", group=NODE.model_copy(update={"name": "new"}))
    )
    for fork in (one, other):
        fork.advance(drawn.until_ms + 100 * HOUR_MS)
    assert other.take_results()["supplied_mhz_ms"].sum() == pytest.approx(
        one.take_results()["supplied_mhz_ms"].sum(), rel=1e-6
    )


def test_scenarios_that_do_not_fit_are_refused(drawn: Scenarios) -> None:
    """Shapes and task numbers are checked before anything is simulated."""
    with pytest.raises(ValueError, match=r"left_ms has shape \[3"):
        dataclasses.replace(drawn, left_ms=drawn.left_ms[:3]).evaluate([()])
    with pytest.raises(ValueError, match="does not exist"):
        dataclasses.replace(drawn, tasks=drawn.tasks + np.uint32(10_000)).evaluate([()])
    with pytest.raises(EngineError):
        dataclasses.replace(drawn, cpu_mhz=-drawn.cpu_mhz - 1.0).evaluate([()])


def test_any_split_of_futures_gives_the_same_ones() -> None:
    """Futures are numbered, so a certificate may look at them in parts."""
    simulation, sampler = present()
    model = sampler.model(simulation.now_ms)
    whole = model.scenarios(simulation, HOUR_MS, 6, 9)
    parts = [model.scenarios(simulation, HOUR_MS, 3, 9, first=first) for first in (0, 3)]
    assert np.array_equal(whole.left_ms, np.concatenate([part.left_ms for part in parts]))
    hashes = [one.content_hash() if one else "" for one in whole.arrivals]
    assert hashes == [one.content_hash() if one else "" for part in parts for one in part.arrivals]


def test_purposes_rounds_moments_and_seeds_share_no_draw() -> None:
    """Streams that differ in one argument have other numbers from the first on; equal ones have the same."""
    base = {"purpose": "search", "seed": 1, "now_ms": 5, "number": 0, "round_": 0}
    other = {"purpose": "certificate", "seed": 2, "now_ms": 6, "number": 1, "round_": 1}
    words = {stream(**base).bytes(32)}  # type: ignore[arg-type]
    for name, value in other.items():
        words.add(stream(**(base | {name: value})).bytes(32))  # type: ignore[arg-type]
    words.add(stream(**base, kind=1).bytes(32))  # type: ignore[arg-type]
    assert len(words) == len(other) + 2
    assert stream(**base).bytes(32) in words  # type: ignore[arg-type]


def test_forecasts_draw_what_they_always_drew() -> None:
    """Blind forecasts of a recorded week stay what they were: their stream is the plain key of seed, moment and number."""
    for number in (0, 7):
        plain = np.random.Generator(np.random.Philox(key=[3, 302_400_000 * 4096 + number]))
        assert stream("forecast", 3, 302_400_000, number).bytes(64) == plain.bytes(64)


@pytest.mark.parametrize(("number", "seed"), [(MOST_FUTURES, 0), (-1, 0), (0, -1), (0, 2**64)])
def test_a_stream_out_of_range_is_refused(number: int, seed: int) -> None:
    """Beyond the range keys would be those of another moment."""
    with pytest.raises(ValueError, match="expected"):
        stream("search", seed, 0, number)


def test_too_little_is_known_to_draw_from() -> None:
    """A model without enough finished tasks says so instead of drawing from a handful."""
    simulation, _ = present(1)
    empty = FutureModel(np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint32), 1.0)
    with pytest.raises(ValueError, match="0 tasks have ended"):
        empty.scenarios(simulation, HOUR_MS, 1, 1)


def test_curves_are_spread_as_the_covariance_says() -> None:
    """Without readings a draw is the prior: the datasheet on average, and as far from it as the family doubts it."""
    simulation, _ = present(1)
    calibrator = PowerCalibrator(host_classes(TOPOLOGY), FAMILY)
    before = calibrator.snapshot()
    draws = draw_curves(calibrator, simulation, 300, seed=2)
    assert draws.groups == ("node",)
    assert (np.diff(draws.power_w, axis=2) >= 0).all()
    sd_idle_w = float(np.sqrt(calibrator.weights @ calibrator.covariance[:, 0, 0]))
    idle_w = draws.power_w[:, 0, 0]
    assert abs(np.median(idle_w) - 80.0) < sd_idle_w
    assert 0.3 * sd_idle_w < idle_w.std() < 2.0 * sd_idle_w
    assert calibrator.snapshot() == before

"""What-ifs of one hour of the SURF week, as a search asks them: whole populations in sampled futures, and on the recorded future."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench_engine import TICK_MS, live_twin, start, topology, week
from harness import Context, Samples, bench

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR_MS = 3_600_000
CONFIGURATIONS = 64
FUTURES = 8


@bench
def populations(context: Context) -> Samples:
    """Thousands of what-ifs a second on all cores: energy, emission, peak power, waits, slowdown, utilisation, counts of each.

    *Sampled*: eight futures of the middle of the week, drawn as for a decision (tasks that run have residual lives and hold their
    demand, new ones arrive), and 64 configurations in each. *Recorded*: the same on the record's own next hour, whose tasks change
    demand every 30 s.
    """
    from opendt.model.change import Change, ConserveWork, GroupHosts, RemoveHosts, ResizeHosts
    from opendt.optimization.search_optimizer import known_future
    from opendt.twin.futures import FutureSampler

    live = live_twin()
    live.set_sampling(TICK_MS)
    sampler = FutureSampler()
    past = start(topology(), week())
    until_ms = live.now_ms
    while past.now_ms < until_ms:
        before = past.counts["submitted"]
        past.advance(min(past.now_ms + HOUR_MS, until_ms))
        past.take_series()
        sampler.observe(past.take_results(), past.counts["submitted"] - before, past.now_ms)
    hosts = GroupHosts(group="H01")
    candidates: list[tuple[Change, ...]] = [
        (RemoveHosts(hosts=hosts, count=1 + number), ResizeHosts(hosts=hosts, core_speed_mhz=2100.0 - 10.0 * number))
        for number in range(CONFIGURATIONS)
    ]
    base = live.fork(with_basis=False)
    base.apply(ConserveWork())
    drawn = sampler.scenarios(base, HOUR_MS, FUTURES, seed=0)
    recorded = known_future(live, HOUR_MS)
    return {
        "what-ifs-sampled-per-s": _rates(context, lambda: drawn.evaluate(candidates), CONFIGURATIONS * FUTURES),
        "what-ifs-recorded-per-s": _rates(context, lambda: recorded.evaluate(candidates), CONFIGURATIONS),
    }


def _rates(context: Context, call: Callable[[], object], count: int) -> list[float]:
    """What-ifs a second, each sample over half a second at least."""
    call()
    rates = []
    for _ in range(context.repeats):
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < 0.5:
            call()
            done += count
        rates.append(done / (time.perf_counter() - begun))
    return rates

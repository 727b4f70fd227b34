"""Certificates and populations of what-ifs on the SURF week: two hundred pairs of sampled futures of an hour, judged."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bench_engine import NOON_MS, WINDOW_MS, start, topology, week
from harness import Context, Samples, bench

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation
    from opendt.twin.futures import FutureModel
    from opendt.twin.past import Past

HOUR_MS = 3_600_000
SCENARIOS = 200
CANDIDATES = 10


@cache
def noon() -> tuple[Simulation, FutureModel]:
    """The twin in the middle of the week, and what it has learned of tasks by then, window by window."""
    from opendt.twin.futures import FutureSampler

    simulation, sampler, before = start(topology(), week(), with_basis=True), FutureSampler(), 0
    for end_ms in range(WINDOW_MS, NOON_MS + 1, WINDOW_MS):
        simulation.advance(end_ms)
        submitted = simulation.counts["submitted"]
        sampler.observe(simulation.take_results(), submitted - before, end_ms)
        before = submitted
    simulation.take_series()
    return simulation, sampler.model(NOON_MS)


@cache
def past() -> Past:
    """The twelve hours before, as a live system keeps them."""
    from opendt.twin.past import Past

    simulation = start(topology(), week())
    simulation.advance(NOON_MS - 12 * HOUR_MS)
    return Past(simulation, 12, HOUR_MS)


@bench
def certificate(context: Context) -> Samples:
    """A proposal from bounds to the sealed certificate, curves drawn from a calibrator's covariance; also held against twelve past hours."""
    from opendt.model.change import RemoveHosts
    from opendt.model.proposal import Proposal
    from opendt.model.slo import DurationTarget, EnergyTarget, RuntimeTargets, Slo
    from opendt.optimization.certify import Certifier
    from opendt.twin.calibrate import PowerCalibrator
    from opendt.twin.live import host_classes
    from opendt.twin.posterior import draw_curves
    from opendt.twin.settings import FAMILY

    simulation, futures = noon()
    calibrator = PowerCalibrator(host_classes(topology()), FAMILY)
    slo = Slo(
        version=1,
        window_s=3600,
        energy=EnergyTarget(target_kwh=22.0),
        runtime=RuntimeTargets(task_wait_p95=DurationTarget(target_s=60)),
    )
    proposal = Proposal.of("human", NOON_MS, "bench", "sixty hosts off", (RemoveHosts(count=60),))
    certifier = Certifier(slo, topology())

    def certify() -> None:
        curves = draw_curves(calibrator, simulation, 64, 0, purpose="certificate")
        issued, _ = certifier.certify(proposal, simulation, futures, curves)
        if issued.pairs != certifier.claim.pairs:
            message = f"the certificate looked at {issued.pairs} pairs, expected {certifier.claim.pairs}"
            raise RuntimeError(message)

    alone = context.repeat(certify)
    certifier.past = past()
    return {"certificate": alone, "certificate-with-past": context.repeat(certify)}


@bench
def what_ifs(context: Context) -> Samples:
    """Two thousand what-ifs of an hour: ten changes in each of two hundred futures, on all cores and on one."""
    from opendt.model.change import RemoveHosts

    simulation, futures = noon()
    scenarios = futures.scenarios(simulation, HOUR_MS, SCENARIOS, 0)
    candidates = [(RemoveHosts(count=count),) for count in range(1, CANDIDATES + 1)]
    return {
        "what-ifs-2000": context.repeat(lambda: scenarios.evaluate(candidates)),
        "what-ifs-2000-one-thread": context.repeat(lambda: scenarios.evaluate(candidates, threads=1)),
    }

"""What is learned of a fleet from stages that ran: start-up delays, speeds, emulation, stretch, memory, failures.

Positive quantities are learned as the mean and spread of their logarithm, in levels: what a finer key (a cluster and a form) has
not been seen often enough for comes from the coarser one (the cluster, the fleet, an assumption). Old outcomes fade, and one
outcome moves an estimate by three of its deviations at most, so that a single wild one is not believed.

A stage of `work` reference CPU seconds takes, on a node of class c, in form f, for work of kind k::

    cpu_seconds = work * emulation(f, k) / speed(c, k)         emulation is 1 when native
    run_ms      = cpu_seconds / cores * stretch(cluster) * 1000

Speeds begin as the node's MHz over those of the reference CPU; emulation as measured for qemu-user and a WebAssembly runtime on one
machine (integer 1.0; floating point 33 and 1.8; sorting 3.7 and 2.4); of memory-bound work the factors 2.0 and 1.5 are an
assumption, nobody measured them. All of them give way to what is observed, the first outcomes most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any, Final

from opendt.model.job import EMULATED

if TYPE_CHECKING:
    from opendt.model.fleet import NodeState

__all__ = ["EMULATION", "FailureRate", "FleetCalibration", "FleetPriors", "Learned", "node_class"]

EMULATION: Final[dict[str, dict[str, float]]] = {
    "qemu": {"integer": 1.0, "floating_point": 33.0, "sorting": 3.7, "memory": 2.0},
    "wasm": {"integer": 1.0, "floating_point": 1.8, "sorting": 2.4, "memory": 1.5},
}
"""CPU time against native, by kind of work, before anything was observed."""

_DEVIATIONS: Final = 3.0
_LEAST_SPREAD: Final = 0.01


def node_class(node: NodeState) -> str:
    """Name the nodes that are taken to be alike: of one cluster, architecture, speed and size."""
    return f"{node.cluster}/{node.arch}/{node.core_speed_mhz:g}MHz/{node.cpu_millicores}m"


def default_emulation(exec_format: str, kind: str) -> float:
    """Give the emulation factor that is assumed before anything was observed."""
    if exec_format not in EMULATED:
        return 1.0
    return EMULATION["wasm" if exec_format == "wasm" else "qemu"][kind]


@dataclass(slots=True)
class Learned:
    """Mean and spread of a logarithm, with fading memory: sums of weights, values and squares."""

    weight: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    """Sum of the weighted squared deviations."""

    def add(self, value: float, decay: float, around: float, spread: float) -> None:
        """Take in an outcome; it counts no further from `around` than three times `spread`, once there are some."""
        if self.weight >= 3.0:
            value = min(max(value, around - _DEVIATIONS * spread), around + _DEVIATIONS * spread)
        self.weight *= decay
        self.square *= decay
        self.weight += 1.0
        step = value - self.mean
        self.mean += step / self.weight
        self.square += step * (value - self.mean)

    def over(self, mean: float, spread: float, prior: float) -> tuple[float, float]:
        """Mean and spread, with a coarser estimate that counts as `prior` outcomes."""
        total = self.weight + prior
        mixed = (self.weight * self.mean + prior * mean) / total
        apart = self.weight * (self.mean - mixed) ** 2 if self.weight >= 3.0 else 0.0
        return mixed, max(sqrt((self.square + apart + prior * spread**2) / total), _LEAST_SPREAD)


@dataclass(slots=True)
class FailureRate:
    """Failures per hour and node of a cluster: a Gamma prior (from the fleet's description) and what was counted.

    The rate of a Poisson process under a Gamma prior of shape a = prior rate x `prior_h` and rate b = `prior_h` has the mean
    (a + failures) / (b + hours).
    """

    failures: float = 0.0
    hours: float = 0.0

    def per_h(self, prior_per_h: float, prior_h: float) -> float:
        """Mean of the posterior."""
        return (prior_per_h * prior_h + self.failures) / (prior_h + self.hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPriors:
    """What is assumed before anything was observed, and how quickly it gives way.

    Parameters
    ----------
    startup_ms : float
        From a stage being ready (its inputs are there) to its work beginning: noticing, creating the pod, binding, container.
    startup_spread, run_spread, cpu_spread, memory_spread : float
        Deviations of logarithms.
    reference_mhz : float
        Speed of the reference CPU's core.
    memory_overhead_mib : float
        What a worker takes besides what it is asked to hold; the prediction never exceeds the limit.
    memory_fill_ratio : float
        Share of its request that a stage holds, as the worker is told to.
    default_run_s : float
        How long a stage runs that does not say what it does.
    half_life : float
        Outcomes after which one counts half.
    prior : float
        Outcomes that an assumption counts as.
    parent : float
        Outcomes that a coarser level counts as.
    failure_prior_h : float
        Hours that the described failure rate counts as.
    """

    startup_ms: float = 1500.0
    startup_spread: float = 0.35
    run_spread: float = 0.05
    cpu_spread: float = 0.05
    memory_spread: float = 0.10
    reference_mhz: float = 2400.0
    memory_overhead_mib: float = 0.0
    memory_fill_ratio: float = 0.8
    default_run_s: float = 60.0
    half_life: float = 40.0
    prior: float = 0.5
    parent: float = 1.0
    failure_prior_h: float = 1000.0


@dataclass(slots=True)
class FleetCalibration:
    """Everything that was learned; `version` rises with every outcome, so that what is derived can be cached."""

    priors: FleetPriors = field(default_factory=FleetPriors)
    version: int = 0
    learned: dict[str, Learned] = field(default_factory=dict)
    failures: dict[str, FailureRate] = field(default_factory=dict)

    def startup_ms(self, cluster: str, exec_format: str) -> tuple[float, float]:
        """Median start-up delay, ms, and the deviation of its logarithm."""
        priors = self.priors
        mean, spread = self._levels(log(priors.startup_ms), priors.startup_spread, *_startup_keys(cluster, exec_format))
        return exp(mean), spread

    def cpu_factor(self, node: NodeState, exec_format: str, kind: str) -> tuple[float, float]:
        """CPU seconds on a node per reference CPU second, and the deviation of its logarithm."""
        slowness, spread = self._slowness(node, kind)
        if exec_format in EMULATED:
            emulation, more = self._levels(
                log(default_emulation(exec_format, kind)), self.priors.cpu_spread, f"emulation|{exec_format}|{kind}"
            )
            return exp(slowness + emulation), max(spread, more)
        return exp(slowness), spread

    def stretch(self, cluster: str) -> tuple[float, float]:
        """Run time over CPU seconds per core: throttling, waiting for disks; and the deviation of its logarithm."""
        mean, spread = self._levels(0.0, self.priors.run_spread, "stretch", f"stretch|{cluster}")
        return exp(mean), spread

    def memory_peak_mib(self, exec_format: str, memory_mib: int) -> tuple[float, float]:
        """Peak of memory of a stage that asks for so much, MiB, and the deviation of its logarithm."""
        priors = self.priors
        held_mib = memory_mib * priors.memory_fill_ratio + priors.memory_overhead_mib
        mean, spread = self._levels(0.0, priors.memory_spread, f"memory|{exec_format}")
        return held_mib * exp(mean), spread

    def failure_rate_per_h(self, cluster: str, described_per_h: float) -> float:
        """Failures per hour of one of its nodes."""
        counted = self.failures.get(cluster)
        return described_per_h if counted is None else counted.per_h(described_per_h, self.priors.failure_prior_h)

    def see_startup(self, cluster: str, exec_format: str, startup_ms: float) -> None:
        """Learn from one start."""
        around, spread = self.startup_ms(cluster, exec_format)
        self._add(log(max(startup_ms, 1.0)), log(around), spread, *_startup_keys(cluster, exec_format))

    def see_cpu(self, node: NodeState, exec_format: str, kind: str, work_seconds: float, cpu_seconds: float) -> None:
        """Learn from the CPU seconds of one stage: of the node's speed when it was native, of the emulation when not."""
        if work_seconds <= 0 or cpu_seconds <= 0:
            return
        ratio = log(cpu_seconds / work_seconds)
        slowness, spread = self._slowness(node, kind)
        if exec_format in EMULATED:
            around, _ = self.cpu_factor(node, exec_format, kind)
            self._add(ratio - slowness, log(around) - slowness, 0.5, f"emulation|{exec_format}|{kind}")
        else:
            described = self._described_slowness(node)
            self._add(ratio - described, slowness - described, max(spread, 0.1), *_speed_keys(node, kind))

    def see_run(self, cluster: str, run_ms: float, ideal_ms: float) -> None:
        """Learn from how long a stage ran, against what its CPU seconds take under its limit."""
        if run_ms > 0 and ideal_ms > 0:
            around, spread = self.stretch(cluster)
            self._add(log(run_ms / ideal_ms), log(around), max(spread, 0.05), "stretch", f"stretch|{cluster}")

    def see_memory(self, exec_format: str, memory_mib: int, peak_mib: float) -> None:
        """Learn from a peak of memory."""
        priors = self.priors
        held_mib = memory_mib * priors.memory_fill_ratio + priors.memory_overhead_mib
        if peak_mib > 0 and held_mib > 0:
            mean, spread = self._levels(0.0, priors.memory_spread, f"memory|{exec_format}")
            self._add(log(peak_mib / held_mib), mean, max(spread, 0.2), f"memory|{exec_format}")

    def see_failures(self, cluster: str, failures: float, hours: float) -> None:
        """Count failures in so many node hours."""
        counted = self.failures.setdefault(cluster, FailureRate())
        counted.failures += failures
        counted.hours += hours
        self.version += 1

    def state(self) -> dict[str, Any]:
        """Everything learned, as plain data."""
        return {
            "version": self.version,
            "learned": {key: [one.weight, one.mean, one.square] for key, one in sorted(self.learned.items())},
            "failures": {key: [one.failures, one.hours] for key, one in sorted(self.failures.items())},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.version = int(state["version"])
        self.learned = {key: Learned(*values) for key, values in state["learned"].items()}
        self.failures = {key: FailureRate(*values) for key, values in state["failures"].items()}

    def _described_slowness(self, node: NodeState) -> float:
        return log(self.priors.reference_mhz / node.core_speed_mhz) if node.core_speed_mhz > 0 else 0.0

    def _slowness(self, node: NodeState, kind: str) -> tuple[float, float]:
        more, spread = self._levels(0.0, self.priors.cpu_spread, *_speed_keys(node, kind))
        return self._described_slowness(node) + more, spread

    def _levels(self, mean: float, spread: float, *keys: str) -> tuple[float, float]:
        """Go from the assumption through the levels, the coarsest first."""
        prior = self.priors.prior
        for key in keys:
            one = self.learned.get(key)
            if one is not None:
                mean, spread = one.over(mean, spread, prior)
                prior = self.priors.parent
        return mean, spread

    def _add(self, value: float, around: float, spread: float, *keys: str) -> None:
        decay = 0.5 ** (1.0 / self.priors.half_life)
        for key in keys:
            self.learned.setdefault(key, Learned()).add(value, decay, around, spread)
        self.version += 1


def _startup_keys(cluster: str, exec_format: str) -> tuple[str, str, str]:
    return "startup", f"startup|{cluster}", f"startup|{cluster}|{exec_format}"


def _speed_keys(node: NodeState, kind: str) -> tuple[str, str]:
    return f"speed|{node.arch}|{kind}", f"speed|{node_class(node)}|{kind}"

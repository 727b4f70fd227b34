"""What is learned of a fleet from stages that ran: start-up delays, speeds, emulation, stretch, memory, failures.

Positive quantities are sums of products of effects (`opendt.twin.effects`), each of which is learned from all outcomes it has a part in:
what a node class has not shown of a kind of work comes from what its class shows of others and what others show of this
kind, and what slows all of them (the hour) is seen on whichever ran last.

A stage of `work` reference CPU seconds in form f, of kind k, on a node of class c, under a limit of `cores`::

    startup_ms  = begin(cluster, f) + startup_cpu(f) / cores, and when it needs other stages + notice(cluster)
    cpu_seconds = overhead(f) / speed(c) + work * emulation(f, k) / speed(c, k) * (1 + refill(k) / slice)
    run_ms      = (cpu_seconds - lead(f)) / cores * stretch(cluster) * 1000

Below one core the kernel gives a `slice` (`cores` * 100 ms) of each period; caches are cold when the next one begins, and `refill` is what
that costs. `startup_cpu` is what creating the container takes under the pod's own limit, `overhead` what a program takes besides its
work, `lead` the part of it that passes before the work begins (a container's first process is the runtime's, and its CPU counts).

Speeds begin as the node's MHz over those of the reference CPU; emulation as measured for qemu-user and a WebAssembly runtime on one
machine (integer 1.0; floating point 33 and 1.8; sorting 3.7 and 2.4; memory 1.1 and 1.2). All that is in `FleetPriors` are assumptions.
All of them give way to what is observed, the first outcomes most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import hypot, sqrt
from typing import TYPE_CHECKING, Any, Final

from opendt.model.job import EMULATED
from opendt.twin.effects import Effects, Family, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.model.fleet import NodeState

__all__ = [
    "EMULATION",
    "LEAST_RUN_RATIO",
    "FailureRate",
    "FleetCalibration",
    "FleetPriors",
    "Spread",
    "StartUp",
    "WorkCost",
    "node_class",
]

EMULATION: Final[dict[str, dict[str, float]]] = {
    "qemu": {"integer": 1.0, "floating_point": 33.0, "sorting": 3.7, "memory": 1.1},
    "wasm": {"integer": 1.0, "floating_point": 1.8, "sorting": 2.4, "memory": 1.2},
}
"""CPU time against native, by kind of work, before anything was observed."""

_WEEK_H: Final = 168.0
_FAMILIES: Final = {
    "startup": Family(0.5, _WEEK_H),
    "startup_cluster": Family(0.3, _WEEK_H),
    "startup_format": Family(0.3, _WEEK_H),
    "startup_cpu": Family(0.7, _WEEK_H),
    "startup_cpu_cluster": Family(0.5, _WEEK_H),
    "notice": Family(0.7, _WEEK_H),
    "notice_cluster": Family(0.2, _WEEK_H),
    "pace": Family(0.2, 0.15),
    "kind_pace": Family(0.2, 0.2),
    "kind": Family(0.3, _WEEK_H),
    "class": Family(0.3, _WEEK_H),
    "class_kind": Family(0.1, _WEEK_H),
    "emulation": Family(1.0, _WEEK_H),
    "overhead": Family(1.0, _WEEK_H),
    "overhead_class": Family(0.5, _WEEK_H),
    "refill": Family(1.5, _WEEK_H),
    "lead": Family(1.0, _WEEK_H),
    "lead_cluster": Family(0.5, _WEEK_H),
    "stretch": Family(0.05, _WEEK_H),
    "stretch_cluster": Family(0.05, _WEEK_H),
    "memory": Family(0.3, _WEEK_H),
}
"""How far effects may be from none at all, and how long they are remembered. `pace` is what all work shares at an hour, `kind_pace`
what work of a kind does: how busy the machines below are, which nobody tells."""
_PERIOD_MS: Final = 100.0
"""Period of the kernel's CPU quotas, as the kubelet sets it."""
LEAST_RUN_RATIO: Final = 0.1
"""However long the lead, this part of a stage's CPU seconds passes while its work runs."""


def node_class(node: NodeState) -> str:
    """Name the nodes that are taken to be alike: of one cluster, architecture, speed and size."""
    return f"{node.cluster}/{node.arch}/{node.core_speed_mhz:g}MHz/{node.cpu_millicores}m"


def default_emulation(exec_format: str, kind: str) -> float:
    """Give the emulation factor that is assumed before anything was observed."""
    if exec_format not in EMULATED:
        return 1.0
    return EMULATION["wasm" if exec_format == "wasm" else "qemu"][kind]


@dataclass(frozen=True, slots=True)
class Spread:
    """Deviation of a logarithm: what each outcome has of its own, and what is not known of all of them alike."""

    own: float
    common: float

    @property
    def total(self) -> float:
        """Of one outcome."""
        return hypot(self.own, self.common)


@dataclass(frozen=True, slots=True)
class StartUp:
    """From a stage being ready (its inputs are there) to its work beginning.

    Attributes
    ----------
    begin_ms : float
        Whatever the limit: noticing, creating the pod, binding.
    cpu_seconds : float
        What creating the container takes under the pod's limit, of one thread.
    notice_ms : float
        What a stage that needs others waits longer: until somebody notices that they ended.
    spread : Spread
        Of the whole.
    """

    begin_ms: float
    cpu_seconds: float
    notice_ms: float
    spread: Spread

    def ms(self, millicores: int, *, is_after_others: bool) -> float:
        """Median for a stage of a limit."""
        throttled_ms = self.cpu_seconds * 1e6 / min(max(millicores, 1), 1000)
        return self.begin_ms + throttled_ms + (self.notice_ms if is_after_others else 0.0)


@dataclass(frozen=True, slots=True)
class WorkCost:
    """What work of a kind costs in a form on a class of nodes.

    Attributes
    ----------
    overhead_seconds, lead_seconds : float
        CPU seconds besides the work, and the part of them that passes before the work begins.
    factor : float
        CPU seconds per reference CPU second, never throttled.
    refill_ms : float
        What the beginning of each slice costs, as CPU time.
    spread : Spread
        Of CPU seconds.
    """

    overhead_seconds: float
    lead_seconds: float
    factor: float
    refill_ms: float
    spread: Spread

    def cpu_seconds(self, work_seconds: float, millicores: int) -> float:
        """CPU seconds for so many reference CPU seconds under a limit."""
        factor = self.factor
        if millicores < 1000:
            factor *= 1.0 + self.refill_ms / (_PERIOD_MS * millicores / 1000.0)
        return self.overhead_seconds + work_seconds * factor

    def in_run(self, cpu_seconds: float) -> float:
        """CPU seconds of these that pass while the work runs."""
        return max(cpu_seconds - self.lead_seconds, LEAST_RUN_RATIO * cpu_seconds)


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
    """What is assumed before anything was observed.

    Parameters
    ----------
    begin_ms, startup_cpu_seconds, notice_ms : float
        As in `StartUp`.
    overhead_seconds, lead_seconds : float
        As in `WorkCost`, of the reference CPU.
    refill_ms : float
        As in `WorkCost`.
    startup_spread, run_spread, cpu_spread, memory_spread : float
        Deviations of logarithms of outcomes.
    reference_mhz : float
        Speed of the reference CPU's core.
    memory_fill_ratio : float
        Share of its request that a stage holds, as the worker is told to.
    default_run_s : float
        How long a stage runs that does not say what it does.
    failure_prior_h : float
        Hours that the described failure rate counts as.
    """

    begin_ms: float = 500.0
    startup_cpu_seconds: float = 0.03
    notice_ms: float = 1000.0
    overhead_seconds: float = 0.03
    lead_seconds: float = 0.015
    refill_ms: float = 0.2
    startup_spread: float = 0.2
    run_spread: float = 0.05
    cpu_spread: float = 0.05
    memory_spread: float = 0.10
    reference_mhz: float = 2400.0
    memory_fill_ratio: float = 0.8
    default_run_s: float = 60.0
    failure_prior_h: float = 1000.0


@dataclass(slots=True)
class FleetCalibration:
    """Everything that was learned; `version` rises with every outcome, so that what is derived can be cached."""

    priors: FleetPriors = field(default_factory=FleetPriors)
    version: int = 0
    effects: Effects = field(default_factory=lambda: Effects(_FAMILIES))
    failures: dict[str, FailureRate] = field(default_factory=dict)
    _derived: dict[tuple[str, ...], Any] = field(default_factory=dict)
    """Of the version `_derived_at`: plans come in greater numbers than outcomes."""
    _derived_at: int = -1

    def startup(self, cluster: str, exec_format: str) -> StartUp:
        """Start-up delays of a cluster and form."""
        found: StartUp = self._once(("startup", cluster, exec_format), lambda: self._startup(cluster, exec_format))
        return found

    def work_cost(self, node: NodeState, exec_format: str, kind: str) -> WorkCost:
        """Cost of work of a kind on a node in a form."""
        key = ("work", node.cluster, node_class(node), exec_format, kind)
        found: WorkCost = self._once(key, lambda: self._work_cost(node, exec_format, kind))
        return found

    def stretch(self, cluster: str) -> tuple[float, Spread]:
        """Run time over CPU seconds under the limit: waiting for disks, for other groups; and how far it varies."""
        found: tuple[float, Spread] = self._once(("stretch", cluster), lambda: self._stretch(cluster))
        return found

    def memory_peak_mib(self, exec_format: str, memory_mib: int) -> tuple[float, float]:
        """Peak of memory of a stage that asks for so much, MiB, and the deviation of its logarithm."""
        factor, spread = self._once(("memory", exec_format), lambda: self._memory(exec_format))
        return memory_mib * self.priors.memory_fill_ratio * factor, spread

    def _once(self, key: tuple[str, ...], work_out: Callable[[], Any]) -> Any:
        if self._derived_at != self.version:
            self._derived.clear()
            self._derived_at = self.version
        found = self._derived.get(key)
        if found is None:
            found = self._derived[key] = work_out()
        return found

    def _startup(self, cluster: str, exec_format: str) -> StartUp:
        priors, effects = self.priors, self.effects
        begin, cpu, notice = _startup_effects(cluster, exec_format)
        noise = effects.noise_variance("startup", priors.startup_spread)
        return StartUp(
            priors.begin_ms * effects.factor(*begin),
            priors.startup_cpu_seconds * effects.factor(*cpu),
            priors.notice_ms * effects.factor(*notice),
            Spread(sqrt(noise), sqrt(effects.variance(*begin))),
        )

    def _work_cost(self, node: NodeState, exec_format: str, kind: str) -> WorkCost:
        priors, effects = self.priors, self.effects
        work, overhead, refill = _cpu_effects(node, exec_format, kind)
        slowness = self._described_slowness(node)
        noise = effects.noise_variance(f"cpu|{kind}", priors.cpu_spread)
        return WorkCost(
            priors.overhead_seconds * slowness * effects.factor(*overhead),
            priors.lead_seconds * effects.factor(*_lead_effects(node.cluster, exec_format)),
            slowness * default_emulation(exec_format, kind) * effects.factor(*work),
            priors.refill_ms * effects.factor(refill),
            Spread(sqrt(noise), sqrt(effects.variance(*work))),
        )

    def _stretch(self, cluster: str) -> tuple[float, Spread]:
        names = _stretch_effects(cluster)
        noise = self.effects.noise_variance("run", self.priors.run_spread)
        return self.effects.factor(*names), Spread(sqrt(noise), sqrt(self.effects.variance(*names)))

    def _memory(self, exec_format: str) -> tuple[float, float]:
        name = f"memory|{exec_format}"
        noise = self.effects.noise_variance(name, self.priors.memory_spread)
        return self.effects.factor(name), sqrt(noise + self.effects.variance(name))

    def failure_rate_per_h(self, cluster: str, described_per_h: float) -> float:
        """Failures per hour of one of its nodes."""
        counted = self.failures.get(cluster)
        return described_per_h if counted is None else counted.per_h(described_per_h, self.priors.failure_prior_h)

    def see_startup(
        self,
        cluster: str,
        exec_format: str,
        startup_ms: float,
        time_ms: int,
        *,
        millicores: int,
        is_after_others: bool = False,
    ) -> None:
        """Learn from one start."""
        priors = self.priors
        begin, cpu, notice = _startup_effects(cluster, exec_format)
        terms = [
            Term(priors.begin_ms, begin),
            Term(priors.startup_cpu_seconds * 1e6 / min(max(millicores, 1), 1000), cpu),
        ]
        if is_after_others:
            terms.append(Term(priors.notice_ms, notice))
        self.effects.learn(terms, max(startup_ms, 1.0), "startup", priors.startup_spread, time_ms)
        self.version += 1

    def see_cpu(
        self,
        node: NodeState,
        exec_format: str,
        kind: str,
        work_seconds: float,
        cpu_seconds: float,
        time_ms: int,
        *,
        millicores: int,
    ) -> None:
        """Learn from the CPU seconds of one stage."""
        if work_seconds <= 0 or cpu_seconds <= 0:
            return
        priors = self.priors
        work, overhead, refill = _cpu_effects(node, exec_format, kind)
        slowness = self._described_slowness(node)
        plain = work_seconds * slowness * default_emulation(exec_format, kind)
        terms = [Term(priors.overhead_seconds * slowness, overhead), Term(plain, work)]
        if millicores < 1000:
            slice_ms = _PERIOD_MS * max(millicores, 1) / 1000.0
            terms.append(Term(plain * priors.refill_ms / slice_ms, (*work, refill)))
        self.effects.learn(terms, cpu_seconds, f"cpu|{kind}", priors.cpu_spread, time_ms)
        self.version += 1

    def see_run(
        self, cluster: str, exec_format: str, run_ms: float, ideal_ms: float, time_ms: int, *, millicores: int
    ) -> None:
        """Learn from how long a stage ran, against what all of its CPU seconds take under its limit."""
        if run_ms <= 0 or ideal_ms <= 0:
            return
        names = _stretch_effects(cluster)
        lead_ms = self.priors.lead_seconds * 1e6 / max(millicores, 1)
        terms = [Term(ideal_ms, names), Term(-lead_ms, (*names, *_lead_effects(cluster, exec_format)))]
        self.effects.learn(terms, run_ms, "run", self.priors.run_spread, time_ms)
        self.version += 1

    def see_memory(self, exec_format: str, memory_mib: int, peak_mib: float, time_ms: int) -> None:
        """Learn from a peak of memory."""
        held_mib = memory_mib * self.priors.memory_fill_ratio
        if peak_mib > 0 and held_mib > 0:
            name = f"memory|{exec_format}"
            self.effects.learn([Term(held_mib, (name,))], peak_mib, name, self.priors.memory_spread, time_ms)
            self.version += 1

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
            "learned": self.effects.state(),
            "failures": {key: [one.failures, one.hours] for key, one in sorted(self.failures.items())},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.version = int(state["version"])
        self.effects.restore(state["learned"])
        self.failures = {key: FailureRate(*values) for key, values in state["failures"].items()}

    def _described_slowness(self, node: NodeState) -> float:
        return self.priors.reference_mhz / node.core_speed_mhz if node.core_speed_mhz > 0 else 1.0


def _startup_effects(cluster: str, exec_format: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Effects of the three parts of a start-up."""
    return (
        ("startup", f"startup_cluster|{cluster}", f"startup_format|{exec_format}"),
        ("pace", f"startup_cpu|{exec_format}", f"startup_cpu_cluster|{cluster}"),
        ("notice", f"notice_cluster|{cluster}"),
    )


def _cpu_effects(node: NodeState, exec_format: str, kind: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Effects of the work, of the overhead, and of a slice's beginning."""
    alike = node_class(node)
    work: tuple[str, ...] = (
        "pace",
        f"kind_pace|{kind}",
        f"kind|{node.arch}|{kind}",
        f"class|{alike}",
        f"class_kind|{alike}|{kind}",
    )
    if exec_format in EMULATED:
        work = (*work, f"emulation|{exec_format}|{kind}")
    return work, ("pace", f"overhead|{exec_format}", f"overhead_class|{alike}"), f"refill|{kind}"


def _stretch_effects(cluster: str) -> tuple[str, str]:
    return "stretch", f"stretch_cluster|{cluster}"


def _lead_effects(cluster: str, exec_format: str) -> tuple[str, str]:
    return f"lead|{exec_format}", f"lead_cluster|{cluster}"

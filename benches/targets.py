"""What the engine must show: the rows of RESULTS.md, in their order.

A bound is a number that the median must not exceed, or a range (low, high) that it must lie in. With ``against`` the bound
is on the ratio of the medians of this and of a yardstick measured in the same run, since machines differ by a factor of
three; the milliseconds in the words are those of the machine on which the bounds were set.
"""

from __future__ import annotations

from dataclasses import dataclass

Bound = float | tuple[float, float]


@dataclass(frozen=True)
class Target:
    """One row."""

    key: str
    what: str
    unit: str = "ms"
    least: Bound | None = None
    stretch: Bound | None = None
    against: str | None = None
    words: tuple[str, str] | None = None  # for the columns "at least" and "stretch", where the numbers say too little


TARGETS = (
    Target("heap-loop", "yardstick: SURF week, plain binary heap in Rust, loop only"),
    Target("simpy-loop", "yardstick: SURF week in SimPy, loop only"),
    Target("simpy", "yardstick: SURF week in SimPy, whole process"),
    Target(
        "surf-loop",
        "SURF week through the engine, loaded, 30 s power series, exact energy, against the heap loop",
        least=0.5,
        stretch=0.2,
        against="heap-loop",
        words=("half its time (100 ms)", "a fifth (40 ms)"),
    ),
    Target("surf-load", "loading its two parquet files (string ids), grouped and validated", "ms", 100, 40),
    Target(
        "simulate",
        "`opendt simulate` on it as a whole process, power and service files at 30 s, against SimPy",
        least=1 / 5,
        stretch=1 / 10,
        against="simpy",
        words=("a fifth of its time (800 ms)", "a tenth (350 ms)"),
    ),
    Target("help", "`opendt --help`", "ms", 300, 150),
    Target("simulate-all-files", "all five files at 30 s (5.6 M host rows, 2.3 M task rows)", "ms", 3000, 1500),
    Target("window", "5-minute window advanced on the live SURF twin", "ms", 0.1, 0.03),
    Target(
        "window-four-weeks",
        "the same after four weeks of history",
        least=1.1,
        stretch=1.0,
        against="window",
        words=("no slower (10 % is noise)", "no slower"),
    ),
    Target("fork", "fork of the live SURF twin, from Python", "us", 50, 15),
    Target("what-if-hour", "one hour of what-if on a fork", "ms", 1, 0.3),
    Target("long-tasks", "1,000 tasks x 10,000 fragments (10 M)", "ms", 500, 150),
    Target("many-tasks", "100,000 tasks, CoreMem policy on 1,000 hosts", "ms", 500, 150),
    Target("contention", "contention: 1,000 tasks on 16 hosts, Perfect, max-min"),
    Target("battery", "a battery crossing its limits"),
    Target("apply-every-window", "SURF week with `apply` in every window"),
    Target("simulate-peak", "peak memory of the whole process on SURF week", "MB", 200, 100),
    Target("hour-mape", "SURF power, workload known, one hour ahead: mean absolute error", "%", 1.15, 0.97),
    Target("window-mape", "the same five minutes ahead", "%", 0.72, 0.65),
    Target("blind-ratio", "blind, one hour ahead: error over that of persistence", "", 1.01),
    Target("blind-ratio-upper", "its block-bootstrap interval: upper end (skill > 0 where below 1)", "", None, 1.0),
    Target("coverage", "90 % bands: coverage over the week, of the kind farthest from it", "%", (87, 93)),
    Target("coverage-lowest", "the same on the worst day or load tercile, lowest", "%", (80, 97)),
    Target("coverage-highest", "the same, highest", "%", (80, 97)),
    Target("hour-winkler", "Winkler score against persistence with the same wrapper, one hour", "", 0.40, 0.30),
    Target("window-winkler", "the same, five minutes", "", 0.75, 0.65),
    Target("perturbed-hour-mape", "one hour ahead where power drifts +12 %, steps -6 % and is noisy", "%", 1.6),
    Target("perturbed-window-mape", "five minutes ahead there", "%", 1.0),
    Target("perturbed-coverage", "coverage of the bands there", "%", (85, 95)),
    Target("demo", "`make demo TRACE=../shared/traces/surf-week`, once built", "s", 30, 10),
    Target(
        "live-log", "SURF week at `--speed max` through the embedded log, ledger and calibration included", "s", 25, 8
    ),
    Target("live-kafka", "the same through Kafka", "s", 60, 25),
    Target(
        "live-ingest",
        "fragments of the older pair in batches, from Kafka until their windows have closed, thousands a second",
        "k/s",
        (150, 1e9),
        (500, 1e9),
        words=("150", "500"),
    ),
    Target(
        "live-delay-p99",
        "from a window's closing record in to its result out, at 300 times real time: p99",
        "ms",
        50,
        10,
    ),
    Target("live-restart", "restart on a week's state, whole process", "s", 2),
    Target(
        "fleet-core",
        "200 datacenters of SURF's size in one process at real-time speed: share of one core",
        "%",
        100,
        10,
        words=("one core", "2,000 on one"),
    ),
    Target("fleet-cpu", "processor time for each datacenter and window there"),
    Target(
        "fleet-memory",
        "memory for each datacenter there",
        "MB",
        12 * 1024**3 / 200 / 1e6,
        12 * 1024**3 / 2000 / 1e6,
        words=("64 MB (200 in 12 GiB)", "6.4 MB (2,000)"),
    ),
    Target(
        "live-memory-growth",
        "memory in the fourth week over that around the end of the first, one datacenter",
        "",
        1.1,
        words=("flat (10 % is noise)", ""),
    ),
    Target("live-memory", "memory of that process in the fourth week", "MB"),
)

# The same week's energy from programs that share no code: they measure the same work only if these agree.
SAME_ENERGY = ("heap-loop-energy-j", "simpy-energy-j", "surf-loop-energy-j")
SAME_ENERGY_RATIO = 1e-9  # sums of two million terms in different orders

"""What each policy prefers, what constraints forbid, and what is said when nothing is left."""

from __future__ import annotations

import pytest

from opendt.model.fleet import NodeState, Taint
from opendt.model.job import Constraints, Locality, StageWork, Toleration
from opendt.model.plan import Infeasible
from opendt.policy.base import Placed, PlacementPolicy
from opendt.policy.carbon import Carbon
from opendt.policy.cost import Cost
from opendt.policy.cvar import Cvar
from opendt.policy.greedy import Greedy
from opendt.policy.lay import lay
from opendt.policy.resilient import Resilient, correlation
from opendt.twin.fleet_futures import FleetFutures, tail_mean
from opendt.twin.fleet_view import Hold
from tests.small_fleet import CLUSTERS, NODES, cluster, fleet, job, node, pod, stage


def place(one_job, policy=None, index=None):
    found = (policy or Greedy()).place(one_job, index or fleet())
    assert isinstance(found, Placed), found
    return found


def where(placed, name="a"):
    one = placed.placements[name]
    return one.cluster, one.node_name, one.exec_format


def refused(one_job, index=None, policy=None):
    found = (policy or Greedy()).place(one_job, index or fleet())
    assert isinstance(found, Infeasible)
    return found


def constrained(**values):
    return job(stage(constraints=Constraints(**values)))


# greedy


def test_work_goes_where_it_ends_first():
    assert where(place(job())) == ("home", "home-1", "native")  # the fastest core
    assert where(place(job(stage(cpu_millicores=3000)))) == ("core", "core-1", "native")  # too large for it


def test_little_work_stays_near_its_origin():
    assert where(place(job(stage(work=StageWork(cpu_seconds=0.02)), input_mb=2.0))) == ("edge", "edge-1", "native")
    assert where(place(job(stage(work=StageWork(cpu_seconds=1.0)), input_mb=500.0))) == ("edge", "edge-1", "native")


def test_a_stage_stays_with_its_data():
    heavy = Constraints(data=(Locality(cluster="edge", size_mb=900.0),))
    assert where(place(job(stage(constraints=heavy), origin=None)))[0] == "edge"


def test_stages_that_send_much_stay_together():
    chatty = job(
        stage("a", work=StageWork(cpu_seconds=0.5), output_mb=800.0),
        stage("b", needs=("a",), work=StageWork(cpu_seconds=2.0), cpu_millicores=3000),
        origin=None,
    )
    placed = place(chatty)
    assert where(placed, "a")[0] == where(placed, "b")[0] == "core"


def test_what_a_job_takes_itself_counts():
    wide = job(*(stage(f"s{number}", cpu_millicores=2000) for number in range(3)))
    placed = place(wide, index=fleet(nodes=(NODES[3], NODES[5])))
    assert sorted(where(placed, f"s{number}")[1] for number in range(3)) == ["edge-1", "edge-1", "home-1"]


def test_of_equals_the_emptiest_then_the_first_by_name():
    index = fleet(nodes=NODES[:2], pods=(pod("core", "core-1"),))
    assert where(place(job(), index=index))[1] == "core-2"
    assert where(place(job(), index=fleet(nodes=NODES[:2])))[1] == "core-1"


def test_gpu_nodes_are_left_to_those_who_need_them():
    assert where(place(job(stage(gpu=1)))) == ("core", "core-gpu", "native")
    same_speed = (node("core", "core-gpu", gpu=2, core_speed_mhz=3000.0), node("core", "core-z", core_speed_mhz=3000.0))
    assert where(place(job(), index=fleet(nodes=same_speed)))[1] == "core-z"


def test_placing_reserves_nothing():
    index = fleet()
    before = {name: (slot.free_cpu, list(slot.devices)) for group in index.groups for name, slot in group.slots.items()}
    many = job(*(stage(f"s{number}", gpu=number % 2) for number in range(4)))
    assert place(many, index=index) == place(many, index=index)
    after = {name: (slot.free_cpu, list(slot.devices)) for group in index.groups for name, slot in group.slots.items()}
    assert before in ({}, after)


def test_what_is_reserved_is_taken():
    index = fleet()
    for number in range(2):
        placed = place(job(id=f"job-{number}"), index=index).placements["a"]
        index.view.reserve([Hold(f"plan-{number}", "a", placed.cluster, placed.node_name, 1000, 512)])
    assert where(place(job(), index=index))[0] == "core"  # home has two cores
    index.view.release("plan-0")
    assert where(place(job(), index=index))[0] == "home"


# Forms and deadlines


def test_native_before_emulated_where_emulation_would_be_late():
    # Emulated on a fast node near by; natively on a slow one only.
    work = {"work": StageWork(kind="sorting", cpu_seconds=3.0), "formats": ("arm64",)}
    fast = node("edge", "fast", core_speed_mhz=24_000.0)
    index = fleet(nodes=(fast, NODES[4]))
    assert where(place(job(stage(**work)), index=index)) == ("edge", "fast", "qemu-arm64")
    relaxed = job(stage(**work), deadline_ms=60_000)
    assert where(place(relaxed, index=index)) == ("edge", "fast", "qemu-arm64")
    tight = job(stage(**work), deadline_ms=3100)  # the emulated median is 2.6 s, its 95th percentile later
    assert isinstance(Greedy().place(tight, index), Placed)
    slow_emulation = job(stage(work=StageWork(kind="floating_point", cpu_seconds=2.0), formats=("arm64",)))
    only = fleet(nodes=(NODES[3], NODES[4]))
    assert where(place(slow_emulation, index=only)) == ("edge", "edge-arm", "native")


def test_an_emulated_stage_goes_native_when_its_p95_misses_the_deadline():
    near = node("edge", "near", core_speed_mhz=9600.0)  # emulated integer work: 2.5 s and starting
    slow = node("core", "slow-arm", arch="arm64", exec_formats=("native",), core_speed_mhz=8000.0)
    index = fleet(nodes=(near, slow))
    both = {"formats": ("arm64",), "work": StageWork(cpu_seconds=10.0)}
    free = place(job(stage(**both)), index=index)
    assert where(free) == ("edge", "near", "qemu-arm64")
    deadline_ms = int((free.estimate_ms + free.estimate_p95_ms) / 2)
    native = place(job(stage(**both), deadline_ms=max(deadline_ms, 4530)), index=index)
    assert where(native) == ("core", "slow-arm", "native")


def test_a_deadline_that_cannot_be_met_is_told_with_the_least_that_can():
    found = refused(job(deadline_ms=5000))
    assert "the deadline is 5000 ms" in found.misfits[0].reason
    least_ms = int(found.remedy.removeprefix("raise deadline_ms to "))
    assert isinstance(Greedy().place(job(deadline_ms=least_ms), fleet()), Placed)
    assert isinstance(Greedy().place(job(deadline_ms=least_ms - 2), fleet()), Infeasible)


# Constraints


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ({"arch": ("arm64",)}, "edge-arm"),
        ({"clusters": ("edge",)}, "edge-1"),
        ({"excluded_clusters": ("home", "core")}, "edge-1"),
        ({"node": "core-2"}, "core-2"),
        ({"labels": {"kubernetes.io/hostname": "core-2"}}, "core-2"),
        ({"min_resiliency_ratio": 0.95}, "core-1"),
        ({"max_latency_ms": 20.0}, "home-1"),
        ({"max_latency_ms": 10.0}, "edge-1"),
        ({"data": (Locality(cluster="core", size_mb=1.0, required=True),)}, "core-1"),
    ],
)
def test_constraints_are_kept(constraints, expected):
    assert where(place(constrained(**constraints)))[1] == expected


def test_latency_to_the_stages_before_is_kept():
    far = job(
        stage("a", constraints=Constraints(clusters=("core",))),
        stage("b", needs=("a",), constraints=Constraints(max_latency_ms=25.0, excluded_clusters=("core",))),
    )
    assert where(place(far), "b")[0] == "home"


def test_taints_keep_off_who_does_not_tolerate_them():
    tainted = node("home", "home-1", core_speed_mhz=3600.0, taints=(Taint("only", "gpu", "NoSchedule"),))
    index = fleet(nodes=(*NODES[:5], tainted))
    assert where(place(job(), index=index))[0] == "core"
    tolerant = constrained(tolerations=(Toleration(key="only", value="gpu"),))
    assert where(place(tolerant, index=index))[0] == "home"
    assert where(place(constrained(tolerations=(Toleration(key="only", value="x"),)), index=index))[0] == "core"


@pytest.mark.parametrize("values", [{"is_ready": False}, {"is_cordoned": True}])
def test_nodes_that_take_no_pods_get_none(values):
    out = node("home", "home-1", core_speed_mhz=3600.0, **values)
    assert where(place(job(), index=fleet(nodes=(*NODES[:5], out))))[0] == "core"


def test_clusters_that_do_not_answer_get_none():
    away = cluster("home", is_reachable=False)
    assert where(place(job(), index=fleet(clusters=(*CLUSTERS[:2], away))))[0] == "core"


def test_shared_gpus_are_packed_and_not_given_twice():
    index = fleet()
    for number in range(5):
        one = job(stage(gpu=1, gpu_millis=400), id=f"job-{number}")
        found = Greedy().place(one, index)
        if number < 4:  # two devices hold two shares of 400 each
            assert isinstance(found, Placed)
            index.view.reserve([Hold(one.id, "a", "core", "core-gpu", 100, 64, 1, 400)])
    assert isinstance(found, Infeasible)
    assert "0 GPUs with 400 thousandths" in " ".join(one.reason for one in found.misfits)


# Infeasible


def test_every_group_says_why_and_the_smallest_change_is_named():
    found = refused(job(stage(cpu_millicores=8400)))
    assert {one.group.split()[0] for one in found.misfits} == {"core", "edge", "home"}
    assert len(found.misfits) == 5
    assert found.remedy.startswith("a: ask for at most 8000 cpu_millicores (core ")
    both = refused(job(stage(cpu_millicores=8400, gpu=4)))
    assert "ask for at most 8000 cpu_millicores" in both.remedy or "ask for at most 2 GPUs" in both.remedy


def test_a_change_that_is_named_makes_it_feasible():
    asked = stage(cpu_millicores=8400)
    most = int(refused(job(asked)).remedy.split("at most ")[1].split()[0])
    assert isinstance(Greedy().place(job(stage(cpu_millicores=most)), fleet()), Placed)


def test_one_label_is_less_than_a_label_and_half_the_memory():
    labelled = tuple(node("core", f"n{number}", memory_mib=4096 * (number + 1)) for number in range(2))
    found = refused(job(stage(memory_mib=8000, constraints=Constraints(labels={"zone": "b"}))), fleet(nodes=labelled))
    assert found.remedy.startswith("a: drop label zone (core (amd64, 4 cores, 8192 MiB")


def test_a_full_fleet_says_that_it_is_busy():
    full = tuple(pod(one.cluster, one.name, one.name, cpu_millicores=one.cpu_millicores - 100) for one in NODES)
    found = refused(job(), fleet(pods=full))
    assert all("busy" in one.reason for one in found.misfits if "edge-arm" not in one.group)
    assert "or wait" in found.remedy


def test_what_is_built_for_another_machine_is_told():
    found = refused(job(stage(formats=("riscv64",))))
    assert found.misfits[0].reason.endswith("cannot run riscv64")
    assert "build it for" in found.remedy


def test_a_gang_is_placed_whole_or_not_at_all():
    pair = (stage("a"), stage("b", cpu_millicores=9000), stage("c", needs=("b",)))
    assert isinstance(Greedy().place(job(*pair), fleet()), Infeasible)
    some = place(job(*pair, gang=False))
    assert set(some.placements) == {"a"}
    assert {one.stage_id for one in some.left_out.misfits} == {"b", "c"}


def test_a_small_stage_does_not_keep_a_large_one_out():
    # The small stage would go to the fast node, on which alone the large one fits.
    nodes = (node("home", "big", core_speed_mhz=4800.0), node("home", "small", cpu_millicores=2000))
    pair = job(stage("a", cpu_millicores=1000), stage("b", cpu_millicores=3500))
    placed = place(pair, index=fleet(nodes=nodes))
    assert (where(placed, "a")[1], where(placed, "b")[1]) == ("small", "big")


# The other policies


def test_resilient_weighs_reliability_against_latency():
    assert where(place(job()))[0] == "home"
    placed = place(job(), Resilient())
    assert where(placed)[0] == "core"
    assert where(place(job(), Resilient(resiliency_weight=0.0)))[0] == "home"


def test_a_shadow_lies_where_it_does_not_fail_too():
    placed = place(job(), Resilient())
    assert placed.shadow_placements["a"].cluster != "core"
    at_edge = place(job(stage(constraints=Constraints(excluded_clusters=("core",)))), Resilient())
    assert {where(at_edge)[0], at_edge.shadow_placements["a"].cluster} == {"edge", "home"}
    alone = place(constrained(node="core-1"), Resilient())
    assert alone.shadow_placements == {}


def test_correlation_follows_the_failure_domains():
    core, edge, home = CLUSTERS
    assert correlation(core, core) == 1.0
    assert correlation(edge, home) == pytest.approx(0.45)
    assert correlation(core, home) == 0.0
    assert correlation(edge, cluster("other", failure_domain="west/one")) == pytest.approx(0.9)


def test_carbon_and_cost_go_where_there_is_least_of_it_and_keep_deadlines():
    assert where(place(job(), Carbon()))[0] == "core"
    assert where(place(job(), Cost()))[0] == "home"
    slow = job(stage(constraints=Constraints(excluded_clusters=("home",))))
    cheap = place(slow, Cost())
    assert where(cheap)[0] == "edge"
    hurried = slow.model_copy(update={"deadline_ms": 10_900})
    assert where(place(hurried, Cost()))[0] == "core"


def test_cvar_avoids_what_is_quick_and_fails():
    risky = tuple(
        cluster(name, failure_rate_per_h=rate) for name, rate in (("core", 0.0), ("edge", 0.0), ("home", 60.0))
    )
    index = fleet(clusters=risky)
    assert where(place(job(), index=index))[0] == "home"
    placed = place(job(), Cvar(), index)
    assert where(placed)[0] == "core"
    assert "worst 10% of 1000 futures" in placed.explanation
    assert place(job(), Cvar(), index) == placed
    # With all futures counted it is the mean, which is in favour of the fast node when it seldom fails.
    calm = fleet(clusters=tuple(cluster(name, failure_rate_per_h=0.01) for name in ("core", "edge", "home")))
    assert where(place(job(), Cvar(alpha=1.0), calm))[0] == "home"


def test_no_candidate_has_a_better_tail_than_the_chosen_one():
    index = fleet(pods=(pod("home", "home-1", cpu_millicores=900),))
    one, policy = job(stage("a"), stage("b", needs=("a",), output_mb=1.0)), Cvar(futures=400)
    chosen = place(one, policy, index)
    scaled = index.scaled(one)
    futures = FleetFutures(index.predictor, policy.settings)

    def tail(placements):
        return tail_mean(futures.on_forks(index.predictor.lay_out(scaled, placements)), 0.1)

    others = policy.candidates(index, scaled, lay(index, scaled))
    assert len(others) > 2
    assert tail(chosen.placements) <= min(tail(laid.placements) for laid in others) + 3.0


@pytest.mark.parametrize("policy", [Greedy(), Resilient(), Cvar(futures=50), Carbon(), Cost()])
def test_estimates_are_what_the_twin_finds(policy):
    index = fleet()
    one = job(stage("a", output_mb=20.0), stage("b", needs=("a",), cpu_millicores=500), input_mb=3.0)
    placed = place(one, policy, index)
    said = index.predictor.score_plan(one, placed.placements)
    assert isinstance(policy, PlacementPolicy)
    assert said.stages[-1].finish_ms == pytest.approx(placed.estimate_ms, abs=4)


def test_the_index_follows_the_fleet():
    index = fleet()
    assert isinstance(place(job(), index=index), Placed)
    more = NodeState(
        "edge", "fast", "amd64", ("native",), 4000, 8192, 0, 0, "", core_speed_mhz=9999.0, idle_w=1.0, max_w=2.0
    )
    view = index.view
    view.apply(view.snapshot, nodes=[(None, more)])
    assert where(place(job(), index=index))[1] == "fast"
    view.apply(view.snapshot, nodes=[(more, None)])
    assert where(place(job(), index=index))[1] == "home-1"
    faster = node("core", "core-2", core_speed_mhz=12_000.0)
    view.apply(view.snapshot, nodes=[(NODES[1], faster)])
    assert where(place(job(), index=index))[1] == "core-2"

"""Placement held against trying everything: nothing is over-committed, constraints hold, and no is said only where it is true."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opendt.model.fleet import Taint
from opendt.model.job import Constraints, Locality, Origin, StageWork, Toleration
from opendt.model.plan import Infeasible, Placement
from opendt.policy.carbon import Carbon
from opendt.policy.cost import Cost
from opendt.policy.cvar import Cvar
from opendt.policy.greedy import Greedy
from opendt.policy.index import FleetIndex
from opendt.policy.refusals import exec_formats_on, refusals
from opendt.policy.resilient import Resilient
from opendt.twin.fleet_costs import arrival_ms, stage_cost
from opendt.twin.fleet_view import FleetView, Hold, give_devices
from opendt.twin.predict import PredictiveSimulator
from opendt.twin.state import FleetState, FleetUpdate
from tests.small_fleet import CLUSTERS, NODES, NOW_MS, fleet, job, node, pod, stage

NAMES = tuple(one.name for one in CLUSTERS)
POLICIES = {
    "greedy": Greedy(),
    "resilient": Resilient(),
    "cvar": Cvar(futures=30),
    "carbon": Carbon(),
    "cost": Cost(),
}


@st.composite
def fleets(draw):
    """Up to four nodes of few sizes, so that groups of equals, full nodes and odd ones out all occur."""
    nodes = []
    for number in range(draw(st.integers(1, 4))):
        arch = draw(st.sampled_from(("amd64", "arm64")))
        gpus = draw(st.sampled_from((0, 0, 2)))
        nodes.append(
            node(
                draw(st.sampled_from(NAMES)),
                f"n{number}",
                arch=arch,
                exec_formats=draw(st.sampled_from((("native",), ("native", "qemu-arm64", "wasm")))),
                cpu_millicores=draw(st.sampled_from((1000, 2000))),
                memory_mib=draw(st.sampled_from((1024, 2048))),
                core_speed_mhz=draw(st.sampled_from((1200.0, 2400.0, 3600.0))),
                gpu=gpus,
                gpu_memory_mib=4096 if gpus else 0,
                labels={"kubernetes.io/hostname": f"n{number}", "disk": draw(st.sampled_from(("fast", "slow")))},
                taints=draw(st.sampled_from(((), (), (Taint("only", "batch", "NoSchedule"),)))),
                is_ready=draw(st.sampled_from((True, True, True, False))),
            )
        )
    return tuple(nodes)


@st.composite
def constraint(draw):
    """Mostly none, else one or two."""
    values = {}
    if draw(st.integers(0, 3)) == 0:
        values["labels"] = {"disk": "fast"}
    if draw(st.integers(0, 4)) == 0:
        values["excluded_clusters"] = (draw(st.sampled_from(NAMES)),)
    if draw(st.integers(0, 4)) == 0:
        values["max_latency_ms"] = draw(st.sampled_from((0.0, 20.0, 25.0)))
    if draw(st.integers(0, 4)) == 0:
        values["data"] = (Locality(cluster=draw(st.sampled_from(NAMES)), size_mb=20.0, required=draw(st.booleans())),)
    if draw(st.integers(0, 2)) == 0:
        values["tolerations"] = (Toleration(key="only"),)
    return Constraints(**values)


@st.composite
def jobs(draw, most_stages=3):
    """Chains, forks and loose stages that nearly fill nodes."""
    count = draw(st.integers(1, most_stages))
    stages = []
    for number in range(count):
        needs = tuple(f"s{other}" for other in range(number) if draw(st.booleans()))
        gpu = draw(st.sampled_from((0, 0, 0, 1)))
        stages.append(
            stage(
                f"s{number}",
                needs=needs,
                cpu_millicores=draw(st.sampled_from((400, 1000, 1600))),
                memory_mib=draw(st.sampled_from((256, 1024, 1500))),
                gpu=gpu,
                gpu_millis=draw(st.sampled_from((400, 1000))),
                work=StageWork(
                    kind=draw(st.sampled_from(("integer", "sorting"))),
                    cpu_seconds=draw(st.sampled_from((0.02, 1.0, 5.0))),
                ),
                formats=draw(st.sampled_from((("native",), ("amd64",), ("arm64",), ("wasm", "native")))),
                output_mb=draw(st.sampled_from((0.0, 30.0))),
                constraints=draw(constraint()),
            )
        )
    return job(
        *stages,
        origin=Origin(cluster=draw(st.sampled_from(NAMES))),
        deadline_ms=draw(st.sampled_from((None, None, 6000, 15_000))),
        input_mb=draw(st.sampled_from((0.0, 40.0))),
    )


def fits(index, scaled, layout):
    """Whether a layout over-commits nothing."""
    for key in {key for key, _ in layout}:
        machine = index.view.loads[key].node
        here = [one for one, (where, _) in zip(scaled.stages, layout, strict=True) if where == key]
        if sum(one.cpu_millicores for one in here) > machine.cpu_millicores:
            return False
        if sum(one.memory_mib for one in here) > machine.memory_mib:
            return False
        free = [1000] * machine.gpu
        for order in itertools.permutations([one for one in here if one.stage.gpu]):
            free = [1000] * machine.gpu
            if all(give_devices(free, one.stage.gpu, one.stage.gpu_millis) for one in order):
                break
        else:
            return False
    return True


def near_enough(index, scaled, layout):
    """Whether round trips are as short as asked."""
    latency = index.view.snapshot.latency
    where = {one.stage.id: key for one, (key, _) in zip(scaled.stages, layout, strict=True)}
    for one in scaled.stages:
        limit = one.stage.constraints.max_latency_ms
        sources = [where[need][0] for need in one.stage.needs] or [scaled.job.origin.cluster]
        if limit is not None and any(latency.between(source, where[one.stage.id][0]) > limit for source in sources):
            return False
    return True


def latency_ms(index, scaled, layout):
    """Latency by adding up, written once more."""
    latency, calibration, finish = index.view.snapshot.latency, index.predictor.calibration, {}
    where = {one.stage.id: key for one, (key, _) in zip(scaled.stages, layout, strict=True)}
    sent = {one.stage.id: one.stage.output_mb for one in scaled.stages}
    for one, (key, form) in zip(scaled.stages, layout, strict=True):
        price = stage_cost(calibration, index.view.loads[key].node, one, form, 0.0)
        begin = max((finish[need] for need in one.stage.needs), default=0.0)
        begin += arrival_ms(scaled.job, one.stage, key[0], latency)
        for need in one.stage.needs:
            begin = max(begin, finish[need] + latency.transfer_ms(where[need][0], key[0], sent[need]))
        finish[one.stage.id] = begin + price.startup_ms + price.run_ms
    return max(finish.values())


def everything(index, one_job):
    """Give every layout that is allowed, with its latency."""
    scaled = index.scaled(one_job)
    options = []
    for one in scaled.stages:
        mine = []
        for key, load in index.view.loads.items():
            cluster = index.view.snapshot.clusters[key[0]]
            if load.node.is_ready and not any(refusals(one.stage, load.node, cluster, [key[1]])):
                forms = exec_formats_on(one.stage, load.node.arch, load.node.exec_formats)
                mine += [(key, form) for form in forms]
        options.append(mine)
    for layout in itertools.product(*options):
        if fits(index, scaled, layout) and near_enough(index, scaled, layout):
            yield latency_ms(index, scaled, layout), layout


def layout_of(scaled, placements):
    found = [placements[one.stage.id] for one in scaled.stages]
    return tuple(((one.cluster, one.node_name), one.exec_format) for one in found)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=60, deadline=None)
@given(nodes=fleets(), one_job=jobs())
def test_what_is_placed_may_be_and_no_is_said_only_where_it_is_true(name, nodes, one_job):
    index = fleet(nodes=nodes)
    found = POLICIES[name].place(one_job, index)
    assert POLICIES[name].place(one_job, fleet(nodes=nodes)) == found  # the same, from the same
    allowed = {layout: ms for ms, layout in everything(index, one_job)}
    in_time = {layout: ms for layout, ms in allowed.items() if ms <= (one_job.deadline_ms or float("inf"))}
    if isinstance(found, Infeasible):
        assert not in_time
        assert found.remedy
        return
    layout = layout_of(index.scaled(one_job), found.placements)
    assert layout in in_time
    assert found.estimate_ms == pytest.approx(in_time[layout])
    assert set(found.placements) == {one.id for one in one_job.stages}
    for stage_id, shadow in found.shadow_placements.items():
        assert (shadow.cluster, shadow.node_name) != (
            found.placements[stage_id].cluster,
            found.placements[stage_id].node_name,
        )


@settings(max_examples=150, deadline=None)
@given(nodes=fleets(), one_job=jobs(most_stages=1))
def test_greedy_is_the_optimum_for_one_stage(nodes, one_job):
    index = fleet(nodes=nodes)
    found = Greedy().place(one_job, index)
    if isinstance(found, Infeasible):
        return
    allowed = list(everything(index, one_job))
    if one_job.deadline_ms is not None and found.placements["s0"].exec_format == "native":
        # Native goes first where emulation would probably be late: the best of the native ones then.
        emulated = [ms for ms, ((_, form),) in allowed if form != "native"]
        if emulated and min(emulated) < found.estimate_ms:
            allowed = [one for one in allowed if one[1][0][1] == "native"]
    assert found.estimate_ms == pytest.approx(min(ms for ms, _ in allowed))


@settings(max_examples=40, deadline=None)
@given(nodes=fleets(), batch=st.lists(jobs(), min_size=1, max_size=6))
def test_a_batch_over_commits_nothing(nodes, batch):
    index = fleet(nodes=nodes)
    for number, one_job in enumerate(batch):
        found = Greedy().place(one_job, index)
        if isinstance(found, Infeasible):
            continue
        scaled = index.scaled(one_job)
        index.view.reserve(
            Hold(
                f"plan-{number}",
                one.stage.id,
                found.placements[one.stage.id].cluster,
                found.placements[one.stage.id].node_name,
                one.cpu_millicores,
                one.memory_mib,
                one.stage.gpu,
                one.stage.gpu_millis,
            )
            for one in scaled.stages
        )
    for load in index.view.loads.values():
        assert load.cpu_millicores <= load.node.cpu_millicores
        assert load.memory_mib <= load.node.memory_mib
        shares = sum(hold.gpu * hold.gpu_millis for hold in load.holds.values())
        assert shares <= load.node.gpu * 1000
        assert sum(load.device_free_millis()) == load.node.gpu * 1000 - shares


def contents(index):
    """Everything that an index goes by."""
    index.refresh()
    return {
        group.name: (
            list(group.order),
            {
                name: (slot.free_cpu, slot.free_memory, slot.free_pods, sorted(slot.devices), slot.is_open)
                for name, slot in group.slots.items()
            },
        )
        for group in index.groups
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_index_that_follows_equals_one_that_begins_anew(data):
    """Pods come, end and move, nodes come, go and are cordoned, plans reserve and release, in any order."""
    state = FleetState(clock_ms=lambda: NOW_MS)
    for one in CLUSTERS:
        state.apply(FleetUpdate(one.name, state=one, nodes=tuple(each for each in NODES if each.cluster == one.name)))
    index = FleetIndex(PredictiveSimulator(FleetView(state.snapshot())))
    for _ in range(data.draw(st.integers(1, 12))):
        machine = data.draw(st.sampled_from(NODES))
        name = data.draw(st.sampled_from("pqr"))
        step = data.draw(st.integers(0, 6))
        if step <= 2:
            phase = data.draw(st.sampled_from(("Pending", "Running", "Succeeded")))
            share = data.draw(st.sampled_from((0, 1)))
            seen = pod(
                machine.cluster,
                machine.name,
                name,
                phase=phase,
                plan_id="x",
                stage_id=name,
                cpu_millicores=data.draw(st.integers(1, 900)),
                gpu=share,
                gpu_millis=300,
            )
            state.apply(FleetUpdate(machine.cluster, pods=(seen,)))
        elif step == 3:
            state.apply(FleetUpdate(machine.cluster, gone_pods=(("opendt", name),)))
        elif step == 4:
            changed = replace(
                machine, is_cordoned=data.draw(st.booleans()), cpu_millicores=data.draw(st.sampled_from((4000, 8000)))
            )
            state.apply(FleetUpdate(machine.cluster, nodes=(changed,)))
        elif step == 5:
            state.apply(FleetUpdate(machine.cluster, gone_nodes=(machine.name,)))
        elif data.draw(st.booleans()):
            index.view.reserve([Hold("x", name, machine.cluster, machine.name, 300, 64, 1, 300)])
        else:
            index.view.release("x", data.draw(st.sampled_from((None, name))))
        index.view.sync(state)
        fresh = FleetView(state.snapshot())
        fresh.reserve(index.view.holds)
        assert contents(index) == contents(FleetIndex(PredictiveSimulator(fresh)))


def test_the_judge_here_finds_what_is_wrong():
    index = fleet(nodes=(node("core", "n0", cpu_millicores=1000),))
    pair = job(stage("s0", cpu_millicores=600), stage("s1", cpu_millicores=600))
    both = Placement(stage_id="s0", cluster="core", node_name="n0")
    scaled = index.scaled(pair)
    layout = layout_of(scaled, {"s0": both, "s1": both})
    assert not fits(index, scaled, layout)
    assert list(everything(index, pair)) == []

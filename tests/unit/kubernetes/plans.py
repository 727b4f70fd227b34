"""Plans and stages that tests act on."""

from __future__ import annotations

from opendt.kubernetes.pod_manifest import StagePod
from opendt.model.plan import Placement, Plan


def a_plan(plan_id="plan-1", *placements, dry_run=False):
    return Plan(
        plan_id=plan_id,
        job_id="job-1",
        job_hash="h",
        strategy="greedy",
        snapshot_version=1,
        accepted_ms=1_795_341_600_000,
        scale=100.0,
        dry_run=dry_run,
        placements={each.stage_id: each for each in placements},
        prediction=None,
        explanation="a test's",
    )


def a_stage(stage_id="s1", cluster="left", node="node-00000", exec_format="native", **more):
    placement = Placement(stage_id=stage_id, node_name=node, cluster=cluster, exec_format=exec_format)
    return StagePod(placement, **{"cpu_millicores": 20.0, "memory_mib": 16.0, **more})

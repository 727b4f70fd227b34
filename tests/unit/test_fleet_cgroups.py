"""Control groups get a hard quota in both versions; tried on folders that look like either."""

from __future__ import annotations

from scripts.fleet.cgroups import QuotaGroup


def test_version_1_has_a_quota_in_the_tree_of_cpu_and_a_group_in_all(tmp_path):
    for tree in ("cpu", "cpuset", "memory"):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "cgroup.procs").touch()
    (tmp_path / "cpu" / "cpu.shares").touch()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    QuotaGroup("run/node", 0.25, tmp_path).make()
    assert (tmp_path / "cpu" / "run" / "node" / "cpu.cfs_quota_us").read_text() == "25000"
    assert (tmp_path / "cpu" / "run" / "node" / "cpu.cfs_period_us").read_text() == "100000"
    assert (tmp_path / "cpuset" / "run" / "node" / "cpuset.cpus").read_text() == "0-1\n"
    assert (tmp_path / "memory" / "run" / "node").is_dir()


def test_version_2_hands_controllers_down_and_has_one_quota(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids rdma\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cgroup.controllers").write_text("cpu memory pids\n")
    QuotaGroup("run/node", 0.06, tmp_path).make()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "run" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "run" / "node" / "cpu.max").read_text() == "6000 100000"

from __future__ import annotations

import json

import pytest

from opendt.formats.wfformat import read_wfformat
from opendt.model import FormatError


def instance():
    def task(name, parents, children, inputs=(), outputs=()):
        links = {"parents": list(parents), "children": list(children)}
        return {"name": name, "id": name, "inputFiles": list(inputs), "outputFiles": list(outputs)} | links

    return {
        "name": "diamond",
        "schemaVersion": "1.5",
        "runtimeSystem": {"name": "Pegasus", "version": "5", "url": "https://pegasus.isi.edu"},
        "workflow": {
            "specification": {
                "tasks": [
                    task("split", [], ["left", "right"], ["in"], ["l", "r"]),
                    task("left", ["split"], ["join"], ["l"], ["lo"]),
                    task("right", ["split"], [], ["r"], ["ro"]),
                    task("join", ["right"], [], ["lo", "ro"], []),
                ],
                "files": [
                    {"id": name, "sizeInBytes": 2**20 * size}
                    for name, size in (("in", 9), ("l", 1), ("r", 2), ("ro", 4))
                ],
            },
            "execution": {
                "makespanInSeconds": 20.5,
                "tasks": [
                    {"id": "split", "runtimeInSeconds": 1.5, "machines": ["m1"], "avgCPU": 50.0},
                    {"id": "left", "runtimeInSeconds": 2, "machines": ["m1"], "avgCPU": 168.9},
                    {"id": "right", "runtimeInSeconds": 3, "machines": ["m2"], "coreCount": 4, "avgCPU": 900},
                    {"id": "join", "runtimeInSeconds": 1, "memoryInBytes": 2**20 + 1},
                ],
                "machines": [
                    {"nodeName": "m1", "architecture": "x86_64", "cpu": {"coreCount": 48, "speedInMHz": 1200}},
                    {"nodeName": "m2", "cpu": {"coreCount": 24}, "memoryInBytes": 2**30},
                ],
            },
        },
    }


def read(tmp_path, content):
    (tmp_path / "wf.json").write_text(json.dumps(content))
    return read_wfformat(tmp_path / "wf.json", core_speed_mhz=1000)


def test_a_workflow_becomes_tasks_with_data_on_its_edges(tmp_path):
    workflow = read(tmp_path, instance())
    workload = workflow.workload
    assert (workflow.name, workflow.system, workflow.makespan_s) == ("diamond", "Pegasus", 20.5)
    assert workload.ids == ["split", "left", "right", "join"]
    assert workload.run_ms.tolist() == [1500, 2000, 3000, 1000]
    assert workload.cpu_count.tolist() == [1, 2, 4, 1]
    assert workload.fragment_cpu_mhz.tolist() == pytest.approx([600.0, 2026.8, 4000.0, 1000.0])
    assert workload.memory_mib.tolist() == [0, 0, 0, 2]
    assert workload.parent_offset.tolist() == [0, 0, 1, 2, 4]
    assert workload.parents.tolist() == [0, 0, 1, 2]
    assert workload.edge_mib.tolist() == [1.0, 2.0, 0.0, 4.0]
    assert workflow.machine_of_task == ("m1", "m1", "m2", "")
    assert [(g.name, g.core_count, g.core_speed_mhz, g.arch) for g in workflow.machines.clusters[0].hosts] == [
        ("m1", 48, 1200.0, "x86_64"),
        ("m2", 24, 1000.0, None),
    ]


def test_critical_path_is_the_longest_chain(tmp_path):
    assert read(tmp_path, instance()).critical_path_s() == 1.5 + 3 + 1


def change(content, path, value):
    *parents, last = path
    for part in parents:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


SPECIFICATION, EXECUTION = ("workflow", "specification"), ("workflow", "execution")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("workflow",), None, "workflow"),
        ((*EXECUTION, "makespanInSeconds"), -1, "workflow.execution.makespanInSeconds"),
        ((*EXECUTION, "tasks", 1, "runtimeInSeconds"), -2, "workflow.execution.tasks[1].runtimeInSeconds"),
        ((*EXECUTION, "tasks", 1, "runtimeInSeconds"), 1e12, "workflow.execution.tasks[1].runtimeInSeconds"),
        ((*EXECUTION, "tasks", 1, "runtimeInSeconds"), "2", "workflow.execution.tasks[1].runtimeInSeconds"),
        ((*EXECUTION, "tasks", 1), None, "workflow.specification.tasks[1].id"),
        ((*SPECIFICATION, "tasks", 0, "children", 0), "nobody", "workflow.specification.tasks[0].children[0]"),
        ((*SPECIFICATION, "tasks", 0, "parents"), ["join"], "workflow.specification.tasks"),
        ((*SPECIFICATION, "tasks", 0, "parents"), ["split"], "workflow.specification.tasks"),
        ((*SPECIFICATION, "tasks"), [], "workflow.specification.tasks"),
        ((*SPECIFICATION, "files", 0, "sizeInBytes"), -5, "workflow.specification.files[0].sizeInBytes"),
        ((*EXECUTION, "machines", 0, "cpu", "coreCount"), 0, "workflow.execution.machines[0].cpu.coreCount"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, path, value, place):
    content = instance()
    change(content, path, value)
    with pytest.raises(FormatError) as caught:
        read(tmp_path, content)
    assert caught.value.place == place

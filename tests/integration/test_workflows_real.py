"""The six measured workflows: bounds hold, and the study says what the documentation says."""

from __future__ import annotations

import pytest

from opendt.formats.wfformat import read_wfformat
from opendt.twin.workflow import Overhead, leave_one_out, simulated_makespan_s
from tests.data import require_data


@pytest.fixture(scope="module")
def workflows():
    files = sorted(require_data("traces/wfinstances").glob("*.json"))
    return {file.name.split("-")[0]: read_wfformat(file) for file in files}


def test_no_schedule_beats_its_bounds(workflows):
    for workflow in workflows.values():
        cores = sum(group.core_count for group in workflow.machines.clusters[0].hosts)
        work_s = workflow.workload.core_seconds
        for as_placed in (False, True):
            made_s = simulated_makespan_s(workflow, as_placed=as_placed)
            assert made_s >= max(workflow.critical_path_s(), work_s / cores) - 0.01
            assert made_s <= workflow.makespan_s, "the real system was never faster than its schedule without overhead"


def test_dispatch_explains_what_the_critical_path_cannot(workflows):
    seismology = workflows["seismology"]
    assert seismology.critical_path_s() == pytest.approx(5.4, abs=0.1)
    assert seismology.makespan_s == 2354.0
    # 1,101 turns of 2.13 s.
    assert simulated_makespan_s(seismology, Overhead(2.13)) == pytest.approx(2354, rel=0.01)


def test_leave_one_out_errors_are_those_of_the_documentation(workflows):
    names, instances = zip(*workflows.items(), strict=True)
    errors = {name: study.predicted_error_ratio for name, study in zip(names, leave_one_out(instances), strict=True)}
    assert errors == {
        "1000genome": pytest.approx(-0.54, abs=0.01),
        "blast": pytest.approx(0.64, abs=0.01),
        "bwa": pytest.approx(-0.49, abs=0.01),
        "cycles": pytest.approx(0.26, abs=0.01),
        "montage": pytest.approx(-0.64, abs=0.01),
        "seismology": pytest.approx(3.65, abs=0.01),
    }

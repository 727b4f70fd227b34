"""Jobs are made smaller without changing how long they take."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.model.errors import ModelError
from opendt.model.job import StageWork
from opendt.twin.scaling import ScaleFloors, scale_job, scale_stage
from tests.small_fleet import job, stage


def test_requests_and_work_are_divided_and_durations_are_not():
    small = scale_stage(stage(cpu_millicores=50_000, memory_mib=12_800, work=StageWork(cpu_seconds=1200.0)), 100.0)
    assert (small.cpu_millicores, small.memory_mib, small.cpu_seconds) == (500, 128, 12.0)
    assert small.cpu_seconds / 0.5 == 1200.0 / 50.0
    assert small.notes == ()


def test_requests_are_never_rounded_up_to_a_core():
    assert scale_stage(stage(cpu_millicores=12_345), 100.0).cpu_millicores == 123
    assert scale_stage(stage(cpu_millicores=12_350), 100.0).cpu_millicores == 124  # halves up
    assert "rounded to 123 millicores" in scale_stage(stage(cpu_millicores=12_345), 100.0).notes[0]


def test_floors_are_told_and_keep_the_duration():
    tiny = scale_stage(stage(cpu_millicores=200, memory_mib=64, work=StageWork(cpu_seconds=2.0)), 100.0)
    assert (tiny.cpu_millicores, tiny.memory_mib) == (10, 32)
    assert tiny.cpu_seconds == pytest.approx(2.0 * 10 / 200)
    assert tiny.notes == ("CPU is at its floor of 10 millicores, 1:20", "memory is at its floor of 32 MiB, 1:2")
    assert scale_stage(stage(cpu_millicores=5, memory_mib=8), 1.0).cpu_millicores == 5


def test_a_job_says_its_own_scale():
    scaled = scale_job(job(stage(cpu_millicores=20_000), scale=10.0), 100.0)
    assert (scaled.scale, scaled.stages[0].cpu_millicores) == (10.0, 2000)
    assert scale_job(job(scale=None), 50.0).scale == 50.0
    tiny = scale_job(job(stage("tiny", cpu_millicores=100), scale=100.0))
    assert tiny.notes[0].startswith("tiny: CPU is at its floor")


@pytest.mark.parametrize("scale", [0.5, float("inf"), float("nan")])
def test_a_scale_that_enlarges_is_refused(scale):
    with pytest.raises(ModelError, match="a number from 1 up"):
        scale_stage(stage(), scale)


@given(
    cpu=st.integers(1, 10**6),
    memory=st.integers(1, 10**7),
    seconds=st.floats(0.001, 1e6),
    scale=st.floats(1.0, 1000.0) | st.integers(1, 1000).map(float),
)
def test_durations_stay_whatever_is_rounded(cpu, memory, seconds, scale):
    small = scale_stage(stage(cpu_millicores=cpu, memory_mib=memory, work=StageWork(cpu_seconds=seconds)), scale)
    floors = ScaleFloors()
    assert small.cpu_seconds / small.cpu_millicores == pytest.approx(seconds / cpu, rel=1e-12)
    exact = Fraction(cpu) / Fraction(scale)
    if small.cpu_millicores > floors.least_cpu_millicores:
        assert abs(small.cpu_millicores - exact) <= Fraction(1, 2)
    assert small.memory_mib >= Fraction(memory) / Fraction(scale)
    assert small.memory_mib <= max(Fraction(memory) / Fraction(scale) + 1, floors.least_memory_mib)

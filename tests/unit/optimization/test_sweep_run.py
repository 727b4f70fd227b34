"""Rows end in any order, are kept as they end, and make the same table in the order of the spec."""

from __future__ import annotations

import json
import random
from concurrent.futures import Executor, Future
from contextlib import nullcontext

import pytest

from opendt.engine.experiment import run_scenario
from opendt.formats.opendc_topology import read_topology
from opendt.formats.parquet import write_table
from opendt.model.errors import EngineError, FormatError
from opendt.model.options import Options
from opendt.optimization.sweep_journal import Journal
from opendt.optimization.sweep_run import TOTALS, Backend, SweepError, local_threads, open_sweep, simulate_row
from tests import small
from tests.unit.optimization.sweep_plant import run, write_spec

BODY = (
    "options: {scaling_policy: perfect}\n"
    "grid: {host_ratio: [0.5, 1], allocation: [Mem, Random]}\n"
    "sample: {count: 3, axes: {core_speed_ratio: {uniform: [0.5, 1]}}}\n"
    "seeds: 2\n"
)


class LateExecutor(Executor):
    """Holds jobs back, and for each that comes ends one of them at random; all once it has the last one."""

    def __init__(self, hold, total):
        self.hold, self.left, self.random, self.jobs = hold, total, random.Random(3), []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.jobs.append((future, fn, args))
        self.left -= 1
        while self.jobs and (len(self.jobs) == self.hold or not self.left):
            late, work, given = self.jobs.pop(self.random.randrange(len(self.jobs)))
            late.set_result(work(*given))
        return future


def bytes_of(table, path):
    write_table(table, path)
    return path.read_bytes()


def failing(after, error):
    """A simulation that fails from a number of rows on."""
    done = []

    def simulate(job):
        if len(done) == after:
            raise error
        done.append(job)
        return simulate_row(job)

    return simulate


def one_thread(simulate):
    class Now(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            try:
                future.set_result(fn(*args))
            except BaseException as error:  # noqa: BLE001 - as executors do
                future.set_exception(error)
            return future

    return nullcontext(Backend(Now(), 1, simulate))


def test_a_row_is_one_simulation_of_its_configuration(tmp_path):
    path = write_spec(tmp_path, "grid: {hosts.H01.count: [1, 2]}\nseeds: [4]\n")
    table = run(path, tmp_path / "j", local_threads(1)).to_pylist()
    from opendt._engine import read_workload

    workload = read_workload(tmp_path / "workload")
    expected = run_scenario(
        read_topology(tmp_path / "topology.json"), Options(seed=4), workload, None, files={}, interval_ms=300_000
    )
    assert {name: table[1][name] for name in TOTALS} == {name: expected[name] for name in TOTALS}
    assert [row["hosts.H01.count"] for row in table] == [1, 2]
    assert table[0]["makespan_ms"] > table[1]["makespan_ms"]


def test_rows_stand_in_the_order_of_the_spec_whatever_ends_first(tmp_path):
    path = write_spec(tmp_path, BODY)
    ended = []
    late = nullcontext(Backend(LateExecutor(6, 24), 6, simulate_row))
    shuffled = run(path, tmp_path / "a", late, ended.append)
    assert ended != sorted(ended)
    lines = (tmp_path / "a").read_text().splitlines()[1:]
    assert [json.loads(line)["row"] for line in lines] == ended
    ordered = run(path, tmp_path / "b", local_threads(2))
    assert shuffled.column("row").to_pylist() == list(range(24))
    assert bytes_of(shuffled, tmp_path / "a.parquet") == bytes_of(ordered, tmp_path / "b.parquet")


def test_a_sweep_that_was_stopped_goes_on_where_it_was(tmp_path):
    path = write_spec(tmp_path, BODY)
    journal = tmp_path / "j"
    with pytest.raises(KeyboardInterrupt):
        run(path, journal, one_thread(failing(10, KeyboardInterrupt())))
    assert len(journal.read_text().splitlines()) == 11
    ended = []
    table = run(path, journal, local_threads(2), ended.append)
    assert sorted(ended) == list(range(10, 24))
    whole = run(path, tmp_path / "other", local_threads(2))
    assert bytes_of(table, tmp_path / "a.parquet") == bytes_of(whole, tmp_path / "b.parquet")
    assert run(path, journal, one_thread(failing(0, AssertionError("nothing was left")))).equals(whole)


def test_a_row_that_fails_is_named_and_the_others_are_kept(tmp_path):
    path = write_spec(tmp_path, BODY)
    error = EngineError("task 1", "no host", "one")
    with pytest.raises(SweepError, match=r"row 2 \(host_ratio 0.5, .*; seed 0\): task 1: found no host"):
        run(path, tmp_path / "j", one_thread(failing(2, error)))
    assert len((tmp_path / "j").read_text().splitlines()) == 3


def test_an_executor_that_fails_is_told_in_its_words(tmp_path):
    path = write_spec(tmp_path, BODY)
    with one_thread(failing(1, MemoryError())) as made:
        explained = Backend(made.executor, 1, made.simulate, lambda error: f"out of {type(error).__name__}")
    with pytest.raises(SweepError, match=r"row 1 .*: out of MemoryError"):
        run(path, tmp_path / "j", nullcontext(explained))
    with pytest.raises(ZeroDivisionError):  # a defect stays one
        run(path, tmp_path / "k", one_thread(failing(1, ZeroDivisionError())))


def test_a_half_written_line_is_dropped(tmp_path):
    path, journal = write_spec(tmp_path, BODY), tmp_path / "j"
    whole = run(path, journal, local_threads(1))
    text = journal.read_bytes()
    journal.write_bytes(text[:-20])
    ended = []
    assert run(path, journal, local_threads(1), ended.append).equals(whole)
    assert ended == [23]
    assert journal.read_bytes() == text


def test_a_damaged_journal_is_refused_with_its_line(tmp_path):
    path, journal = write_spec(tmp_path, BODY), tmp_path / "j"
    run(path, journal, local_threads(1))
    lines = journal.read_bytes().splitlines(keepends=True)
    for damaged in (b"{\n", b"[]\n", b'{"row":99,"totals":{}}\n'):
        journal.write_bytes(b"".join([*lines[:3], damaged, *lines[4:]]))
        with pytest.raises(FormatError, match=r"j: line 4: .*--force"):
            run(path, journal, local_threads(1))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda folder: write_spec(folder, BODY.replace("count: 3", "count: 4")), r"spec.sample.count 3 \(now 4\)"),
        (
            lambda folder: write_spec(folder, BODY.replace("[0.5, 1], all", "[0.5, 2], all")),
            r"spec.grid.host_ratio \[0.5, 1\] \(now \[0.5, 2\]\)",
        ),
        (
            lambda folder: small.write_json(folder / "topology.json", small.topology(count=3)),
            r"inputs.topologies.topology.json",
        ),
        (
            lambda folder: small.write_workload(folder / "workload", small.tasks(cpu_count=[4, 4, 2])),
            r"inputs.workloads.workload",
        ),
    ],
)
def test_another_sweep_is_refused_naming_what_differs(tmp_path, change, place):
    path, journal = write_spec(tmp_path, BODY), tmp_path / "j"
    run(path, journal, local_threads(1))
    kept = journal.read_bytes()
    change(tmp_path)
    with pytest.raises(FormatError, match=f"rows of another sweep: {place}"):
        run(path, journal, local_threads(1))
    assert journal.read_bytes() == kept


def test_two_sweeps_do_not_write_one_journal(tmp_path):
    sweep = open_sweep(write_spec(tmp_path, BODY))
    with (
        Journal(tmp_path / "j", sweep.identity, 24),
        pytest.raises(FormatError, match="in use by another process"),
    ):
        Journal(tmp_path / "j", sweep.identity, 24)
    Journal(tmp_path / "j", sweep.identity, 24).__exit__(None, None, None)


def test_a_worker_refuses_another_engine_and_another_workload(tmp_path):
    from dataclasses import replace

    sweep = open_sweep(write_spec(tmp_path, BODY))
    job = sweep.job(sweep.rows[0])
    with pytest.raises(EngineError, match=r"engine of the worker: found .*, expected version 9"):
        simulate_row(replace(job, engine="9"))
    with pytest.raises(EngineError, match="expected content 000"):
        simulate_row(replace(job, workload_hash="0" * 64))
    with pytest.raises(EngineError, match="need the same folder at the same path"):
        simulate_row(replace(job, workload_path=str(tmp_path / "none")))


def test_what_is_wrong_with_a_row_names_the_spec(tmp_path):
    with pytest.raises(FormatError, match=r"sweep.yaml: row 1: host_ratio: found -1"):
        open_sweep(write_spec(tmp_path, "grid: {host_ratio: [1, -1]}\n"))


def test_slower_hosts_that_drop_work_are_warned_of(tmp_path):
    body = "grid: {core_speed_ratio: [0.5, 1]}\n"
    assert "no_delay" in "".join(open_sweep(write_spec(tmp_path, body)).warnings)
    assert open_sweep(write_spec(tmp_path, "options: {scaling_policy: perfect}\n" + body)).warnings == ()


def test_columns_have_the_type_of_their_axis_and_the_resolved_configuration(tmp_path):
    power = "{type: constant, power_w: 5.0}"
    body = f"grid: {{host_ratio: [1, 1.5], options.failed_hosts_draw_idle: [true], power_model: [linear, {power}]}}\n"
    table = run(write_spec(tmp_path, body), tmp_path / "j", local_threads(1))
    types = [str(table.schema.field(name).type) for name in ("host_ratio", "options.failed_hosts_draw_idle", "seed")]
    assert types == ["double", "bool", "uint64"]
    assert table.column("power_model").to_pylist()[1] == '{"power_w": 5.0, "type": "constant"}'
    found = json.loads(table.column("configuration")[3].as_py())
    assert found["topology"]["clusters"][0]["hosts"][0]["count"] == 3
    assert found["options"]["scaling_policy"] == "no_delay"
    assert found["workload"]["path"] == "workload"

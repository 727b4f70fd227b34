"""A file says which process is there for as long as it is, and is known as left behind afterwards."""

from __future__ import annotations

import os

from opendt.orchestrator.pid_file import PID_FILE, pid_file, pid_files, remove_stale


def test_it_is_held_within_and_gone_afterwards(tmp_path):
    with pid_file(tmp_path) as path:
        assert path == tmp_path / PID_FILE
        (found,) = pid_files(tmp_path)
        assert (found.pid, found.is_held, found.path) == (os.getpid(), True, path)
        assert not remove_stale(found)
        assert path.exists()
    assert pid_files(tmp_path) == []


def test_a_file_left_behind_is_told_from_one_in_use_and_taken_over(tmp_path):
    (tmp_path / PID_FILE).write_text(f"{os.getpid()}\n")  # a number that is another process's by now
    (stale,) = pid_files(tmp_path)
    assert (stale.pid, stale.is_held) == (os.getpid(), False)
    with pid_file(tmp_path) as path:
        assert path == tmp_path / PID_FILE
        assert not remove_stale(stale)
    (tmp_path / PID_FILE).write_text("1\n")
    assert remove_stale(pid_files(tmp_path)[0])
    assert pid_files(tmp_path) == []


def test_a_second_process_has_a_file_of_its_own(tmp_path):
    with pid_file(tmp_path), pid_file(tmp_path) as second:
        assert second == tmp_path / f"opendt-{os.getpid()}.pid"
        assert [one.is_held for one in pid_files(tmp_path)] == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_number_names_nobody(tmp_path):
    (tmp_path / PID_FILE).write_text("rm -rf\n")
    (found,) = pid_files(tmp_path)
    assert (found.pid, found.is_opendt) == (None, False)
    assert pid_files(tmp_path / "nowhere") == []

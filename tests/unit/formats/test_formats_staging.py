"""Results appear whole or not at all."""

from __future__ import annotations

import pytest

from opendt.formats.staging import staged_file, staged_folder
from opendt.model import FormatError


class StopError(Exception):
    pass


def test_a_folder_appears_with_those_above_it(tmp_path):
    with staged_folder(tmp_path / "a" / "b", ["x"]) as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def write_and_fail(target):
    with staged_folder(target, ["x"]) as folder:
        (folder / "x").write_text("1")
        raise StopError


def test_nothing_stays_of_a_folder_that_failed(tmp_path):
    with pytest.raises(StopError):
        write_and_fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_other_files_of_a_folder_stay_and_named_ones_only_go_when_forced(tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "y").write_text("mine")
    with pytest.raises(FormatError, match=r"x: found an existing file"), staged_folder(tmp_path, ["x"]):
        pytest.fail("entered")
    with staged_folder(tmp_path, ["x"], force=True) as folder:
        (folder / "x").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "new", "y": "mine"}


def test_a_file(tmp_path):
    target = tmp_path / "deep" / "t.json"
    with staged_file(target) as file:
        file.write_text("1")
    with pytest.raises(FormatError, match="an existing file"), staged_file(target):
        pytest.fail("entered")
    with staged_file(target, force=True) as file:
        file.write_text("2")
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [("t.json", "2")]
    with pytest.raises(FormatError, match="a folder"), staged_file(tmp_path):
        pytest.fail("entered")

"""The outermost border: words, exit codes, nothing imported in vain."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import click
import pytest

from opendt.cli import main as cli
from opendt.cli.lazy import LazyGroup
from opendt.model.errors import OpenDTError

FACE = [sys.executable, "-m", "opendt"]


@pytest.fixture
def group_of(monkeypatch):
    """Replace the command line by a group with one command, ``it``, that runs a function."""

    def replace(function):
        group = click.Group("opendt", commands=[click.Command("it", callback=function)])
        monkeypatch.setattr(cli, "group", group)

    return replace


def raiser(error):
    def function():
        raise error

    return function


def test_help_lists_every_command_with_its_summary(capsys):
    assert cli.run(["--help"]) == cli.EXIT_DONE
    shown = capsys.readouterr().out
    for name, summary in cli.SUMMARIES.items():
        assert f"  {name}" in shown
        assert summary in shown
    for code, meaning in cli.EXIT_CODES.items():
        assert f"{code} " in shown
        assert meaning in shown


@pytest.mark.parametrize("name", cli.SUMMARIES)
def test_every_listed_command_has_help(name, capsys):
    assert cli.run([name, "--help"]) == cli.EXIT_DONE
    assert capsys.readouterr().out.startswith(f"Usage: opendt {name} ")


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], []])
def test_a_wrong_command_line_is_2_with_words_on_stderr(arguments, capsys):
    assert cli.run(arguments) == cli.EXIT_USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Usage: opendt" in shown.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OpenDTError("topology.json: clusters[0].hosts: empty; expected one host or more"),
            "topology.json: clusters[0]",
        ),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "week.parquet"), "week.parquet"),
    ],
)
def test_bad_input_is_1_and_one_message(error, words, group_of, capsys):
    group_of(raiser(error))
    assert cli.run(["it"]) == cli.EXIT_FAILED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_a_defect_is_70_and_shows_where(group_of, capsys):
    group_of(raiser(ZeroDivisionError("a slip")))
    assert cli.run(["it"]) == cli.EXIT_DEFECT
    shown = capsys.readouterr()
    assert "Traceback" in shown.err
    assert "ZeroDivisionError: a slip" in shown.err


def test_ctrl_c_is_130_without_a_traceback(group_of, capsys):
    group_of(lambda: signal.raise_signal(signal.SIGINT))
    assert cli.run(["it"]) == cli.EXIT_INTERRUPTED
    shown = capsys.readouterr()
    assert shown.err.strip() == "interrupted"


def test_a_command_may_choose_its_exit_code(group_of):
    group_of(lambda: click.get_current_context().exit(3))
    assert cli.run(["it"]) == 3


def test_what_a_command_returns_is_no_exit_code_unless_it_exits(group_of):
    group_of(lambda: "a summary")
    assert cli.run(["it"]) == cli.EXIT_DONE


def test_a_closed_pipe_is_1_without_words():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [*FACE, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=50, check=False
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (cli.EXIT_FAILED, "")


def test_version_is_that_of_the_package():
    shown = subprocess.run([*FACE, "--version"], capture_output=True, text=True, timeout=50, check=True).stdout
    from opendt import __version__

    assert shown == f"opendt {__version__}\n"


def test_a_module_without_a_command_is_named(monkeypatch):
    group = LazyGroup(name="x", package="opendt.cli", summaries={"lazy": "no command here"})
    monkeypatch.setattr("opendt.cli.lazy.command", "text", raising=False)
    with pytest.raises(TypeError, match=r"opendt\.cli\.lazy\.command is a str"):
        group.get_command(click.Context(group), "lazy")

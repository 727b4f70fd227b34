"""The help of every command, word by word: what is promised there changes only on purpose.

To accept a change, run ``OPENDT_ACCEPT=1 pytest tests/unit/cli/test_cli_help.py`` and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from opendt.cli.main import SUMMARIES, group

SHOWN = Path(__file__).parent / "help"


@pytest.mark.parametrize("name", ["opendt", *SUMMARIES])
def test_help_is_what_it_was(name):
    top = click.Context(group, info_name="opendt", terminal_width=100, **group.context_settings)
    if name == "opendt":
        text = group.get_help(top)
    else:
        command = group.get_command(top, name)
        text = command.get_help(click.Context(command, info_name=name, parent=top, terminal_width=100))
    file = SHOWN / f"{name}.txt"
    if os.environ.get("OPENDT_ACCEPT") == "1":
        file.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == file.read_text(encoding="utf-8")

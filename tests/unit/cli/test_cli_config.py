"""`opendt config show` tells each setting with its source, in words or as JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from opendt.cli.main import group, run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "live.toml"
    path.write_text('seed = 7\n[openai]\napi_key = "rosebud"\n')
    return path


def test_words(file, monkeypatch):
    monkeypatch.setenv("OPENDT_FUTURES", "3")
    shown = CliRunner().invoke(group, ["config", "show", "--config", str(file)], catch_exceptions=False).stdout
    words = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()}
    assert words["seed"].split(maxsplit=1) == ["7", str(file)]
    assert words["futures"].split(maxsplit=1) == ["3", "environment OPENDT_FUTURES"]
    assert words["openai.api_key"].startswith("set (hidden)")
    assert "rosebud" not in shown


def test_json(file):
    shown = (
        CliRunner().invoke(group, ["config", "show", "--config", str(file), "--json"], catch_exceptions=False).stdout
    )
    assert {"key": "seed", "value": "7", "source": str(file)} in json.loads(shown)


def test_a_wrong_file_ends_with_one_line(tmp_path, capsys):
    bad = tmp_path / "bad.toml"
    bad.write_text("sead = 1")
    assert run(["config", "show", "--config", str(bad)]) == 1
    assert capsys.readouterr().err == (
        f"Error: {bad}: sead: found an unknown setting, expected a known one. The nearest is seed.\n"
    )

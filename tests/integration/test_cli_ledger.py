"""``opendt ledger`` as a person runs it."""

from __future__ import annotations

import io
import json
import sqlite3

import pytest

from opendt.verification.ledger import Ledger
from tests.command import opendt
from tests.unit.verification.ledger_sample import fill


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        fill(ledger, 13)
        fill(ledger, 2, "other")
    return path


def test_export_goes_to_stdout_or_a_file(file, tmp_path):
    expected = io.BytesIO()
    with Ledger.open(file) as ledger:
        ledger.export(expected)
    shown = opendt("ledger", "export", "--ledger", file)
    assert (shown.returncode, shown.stdout.encode(), shown.stderr) == (0, expected.getvalue(), "")
    target = tmp_path / "out.jsonl"
    written = opendt("ledger", "export", "--ledger", f"sqlite:///{file}", "-o", target)
    assert (written.returncode, written.stdout) == (0, "")
    assert target.read_bytes() == expected.getvalue()
    assert f"{len(expected.getvalue().splitlines())} lines" in written.stderr
    assert opendt("ledger", "export", "--ledger", file, "-o", target).returncode == 1
    one = opendt("ledger", "export", "--ledger", file, "--datacenter", "other")
    assert {json.loads(line)["content"]["window"]["datacenter"] for line in one.stdout.splitlines()[3:5]} == {"other"}


def test_verify_says_what_does_not_match(file):
    good = opendt("ledger", "verify", "--ledger", file)
    assert (good.returncode, good.stdout) == (0, f"ok  {file}: 2 datacenters, every hash as recorded\n")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE windows SET score = 0 WHERE window_index = 7")
    connection.close()
    bad = opendt("ledger", "verify", "--ledger", file)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "Error: datacenter surf: window 7: not what was recorded: window\n" in bad.stderr
    problems = json.loads(opendt("ledger", "verify", "--ledger", file, "--json").stdout)["problems"]
    assert {(row["datacenter"], row["place"]) for row in problems} == {("surf", "window 7")}


def test_info_describes_every_datacenter(file):
    words = opendt("ledger", "info", "--ledger", file).stdout
    assert "surf: 13 windows, 1.08 h" in words
    found = json.loads(opendt("ledger", "info", "--ledger", file, "--json").stdout)
    assert [row["datacenter"] for row in found["datacenters"]] == ["other", "surf"]
    assert found["datacenters"][1]["last_window"]["index"] == 12
    assert found["datacenters"][1]["rows"]["predictions"] == 15


def test_the_ledger_of_the_settings_is_meant_unless_another_is_named(file, tmp_path, monkeypatch):
    (tmp_path / "opendt.toml").write_text(f'ledger_url = "sqlite:///{file}"\n')
    assert "surf: 13 windows" in opendt("ledger", "info", "--config", tmp_path / "opendt.toml").stdout
    monkeypatch.setenv("OPENDT_LEDGER_URL", f"sqlite:///{file}")
    assert "surf: 13 windows" in opendt("ledger", "info").stdout
    monkeypatch.delenv("OPENDT_LEDGER_URL")
    nothing = opendt("ledger", "info", cwd=tmp_path / "..")
    assert nothing.returncode == 1
    assert "no such file, expected a ledger" in nothing.stderr


def test_what_is_not_there_is_said(file):
    nobody = opendt("ledger", "export", "--ledger", file, "--datacenter", "nobody")
    assert nobody.returncode == 1
    assert "datacenter nobody is not in the ledger, expected one of other, surf" in nobody.stderr

"""Rules of the project that no linter knows."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import opendt
from opendt.cli.main import SUMMARIES

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "pyarrow", "pydantic", "rich", "opendt._engine")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def tracked_texts() -> list[tuple[str, str]]:
    texts = []
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" not in data:
            texts.append((str(path.relative_to(ROOT)), data.decode("utf-8")))
    return texts


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for name, text in tracked_texts():
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    return found


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, timeout=50
    ).stdout


def test_no_file_names_a_package_registry():
    # Spelled in pieces, or this file would be the first to be found.
    hosts = [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("crates", r"io(?!-index)"),  # Cargo.lock names the index by its id, which is no address
        ("registry.npmjs", "org"),
        ("repo.maven", ""),
        ("repo1.maven", ""),
        ("proxy.golang", "org"),
        ("deb.debian", "org"),
    ]
    assert lines_with(re.compile("|".join(rf"\b{re.escape(name)}\.{end}" for name, end in hosts))) == []


def test_no_file_names_a_path_of_one_machine():
    assert lines_with(re.compile(r"(?<![\w./-])/(work|root|home/\w+)/")) == []


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_locks_pin_every_package_with_a_hash(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^#.*\n", "", text).strip())
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def test_the_package_and_the_crates_have_one_version():
    with (ROOT / "Cargo.toml").open("rb") as file:
        assert tomllib.load(file)["workspace"]["package"]["version"] == opendt.__version__


def test_every_module_imports():
    names = [
        module.name for module in pkgutil.walk_packages(opendt.__path__, "opendt.") if "__main__" not in module.name
    ]
    for name in names:
        importlib.import_module(name)
    assert "opendt.cli.main" in names


@pytest.mark.parametrize(
    "statement",
    ["import opendt", "import opendt.cli.main", "from opendt.cli.main import run; run(['--help'])"],
)
def test_the_face_imports_nothing_heavy(statement):
    loaded = (
        run_python(f"import sys; {statement}; print('loaded', *sorted(sys.modules))").rsplit("loaded", 1)[1].split()
    )
    assert set(HEAVY).isdisjoint(loaded)


@pytest.mark.parametrize("command", SUMMARIES)
def test_a_command_imports_columns_only_when_it_runs(command):
    loaded = run_python(f"import sys, opendt.cli.{command.replace('-', '_')}; print(*sys.modules)").split()
    assert {"numpy", "pyarrow"}.isdisjoint(loaded)


def test_every_public_name_resolves():
    assert [name for name in opendt.__all__ if not hasattr(opendt, name)] == []


def test_only_the_command_line_and_its_screens_print():
    """What the layers below have to say they return, raise or log."""
    offenders = []
    for path in sorted((ROOT / "src/opendt").rglob("*.py")):
        if "cli" in path.relative_to(ROOT / "src/opendt").parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            offenders += [
                f"{path.relative_to(ROOT)}: {name}" for name in modules if name.split(".")[0] in {"click", "rich"}
            ]
    assert offenders == []

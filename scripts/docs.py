"""Write the generated pages of the documentation and check every link.

    python scripts/docs.py           write what has changed, check links
    python scripts/docs.py --check   write nothing; a page that would change is an error

Pages under docs/reference that carry the mark below come from the program itself and cannot differ from it, from the mark on.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

from opendt.cli.main import SUMMARIES, group

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- Written by `make docs`; edit the program instead. -->"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


def commands_page() -> str:
    """Return docs/reference/commands.md: the help of every command."""
    context = click.Context(group, info_name="opendt", terminal_width=100, **group.context_settings)
    parts = ["# Commands", MARK, "Data goes to stdout, words to stderr.", _fenced(group.get_help(context))]
    for name in SUMMARIES:
        command = group.get_command(context, name)
        assert command is not None
        child = click.Context(command, info_name=name, parent=context, terminal_width=100)
        parts += [f"## opendt {name}", _fenced(command.get_help(child))]
        if isinstance(command, click.Group):
            parts += _subcommands(command, child)
    return "\n\n".join(parts) + "\n"


def _subcommands(group: click.Group, context: click.Context) -> list[str]:
    parts = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        child = click.Context(command, info_name=name, parent=context, terminal_width=100)
        parts += [f"### {context.command_path} {name}", _fenced(command.get_help(child))]
    return parts


def topics_page() -> str:
    """Return docs/reference/topics.md: what is written by hand above the mark, below it every message from its model."""
    from opendt.telemetry.message_schemas import topics_tables

    by_hand = (ROOT / TOPICS).read_text(encoding="utf-8").partition(MARK)[0]
    return f"{by_hand}{MARK}\n\n{topics_tables()}"


def topics_schema() -> str:
    """Return docs/reference/topics.schema.json."""
    from opendt.telemetry.message_schemas import topics_schema as schema

    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


TOPICS = "docs/reference/topics.md"
PAGES = {
    "docs/reference/commands.md": commands_page,
    TOPICS: topics_page,
    "docs/reference/topics.schema.json": topics_schema,
}


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def write_pages(check: bool) -> list[str]:
    """Write each generated page that differs; with ``check``, return a complaint about it instead."""
    complaints = []
    for name, render in PAGES.items():
        path, text = ROOT / name, render()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            complaints.append(f"{name}: differs from what the program says; run: make docs")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        click.echo(f"wrote {name}")
    return complaints


def check_links() -> list[str]:
    """Return a complaint for each relative link whose file or heading does not exist."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    complaints = []
    for name in filter(None, listed.split("\0")):
        page = ROOT / name
        for line, target in _links(page):
            problem = _problem(page, target)
            if problem:
                complaints.append(f"{name}:{line}: {target}: {problem}")
    return complaints


def _links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, target) of each link outside code."""
    for number, line in _prose(page):
        for match in LINK.finditer(re.sub(r"`[^`]*`", "", line)):
            yield number, match.group(1)


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _problem(page: Path, target: str) -> str | None:
    if re.match(r"[a-z]+:", target):
        return None  # another site, which a test without a network cannot see
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return "no such file"
    if anchor and path.suffix == ".md" and anchor not in _anchors(path):
        return "no such heading"
    return None


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, formed as code hosts form them."""
    headings = (line.lstrip("#").strip() for _, line in _prose(page) if re.match(r"#{1,6} ", line))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def main(arguments: list[str]) -> int:
    """Run both and return the exit code."""
    complaints = write_pages(check="--check" in arguments) + check_links()
    for complaint in complaints:
        click.echo(complaint, err=True)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

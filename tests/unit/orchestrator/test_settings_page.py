"""The guide lists every setting as the program has it.

To accept a change, run ``OPENDT_ACCEPT=1 pytest tests/unit/orchestrator/test_settings_page.py`` and read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from opendt.orchestrator.settings import DatacenterSettings, Settings, known_keys

PAGE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "configuration.md"
TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- end -->)", re.DOTALL)


def field_of(key):
    model = Settings
    *sections, name = key.split(".")
    if sections[:1] == ["datacenter"]:
        return DatacenterSettings.model_fields[name]
    for section in sections:
        model = model.model_fields[section].annotation
    return model.model_fields[name]


def row(key):
    field = field_of(key)
    default = "" if field.is_required() or field.default in (None, {}) else f"`{field.default}`"
    return f"| `{key}` | {default} | {field.description} |"


def test_the_guide_lists_every_setting():
    table = "\n".join(["| key | default | what |", "|---|---|---|", *map(row, known_keys())]) + "\n"
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("OPENDT_ACCEPT") == "1":
        PAGE.write_text(TABLE.sub(lambda _: table, text), encoding="utf-8")
        text = PAGE.read_text(encoding="utf-8")
    assert TABLE.findall(text) == [table]

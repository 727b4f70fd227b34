"""The guide lists every setting as the program has it.

To accept a change, run ``OPENDT_ACCEPT=1 pytest tests/unit/orchestrator/test_settings_page.py`` and read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from opendt.orchestrator.settings import DatacenterSettings, Settings, known_keys, load_settings

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


def test_the_example_of_the_guide_is_read_as_it_says(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    file = tmp_path / "opendt.toml"
    file.write_text(example)
    settings = load_settings(file, {}, {"OPENDT_KAFKA__PASSWORD": "x", "OPENDT_DATACENTER__SURF__SLO": "slo.json"})
    assert settings.datacenter["surf"].topology == tmp_path / "surf" / "topology.json"
    assert str(settings.datacenter["surf"].slo) == "slo.json"
    assert settings.kafka.client_settings()["sasl.password"] == "x"
    assert settings.kafka.client_settings()["sasl.username"] == "opendt"

"""JSON Schemas of all topics, and the page that explains them: both made from the models, so that they cannot differ from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from opendt.telemetry import message_models as models
from opendt.telemetry.messages import (
    CONFIG,
    DEAD_LETTERS,
    FRAGMENTS,
    POWER,
    PROPOSALS,
    RESULTS,
    SIM_TOPOLOGY,
    TASKS,
    TOPOLOGY,
    WORKLOAD,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["TOPIC_MODELS", "topics_schema", "topics_tables"]

TOPIC_MODELS: Final[dict[str, tuple[type[BaseModel], ...]]] = {
    WORKLOAD: (models.TaskMessage, models.PartsMessage, models.HeartbeatMessage),
    POWER: (models.PowerMessage, models.HeartbeatMessage),
    TOPOLOGY: (models.TopologyMessage,),
    SIM_TOPOLOGY: (models.TopologyMessage,),
    RESULTS: (models.ResultMessage,),
    PROPOSALS: (models.ProposalMessage,),
    CONFIG: (models.SettingMessage,),
    DEAD_LETTERS: (models.DeadLetterMessage, models.RetriedMessage),
    TASKS: (models.OlderTaskMessage, models.HeartbeatMessage),
    FRAGMENTS: (models.OlderFragmentMessage, models.FragmentBatchMessage, models.HeartbeatMessage),
}
"""Topic -> what a message of it may be."""


def topics_schema() -> dict[str, Any]:
    """Return one JSON Schema with a definition for each message, and for each topic which of them it carries."""
    every = list(dict.fromkeys(model for some in TOPIC_MODELS.values() for model in some))
    places, schema = models_json_schema([(model, "validation") for model in every], ref_template="#/$defs/{model}")
    topics = {}
    for topic, some in TOPIC_MODELS.items():
        forms = [places[model, "validation"] for model in some]
        if topic == FRAGMENTS:
            forms.insert(1, {"type": "array", "items": places[models.OlderFragmentMessage, "validation"]})
        topics[topic] = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Messages of OpenDT's topics",
        "description": "properties holds the schema of each topic's messages under the topic's name.",
        "properties": topics,
        "$defs": schema["$defs"],
    }


def topics_tables() -> str:
    """Return the part of the page that lists every message with its keys, as Markdown."""
    definitions = topics_schema()["$defs"]
    parts = []
    shown: set[str] = set()
    for topic, some in TOPIC_MODELS.items():
        parts.append(f"## {topic}")
        for model in some:
            if model is models.HeartbeatMessage and topic != WORKLOAD:
                parts.append("Or a heartbeat, as on `dc.workload`.")
                continue
            if model is models.TopologyMessage and topic == SIM_TOPOLOGY:
                parts.append("As `dc.topology`.")
                continue
            parts += _section(model.__name__, definitions, shown)
    return "\n\n".join(parts) + "\n"


def _section(name: str, definitions: dict[str, Any], shown: set[str]) -> list[str]:
    """A message, then what it is made of, each once."""
    if name in shown:
        return []
    shown.add(name)
    definition = definitions[name]
    required = definition.get("required", ())
    rows = ["| key | type | | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for key, schema in definition.get("properties", {}).items():
        need = "required" if key in required else ""
        meaning = schema.get("description", "")
        rows.append(f"| `{key}` | {_type(schema, inner)} | {need} | {meaning} |")
    parts = [
        f"### {name.removesuffix('Message')}",
        " ".join(definition.get("description", "").split()),
        "\n".join(rows),
    ]
    for other in inner:
        parts += _section(other, definitions, shown)
    return parts


def _type(schema: dict[str, Any], inner: list[str]) -> str:
    """Say a type in a word; names of other definitions are noted."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        if name == "JsonValue":
            return "any"
        inner.append(name)
        return name.removesuffix("Message")
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        kinds = dict.fromkeys(_type(one, inner) for one in schema["anyOf"])
        return " or ".join(kinds)
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), inner)}"
    return {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(str(kind), str(kind))

"""Writes the reference page of the configuration from the schema: ``python -m gateway.reference > PAGE``.

Decides only how the page looks; a test compares it with the page in ``docs/reference/``, so the two cannot part.
"""

import sys
from typing import Any

from gateway.app import configuration

_HEAD = """\
# Configuration reference

Every key of `tollway.yaml`. Made from the schema (`python -m gateway.reference`): change it there.

A key that is not listed here is an error, which names the file, the line and the nearest valid spelling. `NAME` stands
for a name of your choice. Prices are in USD per 1M tokens, times in seconds or milliseconds as their names say.
"""

_WORDS = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


def render() -> str:
    """Return the whole page as Markdown: one table for each section, in the order of the schema."""
    schema = configuration().model_json_schema()
    pages = [_HEAD]
    _section("", schema, schema.get("$defs", {}), pages)
    return "\n".join(pages)


def _section(path: str, section: dict[str, Any], definitions: dict[str, Any], pages: list[str]) -> None:
    """Append one section's table, then the sections inside it."""
    title, description = f"`{path}`" if path else "Top level", section.get("description", "")
    required = set(section.get("required", ()))
    lines = [f"## {title}\n", f"{description}\n", "| key | value | default | meaning |", "|---|---|---|---|"]
    inner: list[tuple[str, dict[str, Any]]] = []
    for name, field in section["properties"].items():
        suffix, definition = _nested(field, definitions)
        here = f"{path}.{name}" if path else name
        if definition is not None and definition["properties"]:
            inner.append((here + suffix, definition))
        default = "required" if name in required else _default(field)
        # pydantic leaves a description out where it is the nested section's own.
        meaning = field.get("description") or (definition or {})["description"]
        lines.append(f"| `{name}` | {_kind(field, definitions)} | {default} | {meaning} |")
    pages.append("\n".join(lines) + "\n")
    for here, definition in inner:
        _section(here, definition, definitions, pages)


def _nested(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Find the section that a field holds, and what leads to it: nothing, ``.NAME`` or ``[]``."""
    for part in field.get("anyOf", [field]):
        if "$ref" in part:
            return "", definitions[part["$ref"].rsplit("/", 1)[-1]]
        for holder, suffix in (("additionalProperties", ".NAME"), ("patternProperties", ".NAME"), ("items", "[]")):
            held = part.get(holder)
            if holder == "patternProperties" and held:
                held = next(iter(held.values()))
            if isinstance(held, dict) and "$ref" in held:
                return suffix, definitions[held["$ref"].rsplit("/", 1)[-1]]
    return "", None


def _kind(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    parts = [part for part in field.get("anyOf", [field]) if part.get("type") != "null" and "pattern" not in part]
    words = list(dict.fromkeys(_word(part, definitions) for part in parts))
    return " or ".join(words) or "text"


def _word(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in part:
        definition = definitions[part["$ref"].rsplit("/", 1)[-1]]
        if definition.get("maxProperties") != 1:
            return "section" if definition["properties"] else "no options"
        part = {"enum": list(definition["properties"])}  # one of several parts, by its name
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"list of {_word(part['items'], definitions)}"
    if part.get("type") == "object":
        return "mapping"
    return _WORDS.get(part.get("type", ""), "text")


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if isinstance(value, dict) or value in (None, "", []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(render())

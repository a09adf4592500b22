"""Writes the reference page of the ``workers:`` section from its schema: ``python -m workers.config.reference > PAGE``.

A test compares it with ``docs/reference/workers.md``, so that the two cannot part.
"""

import sys
from collections.abc import Iterator
from typing import Any

from workers.config.spec import ModelSpec

_HEAD = """\
# The `workers:` section

Every key of a model under `workers:` in `tollway.yaml`. Made from the schema (`python -m workers.config.reference`):
change it there. How they work together is in the [guide](../guide/workers.md).

The key above them, `NAME`, is the name that the model is called by; a mistake is told with file, line and the nearest
right spelling. Sizes are written `512MiB` or `1GiB`.
"""
_KINDS = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "object": "mapping"}


def render() -> str:
    """Return the whole page as Markdown: a table for the model, then one for each section inside it."""
    schema = ModelSpec.model_json_schema()
    return "\n".join([_HEAD, *_tables("workers.NAME", schema, schema["$defs"])])


def _tables(path: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    inner = []
    rows = [
        f"## `{path}`\n",
        section["description"].replace("``", "`") + "\n",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in section["properties"].items():
        parts = [part for part in field.get("anyOf", [field]) if part.get("type") != "null"]
        found = [definitions[part["$ref"].rsplit("/", 1)[-1]] for part in parts if "$ref" in part]
        inner += [(f"{path}.{name}", nested) for nested in found]
        default = "required" if name in section.get("required", ()) else "" if found else _written(field.get("default"))
        kind = "section" if found else " or ".join(dict.fromkeys(_kind(part) for part in parts))
        rows.append(f"| `{name}` | {kind} | {default} | {field.get('description') or found[0]['description']} |")
    yield "\n".join(rows) + "\n"
    for here, nested in inner:
        yield from _tables(here, nested, definitions)


def _kind(part: dict[str, Any]) -> str:
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"list of {_kind(part['items'])}"
    # Only a size is text or a number.
    return "size" if "anyOf" in part else _KINDS.get(str(part.get("type")), "text")


def _written(value: object) -> str:
    return "" if value in (None, (), [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(render())

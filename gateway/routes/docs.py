"""Writes the page ``/docs``: the API as people read it, made from its OpenAPI document.

One page of HTML with its style inside: no script and nothing to load, so it works without the internet and under a
policy that allows neither.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; text-transform: capitalize; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .5rem 0; padding: .5rem .8rem; }
summary { cursor: pointer; }
code, pre { font: .9em/1.45 ui-monospace, monospace; }
pre { background: #8882; border-radius: .4rem; overflow-x: auto; padding: .6rem .8rem; }
.method { display: inline-block; font-weight: 700; min-width: 3.5rem; }
table { border-collapse: collapse; margin: .3rem 0 1rem; width: 100%; }
td, th { border-top: 1px solid #8886; padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top; }
"""


def docs_page(document: dict[str, Any]) -> str:
    """Return the HTML of an OpenAPI document, grouped by tag in the order of its paths."""
    info = document["info"]
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = next(iter(operation.get("tags", ())), "other")
            groups.setdefault(tag, []).append("".join(_operation(path, method, operation)))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in groups.items())
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{escape(info.get('summary', ''))}</p>"
        "<p>A key goes into the header <code>authorization: Bearer KEY</code>. "
        'The same for programs: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{sections}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    summary = operation.get("description") or operation.get("summary", "")
    yield f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method.upper()}</span> '
    yield f"<code>{escape(path)}</code> {escape(summary)}</summary>"
    body = operation.get("requestBody", {}).get("content", {})
    yield f"<pre>{escape(_command(path, body))}</pre>"
    for media_type, content in body.items():
        schema = content["schema"]
        required = schema.get("required", ())
        rows = [
            (name, _kind(member), "required" if name in required else "", member.get("description", ""))
            for name, member in schema.get("properties", {}).items()
        ]
        yield _table(f"Body: {media_type}", rows)
    for status, response in operation["responses"].items():
        if status == "422":
            continue  # FastAPI lists it for every parameter; no parameter here can be of a wrong type
        headers = [(name, header.get("description", "")) for name, header in response.get("headers", {}).items()]
        yield f"<p><b>{escape(status)}</b> {escape(response.get('description', ''))}</p>"
        if headers:
            yield _table("Headers", headers)
    yield "</details>"


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "any")
    return kind if isinstance(kind, str) else " or ".join(kind)


def _command(path: str, body: dict[str, Any]) -> str:
    """Write the call for a shell. The address is the reader's own to fill in."""
    lines = [f'curl "$TOLLWAY{path}"', '-H "authorization: Bearer $KEY"']
    for media_type, content in body.items():
        if media_type == "application/json":
            first = next(name for name in content["schema"]["required"] if name != "model")
            example = '[{"role": "user", "content": "Hello"}]' if first == "messages" else '"Hello"'
            lines += ["-H 'content-type: application/json'", f"""-d '{{"model": "auto", "{first}": {example}}}'"""]
        else:
            lines += ["-F model=auto", "-F file=@speech.wav"]
    return " \\\n  ".join(lines)


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    body = "".join(
        f"<tr><td><code>{escape(name)}</code></td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table><tr><th colspan=4>{escape(title)}</th></tr>{body}</table>"

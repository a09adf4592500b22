"""Follows a page of docs/extend as its reader would: copies the gateway, applies the page's code, and runs the result.

A page marks what to do with each of its code blocks by the paragraph above it, whatever else that says:

- ``**One file**, `gateway/.../name.py` ``: the block is written there;
- ``**One line** in `NAME` of `gateway/.../registry.py` ``: the block goes to the end of the list, dictionary or call
  behind that name (where it names an argument that is there, in its place); what it takes from the page's file is
  imported;
- a block of ``yaml``: the configuration to run, in which ``UPSTREAM`` stands for the scripted upstream's origin.
"""

import ast
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.ground.processes import Program, gateway_process
from tests.ground.upstream import ScriptedUpstream

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(?P<above>[^\n]+(?:\n[^\n]+)*)\n\n```(?P<kind>python|yaml)\n(?P<code>.*?)```", re.DOTALL)
_FILE = re.compile(r"\*\*One file\*\*, `(?P<path>[\w/]+\.py)`")
_LINE = re.compile(r"\*\*One line\*\*[^`]*`(?P<name>\w+)(?:\(\))?`[^`]*`(?P<path>[\w/]+\.py)`")


def follow(page: str, root: Path) -> str:
    """Do in the copy of the gateway at ``root`` what a page of docs/extend says; return the configuration it shows."""
    config, source, module = "", "", ""
    for block in _BLOCK.finditer((ROOT / "docs" / "extend" / page).read_text(encoding="utf-8")):
        code = block["code"]
        if block["kind"] == "yaml":
            config += code
        elif told := _FILE.search(block["above"]):
            source, module = code, told["path"].removesuffix(".py").replace("/", ".")
            (root / told["path"]).write_text(code, encoding="utf-8")
        elif told := _LINE.search(block["above"]):
            names = [each.name for each in ast.parse(source).body if isinstance(each, ast.ClassDef | ast.FunctionDef)]
            used = [name for name in names if re.search(rf"\b{name}\b", code)]
            registry = root / told["path"]
            text = _with_line(registry.read_text(encoding="utf-8"), told["name"], code.strip().rstrip(","))
            if used:
                text = _with_import(text, f"from {module} import {', '.join(used)}\n")
            registry.write_text(text, encoding="utf-8")
    return config


def _with_line(source: str, name: str, line: str) -> str:
    """Put a line into the literal or call that a name of a module stands for, or that a function returns."""
    (place,) = [each for each in ast.walk(ast.parse(source)) if _defines(each, name)]
    returned = [each.value for each in ast.walk(place) if isinstance(each, ast.Return)]
    node = returned[-1] if returned else getattr(place, "value", None)
    assert isinstance(node, ast.Dict | ast.List | ast.Tuple | ast.Set | ast.Call), f"{name} is no literal or call"
    lines = source.splitlines(keepends=True)
    argument = line.partition("=")[0] if isinstance(node, ast.Call) else None
    for keyword in getattr(node, "keywords", ()):
        if keyword.arg == argument:
            lines[keyword.lineno - 1 : keyword.end_lineno] = [f"    {line},\n"]
            return "".join(lines)
    assert node.end_lineno is not None
    last = lines[node.end_lineno - 1]
    at = len(last.encode()[: (node.end_col_offset or 1) - 1].decode())
    before = last[:at].rstrip()
    separator = "" if not before or before.endswith((",", "{", "[", "(")) else ", "
    lines[node.end_lineno - 1] = f"{last[:at].rstrip(' ')}{separator}{line},\n{last[at:]}"
    return "".join(lines)


def _defines(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return isinstance(node, ast.Assign | ast.AnnAssign) and any(getattr(each, "id", "") == name for each in targets)


def _with_import(source: str, line: str) -> str:
    """Put an import before the first one of the module."""
    return re.sub(r"^(?=from |import )", line, source, count=1, flags=re.MULTILINE)


@asynccontextmanager
async def followed(page: str, path: Path, *more: str, **origins: ScriptedUpstream) -> AsyncIterator[Program]:
    """Run, as a process of its own, a gateway that is extended as pages say, with the configurations that they show.

    ``origins`` are the upstreams, in capitals the words of the configuration that their addresses take the place of.
    """
    shutil.copytree(ROOT / "gateway", path / "gateway")  # with the compiled modules: they save seconds of a start
    config: dict[str, Any] = {"state_dir": str(path / "state")}
    for each in (page, *more):
        text = follow(each, path)
        for word, upstream in origins.items():
            text = text.replace(word.upper(), upstream.url)
        for key, section in yaml.safe_load(text).items():
            config[key] = {**config.get(key, {}), **section} if isinstance(section, dict) else section
    file = path / "tollway.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    async with gateway_process(file, root=path) as running:
        yield running

"""Read the tools of a body of OpenAI's Responses as functions, and which of them a call may use.

A custom tool becomes a function with one argument, of which a grammar can only be described; a tool of a namespace, a
function under both names. What each is to the caller is kept for the answer. Tools of a provider's own are noted.

Shapes: platform.openai.com/docs/guides/function-calling; types of the ``openai`` SDK 3.54.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from gateway.formats.chat import Tool, UntranslatableError
from gateway.formats.reading import object_of, typed
from gateway.formats.responses.written import INPUT, Offered

_NULL = Raw(b"null")
_LONGEST_NAME = 64
"""Of a function, at OpenAI (docs/api-reference/chat/create)."""


class _Added(Struct):
    tools: list[Raw] = []


class _Grammar(Struct):
    type: str = "text"
    syntax: str = ""
    definition: str = ""


class _Tool(Struct):
    name: str
    description: str | None = None
    parameters: Raw = _NULL
    strict: bool | None = None
    format: _Grammar | None = None


class _Namespace(Struct):
    name: str
    tools: list[Raw] = []
    description: str | None = None


class ToolChoice(Struct):
    """A tool that is to be called, or those that may be."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list["ToolChoice"] = []


class _Kind(Struct):
    type: str = "message"


_ADDED, _TOOL, _NAMESPACE = (msgspec.json.Decoder(each) for each in (_Added, _Tool, _Namespace))
_raws = msgspec.json.Decoder(list[Raw])
_kinds = msgspec.json.Decoder(_Kind)


class Tools:
    """The tools of one body. ``leave_out`` notes by name what of them is not said."""

    def __init__(self, leave_out: Callable[[str], None]) -> None:
        self._leave_out = leave_out
        self.known: dict[str, Tool] = {}
        self.offered: dict[str, Offered] = {}
        """By the name of the function that stands for it."""
        self.hosted: list[str] = []
        """Places of tools of a provider's own."""

    def add(self, tools: list[Raw], place: str, namespace: str | None = None) -> None:
        """Add tools. ``namespace``: in which they stand."""
        for number, raw in enumerate(tools):
            at = f"{place}[{number}]"
            kind = typed(at, _kinds, raw).type
            if kind in {"function", "custom"}:
                read = typed(at, _TOOL, raw)
                tool, known = self._tool(read, kind, at, namespace), Offered(kind, read.name, namespace)
                if self.offered.setdefault(tool.name, known)[1:] != known[1:]:
                    raise UntranslatableError(f"{at}.name", "with its namespace it is the name of another tool")
                self.known[tool.name], self.offered[tool.name] = tool, known
            elif kind == "namespace" and namespace is None:
                space = typed(at, _NAMESPACE, raw)
                if space.description:
                    self._leave_out("tools.description")
                self.add(space.tools, f"{at}.tools", space.name)
            else:
                self.hosted.append(f"{at}.type ({kind[:32]})")

    def add_from(self, raw: Raw, place: str) -> None:
        """Add those that an item brings."""
        self.add(typed(place, _ADDED, raw).tools, f"{place}.tools")

    def choose(self, choice: Any) -> tuple[Any, str | None]:
        """Return how tools are to be used, and the one that must be; see ``Conversation``."""
        if not isinstance(choice, ToolChoice):
            return choice, None
        if choice.type == "allowed_tools":
            allowed: set[str] = set()
            for number, each in enumerate(choice.tools):
                allowed.update(self._chosen(each, f"tool_choice.tools[{number}]"))
            self.known = {name: tool for name, tool in self.known.items() if name in allowed}
            return choice.mode, None
        return None, next(iter(self._chosen(choice, "tool_choice")), None)

    def _chosen(self, choice: ToolChoice, place: str) -> list[str]:
        """Return the functions that a choice stands for; a provider's own tool is noted."""
        if choice.type not in {"function", "custom", "namespace"}:
            self.hosted.append(f"{place}.type ({choice.type[:32]})")
            return []
        exact = function_name(choice.namespace, choice.name or "")
        if choice.type == "namespace":
            found = [name for name, each in self.offered.items() if each.namespace == choice.name]
        elif exact in self.offered:
            found = [exact]
        else:  # a choice has no word for a namespace
            found = [name for name, each in self.offered.items() if each.name == choice.name]
        if not found:
            raise UntranslatableError(f"{place}.name", "there is no such tool")
        return found

    def _tool(self, tool: _Tool, kind: str, place: str, namespace: str | None) -> Tool:
        if not tool.name:
            raise UntranslatableError(f"{place}.name", "it must not be empty")
        name = function_name(namespace, tool.name)
        if kind == "function":
            schema = None if tool.parameters == _NULL else object_of(tool.parameters, f"{place}.parameters")
            return Tool(name, tool.description, schema, bool(tool.strict))
        description = tool.description or ""
        if tool.format is not None and tool.format.type == "grammar":
            self._leave_out("tools.format")
            description += f"\n\nThe input follows this {tool.format.syntax} grammar:\n{tool.format.definition}"
        return Tool(name, description.strip(), Raw(_CUSTOM))


_CUSTOM = b'{"type":"object","properties":{"%b":{"type":"string"}},"required":["%b"],"additionalProperties":false}' % (
    INPUT.encode(),
    INPUT.encode(),
)


def function_name(namespace: str | None, name: str) -> str:
    """Return what the tool of a namespace is called where there are none: both names, of which a digest if too long."""
    if not namespace:
        return name
    both = f"{namespace}{name}" if namespace.endswith("_") else f"{namespace}__{name}"
    return both if len(both) <= _LONGEST_NAME else f"{both[:47]}_{hashlib.sha256(both.encode()).hexdigest()[:16]}"


def tools_offered(members: Mapping[str, bytes]) -> Mapping[str, Offered]:
    """Return the tools of a conversation that has been read, by the names of the functions that stand for them."""
    tools = Tools(lambda _name: None)
    asked = members.get("input", b"")
    if asked.startswith(b"[") and any(b'"%b"' % kind.encode() in asked for kind in _MORE_TOOLS):
        for raw in _raws.decode(asked):
            if typed("input", _kinds, raw).type in _MORE_TOOLS:
                tools.add_from(raw, "input")
    tools.add(_tools(members.get("tools", b"null")) or [], "tools")
    return tools.offered


_MORE_TOOLS = ("additional_tools", "tool_search_output")
_tools = msgspec.json.Decoder(list[Raw] | None).decode

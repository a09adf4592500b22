"""Read a body of Anthropic's Messages as a ``Conversation``.

Decides what is left out because the answer is the same without (named in ``left_out``, and shown in the call's
record), and names by its place what no conversation has. Left out: marks for the prompt cache, what tunes the
provider's own service, thinking in earlier answers (no other model takes another's proof of it), what a provider's
own tools did in them, members that ask for nothing, and a client's billing header at the front of the system prompt,
as a block or a line: it changes with the client's version, and would spoil the prefix cache of whatever else reads
it.

Shapes: platform.claude.com/docs/en/api/messages, build-with-claude/{vision,pdf-support,extended-thinking,effort,
prompt-caching,structured-outputs,search-results,compaction}, agents-and-tools/tool-use;
code.claude.com/docs/en/llm-gateway-protocol ("System prompt attribution block").
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from gateway.formats.anthropic.written import UNSIGNED, engines_tool_id
from gateway.formats.chat import (
    Conversation,
    Document,
    Image,
    Names,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    UntranslatableError,
)
from gateway.formats.reading import object_of, string, texts, typed
from gateway.formats.splice import asks_nothing

_NAMES = Names(
    *("messages", "max_tokens", "output_config.effort", "thinking", "metadata.user_id"),
    thinking="thinking",
    stop="stop_sequences",
    efforts={"xhigh": "high", "max": "high", "none": "low"},
)
_NULL = Raw(b"null")
_UNSIGNED = Raw(msgspec.json.encode(UNSIGNED))
BILLING_HEADER = re.compile(rb'"\s*x-anthropic-billing-header:(?:[^"\\]|\\[^n])*(?:\\n)*')
"""How a JSON string begins that begins with such a line, up to what follows it."""


class _Block(Struct, forbid_unknown_fields=True, kw_only=True):
    cache_control: Any = None


class _Text(_Block, tag_field="type", tag="text"):
    text: Raw
    citations: Any = None


class _Source(Struct, forbid_unknown_fields=True):
    type: str
    media_type: str | None = None
    data: Raw = _NULL
    url: Raw = _NULL
    content: Raw = _NULL


class _Image(_Block, tag_field="type", tag="image"):
    source: _Source


class _Citations(Struct, forbid_unknown_fields=True):
    enabled: bool | None = None


class _Document(_Block, tag_field="type", tag="document"):
    source: _Source
    title: Raw = _NULL
    context: Raw = _NULL
    citations: _Citations | None = None


class _ToolUse(_Block, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Raw
    caller: Any = None


class _ToolResult(_Block, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: Raw = _NULL
    is_error: bool | None = None


class _ToolReference(_Block, tag_field="type", tag="tool_reference"):
    tool_name: Raw


class _SearchResult(_Block, tag_field="type", tag="search_result"):
    source: Raw
    title: Raw
    content: Raw
    citations: _Citations | None = None


class _Compaction(_Block, tag_field="type", tag="compaction"):
    """What a longer history was summed up as; null: it failed."""

    content: Raw = _NULL
    encrypted_content: Any = None
    signature: Any = None
    tool_changes: Any = None


class _Message(Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: Raw
    clear_at: Any = None


class _Tool(_Block):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Raw = _NULL
    strict: bool | None = None
    eager_input_streaming: Any = None
    defer_loading: Any = None
    input_examples: Any = None
    allowed_callers: list[str] | None = None


class _ToolChoice(Struct, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Metadata(Struct, forbid_unknown_fields=True):
    user_id: str | None = None


class _Thinking(Struct, forbid_unknown_fields=True):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None
    display: Any = None


class _Format(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    schema: dict[str, Raw]


class _Config(Struct, forbid_unknown_fields=True):
    effort: str | None = None
    format: _Format | None = None
    task_budget: Any = None


class _Kind(Struct):
    type: str
    thinking: Raw = _NULL
    signature: Raw = _NULL


_LEFT_OUT_OF_ANSWERS = frozenset({"thinking", "redacted_thinking", "server_tool_use", "mcp_tool_use", "fallback"})
"""And results of server tools: what earlier answers hold beside their text and calls."""


class _ToolKind(Struct):
    type: str | None = None


_TOOL_KIND, _TOOL = msgspec.json.Decoder(_ToolKind), msgspec.json.Decoder(_Tool)
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "messages": msgspec.json.Decoder(list[_Message]),
    "tools": msgspec.json.Decoder(list[Raw]),
    "tool_choice": msgspec.json.Decoder(_ToolChoice),
    "temperature": msgspec.json.Decoder(float),
    "top_p": msgspec.json.Decoder(float),
    "top_k": msgspec.json.Decoder(int),
    "stop_sequences": msgspec.json.Decoder(list[str]),
    "metadata": msgspec.json.Decoder(_Metadata),
    "service_tier": msgspec.json.Decoder(Literal["auto", "standard_only"]),
    "thinking": msgspec.json.Decoder(_Thinking),
    "output_config": msgspec.json.Decoder(_Config),
    "output_format": msgspec.json.Decoder(_Format),
}
_BLOCKS: dict[str, msgspec.json.Decoder[Any]] = {
    "user": msgspec.json.Decoder(_Text | _Image | _Document | _ToolResult | _ToolReference | _SearchResult),
    "assistant": msgspec.json.Decoder(_Text | _ToolUse | _Compaction),
    "system": msgspec.json.Decoder(_Text),
}
_raws = msgspec.json.Decoder(list[Raw]).decode
_KIND = msgspec.json.Decoder(_Kind)
_READ_BEFORE = frozenset({"model", "max_tokens", "stream"})
_TUNES = frozenset({"cache_control", "context_management", "diagnostics", "speed"})
"""Members without effect on what the answer says, or hints at how the provider may save work."""
_LARGE = frozenset({"messages", "tools", "system"})
_SMALL_BYTES = 1 << 12
_BUDGETS = ((4_096, "low"), (16_384, "medium"))
"""Tokens of thinking up to which an effort is meant; above, ``high``."""


def read_conversation(members: Mapping[str, bytes], *, small: bool = False) -> Conversation:
    """Read the raw members of a validated body, or of these only what is ``small``. Raises UntranslatableError."""
    known: dict[str, Any] = {}
    rest: dict[str, bytes] = {}
    reader = _Reader()
    for name in members:
        if name in _READ_BEFORE or (small and name in _LARGE):
            continue
        raw = members[name]
        if asks_nothing(raw) or (small and len(raw) > _SMALL_BYTES):
            continue
        if name in _TUNES:
            reader.leave_out(name)
        elif name in _DECODERS:
            known[name] = typed(name, _DECODERS[name], raw)
        elif name != "system":
            rest[name] = raw
    system = [] if small else reader.system(members.get("system", b"null"))
    turns = reader.turns(known.get("messages", []))
    read = [reader.tool(each, f"tools[{number}]") for number, each in enumerate(known.get("tools", []))]
    tools = [tool for tool in read if tool is not None]
    choice = reader.choice(known.get("tool_choice"), has_tools=bool(tools))
    config, thinking = known.get("output_config") or _Config(), known.get("thinking")
    if config.task_budget is not None:
        reader.leave_out("output_config.task_budget")
    wanted = config.format or known.get("output_format")
    metadata = known.get("metadata")
    return Conversation(
        system=system,
        turns=turns,
        tools=tools,
        tool_choice=cast("Any", {"any": "required", "none": "none"}.get(choice.type)),
        named_tool=choice.name if choice.type == "tool" else None,
        parallel_tools=not choice.disable_parallel_tool_use,
        temperature=known.get("temperature"),
        top_p=known.get("top_p"),
        top_k=known.get("top_k"),
        stop=known.get("stop_sequences", []),
        schema=wanted.schema if wanted is not None else None,
        effort=reader.effort(config.effort, thinking),
        user=metadata.user_id if metadata is not None else None,
        standard_service=known.get("service_tier") == "standard_only",
        continues=True,
        hosted=tuple(reader.hosted),
        names=_NAMES if config.effort is not None else replace(_NAMES, effort="thinking"),
        rest=rest,
        left_out=tuple(reader.left_out),
    )


class _Reader:
    """Reads one body, and notes what is left out of it."""

    def __init__(self) -> None:
        self.left_out: dict[str, None] = {}
        """In order, each once."""
        self.hosted: list[str] = []
        """Places of tools of the provider's own."""
        self._calls: dict[str, str] = {}
        """Id of each tool call that has no result yet -> its place."""
        self._tool_names: set[str] = set()
        """Of the tools so far."""

    def leave_out(self, name: str) -> None:
        self.left_out[name] = None

    def choice(self, choice: _ToolChoice | None, *, has_tools: bool) -> _ToolChoice:
        """Return how tools are to be used; that one must be says nothing where there is none."""
        if choice is None:
            return _ToolChoice("auto")
        if choice.type == "tool" and choice.name is None:
            raise UntranslatableError("tool_choice.name", "it names no tool")
        if choice.type in {"any", "tool"} and not has_tools:
            self.leave_out("tool_choice")
        return choice

    def effort(self, stated: str | None, thinking: _Thinking | None) -> str | None:
        """Return the effort that is stated, or that a budget of thinking stands for."""
        if thinking is None:
            return stated
        if thinking.display is not None:
            self.leave_out("thinking.display")
        if thinking.type == "disabled":
            return "none"
        budget_tokens = thinking.budget_tokens
        if stated is None and budget_tokens is not None:
            return next((effort for bound, effort in _BUDGETS if budget_tokens <= bound), "high")
        if stated is None or thinking.type == "enabled":
            self.leave_out("thinking")
        return stated

    def system(self, raw: bytes) -> list[Text]:
        """Read the system prompt: a text, or a list of them."""
        blocks = self._blocks(Raw(raw), "system", "system")
        if blocks and isinstance(blocks[0], Text) and (header := BILLING_HEADER.match(blocks[0].text)):
            self.leave_out("system[0]" if raw.startswith(b"[") else "system")
            rest = b'"' + bytes(blocks[0].text)[header.end() :]
            blocks[:1] = [] if rest == b'""' else [Text(Raw(rest))]
        return cast("list[Text]", blocks)

    def turns(self, messages: list[_Message]) -> list[Turn]:
        """Read the messages. An instruction among calls of tools and their results goes behind these."""
        turns: list[Turn] = []
        later: list[Turn] = []
        for number, message in enumerate(messages):
            if message.clear_at is not None:
                self.leave_out("clear_at")
            if message.role == "assistant" and turns and turns[-1].role == "user":
                self._require_results()
            turn = Turn(message.role, self._blocks(message.content, message.role, f"messages[{number}].content"))
            if turn.role == "system" and self._calls:
                later.append(turn)
                continue
            turns.append(turn)
            if not self._calls:
                turns, later = turns + later, []
        self._require_results()
        return turns

    def _require_results(self) -> None:
        for place in self._calls.values():
            raise UntranslatableError(f"{place}.id", "no tool_result block in the next message has this id")

    def tool(self, raw: Raw, place: str) -> Tool | None:
        """Read a tool of the caller's; one of the provider's has a type of its own, and members."""
        if typed(place, _TOOL_KIND, raw).type not in {None, "custom"}:
            self.hosted.append(f"{place}.type")
            return None
        tool = typed(place, _TOOL, raw)
        if tool.name in self._tool_names:
            raise UntranslatableError(f"{place}.name", "a tool before it has the same")
        self._tool_names.add(tool.name)
        if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
            raise UntranslatableError(f"{place}.allowed_callers", "only the model itself calls tools")
        for name in ("cache_control", "eager_input_streaming", "defer_loading", "input_examples"):
            if getattr(tool, name):
                self.leave_out(name)
        schema = None if bytes(tool.input_schema) == b"null" else object_of(tool.input_schema, f"{place}.input_schema")
        return Tool(tool.name, tool.description, schema, bool(tool.strict))

    def _blocks(self, content: Raw, role: str, place: str) -> list[Part]:
        raw = bytes(content)
        if raw == b"null":
            return []
        if not raw.startswith(b"["):
            return texts(content, place)
        parts: list[Part] = []
        for number, each in enumerate(_raws(raw)):
            part = self._block(bytes(each), role, f"{place}[{number}]")
            parts += [] if part is None else part
        return parts

    def _block(self, raw: bytes, role: str, place: str) -> list[Part] | None:
        known = typed(place, _KIND, raw)
        kind = known.type
        if role == "assistant" and kind == "thinking" and known.signature == _UNSIGNED:
            return [Thinking(string(known.thinking, f"{place}.thinking"))]
        if role == "assistant" and (kind in _LEFT_OUT_OF_ANSWERS or kind.endswith("_tool_result")):
            self.leave_out(kind)
            return None
        block = typed(place, _BLOCKS[role], raw)
        if block.cache_control is not None:
            self.leave_out("cache_control")
        return self._readers[type(block)](self, block, place)

    def _text(self, block: _Text, place: str) -> list[Part]:
        if block.citations:
            self.leave_out("citations")
        return texts(block.text, f"{place}.text")

    def _tool_use(self, block: _ToolUse, place: str) -> list[Part]:
        if block.id in self._calls:
            raise UntranslatableError(f"{place}.id", "a tool_use block before it has the same")
        self._calls[block.id] = place
        return [ToolCall(engines_tool_id(block.id), block.name, object_of(block.input, f"{place}.input"))]

    def _tool_result(self, block: _ToolResult, place: str) -> list[Part]:
        if self._calls.pop(block.tool_use_id, None) is None:
            why = "no tool_use block in the message before it has this id, or another result has"
            raise UntranslatableError(f"{place}.tool_use_id", why)
        parts = self._blocks(block.content, "user", f"{place}.content")
        if any(isinstance(part, ToolResult) for part in parts):
            raise UntranslatableError(f"{place}.content", "a result of a tool holds none")
        return [ToolResult(engines_tool_id(block.tool_use_id), parts, failed=bool(block.is_error))]

    def _tool_reference(self, block: _ToolReference, place: str) -> list[Part]:
        return texts(block.tool_name, f"{place}.tool_name")

    def _search_result(self, block: _SearchResult, place: str) -> list[Part]:
        _refuse_citations(block.citations, place)
        about = texts(block.title, f"{place}.title") + texts(block.source, f"{place}.source")
        return about + self._blocks(block.content, "user", f"{place}.content")

    def _compaction(self, block: _Compaction, place: str) -> list[Part]:
        if bytes(block.content) == b"null":
            return []
        summary = bytes(string(block.content, f"{place}.content"))
        return [Text(Raw(summary[:-1] + rb'\n\n"'))]  # texts of an answer follow one another without a blank

    def _image(self, block: _Image, place: str) -> list[Part]:
        source, at = block.source, f"{place}.source"
        if source.type == "url":
            return [Image(string(source.url, f"{at}.url"), None, None, at)]
        if source.type == "base64":
            return [Image(string(source.data, f"{at}.data"), source.media_type or "", None, at)]
        raise UntranslatableError(f"{at}.type", "files that lie at the provider are only there")

    def _document(self, block: _Document, place: str) -> list[Part]:
        source, at = block.source, f"{place}.source"
        _refuse_citations(block.citations, place)
        about: list[Part] = []
        for name, each in (("title", block.title), ("context", block.context)):
            about += [] if bytes(each) == b"null" else texts(each, f"{place}.{name}")
        if source.type == "text":
            return about + texts(source.data, f"{at}.data")
        if source.type == "content":
            return about + self._blocks(source.content, "user", f"{at}.content")
        if source.type == "url":
            return [*about, Document(string(source.url, f"{at}.url"), None, None, at)]
        if source.type == "base64":
            return [*about, Document(string(source.data, f"{at}.data"), source.media_type or "", None, at)]
        raise UntranslatableError(f"{at}.type", "files that lie at the provider are only there")

    _readers: ClassVar[dict[type[_Block], Callable[[Any, Any, str], list[Part]]]] = {
        _Text: _text,
        _Image: _image,
        _Document: _document,
        _ToolUse: _tool_use,
        _ToolResult: _tool_result,
        _ToolReference: _tool_reference,
        _SearchResult: _search_result,
        _Compaction: _compaction,
    }


def _refuse_citations(citations: _Citations | None, place: str) -> None:
    if citations is not None and citations.enabled:
        raise UntranslatableError(f"{place}.citations", "only Anthropic cites documents")

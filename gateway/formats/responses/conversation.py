"""Read a body of OpenAI's Responses as a ``Conversation``.

Decides which items are one turn, and where the results of tools belong: behind the turn that called them. A custom tool
becomes a function with one argument. Left out and named: what is a hint, what tunes OpenAI's own service, reasoning in
earlier answers (no other model takes another's), and what a provider's own tools did in them. Which tools there are is
left to ``tools``.

Shapes: platform.openai.com/docs/api-reference/responses, docs/guides/{function-calling,pdf-files,structured-outputs};
types of the ``openai`` SDK 3.54.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from gateway.formats.chat import (
    Audio,
    Conversation,
    Document,
    Image,
    Names,
    Part,
    Refused,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
    UntranslatableError,
)
from gateway.formats.reading import arguments_of, data_of_url, object_of, string, texts, typed
from gateway.formats.responses.tools import ToolChoice, Tools, function_name
from gateway.formats.responses.written import INPUT, UNSIGNED
from gateway.formats.splice import asks_nothing, kind_of

NAMES = Names("input", "max_output_tokens", "reasoning.effort", "reasoning.effort", "user", "text.format")
_NULL = Raw(b"null")


class _Part(Struct):
    text: Raw = _NULL
    refusal: Raw = _NULL
    image_url: Raw = _NULL
    file_id: str | None = None
    file_url: Raw = _NULL
    file_data: Raw = _NULL
    detail: str | None = None
    input_audio: Raw = _NULL


class _Sound(Struct):
    data: Raw
    format: str


class _Message(Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: Raw


class _Called(Struct):
    call_id: str
    id: str | None = None
    name: str = ""
    namespace: str | None = None
    arguments: str | None = None
    input: Raw = _NULL
    action: Raw = _NULL
    operation: Raw = _NULL


class _CalledBy(Struct):
    call_id: str | None = None


class _Returned(Struct):
    call_id: str | None = None
    id: str | None = None
    output: Raw = _NULL
    status: str | None = None


class _Id(Struct):
    id: Any = None


class _Thought(Struct):
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _Format(Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema: dict[str, Raw] | None = None
    strict: bool | None = None
    description: str | None = None


class _TextConfig(Struct, forbid_unknown_fields=True):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(Struct):
    effort: str | None = None
    context: str | None = None


class _Kind(Struct):
    type: str = "message"


_PARTS = frozenset(
    {"input_text", "output_text", "text", "summary_text", "refusal", "input_audio", "input_image", "input_file"}
)
_SCREENSHOT = "computer_screenshot"
_LEFT_OUT_ITEMS = frozenset(
    (
        *("compaction", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "program"),
        *("program_output", "tool_search_call", "configuration_update"),
    )
)
"""What earlier answers hold beside their messages and calls; and calls of tools that the provider ran."""
_HINTS = frozenset(
    (
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "max_tool_calls", "client_metadata"),
        *("context_management", "include", "truncation"),
    )
)
"""Members without effect on what the answer says, or on answers that only OpenAI gives."""
_LABELS = frozenset({"model", "max_output_tokens", "stream", "stream_options", "metadata", "store", "background"})
"""And those that are read before."""
_LOGPROBS = "message.output_text.logprobs"
_SAYS_NO = frozenset({"parallel_tool_calls", "tool_choice"})
"""Members of which ``false`` or ``none`` says something."""
_LARGE = frozenset({"input", "instructions", "tools", "tool_choice"})
_SMALL_BYTES = 1 << 12
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "tools": msgspec.json.Decoder(list[Raw]),
    "tool_choice": msgspec.json.Decoder(Literal["auto", "none", "required"] | ToolChoice),
    "parallel_tool_calls": msgspec.json.Decoder(bool),
    "temperature": msgspec.json.Decoder(float),
    "top_p": msgspec.json.Decoder(float),
    "text": msgspec.json.Decoder(_TextConfig),
    "reasoning": msgspec.json.Decoder(_Reasoning),
    "user": msgspec.json.Decoder(str),
    "safety_identifier": msgspec.json.Decoder(str),
    "service_tier": msgspec.json.Decoder(str),
    "instructions": msgspec.json.Decoder(Raw),
    "input": msgspec.json.Decoder(Raw),
}
_MESSAGE, _CALLED, _CALLED_BY, _RETURNED, _PART, _SOUND = (
    msgspec.json.Decoder(each) for each in (_Message, _Called, _CalledBy, _Returned, _Part, _Sound)
)
_ID, _THOUGHT = msgspec.json.Decoder(_Id), msgspec.json.Decoder(_Thought)
_raws = msgspec.json.Decoder(list[Raw])
_kinds = msgspec.json.Decoder(_Kind)
_includes = msgspec.json.Decoder(list[str])


def read_conversation(members: Mapping[str, bytes], *, small: bool = False) -> Conversation:
    """Read the raw members of a validated body, or of these only what is ``small``. Raises UntranslatableError."""
    known: dict[str, Any] = {}
    rest: dict[str, bytes] = {}
    reader = _Reader()
    for name in members:
        if name in _LABELS or (small and name in _LARGE):
            continue
        raw = members[name]
        is_empty = raw == b"null" or (asks_nothing(raw) and name not in _SAYS_NO)
        if is_empty or (small and len(raw) > _SMALL_BYTES):
            continue
        if name in _HINTS:
            reader.hint(name, raw)
        elif name in _DECODERS:
            known[name] = typed(name, _DECODERS[name], raw)
        elif raw.strip(b"0.") or name != "top_logprobs":
            rest[name] = raw
    reader.instruct(known.get("instructions", _NULL))
    reader.read(known.get("input", _NULL))
    reader.tools.add(known.get("tools", []), "tools")
    config, thought = known.get("text") or _TextConfig(), known.get("reasoning") or _Reasoning()
    wanted, tier = config.format or _Format("text"), known.get("service_tier")
    for name, is_left_out in (
        ("text.verbosity", config.verbosity not in {None, "medium"}),
        ("reasoning.context", thought.context is not None),
        ("service_tier", tier not in {None, "auto", "default"}),
    ):
        if is_left_out:
            reader.leave_out(name)
    if wanted.type == "json_schema" and wanted.schema is None:
        raise UntranslatableError("text.format.schema", "it must be an object")
    choice, named = reader.tools.choose(known.get("tool_choice"))
    described = {} if wanted.description is None else {"description": Raw(msgspec.json.encode(wanted.description))}
    return Conversation(
        system=reader.system,
        turns=[turn for turn in reader.turns if turn.parts],
        tools=list(reader.tools.known.values()),
        tool_choice=choice,
        named_tool=named,
        parallel_tools=known.get("parallel_tool_calls", True),
        temperature=known.get("temperature"),
        top_p=known.get("top_p"),
        schema=described | (wanted.schema or {}) if wanted.type == "json_schema" else None,
        schema_name=wanted.name,
        strict_schema=bool(wanted.strict),
        any_json=wanted.type == "json_object",
        effort=thought.effort,
        user=known.get("safety_identifier") or known.get("user"),
        standard_service=tier == "default",
        rest=rest,
        hosted=tuple(reader.tools.hosted),
        left_out=tuple(reader.left_out),
        names=replace(NAMES, user="safety_identifier") if known.get("safety_identifier") else NAMES,
    )


class _Reader:
    """Reads one body, and notes what is left out of it."""

    def __init__(self) -> None:
        self.system: list[Text] = []
        self.turns: list[Turn] = []
        self.left_out: dict[str, None] = {}
        """In order, each once."""
        self.tools = Tools(self.leave_out)
        self._answer: Turn | None = None
        """The turn of the assistant's that the next item may be more of."""
        self._results: dict[str, tuple[str, list[Part]]] = {}
        """Id of a call without its result yet -> its place, and the parts of the turn where that belongs."""
        self._call_ids: dict[str | None, str] = {}
        """Id of an item -> id of its call: the output of a local shell names the first."""

    def leave_out(self, name: str) -> None:
        self.left_out[name] = None

    def hint(self, name: str, raw: bytes) -> None:
        if name == "include" and _LOGPROBS in typed(name, _includes, raw):
            raise UntranslatableError(f"include[{_LOGPROBS}]")
        if raw not in {b'"disabled"', b'["reasoning.encrypted_content"]'}:
            self.leave_out(name)

    def instruct(self, instructions: Raw) -> None:
        if instructions != _NULL:
            self.system += texts(instructions, "instructions")  # type: ignore[arg-type] # it gives texts only

    def read(self, asked: Raw) -> None:
        """Read the input: a text, or items."""
        if not bytes(asked).startswith(b"["):
            if asked != _NULL:
                self.turns.append(Turn("user", texts(asked, "input")))
            return
        for number, item in enumerate(_raws.decode(asked)):
            self._item(item, f"input[{number}]")
        for place, _ in self._results.values():
            raise UntranslatableError(f"{place}.call_id", "no item behind it holds the output of this call")

    def _item(self, raw: Raw, place: str) -> None:
        kind = typed(place, _kinds, raw).type
        if kind in self._readers:
            self._readers[kind](self, raw, place)
        elif kind in _LEFT_OUT_ITEMS:
            self.leave_out(kind)
        elif kind.endswith("_call"):
            if typed(place, _CALLED_BY, raw).call_id is None:
                self.leave_out(kind)
            else:  # the caller ran it: a shell's, a patch
                self._call(raw, place, kind.removesuffix("_call"))
        elif kind.endswith("_call_output"):
            self._output(raw, place)
        else:
            raise UntranslatableError(f"{place}.type", f"items of type '{kind[:32]}' are not known here")

    def _message(self, raw: Raw, place: str) -> None:
        message = typed(place, _MESSAGE, raw)
        parts = self._parts(message.content, f"{place}.content")
        if message.role == "assistant":
            self._answered().parts.extend(parts)
            return
        self._answer = None
        if message.role == "user":
            self.turns.append(Turn("user", parts))
        elif not all(isinstance(part, Text) for part in parts):
            raise UntranslatableError(f"{place}.content", "an instruction is text alone")
        elif self.turns:
            self.turns.append(Turn("system", parts))
        else:
            self.system += parts  # type: ignore[arg-type] # checked above

    def _answered(self) -> Turn:
        """Return the turn that an item of the assistant's belongs to."""
        if self._answer is None:
            self._answer = Turn("assistant", [])
            self.turns += [self._answer, Turn("user", [])]  # the second is for the results of its calls
        return self._answer

    def _call(self, raw: Raw, place: str, name: str = "") -> None:
        item = typed(place, _CALLED, raw)
        if item.input != _NULL:
            arguments = Raw(b'{"%b":%b}' % (INPUT.encode(), bytes(string(item.input, f"{place}.input"))))
        elif name:
            done = item.action if item.action != _NULL else item.operation
            arguments = Raw(b"{}") if done == _NULL else object_of(done, f"{place}.action")
        else:
            arguments = arguments_of(item.arguments)
        called = name or function_name(item.namespace, item.name)
        if not called:
            raise UntranslatableError(f"{place}.name", "it must not be empty")
        if item.call_id in self._results:
            raise UntranslatableError(f"{place}.call_id", "a call before it has the same, and no output yet")
        self._answered().parts.append(ToolCall(item.call_id, called, arguments))
        self._call_ids[item.id] = item.call_id
        self._results[item.call_id] = place, self.turns[-1].parts

    def _output(self, raw: Raw, place: str) -> None:
        item = typed(place, _RETURNED, raw)
        call_id = item.call_id or self._call_ids.get(item.id, item.id or "")
        if call_id not in self._results:
            raise UntranslatableError(f"{place}.call_id", "no call before it has this id")
        self._answer = None
        parts = self._returned(item.output, f"{place}.output")
        self._results.pop(call_id)[1].append(ToolResult(call_id, parts, item.status == "failed"))

    def _returned(self, output: Raw, place: str) -> list[Part]:
        """Read what a tool returned: a text, parts, a screenshot; anything else is what the model gets as JSON."""
        raw = bytes(output)
        if raw.startswith(b"{") and kind_of(raw) == _SCREENSHOT:
            return self._part(_SCREENSHOT, typed(place, _PART, raw), place)
        is_list = raw.startswith(b"[")
        if raw.startswith(b"{") or (
            is_list and raw[1:-1].strip() and _PARTS.isdisjoint(map(kind_of, _raws.decode(raw)))
        ):
            return [Text(Raw(msgspec.json.encode(raw.decode())))]
        return self._parts(output, place)

    def _reasoning(self, raw: Raw, place: str) -> None:
        """Read what a model thought that no provider signed; what one has signed is its own affair."""
        if not str(typed(place, _ID, raw).id).startswith(UNSIGNED):
            self.leave_out("reasoning")
            return
        thought = typed(place, _THOUGHT, raw)
        texts = [string(part.text, f"{place}.text") for part in thought.content or thought.summary or ()]
        self._answered().parts.extend(map(Thinking, texts))

    def _more_tools(self, raw: Raw, place: str) -> None:
        self.tools.add_from(raw, place)

    def _parts(self, content: Raw, place: str) -> list[Part]:
        if not bytes(content).startswith(b"["):
            return [] if content == _NULL else texts(content, place)
        parts: list[Part] = []
        for number, raw in enumerate(_raws.decode(content)):
            at = f"{place}[{number}]"
            parts += self._part(typed(at, _kinds, raw).type, typed(at, _PART, raw), at)
        return parts

    def _part(self, kind: str, part: _Part, place: str) -> list[Part]:
        if kind in {"input_text", "output_text", "text", "summary_text"}:
            return texts(part.text, f"{place}.text")
        if kind == "refusal":
            return [Refused(string(part.refusal, f"{place}.refusal"))]
        if kind == "input_audio":
            sound = typed(f"{place}.input_audio", _SOUND, part.input_audio)
            return [Audio(sound.data, sound.format, f"{place}.input_audio")]
        if kind not in {"input_image", "input_file", _SCREENSHOT}:
            raise UntranslatableError(f"{place}.type", f"content of type '{kind[:32]}' is not known here")
        if part.file_id is not None:
            raise UntranslatableError(f"{place}.file_id", "files that lie at the provider are only there")
        if kind != "input_file":
            if part.detail not in {None, "auto"}:
                self.leave_out("detail")
            source, media_type = data_of_url(string(part.image_url, f"{place}.image_url"))
            return [Image(source, media_type, None, f"{place}.image_url")]
        if part.file_url != _NULL:
            return [Document(string(part.file_url, f"{place}.file_url"), None, None, place)]
        return [_file(string(part.file_data, f"{place}.file_data"), f"{place}.file_data")]

    _readers: ClassVar[dict[str, Callable[["_Reader", Raw, str], None]]] = {
        "message": _message,
        "function_call": _call,
        "custom_tool_call": _call,
        "function_call_output": _output,
        "custom_tool_call_output": _output,
        "reasoning": _reasoning,
        "additional_tools": _more_tools,
        "tool_search_output": _more_tools,
    }


def _file(url: Raw, place: str) -> Part:
    """Read a file in a ``data:`` URL; one of text is text."""
    data, media_type = data_of_url(url)
    if media_type is None:
        raise UntranslatableError(place, "it is no 'data:' URL in Base64")
    if not media_type.startswith("text/"):
        return Document(data, media_type, None, place)
    try:
        text = base64.b64decode(msgspec.json.decode(data), validate=True).decode()
    except ValueError:
        raise UntranslatableError(place, "it is not text in Base64") from None
    return Text(Raw(msgspec.json.encode(text)))

"""The cases that every pair of a caller's dialect and an upstream's format goes through. A new one is a line.

Where a pair differs, the case says so by patterns of ``"caller target"``: ``"messages openai"``, ``"chat *"``.
"""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from gateway.errors import ErrorKind
from tests.contract.asked import Asked, Call, Image, Pdf, Raw, Result, Text, Tool, Turn, said, user
from tests.ground.said import Called, Said


class Failed(NamedTuple):
    """An error of the upstream: what it answers, and what the caller gets."""

    status: int
    kind: ErrorKind
    caller_status: int
    message: str = "It is too warm."
    retry_after_s: int | None = None


class Case(NamedTuple):
    """One exchange. Without anything but a name it is the plain one."""

    name: str
    asked: Asked = Asked()
    said: Said = Said("Hello!")
    callers: str = "*"
    """The dialects that can say it."""
    sent: Mapping[str, Mapping[str, Any]] = {}
    """Pair -> what the upstream is asked instead."""
    refused: Mapping[str, str] = {}
    """Pair -> what the refusal names; the next target is then asked."""
    heard: Mapping[str, Mapping[str, Any]] = {}
    """Pair -> what the caller hears instead."""
    failed: Failed | None = None
    fails_after: int | None = None
    """So many events come before the upstream says that it failed."""
    cut: bool = False
    """The end does not come."""


def of_pair(by_pair: Mapping[str, Any], pair: str) -> Any:
    """Return what a case says of a pair, None where it says nothing."""
    return next((value for pattern, value in by_pair.items() if fnmatch(pair, pattern)), None)


_OBJECT: dict[str, Any] = {"type": "object", "properties": {}}
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_LOOK = Tool("look", _SCHEMA, "Look at a city.")
_UNICODE = 'Grüße, 你好 👋🏽 "\\ \n\t\u2028 \u0001'
_ASK = user("Hi")
_CALLS = (Call("call_1", "look", {"city": "Köln"}), Call("call_2", "look", {"city": "Rom"}))
_CALLED = tuple(Called(call.name, call.arguments, call.call_id) for call in _CALLS)
_TOOLS = Asked(tools=(_LOOK,))
_PNG = Image("iVBORw0KGgo=", "image/png")
_THOUGHT = Raw({"type": "thinking", "thinking": "Hm.", "signature": "EqQB"})
_SEARCH = Raw({"type": "search_result", "source": "s", "title": "T", "content": [{"type": "text", "text": "F"}]})
_PLAIN = Raw({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D"}})
_SERVER_TOOL = Tool("web_search", {})
_NO_THINKING = {"* openai": {"thinking": ""}}
"""OpenAI's chat shows none."""
_NO_STOP_SEQUENCE = {
    "chat *": {"ended": "stop", "stop_sequence": None},
    "* openai": {"ended": "stop", "stop_sequence": None},
}
"""A chat does not say which."""

CASES = (
    # What is asked.
    Case("plain"),
    Case("system", Asked(system="Be brief.")),
    Case("unicode in the question", Asked((user(_UNICODE),), _UNICODE)),
    Case("several turns", Asked((_ASK, said("Hello!"), user("How are you?")))),
    Case("text in parts", Asked((user("One.", _PNG, "Two."),))),
    Case("image", Asked((user("What is it?", _PNG),))),
    Case("image at an address", Asked((user("What is it?", Image("https://a.test/b.png")),))),
    Case(
        "pdf",
        Asked((user("What is it?", Pdf("JVBERi0=")),)),
        refused={"messages vllm": r"messages\[0\]", "responses vllm": r"input\[0\]"},
    ),
    Case(
        "document of plain text",
        Asked((user(_PLAIN),)),
        callers="messages",
        sent={"* anthropic": {}, "*": {"turns": (user("D"),)}},
    ),
    Case(
        "search result",
        Asked((user(_SEARCH),)),
        callers="messages",
        sent={"* anthropic": {}, "*": {"turns": (user("T\n\ns\n\nF"),)}},
    ),
    Case("tools", _TOOLS),
    Case("several tools", _TOOLS._replace(tools=(_LOOK, Tool("go", _OBJECT)))),
    Case("tool without parameters", Asked(tools=(Tool("now", _OBJECT),))),
    Case("strict tool", Asked(tools=(_LOOK._replace(strict=True),))),
    Case("tool that is named", _TOOLS._replace(choice="look")),
    Case("tool that is required", _TOOLS._replace(choice="required")),
    Case("tools that are forbidden", _TOOLS._replace(choice="none")),
    Case("one tool at a time", _TOOLS._replace(parallel=False)),
    Case("one tool at a time that is required", _TOOLS._replace(parallel=False, choice="required")),
    Case("result of a tool", _TOOLS._replace(turns=(_ASK, said("I look.", _CALLS[0]), user(Result("call_1", "Sun"))))),
    Case("empty result", _TOOLS._replace(turns=(_ASK, said(_CALLS[0]), user(Result("call_1", ""))))),
    Case("call without text", _TOOLS._replace(turns=(_ASK, said(_CALLS[0]), user(Result("call_1", "Sun"))))),
    Case(
        "results of parallel calls",
        _TOOLS._replace(turns=(_ASK, said(*_CALLS), user(Result("call_1", "Sun"), Result("call_2", "Rain"), "And?"))),
    ),
    Case(
        "result that failed",
        _TOOLS._replace(turns=(_ASK, said(_CALLS[0]), user(Result("call_1", "no", failed=True)))),
        callers="messages",
    ),
    Case(
        "thinking in the history",
        Asked((_ASK, said(_THOUGHT, "Hello!"), _ASK)),
        callers="messages",
        sent={
            "* anthropic": {},
            "*": {"turns": (_ASK, said("Hello!"), _ASK)},
        },
    ),
    Case("JSON schema", Asked(schema=_SCHEMA)),
    Case("temperature and top_p", Asked(temperature=0.5, top_p=0.25)),
    Case(
        "stop sequences",
        Asked(stop=("END", "\n\n")),
        callers="chat messages",
        refused={"chat responses": "'stop'", "messages responses": "'stop_sequences'"},
    ),
    Case("limit", Asked(limit=70)),
    Case(
        "no limit",
        Asked(limit=None),
        callers="chat",
        sent={"* anthropic": {"limit": 4096}},
    ),
    Case("effort", Asked(effort="high")),
    Case(
        "no thinking",
        Asked(effort="none"),
        callers="chat messages",
        sent={"chat *": {}, "* anthropic": {}, "*": {"effort": "low"}},
    ),
    Case("user", Asked(user="u_1"), sent={"chat vllm": {}, "* vllm": {"user": None}}),
    Case("service tier", Asked(standard=True), sent={"chat vllm": {}, "* vllm": {"standard": False}}),
    Case(
        "cache mark",
        Asked((user(Text("A long text.", cached=True), _PNG),)),
        callers="chat messages",
        sent={
            "* anthropic": {},
            "chat openai": {},
            "chat vllm": {},
            "*": {"turns": (user("A long text.", _PNG),)},
        },
    ),
    Case(
        "instruction in mid-conversation",
        Asked((_ASK, said("Hello!"), user("How?"), Turn("system", (Text("Be brief."),)), said("So."), user("Hm?"))),
        sent={
            pair: {"turns": (_ASK, said("Hello!"), user("How?"), said("So."), user("Hm?")), "system": "Be brief."}
            for pair in ("messages vllm", "responses vllm", "chat anthropic", "responses anthropic", "chat responses")
        },
    ),
    Case(
        "answer that has begun",
        Asked((_ASK, said("He")), goes_on=True),
        callers="chat messages",
        sent={"chat anthropic": {}, "chat *": {"goes_on": False}},
        refused={"messages openai": r"messages\[1\]", "messages responses": "'messages"},
    ),
    # What is answered.
    Case("unicode in the answer", said=Said(_UNICODE * 3)),
    Case("empty answer", said=Said()),
    Case("thinking", said=Said("Hello!", "I should greet them: 你好."), heard=_NO_THINKING),
    Case("call", _TOOLS, Said(calls=_CALLED[:1], ended="tools")),
    Case("parallel calls", _TOOLS, Said(calls=_CALLED, ended="tools")),
    Case("text before a call", _TOOLS, Said("I look.", calls=_CALLED[:1], ended="tools")),
    Case(
        "thinking and text before calls",
        _TOOLS,
        Said("I look.", "Where?", _CALLED, "tools"),
        heard=_NO_THINKING,
    ),
    Case("call without arguments", _TOOLS, Said(calls=(Called("look", {}),), ended="tools")),
    Case(
        "arguments of every kind",
        _TOOLS,
        Said(calls=(Called("look", {"a": [1, 2.5, None, True, {"b": _UNICODE}]}),), ended="tools"),
    ),
    Case("length reached", said=Said("Hel", ended="length")),
    Case("refusal", said=Said("I cannot.", ended="refused")),
    Case(
        "stop sequence",
        Asked(stop=("END",)),
        Said("Hello", ended="stop_sequence", stop_sequence="END"),
        callers="chat messages",
        refused={"chat responses": "'stop'", "messages responses": "'stop_sequences'"},
        heard=_NO_STOP_SEQUENCE,
    ),
    Case("nothing from the cache", said=Said("Hello!", cached_tokens=0)),
    Case("all from the cache", said=Said("Hello!", cached_tokens=1010)),
    # How it fails.
    Case("400", failed=Failed(400, ErrorKind.UPSTREAM_REJECTED, 400)),
    Case("401", failed=Failed(401, ErrorKind.UPSTREAM_CREDENTIALS, 503)),
    Case("402", failed=Failed(402, ErrorKind.UPSTREAM_CREDENTIALS, 503)),
    Case("403", failed=Failed(403, ErrorKind.UPSTREAM_CREDENTIALS, 503)),
    Case("413", failed=Failed(413, ErrorKind.UPSTREAM_UNSUPPORTED, 413)),
    Case("422", failed=Failed(422, ErrorKind.UPSTREAM_REJECTED, 422)),
    Case("429", failed=Failed(429, ErrorKind.UPSTREAM_RATE_LIMITED, 503, retry_after_s=7)),
    Case("500", failed=Failed(500, ErrorKind.UPSTREAM_ERROR, 502)),
    Case("502", failed=Failed(502, ErrorKind.UPSTREAM_ERROR, 502)),
    Case("503", failed=Failed(503, ErrorKind.UPSTREAM_OVERLOADED, 503, retry_after_s=7)),
    Case(
        "504",
        failed=Failed(504, ErrorKind.UPSTREAM_ERROR, 502),
        heard={"* anthropic": {"kind": ErrorKind.UPSTREAM_TIMEOUT, "caller_status": 504}},
    ),
    Case("529", failed=Failed(529, ErrorKind.UPSTREAM_OVERLOADED, 503)),
    Case(
        "prompt that is too long",
        failed=Failed(400, ErrorKind.CONTEXT_LENGTH, 400, "prompt is too long: 210000 tokens > 200000 maximum"),
    ),
    Case("error at once", fails_after=1),
    Case("error in mid-stream", said=Said("Hello, " * 9), fails_after=7),
    Case("cut", said=Said("Hello, " * 9), cut=True),
)

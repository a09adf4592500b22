"""A caller as a value: what it sends, byte by byte, and the answers that it is to get."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.ground.builders import chat_body
from tests.ground.callers import request

KEY = "sk-canary-caller-key"
PROMPT = "canary-prompt-of-a-caller"
PAGE = "https://app.example"
CHAT = "/v1/chat/completions"
BEARER = {"authorization": f"Bearer {KEY}"}
AUTH = b"Authorization: Bearer %b\r\n" % KEY.encode()
TE = b"Transfer-Encoding: chunked"
BODY = chat_body(model="auto", messages=[{"role": "user", "content": PROMPT}], max_tokens=5)
STREAM = chat_body(model="auto", messages=[{"role": "user", "content": PROMPT}], stream=True)


class Expected(NamedTuple):
    """One answer: its status, the ``code`` of its error, and whether it is one to HEAD and so has no body.

    In Anthropic's dialect an error has a ``type`` in place of a code.
    """

    status: int
    code: str | None = None
    is_head: bool = False
    dialect: Literal["openai", "anthropic"] = "openai"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A caller: what it sends, and the answers that it must get in this order."""

    name: str
    sent: tuple[bytes | Literal["answer", "end", "reset"], ...]
    """Pieces, each written by itself; at ``answer`` the next one is read first, ``end`` closes the sending side."""
    answers: tuple[Expected, ...]
    stays_open: bool = True
    """Another request is answered on the connection afterwards; otherwise it ends by itself."""
    gateway: Literal["keyed", "keyless", "hurried"] = "keyed"
    """``hurried``: keyed, and with deadlines of a fraction of a second."""


OK = Expected(200)
BAD = Expected(400)
LARGE = Expected(431)
LONG = Expected(414)
VERSION = Expected(505)
UNKNOWN_KEY = Expected(401, "invalid_api_key")
FOREIGN = Expected(403, "foreign_request")
METHOD = Expected(405, "method_not_allowed")
SLOW_BODY = Expected(408, "body_timeout")
CODING = Expected(415, "unsupported_coding")
EXPECTATION = Expected(417, "expectation_failed")
MISSING = Expected(404, "not_found")


def shape(
    name: str, sent: bytes | tuple[bytes | Literal["answer"], ...], *answers: Expected, closes: bool = False
) -> Shape:
    """Write a row; ``closes``: after the last answer the connection ends."""
    pieces = (sent,) if isinstance(sent, bytes) else sent
    return Shape(name=name, sent=pieces, answers=answers, stays_open=not closes)


def post(body: bytes = BODY, path: str = CHAT, **headers: str) -> bytes:
    return request("POST", path, body, **BEARER, **headers)

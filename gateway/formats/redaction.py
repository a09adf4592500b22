"""Takes secrets out of an upstream's words: whatever our configuration holds of it, and whatever is shaped like a key.

Two steps. ``by_shape`` takes out of any text what looks like a credential or an inner address. ``without_own`` takes
out of an error what its target is known to be configured with, in every form in which an upstream may repeat it, and
makes of the words what the log may hold. It runs when an attempt has failed, never for one that has not.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit

import msgspec

from gateway.errors import UpstreamError
from gateway.formats.malformed import UNREADABLE
from gateway.types import Target

MAX_MESSAGE_CHARS = 2000
_MAX_COMPARED_CHARS = 1 << 13
"""So much of an upstream's words is looked at; what is shown is cut last, for half a secret is not recognised."""
_ABOUT_OUR_CONFIGURATION = frozenset({401, 402, 403, 404})
"""Statuses whose reason the operator needs to know. Of other faults the words may be the caller's own, said back."""
_MAX_NAME_CHARS = 200
"""Of a parameter, and of what is logged."""
_ID = r"[-_](?=[A-Za-z]*\d)[A-Za-z0-9]{6,}\b"
"""What follows the kind of an account in its number; it has a digit, which the names of tools mostly have not."""
_CREDENTIAL = re.compile(
    r"(?:Bearer|Basic)\s+[\w.~+/=*-]{8,}"
    r"|\b(?:sk|pk|rk|xai|pplx)-[\w*.-]{6,}"
    r"|\b(?:nvapi|csk|glpat)-[\w-]{12,}|\bgh[opsu]_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b|\bya29\.[\w-]{8,}"
    r"|(?<=://)[^\s/@:]{1,64}:[^\s/@]{1,128}(?=@)"
    # A key of these has no second underscore, a function's name mostly has.
    r"|\b(?:gsk|hf|tgp|fw|sk|pk|rk)_[A-Za-z0-9*]{8,}\b"
    r"|\bAIza[\w-]{8,}"
    r"|\beyJ(?:(?!-eyJ)[\w-]){8,}+\.[\w-]+\.[\w-]*"
    r"|\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{40,}\b"
    rf"|\b(?:org|proj|acct|wrkspc){_ID}"
    r"|(?<=[?&]key=)[^\s&]+",
)
_IPV6 = r"(?:[0-9A-Fa-f]{0,4}:){1,7}[0-9A-Fa-f]{0,4}(?:%\w{1,16})?"
_ADDRESS = re.compile(
    r"\b(?:https?://)?(?:\d{1,3}(?:\.\d{1,3}){3}|localhost|(?<![\w.-])[\w.-]+\.(?:internal|local|svc)\b)(?::\d+)?(?:/\S*)?"
    r"|https?://[\w.-]+:\d+(?:/\S*)?"
    rf"|https?://\[{_IPV6}\](?::\d+)?(?:/\S*)?|\[{_IPV6}\]:\d+(?:/\S*)?|\b(?:f[cd][0-9a-f]{{2}}|fe80)::?{_IPV6}"
)
_SHORTEST_SECRET = 6
"""Shorter ones, as the ``none`` of a server that asks for no key, are words of every message."""
_SHORTEST_NAME = 12
"""Of a base URL's path: an account or a deployment. Shorter pieces (``v1``, ``openai``) are words."""
_SAME_CHARS = 12
"""As many letters and digits in a row of a caller's request as may not stand in the log; of short ones, all."""
_SHORTEST_TEXT = 4
_NO_TEXT = frozenset({"model", "role", "type"})
"""Members of a request whose values are no caller's words."""
_ACCOUNT = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"
    rf"|\b(?:org|proj|project|team|acct|account|user|ws|wrkspc|workspace|key){_ID}"
    r"|(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]+"
    r"|https?://\S+",
    re.IGNORECASE,
)
"""Who we are to a provider: ids of our account, and where it is managed."""
_LARGEST_COMPARED_BYTES = 1 << 16


def by_shape(message: str) -> str:
    """Take out of a text what looks like a credential or an inner address."""
    message = message.encode(errors="replace").decode()
    if len(message) > _MAX_COMPARED_CHARS:
        whole_words, _, _ = message[:_MAX_COMPARED_CHARS].rpartition(" ")
        message = whole_words or "(redacted)"
    return _ADDRESS.sub("(address)", _CREDENTIAL.sub("(redacted)", message))


def without_own(error: UpstreamError, target: Target, request_body: bytes, further: Iterable[str] = ()) -> None:
    """Take out of an error what the target is configured with; of what its upstream said, keep what may be logged.

    ``target`` has the address that was asked. ``request_body``: nothing that the caller wrote stays in ``said``.
    ``further``: see ``cleaner``.
    """
    clean = cleaner(target, further)
    error.message = clean(error.message)[:MAX_MESSAGE_CHARS]
    if error.param is not None:
        error.param = by_shape(clean(error.param))[:_MAX_NAME_CHARS]
    if error.upstream_code is not None and by_shape(clean(error.upstream_code)) != error.upstream_code:
        error.upstream_code = None
    if error.said is not None:
        is_ours = error.upstream_status in _ABOUT_OUR_CONFIGURATION
        error.said = _loggable(clean(error.said), request_body) if is_ours else None


def cleaner(target: Target, further: Iterable[str] = ()) -> Callable[[str], str]:
    """Return what takes out of a text what the target is configured with; ``further``: its signer's secrets."""
    secrets, addresses = _secrets(target, further), _addresses(target)

    def clean(text: str) -> str:
        for pattern, instead in ((secrets, "(redacted)"), (addresses, "(address)")):
            text = pattern.sub(instead, text) if pattern is not None else text
        return text

    return clean


def _secrets(target: Target, further: Iterable[str]) -> re.Pattern[str] | None:
    """Match the credential, its signer's secrets and the configured headers: plain, percent-encoded and in Base64."""
    values = [*further, *(value for _, value in target.headers)]
    if target.credential is not None:
        values.append(target.credential.value)
    long = [value for value in values if len(value) >= _SHORTEST_SECRET]
    forms = {form for value in long for form in (value, quote(value, safe=""), _in_base64(value))}
    return _any_of([re.escape(form) for form in forms])


def _in_base64(value: str) -> str:
    return base64.b64encode(value.encode(errors="replace")).decode().rstrip("=")


def _addresses(target: Target) -> re.Pattern[str] | None:
    """Match the hosts that the target is asked at, with what belongs to their addresses, and paths by themselves."""
    urls = [urlsplit(url) for url in (target.base_url, target.cluster_url) if url]
    hosts = {url.hostname for url in urls}
    paths = {each for url in urls for each in (url.path, unquote(url.path))}
    return _any_of([*(_address(host) for host in hosts if host), *(form for path in paths for form in _of_path(path))])


def _of_path(path: str) -> Iterator[str]:
    """Match a path that is more than a version, with what follows it, and its long pieces wherever they stand."""
    own = re.sub(r"/v\d\w{0,7}$", "", path.rstrip("/"))
    if own:
        yield rf"(?<![\w.-]){re.escape(own)}(?![\w-])(?:/\S*)?"
    for piece in own.split("/"):
        if len(piece) >= _SHORTEST_NAME:
            yield rf"(?<![\w-]){re.escape(piece)}(?![\w-])"


def _address(host: str) -> str:
    name = re.escape(host)
    if "." not in host and ":" not in host:  # it may be a word too, as ``vllm`` is
        return rf"(?:https?://)?\b{name}:\d+(?:/\S*)?|https?://{name}\b(?:/\S*)?"
    return rf"(?:https?://)?(?<![\w.-])\[?{name}\]?(?![\w-])(?::\d+)?(?:/\S*)?"


def _any_of(forms: list[str]) -> re.Pattern[str] | None:
    longest_first = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(longest_first), re.IGNORECASE) if forms else None


def _loggable(said: str, request_body: bytes) -> str | None:
    """Return the first sentence, unless it repeats the caller, which is not to be found out for a large request."""
    if len(request_body) > _LARGEST_COMPARED_BYTES:
        return None
    sentence = first_sentence(said)
    return None if _repeats(sentence, request_body) else sentence or None


def first_sentence(said: str) -> str:
    """Return the first sentence of an upstream's words in one line, without what is shaped like our account's."""
    text = _ACCOUNT.sub("(redacted)", by_shape(said)).strip()
    sentence = re.split(r"(?<=[.!?])\s|[\r\n]", text, maxsplit=1)[0][:_MAX_NAME_CHARS]
    return "".join(each if each.isprintable() else "?" for each in sentence)


def _repeats(sentence: str, request_body: bytes) -> bool:
    """Whether a sentence holds a text of the request, or a long piece of one, whatever its case and punctuation."""
    words = _letters(sentence)
    pieces = set(_pieces(words))
    for text in map(_letters, _texts(request_body)):
        if _SHORTEST_TEXT <= len(text) < _SAME_CHARS and text in words:
            return True
        if not pieces.isdisjoint(_pieces(text)):
            return True
    return False


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + _SAME_CHARS] for at in range(len(text) - _SAME_CHARS + 1))


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _texts(request_body: bytes) -> Iterator[str]:
    """Yield the texts of a request, as they are behind JSON's escapes; of another form, all of it as one."""
    try:
        to_do = [msgspec.json.decode(request_body)]
    except UNREADABLE:
        yield request_body.decode(errors="replace")
        return
    while to_do:
        value = to_do.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            to_do += value
        elif isinstance(value, dict):
            to_do += [each for name, each in value.items() if name not in _NO_TEXT]

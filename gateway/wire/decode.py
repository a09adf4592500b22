"""The only parse of a caller's body: validate all of it at C speed, then read what the gateway must know.

Decides what is not a request at all (bad JSON in every way that makes two readers understand two things) and checks the
members that routing, limits and accounting depend on, as OpenAI does. Every other member is the upstream's to judge.
Messages name the place, never the content.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Never

from gateway.errors import ErrorKind, GatewayError
from gateway.types import Capability, Dialect, Envelope, Operation
from gateway.wire.splice import members_of
from gateway.wire.transcription import decode_form

_Object = dict[str, Any]

# Names that may be shown in a message: they are the protocol's, not the caller's.
_PROTOCOL_NAMES = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "include_usage", "n", "best_of", "max_tokens"),
        *("max_completion_tokens", "temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format"),
        *("user", "role", "content", "type", "text", "name", "input", "encoding_format"),
    )
)
# vLLM, vllm/entrypoints/openai: structured output beside response_format (guided_* before 0.12).
_CONSTRAINED = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
# What vLLM 0.32 refuses to stream (beam search, prompt log-probabilities) or leaves out of a stream (the transfer
# parameters of disaggregated serving), and speech, which OpenAI streams in another format than it sends at once.
_NOT_STREAMED = ("use_beam_search", "prompt_logprobs", "kv_transfer_params", "ec_transfer_params", "audio")
# Most are halves of emoji, in order; only a body that has any is looked at closely.
_SURROGATE = re.compile(rb"\\u[dD]")
_BYTES_PER_TOKEN_ID = 4
"""A prompt given as token ids counts as the text it stands for, about four bytes a token."""
MAX_CHOICES = 16_384
"""Of ``n`` and ``best_of``, for each prompt."""
MAX_OUTPUT_TOKENS = 2**31 - 1
"""Of one choice: "as many as possible" is often written as the largest integer of 32 bits."""
MAX_OUTPUT_TOKENS_IN_ALL = 10**12
"""Over all choices of all prompts: at a thousand dollars per million tokens the price still has 63 bits."""


def decode(operation: Operation, dialect: Dialect, body: bytes, *, max_depth: int = 64) -> Envelope:
    """Validate a body and read its envelope.

    Raises GatewayError (INVALID_REQUEST, with ``param`` where a member is at fault) for everything that is not one
    unambiguous JSON object, for deeper nesting than ``max_depth``, and for members that the gateway reads and that do
    not have the type OpenAI's reference gives them. Only OpenAI's dialect is spoken by callers so far.
    """
    if dialect != "openai":
        raise GatewayError(ErrorKind.UNSUPPORTED, f"Requests in the dialect '{dialect}' are not supported.")
    if operation == "transcriptions":
        return decode_form(body)
    request = _scan(body, max_depth)
    _check_spelling(request)
    model = request.get("model")
    if not isinstance(model, str) or not model:
        _refuse("model", "must be a non-empty string that names a model or a route")
    stream = _boolean(request, "stream")
    include_usage = _include_usage(request, stream=stream)
    choices = max(_integer(request, "n", 1, MAX_CHOICES) or 1, _integer(request, "best_of", 1, MAX_CHOICES) or 1)
    prompts = 1
    if operation == "chat":
        limit = _integer(request, "max_completion_tokens", 1, MAX_OUTPUT_TOKENS)
        limit = _integer(request, "max_tokens", 1, MAX_OUTPUT_TOKENS) if limit is None else limit
        texts, kinds = _read_messages(request)
        content_bytes = 0
    elif operation == "embeddings":
        limit, texts, kinds = 0, [], []
        content_bytes, prompts = _read_input(request, stream=stream)
    else:
        limit = _integer(request, "max_tokens", 0, MAX_OUTPUT_TOKENS)
        texts, kinds = [], []
        content_bytes, prompts = _read_prompt(request, "prompt")
        choices *= prompts
    if limit is not None and limit * choices > MAX_OUTPUT_TOKENS_IN_ALL:
        name = "max_completion_tokens" if request.get("max_completion_tokens") is not None else "max_tokens"
        _refuse(name, f"asks for more than {MAX_OUTPUT_TOKENS_IN_ALL} tokens over all {choices} choices")
    members = members_of(body)
    content_bytes += len("".join(texts).encode())
    content_bytes += sum(len(members[name]) for name in ("tools", "functions", "response_format") if name in members)
    return Envelope(
        operation=operation,
        dialect=dialect,
        body=body,
        members=members,
        model=model,
        stream=stream,
        include_usage=include_usage,
        max_output_tokens=limit,
        choices=choices,
        streamable=operation != "embeddings" and _streamable(request),
        needs=_needs(operation, request, kinds),
        content_bytes=content_bytes,
        image_count=kinds.count("image_url"),
        prompts=prompts,
    )


def _refuse(param: str, what: str) -> Never:
    raise GatewayError(ErrorKind.INVALID_REQUEST, f"'{param}' {what}.", param=param)


def _malformed(what: str) -> GatewayError:
    return GatewayError(ErrorKind.INVALID_REQUEST, f"The body {what}.")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> _Object:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        param = name if name in _PROTOCOL_NAMES else None
        shown = f"the member '{param}'" if param else "a member"
        raise GatewayError(ErrorKind.INVALID_REQUEST, f"The body has {shown} twice in one object.", param=param)
    return members


def _no_constant(_: str) -> Never:
    raise _malformed("is not JSON: NaN and Infinity are not JSON numbers")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _malformed("holds a number that is too large")
    return number


# Python's own scanner, because it alone reports every member, and so the duplicates. Integers are left to int(), whose
# limit of 4,300 digits holds; a hook would cost a call for each token of a prompt of token ids.
_parse = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_no_constant, parse_float=_finite
).decode


def _scan(body: bytes, max_depth: int) -> _Object:
    if not body:
        raise _malformed("is empty; it must be a JSON object")
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _malformed("begins with a byte order mark; send UTF-8 without one")
    try:
        request = _parse(body.decode())
    except UnicodeDecodeError as error:
        raise _malformed(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"is not JSON: line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _malformed(f"is nested deeper than {max_depth} levels") from None
    except ValueError:
        raise _malformed("holds a number that is too large") from None
    if not isinstance(request, dict):
        raise _malformed("must be a JSON object")
    _check_depth(body, request, max_depth)
    if _SURROGATE.search(body):
        try:
            json.dumps(request, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _malformed("holds half of a surrogate pair, which is not a character") from None
    return request


def _check_depth(body: bytes, request: _Object, max_depth: int) -> None:
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return  # with so few brackets it cannot be deeper
    level: list[Any] = [request]
    for _ in range(max_depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise _malformed(f"is nested deeper than {max_depth} levels")


def _check_spelling(request: _Object) -> None:
    # Upstreams written in Go (Ollama, many proxies) take a member's name in any case, and of two the last: a "Model"
    # beside the "model" that was looked at here would be the one that counts.
    for name in request:
        folded = name.casefold()
        if folded != name and folded in _PROTOCOL_NAMES:
            _refuse(folded, "must be written in lower case")


def _boolean(request: _Object, name: str) -> bool:
    value = request.get(name)
    if value is not None and not isinstance(value, bool):
        _refuse(name, "must be true or false")
    return bool(value)


def _integer(request: _Object, name: str, minimum: int, maximum: int) -> int | None:
    value = request.get(name)
    if value is None:
        return None
    if type(value) is not int or not minimum <= value <= maximum:
        _refuse(name, f"must be an integer from {minimum} to {maximum}")
    return value


def _include_usage(request: _Object, *, stream: bool) -> bool:
    options = request.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        _refuse("stream_options", "must be an object")
    if options and not stream:
        _refuse("stream_options", "is only allowed when 'stream' is true")
    include_usage = options.get("include_usage")
    if include_usage is not None and not isinstance(include_usage, bool):
        _refuse("stream_options.include_usage", "must be true or false")
    return bool(include_usage)


def _read_messages(request: _Object) -> tuple[list[str], list[str]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "must be a non-empty array of messages")
    texts: list[str] = []
    kinds: list[str] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            _refuse(f"messages[{index}]", "must be an object")
        if not isinstance(message.get("role"), str):
            _refuse(f"messages[{index}].role", "must be a string")
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            _read_parts(content, index, texts, kinds)
        elif content is not None:
            _refuse(f"messages[{index}].content", "must be a string or an array of parts")
        if "tool_calls" in message or "function_call" in message:
            texts.append(json.dumps((message.get("tool_calls"), message.get("function_call")), ensure_ascii=False))
    return texts, kinds


def _read_parts(parts: list[Any], index: int, texts: list[str], kinds: list[str]) -> None:
    for part_index, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            _refuse(f"messages[{index}].content[{part_index}]", "must be an object with a 'type'")
        kinds.append(part["type"])
        text = part.get("text") or part.get("refusal")
        if isinstance(text, str):
            texts.append(text)


def _read_input(request: _Object, *, stream: bool) -> tuple[int, int]:
    if stream:
        _refuse("stream", "must not be true: embeddings come in one piece")
    if request.get("encoding_format") not in (None, "float", "base64"):  # vLLM's "bytes" would be no JSON, and no usage
        _refuse("encoding_format", "must be 'float' or 'base64'")
    return _read_prompt(request, "input")


def _read_prompt(request: _Object, name: str) -> tuple[int, int]:
    prompt = request.get(name)
    if prompt is None and name == "prompt" and request.get("prompt_embeds") is not None:
        return 0, 1
    if isinstance(prompt, str):
        return len(prompt.encode()), 1
    if not isinstance(prompt, list) or not prompt:
        _refuse(name, "must be a string, or a non-empty array of strings or token ids")
    kinds = {type(item) for item in prompt}
    if kinds == {str}:
        return len("".join(prompt).encode()), len(prompt)
    if kinds == {int}:
        return _BYTES_PER_TOKEN_ID * len(prompt), 1
    if kinds == {list}:
        return _BYTES_PER_TOKEN_ID * sum(map(len, prompt)), len(prompt)
    return _refuse(name, "must hold strings only, token ids only, or arrays of token ids only")


def _streamable(request: _Object) -> bool:
    if any(request.get(name) for name in _NOT_STREAMED):
        return False
    if request.get("echo") and request.get("logprobs") is not None:
        return False
    return (request.get("best_of") or 1) <= (request.get("n") or 1)


def _needs(operation: Operation, request: _Object, kinds: list[str]) -> frozenset[Capability]:
    needs: set[Capability] = {operation}
    if operation == "embeddings":
        return frozenset(needs)  # what else is in such a body says nothing to a model that only reads
    asked = request.get
    if asked("tools") or asked("tool_choice") is not None or asked("functions"):
        needs.add("tools")
    if (structure := _structure(request)) is not None:
        needs.add(structure)
    if "image_url" in kinds:
        needs.add("vision")
    if "input_audio" in kinds or asked("audio"):
        needs.add("audio")
    if _wants_logprobs(operation, request):
        needs.add("logprobs")
    if asked("reasoning_effort") is not None:
        needs.add("reasoning")
    return frozenset(needs)


def _structure(request: _Object) -> Capability | None:
    answer = request.get("response_format")
    if answer is not None and not isinstance(answer, dict):
        _refuse("response_format", "must be an object")
    kind = (answer or {}).get("type", "text")
    if kind == "json_object":
        return "json_object"
    constrained = kind != "text" or any(request.get(name) is not None for name in _CONSTRAINED)
    return "json_schema" if constrained else None


def _wants_logprobs(operation: Operation, request: Mapping[str, Any]) -> bool:
    if request.get("prompt_logprobs") is not None:
        return True
    # A number in completions, where 0 asks for those of the chosen tokens; true or false in chat.
    return bool(request.get("logprobs")) if operation == "chat" else request.get("logprobs") is not None

"""What the OpenAI dialect sends upstream: the caller's bytes with single members changed."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.formats.openai.compatible import ANY_MODEL, CompatibleAdapter
from gateway.providers.registry import ADAPTERS, PROVIDER_TYPES, VLLM_MEMBERS
from gateway.types import Call, Operation, Secret, UpstreamRequest
from tests.ground.builders import ENDPOINT, build_call, build_target


def call_of(body: bytes, operation: Operation = "chat") -> Call:
    """Build a call from a body as it arrives."""
    return build_call(ENDPOINT[operation].decode(body))


def chat_call(**members: Any) -> Call:
    """Build a chat call with these members."""
    messages = [{"role": "user", "content": "hi"}]
    return call_of(json.dumps({"model": "auto", "messages": messages} | members).encode())


def sent(call: Call, adapter: CompatibleAdapter | None = None, **target: Any) -> UpstreamRequest:
    """Write the request for a target."""
    adapter = adapter or CompatibleAdapter()
    return adapter.prepare(call)(build_target(upstream_model="up", base_url="http://up.test/v1", **target), "att_1")


def test_the_callers_bytes_go_up_with_the_model_changed() -> None:
    """Spaces, order, escapes and unknown members survive."""
    body = b'{ "messages":[{"role":"user","content":"h\\u0069"}], "mod\\u0065l" : "auto","x_unknown":{"a":[1 ,2]} }'
    request = sent(call_of(body))
    assert request.body == body.replace(b'"auto"', b'"up"')
    assert (request.method, request.url) == ("POST", "http://up.test/v1/chat/completions")


def test_completions_have_their_own_path() -> None:
    """A slash at the end of the base URL changes nothing."""
    call = call_of(b'{"model":"auto","prompt":"hi"}', "completions")
    target = build_target(base_url="http://up.test/v1/")
    assert CompatibleAdapter().prepare(call)(target, "att_1").url == "http://up.test/v1/completions"


def test_request_without_a_change_is_not_copied() -> None:
    """A caller who asked for the upstream's own model has the very bytes sent."""
    call = chat_call(model="up")
    assert sent(call).body is call.envelope.body


def test_headers_are_ours_alone() -> None:
    """The attempt id and configured headers; nothing of the caller's, and to sign is left to others."""
    request = sent(chat_call(), credential=Secret("sk-1"), headers=(("x-team", "a"),))
    assert dict(request.headers) == {
        "content-type": "application/json",
        "x-tollway-attempt-id": "att_1",
        "x-team": "a",
    }


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": True, "x": 1}}, {"include_usage": True, "x": 1}),
        ({"stream": True, "stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}),
        ({"stream": True, "stream_options": {}}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"y": False}}, {"y": False, "include_usage": True}),
    ],
)  # fmt: skip
def test_usage_is_always_asked_for(members: dict[str, Any], expected: dict[str, Any]) -> None:
    """The caller's other stream options are kept."""
    body = json.loads(sent(chat_call(**members)).body)
    assert body["stream_options"] == expected
    assert body["stream"] is True


def test_own_hardware_is_streamed_although_the_caller_does_not_stream() -> None:
    """The only way to measure TPOT; everything else stays as it was written."""
    call = chat_call(stream=False, stream_options=None, temperature=0)
    expected = json.loads(call.envelope.body) | {"stream": True, "stream_options": {"include_usage": True}}
    assert json.loads(sent(call, always_stream=True).body) == expected | {"model": "up"}


@pytest.mark.parametrize("members", [{}, {"use_beam_search": True}, {"stream": False}])
def test_plain_request_that_need_not_stream_stays_plain(members: dict[str, Any]) -> None:
    """A provider is not asked to stream for us, nor an engine for what it cannot stream."""
    call = chat_call(**members)
    body = json.loads(sent(call, always_stream="use_beam_search" in members).body)
    assert body == json.loads(call.envelope.body) | {"model": "up"}


@pytest.mark.parametrize("always_stream", [False, True])
def test_embeddings_go_up_as_they_are(always_stream: bool) -> None:
    """Byte for byte but for the model, and never streamed, to own hardware either."""
    body = b'{ "input":["h\\u0069",  "ho"],"model":"auto","encoding_format":"base64" ,"x":1}'
    request = sent(call_of(body, "embeddings"), always_stream=always_stream)
    assert request.body == body.replace(b'"auto"', b'"up"')
    assert request.url == "http://up.test/v1/embeddings"


_OLD, _NEW = "max_tokens", "max_completion_tokens"


@pytest.mark.parametrize(
    ("asked", "target", "sent_limits", "lowered"),
    [
        ({_OLD: 32_000}, {"max_output_tokens": 100}, {_OLD: 100}, [_OLD]),
        ({_NEW: 32_000}, {"max_output_tokens": 100}, {_NEW: 100}, [_NEW]),
        ({_OLD: 7, _NEW: 32_000}, {"max_output_tokens": 100}, {_OLD: 100, _NEW: 100}, [_NEW, _OLD]),
        ({_OLD: None, _NEW: 32_000}, {"max_output_tokens": 100}, {_OLD: None, _NEW: 100}, [_NEW]),
        ({_OLD: 100}, {"max_output_tokens": 100}, {_OLD: 100}, []),
        ({_OLD: 32_000}, {}, {_OLD: 32_000}, []),
        # What is left of a context the engine knows; nearly as much as the context is lowered to what is surely left.
        ({_OLD: 32_000}, {"context_length": 8192}, {}, [_OLD]),
        ({_OLD: 6000}, {"context_length": 8192}, {_OLD: 4192}, [_OLD]),
        ({_OLD: 4000}, {"context_length": 8192}, {_OLD: 4000}, []),
    ],
)
def test_limit_above_what_a_target_has_is_lowered(
    asked: dict[str, Any], target: dict[str, Any], sent_limits: dict[str, Any], lowered: list[str]
) -> None:
    """And named; one that fits goes up as it is."""
    call = replace(chat_call(**asked), input_tokens_estimate=3000)
    prepared: Any = CompatibleAdapter().prepare(call)
    body = json.loads(prepared(build_target(**target), "att_1").body)
    assert {name: body[name] for name in (_OLD, _NEW) if name in body} == sent_limits
    assert prepared.left_out == lowered


@pytest.mark.parametrize(
    ("target", "limit"), [({"max_output_tokens": 100}, {_NEW: 100}), ({"context_length": 8192}, {})]
)
def test_lowered_limit_is_renamed_for_models_that_know_the_new_name_alone(
    target: dict[str, Any], limit: dict[str, int]
) -> None:
    """One that is left out stays out."""
    adapter = CompatibleAdapter(limit="max_completion_tokens", limited=ANY_MODEL)
    request = sent(chat_call(max_tokens=32_000), adapter, **target)
    assert {name: value for name, value in json.loads(request.body).items() if name in {_OLD, _NEW}} == limit


@pytest.mark.parametrize("options", [None, {"include_usage": True}])
def test_an_upstream_that_refuses_stream_options_gets_none(options: dict[str, Any] | None) -> None:
    """Mistral and Cohere answer 422 to them, and count without being asked."""
    call = chat_call(stream=True, stream_options=options)
    assert "stream_options" not in json.loads(sent(call, CompatibleAdapter(asks_usage=False)).body)


def test_openai_is_not_sent_what_only_vllm_takes() -> None:
    """On a route such a candidate drops out, by name; a null is no wish."""
    adapter = CompatibleAdapter(refused_members=VLLM_MEMBERS)
    assert (
        adapter.refuses(chat_call(top_k=5, guided_json={"type": "object"}, temperature=1)) == "'guided_json', 'top_k'"
    )
    assert adapter.refuses(chat_call(top_k=None, logit_bias={"1": 2}, n=2)) is None
    assert CompatibleAdapter().refuses(chat_call(top_k=5)) is None


def test_every_provider_type_names_an_adapter_and_a_sound_address() -> None:
    """A row can be used as it stands."""
    for name, row in PROVIDER_TYPES.items():
        assert row.adapter in ADAPTERS, name
        assert row.base_url is None or (row.base_url.startswith("http") and not row.base_url.endswith("/")), name
        assert row.base_url is None or row.base_url.startswith("https://") is row.needs_key, name


def test_price_providers_exist_in_the_price_book() -> None:
    """A wrong id would make every model of the provider unpriced."""
    from genai_prices.data import providers

    known = {provider.id for provider in providers}
    assert {row.price_provider for row in PROVIDER_TYPES.values() if row.price_provider} <= known

"""Every adapter and every provider type. A new OpenAI-compatible provider is one row of ``PROVIDER_TYPES``."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from gateway.config.snapshot import ProviderType
from gateway.formats.anthropic.messages import AnthropicAdapter
from gateway.formats.base import Format
from gateway.formats.classify import DEEPSEEK, OPENROUTER, XAI
from gateway.formats.openai.answer import PlainShape
from gateway.formats.openai.compatible import ANY_MODEL, CompatibleAdapter
from gateway.formats.responses.adapter import ResponsesAdapter
from gateway.types import Licence

# vLLM 0.32, vllm/entrypoints: what its requests take beyond OpenAI's reference. OpenAI answers 400 to them.
VLLM_MEMBERS = frozenset(
    (
        *("use_beam_search", "top_k", "min_p", "repetition_penalty", "length_penalty", "stop_token_ids"),
        *("ignore_eos", "include_stop_str_in_output", "min_tokens", "skip_special_tokens"),
        *("spaces_between_special_tokens", "cache_salt", "truncate_prompt_tokens", "prompt_logprobs"),
        *("allowed_token_ids", "bad_words", "echo_prompt", "add_generation_prompt", "continue_final_message"),
        *("add_special_tokens", "documents", "prompt_embeds", "chat_template", "chat_template_kwargs"),
        *("mm_processor_kwargs", "structured_outputs", "guided_json", "guided_choice", "guided_grammar"),
        *("return_token_ids", "return_tokens_as_token_ids", "guided_regex", "kv_transfer_params", "vllm_xargs"),
        *("thinking_token_budget", "include_reasoning", "logprob_token_ids", "media_io_kwargs"),
        *("use_activation", "embed_dtype", "endianness", "padding", "truncation_side"),
    )
)

# They know no `max_completion_tokens`, and refuse it (Mistral, Cohere) or pass it over, so that an answer has no bound:
# each one's own reference of its chat endpoint.
ADAPTERS: dict[str, Format] = {
    "anthropic": AnthropicAdapter(),
    "vllm": CompatibleAdapter(says=frozenset(("prefill", "reasoning", "tokenize"))),
    "compatible": CompatibleAdapter(),
    "compatible-max-tokens": CompatibleAdapter(limit="max_tokens", limited=ANY_MODEL),
    "compatible-without-stream-options": CompatibleAdapter(asks_usage=False, limit="max_tokens", limited=ANY_MODEL),
    "responses": ResponsesAdapter(),
    "responses-deepseek": ResponsesAdapter(DEEPSEEK),
    "responses-openrouter": ResponsesAdapter(OPENROUTER),
    "responses-xai": ResponsesAdapter(XAI),
}
_SPEAK_BOTH: dict[str, Callable[..., CompatibleAdapter]] = {
    "openai": partial(
        CompatibleAdapter,
        refused_members=VLLM_MEMBERS,
        plain=PlainShape(message={"annotations": []}),
        says=frozenset(("files", "instructions", "tier", "user")),
    ),
    "deepseek": partial(
        CompatibleAdapter, facts=DEEPSEEK, limit="max_tokens", limited=ANY_MODEL, plain=PlainShape(as_streamed=True)
    ),
    "openrouter": partial(CompatibleAdapter, facts=OPENROUTER, says=frozenset(("files", "user"))),
    "xai": partial(CompatibleAdapter, facts=XAI),
}
"""Those that have Responses beside chat completions; under ``NAME-chat``, as if they had not."""
ADAPTERS |= {name: make(has_responses=True) for name, make in _SPEAK_BOTH.items()}
ADAPTERS |= {f"{name}-chat": make() for name, make in _SPEAK_BOTH.items()}


def _hosted(
    base_url: str,
    price_provider: str | None,
    *,
    adapter: str = "compatible",
    licence: Licence = "unknown",
    always_stream: bool = False,
    bills_stated_cost: bool = False,
    takes_wishes: bool = False,
    question: Literal["model", "models", "chat"] = "chat",
) -> ProviderType:
    """Describe a provider on the internet; ``licence`` where all its models are its own and closed."""
    return ProviderType(
        adapter=adapter,
        base_url=base_url,
        price_provider=price_provider,
        needs_key=True,
        licence=licence,
        always_stream=always_stream,
        bills_stated_cost=bills_stated_cost,
        takes_wishes=takes_wishes,
        question=question,
        responses_adapter=f"responses-{adapter}" if f"responses-{adapter}" in ADAPTERS else "responses",
        chat_adapter=f"{adapter}-chat" if adapter in _SPEAK_BOTH else None,
    )


# Base URLs are those that the provider's own documentation gives for OpenAI's SDK. Who streams plain calls, what each
# is asked by ``check --online``, and why: docs/reference/providers.md.
PROVIDER_TYPES: dict[str, ProviderType] = {
    "anthropic": ProviderType(
        adapter="anthropic",
        base_url="https://api.anthropic.com",
        adds_version=True,
        price_provider="anthropic",
        needs_key=True,
        signer="x-api-key",
        question="model",
        models_path="/v1/models",
        licence="proprietary",
        always_stream=True,
        responses_adapter=None,
    ),
    "ray-serve": ProviderType(
        adapter="vllm",
        model_path="/{upstream}/v1",
        adds_version=True,
        own_hardware=True,
        always_stream=True,
        has_directory=True,
        question="models",
    ),
    "vllm": ProviderType(adapter="vllm", own_hardware=True, always_stream=True, question="models"),
    "openai-compatible": ProviderType(adapter="compatible"),
    "openai": ProviderType(
        adapter="openai",
        chat_adapter="openai-chat",
        base_url="https://api.openai.com/v1",
        price_provider="openai",
        needs_key=True,
        licence="proprietary",
        always_stream=True,
        whole_models=("*-search-*",),  # what they cite is in no chunk
        responses_models=("*-pro", "*-pro-20*", "*codex*", "*-deep-research*", "computer-use-*"),
        question="model",
        hides_reasoning=True,
    ),
    "groq": _hosted("https://api.groq.com/openai/v1", "groq", question="model"),
    "together": _hosted("https://api.together.ai/v1", "together", adapter="compatible-max-tokens", question="models"),
    "fireworks": _hosted("https://api.fireworks.ai/inference/v1", "fireworks"),
    "deepseek": _hosted(
        "https://api.deepseek.com", "deepseek", adapter="deepseek", always_stream=True, question="models"
    ),
    # These three say what each answer costs (openrouter.ai/docs/use-cases/usage-accounting, docs.perplexity.ai,
    # docs.x.ai), searches and the backend that served it included, which no price list knows beforehand.
    "xai": _hosted(
        "https://api.x.ai/v1", "x-ai", adapter="xai", licence="proprietary", question="model", bills_stated_cost=True
    ),
    "openrouter": _hosted(
        "https://openrouter.ai/api/v1", "openrouter", adapter="openrouter", bills_stated_cost=True, takes_wishes=True
    ),
    "perplexity": _hosted(
        "https://api.perplexity.ai", "perplexity", adapter="compatible-max-tokens", bills_stated_cost=True
    ),
    # Both answer `stream_options` with 422 and count in the last chunk without being asked.
    "mistral": _hosted(
        "https://api.mistral.ai/v1", "mistral", adapter="compatible-without-stream-options", question="model"
    ),
    "cohere": _hosted("https://api.cohere.ai/compatibility/v1", "cohere", adapter="compatible-without-stream-options"),
    # The router bills at each backend's price, so there is no one price list.
    "huggingface": _hosted("https://router.huggingface.co/v1", None),
    # Local servers, at the address each listens on by default; GPT4All does not listen on IPv6.
    "ollama": ProviderType(adapter="compatible-max-tokens", base_url="http://127.0.0.1:11434/v1", question="model"),
    "lmstudio": ProviderType(adapter="compatible-max-tokens", base_url="http://127.0.0.1:1234/v1", question="models"),
    "gpt4all": ProviderType(adapter="compatible-max-tokens", base_url="http://127.0.0.1:4891/v1", question="models"),
    "tgi": ProviderType(adapter="compatible-max-tokens"),
}

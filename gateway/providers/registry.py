"""Every adapter and every provider type. A new OpenAI-compatible provider is one row of ``PROVIDER_TYPES``."""

from gateway.providers.anthropic import AnthropicAdapter
from gateway.providers.base import Adapter
from gateway.types import ProviderType

ADAPTERS: dict[str, Adapter] = {
    "anthropic": AnthropicAdapter(),
}

PROVIDER_TYPES: dict[str, ProviderType] = {
    "anthropic": ProviderType(
        adapter="anthropic",
        base_url="https://api.anthropic.com",
        price_provider="anthropic",
        needs_key=True,
        max_tokens_required=True,
    ),
}

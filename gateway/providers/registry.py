"""Every adapter and every provider type. A new OpenAI-compatible provider is one row of ``PROVIDER_TYPES``."""

from gateway.providers.base import Adapter
from gateway.types import ProviderType

ADAPTERS: dict[str, Adapter] = {}

PROVIDER_TYPES: dict[str, ProviderType] = {}

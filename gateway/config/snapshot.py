"""One configuration as values. A request keeps the snapshot it began with; a reload swaps the whole of it.

What must outlive a reload (connections, breakers, statistics, limits in use) is not here but in the runtime, keyed by
the ids that this holds.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from gateway.prompt_cache import PromptCache
from gateway.tariff import Rates
from gateway.types import BodyBudget, Licence, Policy, Principal, Route, Secret, Target, Timeouts


class ProviderType(Struct, frozen=True, kw_only=True):
    """A row of the provider registry: what ``providers: {name: {type: ...}}`` in the configuration may name."""

    adapter: str
    base_url: str | None = None
    """None: the configuration must give one."""
    model_path: str = ""
    """Appended to the base URL for one model; ``{upstream}`` is its upstream name."""
    adds_version: bool = False
    """``/v1`` comes behind the base URL, which therefore ends before it."""
    price_provider: str | None = None
    """The provider's id in genai-prices; None: prices come from the configuration."""
    bills_stated_cost: bool = False
    """Its answers state what they cost, and that is what it bills."""
    takes_wishes: bool = False
    """It chooses a provider itself, by ``provider`` in the body."""
    needs_key: bool = False
    signer: str = "bearer"
    """How it takes its key: a key of ``credentials.registry``."""
    own_hardware: bool = False
    always_stream: bool = False
    """It streams, and what it streams can be put together to exactly what it answers a plain call."""
    whole_models: tuple[str, ...] = ()
    """Patterns of the models for which that is not so."""
    chat_adapter: str | None = None
    """The adapter by which a model is asked by chat completions whatever the caller speaks; None: the same."""
    responses_adapter: str | None = "responses"
    """The adapter by which a model is asked by OpenAI's Responses API; None: there is none."""
    responses_models: tuple[str, ...] = ()
    """Patterns of the models that exist in that API only."""
    hides_reasoning: bool = False
    """Some of its models think before the first token, and stream nothing meanwhile."""
    has_directory: bool = False
    """Its replicas may be listed by a directory at the base URL; see ADR 0006."""
    question: Literal["model", "models", "chat"] = "chat"
    """What ``tollway check --online`` asks: for the model by its name or for the list of models, where either is free
    and needs the credential; else for one token of a chat."""
    models_path: str = "/models"
    """Its list of models, behind the base URL; a single one stands behind that by its name."""
    licence: Licence = "unknown"
    """Of the models of such a provider, where the configuration names none (``proprietary`` for OpenAI)."""

    def adapter_of(self, upstream: str) -> str:
        """Return the adapter by which a model is asked, by its own name, where the file says nothing else."""
        return self.responses_adapter or self.adapter if matches(upstream, self.responses_models) else self.adapter


def matches(model: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a model's own name is like one of the patterns."""
    return any(fnmatchcase(model, pattern) for pattern in patterns)


PageAccess = Literal["open", "key", "off"]


class Server(Struct, frozen=True, kw_only=True):
    """Where to listen and what to accept."""

    host: str
    port: int
    max_body_bytes: int
    body_timeout_s: float
    drain_s: float
    """How long running requests may take to end when the gateway is told to stop."""
    keep_alive_s: float = 10.0
    """Without a first token; then a caller who streams is sent a sign of life. 0: never."""
    bodies: BodyBudget = BodyBudget()
    workers: int = 1
    """Processes that serve."""
    is_loopback: bool = True
    """Only this machine's programs can connect."""
    hosts: frozenset[str] = frozenset()
    """Names in lower case, without a port, by which requests may address the gateway besides the loopback ones."""
    cors_origins: frozenset[str] = frozenset()
    """In lower case, as browsers write them: the web pages that may call and read the answers."""
    pages: Mapping[str, PageAccess] = {}
    """What the configuration says of a page, by its name."""


class Keep(Struct, frozen=True, kw_only=True):
    """How long something is kept; None: no bound."""

    max_days: float | None = None
    max_bytes: int | None = None


class Storage(Struct, frozen=True, kw_only=True):
    """What the state directory may hold."""

    min_free_bytes: int = 64_000_000
    """With less free on its disk, calls are refused."""
    refusals_per_minute: int = 300
    """Records of refused calls that this process writes in a minute for each key."""
    refusals: Keep = Keep(max_days=7, max_bytes=100_000_000)
    calls: Keep = Keep()
    rejected: Keep = Keep(max_days=30, max_bytes=10_000_000)


class KeptResponses(Struct, frozen=True, kw_only=True):
    """How responses are kept."""

    keep_s: float = 86_400
    """0: not at all."""
    max_bytes: int = 1_000_000_000
    secret: Secret | None = None
    """None: one in the state directory."""
    min_free_bytes: int = 64_000_000
    """With less free on the disk of the state directory, nothing is kept."""


class Wildcard(Struct, frozen=True, kw_only=True):
    """``openai/*``: every model of a provider, by its own name behind the prefix."""

    prefix: str
    """``openai/``."""
    template: Target
    """``id``, ``upstream_model`` and ``rates`` are filled in for each name."""
    policy: Policy
    """Of each of its models, called by its own name."""
    price_provider: str | None
    kind: ProviderType
    cache_of: Callable[[str], PromptCache]
    """By a model's own name."""

    def target(self, name: str, rates: Rates) -> Target:
        """Make the target of a name behind the prefix."""
        upstream = name.removeprefix(self.prefix)
        return replace(
            self.template,
            id=name,
            upstream_model=upstream,
            rates=rates,
            adapter=self.kind.adapter_of(upstream),
            always_stream=self.template.always_stream and not matches(upstream, self.kind.whole_models),
            base_url=self.template.base_url.replace("{upstream}", quote(upstream)),
            prompt_cache=self.cache_of(upstream),
        )


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything that the file says, resolved: secrets read, prices looked up, names checked."""

    version: str
    """A hash of the file's content; changes whenever the policy may."""
    server: Server
    targets: Mapping[str, Target]
    routes: Mapping[str, Route]
    """Every name that may be asked for as ``model``: the routes, and each target's own name as a route of one."""
    wildcards: tuple[Wildcard, ...]
    keys: Mapping[bytes, Principal]
    """SHA-256 of a key -> who it is. Empty: no keys configured, loopback only."""
    timeouts: Timeouts
    state_dir: str
    storage: Storage = Storage()
    responses: KeptResponses = KeptResponses()
    provider_types: Mapping[str, ProviderType] = {}
    """Of the configured providers, by their names."""

    def wildcard_of(self, name: str) -> Wildcard | None:
        """Return the wildcard that a name is behind, the one with the longest prefix; None when there is none."""
        matching = [each for each in self.wildcards if name.startswith(each.prefix)]
        return max(matching, key=lambda each: len(each.prefix), default=None)

    def target(self, target_id: str) -> Target | None:
        """Return the target of that id; of one behind a wildcard without its price. None when there is none."""
        target = self.targets.get(target_id)
        wildcard = self.wildcard_of(target_id) if target is None else None
        return target if wildcard is None else wildcard.target(target_id, wildcard.template.rates)

    def configured_name(self, name: str) -> str | None:
        """Return what the configuration names of a route's or target's name: itself, or the wildcard it is behind."""
        if name in self.routes:
            return name
        wildcard = self.wildcard_of(name)
        return None if wildcard is None else f"{wildcard.prefix}*"


class Current:
    """Holds the snapshot that new requests begin with; a reload replaces it. Read the attribute once per request."""

    __slots__ = ("snapshot",)

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

"""Every key of ``tollway.yaml``: its type, its default, what it means. The reference page is made from this.

Decides what one value may be. Whether names agree with each other is left to ``load``, whether they agree with the
provider types and the price book to ``build``. An error's sentence is completed with file and line by ``load``.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config.credentials import surroundings
from gateway.config.fields import (
    BaseUrl,
    Count,
    Duration,
    HeaderName,
    HeaderValue,
    HostName,
    KeyDigest,
    LicenceName,
    ModelName,
    Name,
    Number,
    Origin,
    PageAccessName,
    Seconds,
    SecretReference,
    Usd,
    price_section,
)
from gateway.config.parts import PartChoice, as_written
from gateway.config.prices import PriceSection
from gateway.config.problems import Source, unknown
from gateway.config.section import Section
from gateway.config.simulation import SimulatedModelSection
from gateway.config.timeouts import ProviderTimeoutsSection, RouteTimeoutsSection, TimeoutsSection
from gateway.types import Capability, DataPolicy, Secret

_OWN_HEADERS = {
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "x-api-key",
}
_SECRET_HEADERS = ("key", "token", "secret", "auth", "cookie", "credential", "password")


class PagesSection(Section):
    """Who may read the pages: everyone (`open`), who shows a key (`key`), no caller (`off`).

    Default: this machine's programs on a loopback address, and everyone else with a key.
    """

    metrics: PageAccessName | None = Field(default=None, description="`/metrics`, for Prometheus.")
    docs: PageAccessName | None = Field(default=None, description="`/docs`, the reference to read.")
    openapi: PageAccessName | None = Field(default=None, description="`/openapi.json`, the reference for programs.")


class ServerSection(Section):
    """Where the gateway listens and what it accepts."""

    host: Annotated[str, Field(min_length=1)] = Field(
        default="127.0.0.1", description="Address to listen on. Without `keys`, only a loopback address is accepted."
    )
    port: Annotated[int, Number, Field(ge=0, le=65_535)] = Field(
        default=8080, description="TCP port; 0 takes a free one."
    )
    max_body_mb: Annotated[float, Number, Field(gt=0, le=1_000)] = Field(
        default=20, description="Largest request body, in units of 1,000,000 bytes. A larger one is answered 413."
    )
    body_timeout_s: Seconds = Field(
        default=30, description="How long a caller may take to send the body, in seconds; then 408."
    )
    keep_alive_s: Annotated[float, Number, Field(ge=0, le=600)] = Field(
        default=10,
        description="A streamed answer whose first token is not there after so many seconds begins with a comment (in "
        "Messages a `ping`), and gets another one each time as many have passed, so that nothing on the way cuts it. "
        "From then on the status is 200, a failure is an error event, and the headers name no target. 0: never.",
    )
    max_body_memory_mb: Annotated[float, Number, Field(gt=0, le=1_000_000)] | None = Field(
        default=None,
        description="How much of request bodies the gateway holds at a time, over all its processes; bodies of up to "
        "64 KB are not counted. What does not fit is answered 503 with `Retry-After`. At least `max_body_mb`. Default: "
        "512, or twice `max_body_mb` if that is more.",
    )
    max_body_memory_per_key_mb: Annotated[float, Number, Field(gt=0, le=1_000_000)] | None = Field(
        default=None,
        description="How much of it the requests of one key may hold at a time; beyond it they are answered 429. At "
        "least `max_body_mb`. Default: half of `max_body_memory_mb`.",
    )
    drain_s: Annotated[float, Number, Field(ge=0, le=86_400)] = Field(
        default=30,
        description="How long running requests may take to end once the gateway is told to stop, in seconds.",
    )
    workers: Annotated[int, Number, Field(ge=1, le=32)] = Field(
        default=1,
        description="Processes that serve behind the port, each on a core of its own; they share limits, metrics, "
        "predictions, breakers and the ledger.",
    )
    hosts: tuple[HostName, ...] = Field(
        default=(),
        description="Further names, without a port, by which this machine's programs call the gateway. Without `keys`, "
        "a request whose `Host` is neither a loopback one nor listed is refused: docs/guide/exposing.md.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        description="Origins of the web pages that may call the gateway and read its answers (CORS), such as "
        "`https://app.example.com`. Default: none.",
    )
    pages: PagesSection = Field(
        default=PagesSection(), description="Who may read `/metrics`, `/docs`, `/openapi.json`."
    )

    @model_validator(mode="after")
    def _room_for_one_body(self) -> "ServerSection":
        for name in ("max_body_memory_mb", "max_body_memory_per_key_mb"):
            given = getattr(self, name)
            if given is not None and given < self.max_body_mb:
                raise ValueError(f"{name} is {given:g}: a body of max_body_mb ({self.max_body_mb:g}) would never fit")
        return self


class ProviderSection(Section):
    """A place where requests can go: an API with its credential, or a cluster of own replicas."""

    type: str = Field(
        description="The kind of API, which decides the wire format; an unknown one is answered with a list."
    )
    base_url: BaseUrl | None = Field(
        default=None,
        description="Address of the API; for OpenAI-compatible ones with the `/v1`. Default: the type's own.",
    )
    api_key: SecretReference | None = Field(
        default=None,
        description="The credential, as `env:NAME` or `file:PATH` (relative to this file). Never the secret itself.",
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default={},
        description="Further request headers. A value may be `env:NAME` or `file:PATH`; a credential must be.",
    )
    always_stream: bool | None = Field(
        default=None,
        description="Stream from the upstream also where the caller asked for no stream, and put the answer together: "
        "silence is noticed after `first_token_s`, and time per output token is measured. Default: the type's own, on "
        "for own replicas, Anthropic, DeepSeek and OpenAI (docs/reference/providers.md). What cannot be put together "
        "exactly is asked for as it is, and so is for ten minutes whatever an upstream has refused to stream.",
    )
    timeouts: ProviderTimeoutsSection = Field(
        default=ProviderTimeoutsSection(), description="How long to wait for this provider."
    )
    direct: bool = Field(
        default=True,
        description="For `ray-serve`: find the replicas by the cluster's directory and send to them themselves. "
        "`false` sends everything through Ray Serve's proxy, which is several times slower.",
    )

    @field_validator("type")
    @classmethod
    def _known_type(cls, name: str, info: ValidationInfo) -> str:
        known = surroundings(info).provider_types
        if known is not None and name not in known:
            raise ValueError(unknown("provider type", name, known))
        return name

    @field_validator("headers")
    @classmethod
    def _headers(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name, value in headers.items():
            lower = name.lower()
            if lower in _OWN_HEADERS or lower.startswith("x-tollway-"):
                raise ValueError(f"the gateway itself writes the header '{name}'; a credential goes in api_key")
            if isinstance(value, str) and any(word in lower for word in _SECRET_HEADERS):
                raise ValueError(f"the value of '{name}' looks like a secret; write env:NAME or file:PATH")
        return headers


class HardwareSection(Section):
    """The own machine that one replica of a model occupies."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="What it is: `h100-80gb`.")
    usd_per_hour: Usd | None = Field(
        default=None,
        description="What one replica costs per hour, in USD, busy or idle. Default: its worker's.",
    )
    charge: Literal["marginal", "average"] = Field(
        default="marginal",
        description="What routing compares: the call's share of busy time (`marginal`), or with the idle time of the "
        "last minute (`average`), which makes an idle replica look dear.",
    )


class ModelSection(Section):
    """A target: a provider, one of its models, and what is known of it. Called by its own name, or through a route."""

    provider: str = Field(description="A name from `providers`.")
    upstream: Annotated[str, Field(min_length=1, max_length=300)] | None = Field(
        default=None, description="The provider's own name of the model. Default: the name here."
    )
    api: Literal["chat", "responses"] | None = Field(
        default=None,
        description="By which of OpenAI's APIs the model is asked, whatever the caller speaks. Default: `chat`, but "
        "for those models of OpenAI's that exist in Responses only, and for callers of Responses at the types "
        "`openai`, `openrouter`, `xai` and `deepseek`, which have both.",
    )
    licence: LicenceName | None = Field(
        default=None,
        description="`permissive`, `copyleft`, `restricted`, `non-commercial`, `no-derivatives`, `proprietary` or "
        "`unknown`; or a licence's own name, such as `apache-2.0`, `mit`, `llama3.1`. Default: the provider type's.",
    )
    context: Count | None = Field(
        default=None, description="Context length in tokens, input and output together. Default: not known or checked."
    )
    max_output_tokens: Count | None = Field(default=None, description="The most it can write, in tokens.")
    capabilities: tuple[Capability, ...] | None = Field(
        default=None, description="What it can do. Default: not known, and nothing is refused because of it."
    )
    hardware: HardwareSection | None = Field(
        default=None,
        description="For own replicas, in place of `price`: a call costs its share of the machine's time. Default, for "
        "a model of a Ray Serve cluster: the `usd_per_hour` of its worker in `workers`.",
    )
    replica_choice: Literal["prefix", "least_active", "power_of_two", "round_robin"] = Field(
        default="prefix", description="Of several own replicas, which one an attempt goes to: docs/guide/workers.md."
    )
    price: Annotated[PriceSection | None, BeforeValidator(price_section)] = Field(
        default=None,
        description="`free`, or prices. Default: the price book's. A model with none of these is refused.",
        json_schema_extra=lambda schema: schema["anyOf"].append({"const": "free"}),  # type: ignore[union-attr]
    )
    quality: dict[Name, Annotated[float, Number, Field(ge=0)]] = Field(
        default={},
        description="Score per benchmark or task, for a route's `require` and `objective`: `{coding: 0.62}`.",
    )
    data_policy: DataPolicy | None = Field(
        default=None,
        description="What becomes of prompts there: `zero-retention` (nothing is kept), `no-training` (what is kept "
        "trains no model), `unknown`. Default: `zero-retention` on own hardware, else `unknown`.",
    )
    region: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Where it runs, for a route's `require`: `eu-central-1`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSection":
        if self.hardware is not None and self.price is not None:
            raise ValueError("hardware and price contradict each other: a call costs its time or its tokens; keep one")
        if self.context and self.max_output_tokens and self.max_output_tokens > self.context:
            raise ValueError("max_output_tokens is larger than context, which counts input and output together")
        return self


class RequireSection(Section):
    """What a target must be, whatever it costs."""


class PredictorsSection(Section):
    """How it is predicted what a call would take and cost at a target: what objective and limits look at."""

    output_tokens: PartChoice = as_written("measured", "The length of the answer.")
    ttft_ms: PartChoice = as_written("measured", "Time to first token.")
    tpot_ms: PartChoice = as_written("measured", "Time per output token.")
    cost_nano_usd: PartChoice = as_written("tariff", "The cost.")


class RouteSection(Section):
    """A name that apps call as `model`, and the policy that chooses the target."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="Names from `models`. Their order breaks ties."
    )
    objective: PartChoice = as_written("cost", "What comes first among the targets that keep the limits.")
    strategy: PartChoice = as_written("in_order", "How the targets are asked.")
    predictors: PredictorsSection = as_written({}, "What predicts length, latency and cost.")
    limits: Any = as_written({}, "Ceilings on latency and cost.")
    require: RequireSection = as_written({}, "Demands on licence, hosting, region, data policy and quality.")
    task: Name | None = Field(
        default=None,
        description="What calls of this route are for: the key of `models.NAME.quality` that `require.task_quality` "
        "and `objective: balanced` look at. A call's own is in its header `x-tollway-task`.",
    )
    when_none_fits: Literal["best_effort", "reject"] = Field(
        default="best_effort",
        description="When no target keeps the limits: take the nearest (`best_effort`) or refuse with 503 (`reject`).",
    )
    timeouts: RouteTimeoutsSection = Field(
        default=RouteTimeoutsSection(), description="How long to wait on this route."
    )
    unsupported_tools: Literal["refuse", "drop"] = Field(
        default="refuse",
        description="Tools of a provider's own (`web_search`, `file_search`, MCP) in a call that is translated for "
        "another: do not ask that one (`refuse`), or leave them out (`drop`), named in `left_out` of the call's "
        "record.",
    )

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in models if models.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} twice")
        return models


Days = Annotated[float, Number, Field(ge=1, le=36_500)]
Megabytes = Annotated[float, Number, Field(gt=0, le=100_000_000)]


class KeepSection(Section):
    """How long calls and their attempts are kept. What is beyond a bound is deleted, the oldest first."""

    max_days: Days | None = Field(default=None, description="Delete what is more days old.")
    max_mb: Megabytes | None = Field(default=None, description="Delete the oldest beyond so many MB.")


class KeepRefusalsSection(KeepSection):
    """How long records of refused calls are kept."""

    max_days: Days | None = Field(default=7, description="Delete what is more days old; `null`: no bound.")
    max_mb: Megabytes | None = Field(default=100, description="Delete the oldest beyond so many MB; `null`: no bound.")


class KeepRejectedSection(KeepSection):
    """How long lines that could not be stored are kept."""

    max_days: Days | None = Field(default=30, description="Delete what is more days old; `null`: no bound.")
    max_mb: Megabytes | None = Field(default=10, description="Delete the oldest beyond so many MB; `null`: no bound.")


class StorageSection(Section):
    """What the state directory may hold, and for how long."""

    min_free_mb: Annotated[float, Number, Field(ge=0, le=1_000_000)] = Field(
        default=64,
        description="With less free on the state directory's disk, calls are refused with 503 and the gateway does not "
        "start. From twice as much downwards `/readyz` and the log say so, from four times as much downwards refused "
        "calls are only counted. 0: no bound.",
    )
    refusals_per_minute: Annotated[int, Number, Field(ge=0, le=100_000)] = Field(
        default=300,
        description="Refused calls that get a record each, in a minute, of each key, and of all callers without one. "
        "The others are counted, in one row a minute for each kind.",
    )
    refusals: KeepRefusalsSection = Field(
        default=KeepRefusalsSection(),
        description="How long records of refused calls are kept; they stay counted by day, key, kind and status.",
    )
    calls: KeepSection = Field(
        default=KeepSection(),
        description="How long calls that went to a target are kept, and their attempts; `max_mb` is the whole "
        "database's size. Default: for ever. What is deleted stays in the sums by day, key, model and target; what is "
        "younger than 25 hours is not deleted.",
    )
    rejected: KeepRejectedSection = Field(
        default=KeepRejectedSection(),
        description="How long `rejected.jsonl` is kept: lines of the journal that could not be stored.",
    )


class ResponsesSection(Section):
    """What is kept of answers to `POST /v1/responses`: encrypted, in the state directory."""

    keep: Duration = Field(
        default="24h",
        description="How long a response is kept for `previous_response_id` and `GET /v1/responses/{id}`, unless the "
        "call says `store: false`: `30m`, `24h`, `7d`. `0`: nothing is kept.",
    )
    keep_mb: Megabytes = Field(default=1_000, description="Delete the oldest beyond so many MB of all keys together.")
    key: SecretReference | None = Field(
        default=None,
        description="What it is encrypted with, as `env:NAME` or `file:PATH`: 32 characters or more. Default: "
        "`responses.key` in the state directory, which is made there with mode 0600.",
    )

    @field_validator("key")
    @classmethod
    def _long(cls, key: Secret | None) -> Secret | None:
        if key is not None and len(key.value) < 32:
            raise ValueError("is too short: it must have 32 characters or more")
        return key


Wish = Literal[
    "sort", "max_price", "preferred_max_latency", "preferred_min_throughput", "only", "ignore", "order", "task"
]


class KeySection(Section):
    """A key that callers show, and what it may do."""

    name: Name = Field(description="Names the key in metrics and the ledger; not secret.")
    secret: KeyDigest = Field(
        description="`env:NAME`, `file:PATH`, or `sha256:` and the hexadecimal digest of the key. Never the key itself."
    )
    routes: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        default=None, description="The routes and models it may ask for. Default: all."
    )
    requests_per_minute: Annotated[Count, Field(le=600_000)] | None = Field(
        default=None, description="The most requests in any 60 seconds; then 429. Default: no limit."
    )
    concurrency: Count | None = Field(
        default=None, description="The most requests running at a time; then 429. Default: no limit."
    )
    may_override: tuple[Wish, ...] | None = Field(
        default=None,
        description="What its calls may say of routing in `provider` and `x-tollway-task`: docs/guide/policy.md. "
        "Default: all; `[]`: nothing.",
    )
    team: Name | None = Field(default=None, description="The team that its usage is counted for.")

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == "anonymous":
            raise ValueError("'anonymous' is the name of callers when there are no keys; choose another")
        return name


class Config(Section):
    """The whole of `tollway.yaml`, as written, with its secrets read."""

    server: ServerSection = Field(default=ServerSection(), description="Where the gateway listens and what it accepts.")
    providers: Annotated[dict[Name, ProviderSection], Field(min_length=1)] = Field(
        description="Where requests can go, by a name of your choice."
    )
    models: Annotated[dict[ModelName, ModelSection], Field(min_length=1)] = Field(
        description="The targets, by the name apps call. A name such as `openai/*` makes every model of the provider "
        "callable as `openai/<its name>`; of the keys below it takes only `provider`, `licence`, `capabilities`, "
        "`hardware`, `price`, `region` and `data_policy`."
    )
    routes: dict[Name, RouteSection] = Field(default={}, description="Names that stand for a choice among models.")
    timeouts: TimeoutsSection = Field(default=TimeoutsSection(), description="How long to wait for an upstream.")
    storage: StorageSection = Field(
        default=StorageSection(), description="What the state directory may hold, and for how long."
    )
    responses: ResponsesSection = Field(
        default=ResponsesSection(), description="What is kept of answers to `POST /v1/responses`."
    )
    state_dir: str = Field(
        default="",
        description="Directory of the journal and the database. Default: `$XDG_STATE_HOME/tollway`, or else "
        "`~/.local/state/tollway`. A relative path starts at this file's directory.",
    )
    keys: tuple[KeySection, ...] = Field(
        default=(), description="Who may call. Default: everyone, from this machine only (a loopback address)."
    )
    workers: dict[str, Any] = Field(
        default={},
        description="Own replicas. Checked by the workers; the gateway takes `usd_per_hour` from it.",
    )
    simulation: dict[ModelName, SimulatedModelSection] = Field(
        default={},
        description="How models behave in `tollway simulate`, by their names in `models`: docs/guide/simulate.md.",
    )

    _source: Source = PrivateAttr(default=Source())

    @field_validator("state_dir")
    @classmethod
    def _resolved(cls, written: str, info: ValidationInfo) -> str:
        around = surroundings(info)
        if written:
            return str(around.path(written))
        # The XDG base directory specification: a relative value is to be ignored.
        state_home = Path(around.environ.get("XDG_STATE_HOME", ""))
        return str((state_home if state_home.is_absolute() else around.home() / ".local" / "state") / "tollway")

    @property
    def source(self) -> Source:
        """Where each value was written, for problems that are found later."""
        return self._source

    @classmethod
    def plain_route(cls) -> RouteSection:
        """Return the section of a route with every default: what the name of a single model stands for."""
        section: type[RouteSection] = get_args(cls.model_fields["routes"].annotation)[1]
        return section(models=("model",))

    def read_from(self, source: Source) -> "Config":
        """Return a copy that knows where its values were written."""
        copy = self.model_copy()
        copy._source = source  # noqa: SLF001 - our own, on a copy that is not in use yet
        return copy

    def with_server(self, **given: object) -> "Config":
        """Return a copy with the command line's values in place of those under ``server``, where one is given."""
        server = self.server.model_copy(update={name: value for name, value in given.items() if value is not None})
        return self.model_copy(update={"server": server})

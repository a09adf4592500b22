"""The values that the stages exchange. They are immutable, name their units, and never mention a vendor's JSON.

``msgspec.Struct`` rather than ``dataclass``: a frozen one is built in C, about ten times as fast, and needs no code
of ours to run when a request makes one. Those that a request makes by the dozen, and that can be part of no cycle, are
none of the garbage collector's concern (``gc=False``). Nothing here decides anything.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from gateway.errors import Allowance, GatewayError
from gateway.prompt_cache import PromptCache
from gateway.tariff import Amounts, Origin, Rates, Usage

Operation = Literal["chat", "completions", "embeddings", "transcriptions"]
"""What a model can be asked to do. Other dialects have other words for it, and paths (``Endpoint``)."""
Quantile = Literal["p50", "p90", "p95", "p99"]
Licence = Literal["permissive", "copyleft", "restricted", "non-commercial", "no-derivatives", "proprietary", "unknown"]
DataPolicy = Literal["zero-retention", "no-training", "unknown"]
Outcome = Literal["ok", "refused", "timeout", "cut", "cancelled", "failed", "interrupted"]
"""How an attempt or a call ended. ``ok``: complete. ``refused``: an error status before any byte. ``timeout``: a limit
passed (first token, idle, total). ``cut``: the upstream broke off. ``cancelled``: the caller left. ``failed``: no
connection, or an answer that was not to be understood. ``interrupted``: the gateway itself died; recovery writes it.
"""
Capability = Literal[Operation, "tools", "json_object", "json_schema", "vision", "audio", "logprobs", "reasoning"]
"""What models differ in. What only wire formats differ in (``n``, ``seed``) an adapter refuses by name."""


class Secret:
    """A credential that no log, error or debugger view shows by accident; read it through ``value``."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def fingerprint(self) -> str:
        """Distinguish secrets without showing them: 16 hexadecimal digits of the SHA-256."""
        return hashlib.sha256(self.value.encode()).hexdigest()[:16]


class Endpoint(Protocol):
    """One path that callers may post to: how its bodies are read, and how an error is written there. Has no state.

    A new one is a file with such a class, and a line in ``formats.registry``.
    """

    path: str
    dialect: str
    """An upstream's format of the same dialect gets the caller's own bytes; any other gets a translation."""
    operation: Operation
    summary: str
    """For the pages that describe the API, as is ``schema``."""
    schema: Mapping[str, Any]
    """Name -> JSON schema of each member that a caller must know of beside ``model``; the first one is required."""
    has_tokens: bool
    """Its answers are made of tokens, one after another."""
    id_header: bytes
    """Where clients of the dialect look for the request's id."""
    keep_alive: bytes
    """What clients of the dialect skip in a stream that has not begun."""

    def decode(self, body: bytes) -> "Envelope":
        """Validate a body and read its envelope.

        Raises GatewayError (INVALID_REQUEST, with ``param`` where a member is at fault) for everything that is not one
        unambiguous body, and for members that the gateway reads and that are not of the type that the dialect's
        reference gives them.
        """

    def error(self, error: GatewayError, request_id: str, *, in_stream: bool = False) -> bytes:
        """Write the body of an error answer, or the last event of a stream that failed. No end marker follows that."""

    def allowance(self, allowance: Allowance | None) -> bytes:
        """Write the headers that say what is left to the key, each a line with its end; None: it has no limit."""


class Inbound(Struct, frozen=True, kw_only=True):
    """One HTTP request as it arrived, free of any web framework."""

    id: str
    endpoint: Endpoint
    headers: Mapping[str, str]
    """Names in lower case, values decoded as latin-1; of repeated headers the first."""
    received_at_ns: int
    """Monotonic."""
    read_body: Callable[[Callable[[int], None]], Awaitable[bytes]]
    """Reads the whole body once; raises GatewayError when it is too large, too slow, or the caller has left.

    It is given ``Admission.take_body``, and calls that before it keeps more than 64 KB, with what it is about to keep.
    """
    caller_left: Callable[[], bool]
    """Whether it was the caller's leaving that cancelled the request; otherwise the gateway is stopping."""


class Principal(Struct, frozen=True, kw_only=True):
    """The caller of a request, by key, and what the key may do."""

    key_id: str
    """The configured name of the key (``anonymous`` when no keys are configured); safe to show and as a label."""
    team_id: str | None = None
    allowed_models: frozenset[str] | None = None
    """Routes and models that may be asked for; None: all."""
    may_override: frozenset[str] | None = None
    """What it may wish of routing (``routing.wishes``); None: everything."""
    requests_per_minute: int | None = None
    concurrency: int | None = None


class BodyBudget(Struct, frozen=True, kw_only=True):
    """How many bytes of request bodies may be held at a time, over all processes of the gateway."""

    per_key_bytes: int = 256_000_000
    in_all_bytes: int = 512_000_000


class Envelope(Struct, frozen=True, kw_only=True):
    """A validated body: what the gateway must know of it, and the caller's own bytes for the rest."""

    endpoint: Endpoint
    body: bytes
    members: Mapping[str, bytes]
    """Top-level member name -> its raw JSON, exactly as the caller wrote it."""
    model: str
    stream: bool
    include_usage: bool
    """The caller asked for usage in the stream (``stream_options.include_usage``)."""
    max_output_tokens: int | None
    """Per choice; 0 where an answer has no tokens."""
    limit_is_bound: bool = False
    """More than a target has is lowered to that, and rules no target out: agents ask for 32,000 tokens of any model."""
    choices: int
    """How many choices the engine will generate (``n``, ``best_of``, beam width)."""
    streamable: bool
    """False for what an engine cannot stream (beam search, ``best_of`` above ``n``, prompt log-probabilities)."""
    whole_from: str | None = None
    """An adapter whose answers pass as they are, so that it is asked for a stream only if the caller is to get one."""
    needs: frozenset[Capability]
    content_bytes: int
    """UTF-8 bytes of everything the model will read: message text, tools, schema. Images are counted apart."""
    image_count: int = 0
    prompts: int = 1
    """Texts that the model reads apart, each with the whole context to itself."""
    audio_ms: int = 0
    """Estimated length of what is to be transcribed."""


class Timeouts(Struct, frozen=True, kw_only=True):
    """Seconds; each is configured once and measured by the event loop's clock."""

    connect_s: float = 2.0
    first_token_s: float = 20.0
    idle_s: float = 15.0
    total_s: float = 600.0
    cold_start_s: float = 120.0


class Target(Struct, frozen=True, kw_only=True):
    """A provider and one of its models: a place where a request can go."""

    id: str
    """The model's name in the configuration; safe as a label."""
    provider: str
    adapter: str
    """The key of ``providers.registry.ADAPTERS``."""
    upstream_model: str
    base_url: str
    credential: Secret | None = None
    signer: str = "bearer"
    """How it is shown: a key of ``credentials.registry``."""
    pool: str = ""
    """Its provider and the fingerprints of its secrets: a connection is used again for the same ones only."""
    capabilities: frozenset[Capability] | None = None
    """None: unknown, so nothing is refused because of it."""
    context_length: int | None = None
    max_output_tokens: int | None = None
    licence: Licence = "unknown"
    rates: Rates = Rates()
    quality: Mapping[str, float] = {}
    region: str | None = None
    data_policy: DataPolicy = "unknown"
    own_hardware: bool = False
    always_stream: bool = False
    """Stream upstream even when the caller did not ask, and assemble: the only way to measure TPOT."""
    hides_reasoning: bool = False
    """It may think before its first token, and stream nothing meanwhile."""
    headers: tuple[tuple[str, str], ...] = ()
    """Extra request headers from the configuration."""
    timeouts: Timeouts = Timeouts()
    """Of one attempt: the file's, the provider's in their place, and the route's in theirs. ``total_s`` is the
    provider's where it has one."""
    cluster_url: str | None = None
    """Own replicas that a directory there lists: the replica is chosen for each attempt. None: there is one address."""
    replica_choice: str = "prefix"
    """A key of ``targets.choice.registry.CHOICES``."""
    bills_stated_cost: bool = False
    """Where an answer states what it costs, that is the bill."""
    charge: Literal["marginal", "average"] = "marginal"
    """Own hardware: whether a prediction counts the call's share of busy time, or the idle time too."""
    prompt_cache: PromptCache | None = None
    """None: nothing is taken to be cached there."""


class Dropped(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A target that may not, and why."""

    target_id: str
    filter: str
    reason: str
    retry_after_s: float | None = None
    """When it may be different, where that is a matter of time."""


class Policy(Protocol):
    """How a route chooses among its targets and asks them; made with the snapshot. See ``routing.policy``."""

    targets: tuple[Target, ...]
    """Those that meet the route's demands, in the order of the configuration, which breaks ties."""
    ruled_out: tuple[Dropped, ...]
    """Those that do not, whatever the call."""
    strategy: Any
    """An ``execution.base.Strategy``."""

    @property
    def probe_ms(self) -> float | None:
        """How long a probe's first token may be waited for; None: as long as any."""

    def plan(self, call: "Call", views: "Sequence[TargetView]") -> "Plan":
        """Return the targets to try, in order; if none, see ``refusal``. ``views`` are of the route, in its order."""

    def refusal(self, call: "Call", plan: "Plan") -> GatewayError:
        """Make the error of a plan without a candidate."""


class Route(Struct, frozen=True, kw_only=True):
    """A name that apps call as ``model``, and the policy behind it."""

    name: str
    targets: tuple[Target, ...]
    """Those of the policy."""
    policy: Policy
    timeouts: Timeouts = Timeouts()
    """``total_s`` is that of the whole call."""
    version: str = ""
    """Changes whenever the policy does; stored with every call."""
    task: str | None = None
    drops_unsupported_tools: bool = False
    """A provider's own tools that a target has not are left out; otherwise that target is not asked."""


class Call(Struct, frozen=True, kw_only=True):
    """One authenticated request whose route is known: the value that every later stage reads."""

    id: str
    envelope: Envelope
    route: Route
    principal: Principal
    input_tokens_estimate: int
    output_cap: int | None
    """The envelope's ``max_output_tokens``, over all choices."""
    received_at_ns: int
    deadline_ns: int
    headers: Mapping[str, str] = {}
    """See ``Inbound.headers``: a format passes on those of its own dialect, by name."""
    trace_id: str | None = None
    session: str | None = None
    """The conversation that it goes on with, by a key of ours (``routing.sessions``); None: its client names none."""


class Quantiles(Struct, frozen=True, gc=False):
    """A prediction: four quantiles in the unit its name states."""

    p50: float
    p90: float
    p95: float
    p99: float


class Expected(Struct, frozen=True, kw_only=True, gc=False):
    """What a target will probably find of a long prompt in its cache."""

    reads: Amounts
    """The prompt's tokens there: at full price, from the cache and into it."""
    cached_tokens: int | None
    """Those from the cache; None: the target has never reported any, though some should have been there."""
    matched_tokens: int = 0
    """What would come from the cache if it kept its documented promise."""
    note: Any
    """The pool's own, for when the prompt is sent: hashes, no text."""

    @property
    def uncached_tokens(self) -> int:
        """What has to be computed before the first token."""
        return self.reads.read_tokens - self.reads.cached_input_tokens


class TargetView(Struct, frozen=True, kw_only=True, gc=False):
    """One consistent reading of what is known of a target right now."""

    target: Target
    refusal: str | None = None
    """Why no attempt may begin now: the breaker is open, or half open and probed; or all replicas are full."""
    retry_after_s: float | None = None
    """When a target that refuses may be tried again."""
    probe_due: bool = False
    """Nothing was learnt of this target for a while: one request should try it again."""
    ttft_ms: Quantiles | None = None
    """At the prompt size of the call and the present load; None before the first sample."""
    tpot_ms: Quantiles | None = None
    output_tokens: Quantiles | None = None
    """As shown to the caller: what TPOT multiplies."""
    billed_output_tokens: Quantiles | None = None
    """With hidden reasoning: what a provider's price multiplies."""
    share: float = 1.0
    """Own hardware: the part of a replica that the next call would pay for."""
    cold: bool = False
    """Own replicas: none is ready. An attempt would wait for one."""
    average_nano_usd_per_mtok: float | None = None
    """Own replicas: their hourly price over the tokens they read and wrote lately; None: not known, or not charged."""
    expected: Expected | None = None
    """None: the prompt is too short for a cache, or the target has none that is known."""


class Prediction(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a call would take and cost at one target. None: nothing is known yet."""

    output_tokens: Quantiles
    ttft_ms: Quantiles | None
    tpot_ms: Quantiles | None
    cost_nano_usd: Quantiles
    billed_output_tokens: Quantiles | None = None
    """With hidden reasoning, where the target hides some."""
    cached_tokens: int | None = None
    """Of the prompt, expected in the target's cache; None: nothing is known of that, or the prompt is short."""


class Candidate(Struct, frozen=True, kw_only=True, gc=False):
    """A target that may serve the call."""

    target: Target
    prediction: Prediction
    within_ceilings: bool
    probe_due: bool = False
    """Nothing was learnt of it for a while: if it comes first, this call is its probe."""
    cold: bool = False
    expected: Expected | None = None


class Plan(Struct, frozen=True, kw_only=True, gc=False):
    """The policy's answer: targets in the order to be tried."""

    candidates: tuple[Candidate, ...]
    """None: the call is refused."""
    dropped: tuple[Dropped, ...]
    beyond: tuple[Candidate, ...] = ()
    """Over a ceiling of a route that insists on it: considered, never tried."""
    reason: str
    """One short sentence for the first candidate: ``x-tollway-reason``."""
    wanted: Target | None = None
    """A cold target that would have been first: a replica should start; the one that serves meanwhile is its bridge."""


class Considered(Struct, frozen=True, gc=False):
    """A candidate as it is remembered: no address, no credential."""

    target_id: str
    prediction: Prediction
    within_ceilings: bool
    probe: bool = False


class Sample(Struct, frozen=True, kw_only=True, gc=False):
    """What one finished attempt taught about its target."""

    ok: bool
    trips_breaker: bool
    body_digest: str | None = None
    """Of the request, where the attempt failed in a way that a request may bring about; None: it did not."""
    input_tokens: int
    cached_tokens: int | None = None
    """Of these, as the target reports it; None: it gave no usage."""
    kept_tokens: int = 0
    """Of these, what it reports to have in its cache now: read from there or written."""
    output_tokens: int
    """What was shown: hidden reasoning is over before the first token."""
    hidden_tokens: int = 0
    """Reasoning that was billed, not shown."""
    ttft_ms: float | None
    tpot_ms: float | None
    retry_after_s: float | None = None
    error_kind: str | None = None
    """A credential error keeps the breaker open for longer than an outage."""
    max_output_tokens: int | None = None
    """The call's cap over all choices: a capped answer teaches nothing about uncapped ones."""


class LedgerEntry(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt, as billed. ``attempt_id`` is ours and the idempotency key."""

    attempt_id: str
    call_id: str
    key_id: str
    team_id: str | None
    route: str
    target_id: str
    upstream_model: str
    started_at_ns: int
    """Wall clock."""
    duration_ms: float = 0.0
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    usage: Usage
    cost_nano_usd: int
    cost_origin: Origin
    price_version: str
    """That of the rates; ``upstream``: the upstream's own price."""
    outcome: Outcome
    status: int | None = None
    """The upstream's HTTP status, when there was one."""
    error_kind: str | None = None
    trace_id: str | None = None
    cause: str | None = None
    """Of a failure: what exactly went wrong (certificate, DNS, refused, reset), in words that are safe to show."""
    expected_cached_tokens: int | None = None
    """See ``Prediction.cached_tokens``; what came of it is in ``usage``."""


class CallRecord(Struct, frozen=True, kw_only=True):
    """One call, refused ones too: the source of explain and replay."""

    call_id: str
    received_at_ns: int
    """Wall clock."""
    operation: Operation
    key_id: str | None
    route: str | None
    policy_version: str | None
    stream: bool
    input_tokens_estimate: int
    output_tokens: int
    outcome: Outcome
    status: int
    error_kind: str | None
    target_id: str | None
    """The target that answered."""
    reason: str | None
    considered: tuple[Considered, ...]
    """In the order of the plan; last those over a ceiling that the route insists on, which were not to be tried."""
    dropped: tuple[Dropped, ...]
    attempt_ids: tuple[str, ...]
    cost_nano_usd: int
    ttft_ms: float | None
    tpot_ms: float | None
    duration_ms: float
    overhead_ms: float | None
    """From the request's arrival to its first dispatch: the time that was ours alone."""
    bridged_for: str | None = None
    """The target that would have answered but had no replica: the call's cost is what bridging the gap cost."""
    cause: str | None = None
    """Of a failure; see ``LedgerEntry``."""
    left_out: tuple[str, ...] = ()
    """What the answering target was not asked, or not for so much of it, though the caller did: members by name."""
    session: str | None = None
    """See ``Call``."""


class RefusedCalls(Struct, frozen=True, kw_only=True):
    """Refused calls that have no record each: how many, from one key, of one kind, since then."""

    refused_id: str
    since_ns: int
    """Wall clock: the beginning of a minute, or later, when records were deleted, of a day (UTC)."""
    key_id: str | None
    error_kind: str | None
    status: int
    calls: int


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """What an adapter wants sent."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    pool: str
    """Requests of the same origin and pool may use one another's connections: whose credential it is, in short."""

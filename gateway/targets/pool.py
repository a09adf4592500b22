"""Keep what was measured of each target, and read it for a call. Leaves every choice to routing.

State is keyed by target id and belongs to the runtime, so it survives a reload of the configuration. Nothing here
awaits; within one event loop each method is atomic.

The share of own hardware
-------------------------
Calls that run at the same time on one replica share its time. Each target has a virtual clock that runs at 1 / (calls
in flight) of the real one; an attempt's share is how far that clock moved during its life. The shares of all attempts
therefore add up to the time in which at least one was running, in whatever order they began. With several replicas the
clock runs as many times faster, as if requests were spread evenly.

Probes
------
A target that is passed over gets no samples, so its bad prediction would stand for ever. When nothing was learnt of
it for 10 s and ``PROBE_EVERY`` calls have looked at it since (so that with one call a minute not
every call becomes a probe), it is due: routing may send it one call, and while that one runs it is not due again. A
sample that is surprisingly low makes the next probe due at once, so a recovered target is back after a few calls
instead of minutes. After a failure it is due 8 s after that attempt began, and whenever its breaker is half open: what
was measured in an outage must not keep a target out when that is over.

A turn of which most is cached at some target that takes calls is no probe anywhere else, for it would be read there in
full: the next new session is. Where ``PROBE_EVERY_WARM`` calls in a row were no such session, a warm turn has to do.

A target that was never measured is always due. Its answers are taken to be as long as those of the others: a question
asks for about the same length everywhere, and with a fixed guess a cheap newcomer could look dearer than what is known.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from gateway.clock import Clock
from gateway.errors import ErrorKind
from gateway.fleet import nano_usd_per_mtok
from gateway.targets.affinity.affinity import LEAST_TOKENS, Affinity, Hits, Looked, Reading, long_prompt
from gateway.targets.breaker import LONGEST_PAUSE_S, ORDINARY, Breaker, State
from gateway.targets.replicas import FULL_RETRY_AFTER_S, Fleet, ReplicaLease, Replicas
from gateway.targets.stats import Lengths, Window
from gateway.types import Call, Expected, Quantiles, Sample, Target, TargetView

_PROBE_INTERVAL_NS = 10_000_000_000
PROBE_EVERY = 10
PROBE_EVERY_WARM = 100
MAX_TARGETS = 4096
"""Wildcards let callers invent names; beyond this the target that was idle longest is forgotten."""
MIN_COUNTED_WAIT_MS = 1000.0
"""A fruitless wait at a target never measured counts from here on: a refused connection says nothing of TTFT."""
_TIMEOUT = ErrorKind.UPSTREAM_TIMEOUT.value
BEYOND_WAIT = 1.25
"""A wait cut short was going to be longer; so a wait as long as a ceiling is predicted to break it."""


class Lesson(Struct, frozen=True, kw_only=True):
    """A finished attempt, as it is sent to the other processes of a gateway. Times are monotonic, one machine's."""

    target_id: str
    sample: Sample
    began_at_ns: int
    ended_at_ns: int
    load: int
    """Other attempts at the target when it began."""
    key: str | None = None
    """The caller's, where several are configured."""
    reach: str | None = None
    """Of a failure: how the target was reached, see ``reach_of``."""


def reach_of(target: Target) -> str:
    """Digest where a target is asked, for what and with which credential: of these its breaker knows something."""
    how = (target.adapter, target.base_url, target.cluster_url, target.upstream_model, target.pool, target.headers)
    return blake2b(repr(how).encode(), digest_size=8).hexdigest()


class Lease:
    """One attempt at a target. Ends once, by ``end`` or ``abandon``; later calls change nothing."""

    reading: Reading | None
    """Of a long prompt."""
    __slots__ = (
        "_began_at_ns", "_breaker", "_key", "_pass", "_pool", "_replica", "_share_s", "_state", "_target",
        "_virtual_at_start_ns", "in_flight_at_start", "reading", "replicas_to_ask", "url",
    )  # fmt: skip

    def __init__(self, pool: "Pool", target: Target, state: "_State", at: ReplicaLease | None, key: str | None) -> None:
        self._pool = pool
        self._target = target
        self._state = state
        self._replica = at
        self.url = None if at is None else at.url  # of the replica that was chosen; None: the target has one address
        self.replicas_to_ask = 0
        """Known at the end: of how many replicas it was one that failed by itself, if another could serve."""
        self._key = key
        began_at_ns = self._began_at_ns = pool.now_ns()
        state.advance(began_at_ns)
        self._virtual_at_start_ns = state.virtual_ns
        breaker = self._breaker = state.breaker  # another one may replace it
        self._pass = breaker.admit(began_at_ns, key)
        state.in_flight += 1
        self.in_flight_at_start = state.in_flight + state.in_flight_of_others
        """Attempts at the target when this one began, itself included."""
        self._share_s: float | None = None

    def end(self, sample: Sample) -> float:
        """Leave, learn from the sample, and return this attempt's share in replica-seconds."""
        if self._share_s is not None:
            return self._share_s
        if not sample.ok and not self._pool.is_current(self._target):
            return self.abandon()  # its address or credential has changed since
        now_ns = self._pool.now_ns()
        if self._replica is not None and (replicas := self._replica.end(sample.error_kind)):
            self.replicas_to_ask = replicas
            sample = replace(sample, trips_breaker=False)  # no verdict on the target, but on the key, see the breaker
        lesson = Lesson(
            target_id=self._target.id,
            sample=sample,
            began_at_ns=self._began_at_ns,
            ended_at_ns=now_ns,
            load=(self.in_flight_at_start - 1) // self._state.replicas,
            key=self._key,
            reach=None if sample.ok else reach_of(self._target),
        )
        share_s = self._leave(now_ns, sample)
        if self.reading is not None:
            self.reading.ended(sample, now_ns)
        self._pool.learn(lesson, self._state)
        return share_s

    def abandon(self) -> float:
        """Leave without having learnt anything; return this attempt's share in replica-seconds."""
        if self._replica is not None and self._share_s is None:
            self._replica.end(None)
        return self._leave(self._pool.now_ns(), None) if self._share_s is None else self._share_s

    def begun(self) -> None:
        """Note the first token."""
        if self._replica is not None:
            self._replica.begun()
        if self._pass is not ORDINARY:
            self._breaker.begun(self._pass, self._pool.now_ns(), self._key)
        if self.reading is not None:
            self.reading.begun(self._pool.now_ns())

    @property
    def is_half_open(self) -> bool:
        """Whether a half-open breaker let it through, to find out how the target is."""
        return self._pass != ORDINARY

    def _leave(self, now_ns: int, verdict: Sample | None) -> float:
        state = self._state
        state.advance(now_ns)
        state.in_flight -= 1
        if state.probe is self:
            state.probe = None
        self._breaker.settle(self._pass, self._began_at_ns, now_ns, verdict, self._key)
        self._share_s = (state.virtual_ns - self._virtual_at_start_ns) / 1e9
        return self._share_s


class _State:
    """Everything known of one target."""

    __slots__ = (
        "asked", "billed_tokens", "breaker", "hides_tokens", "hits", "in_flight", "in_flight_of_others", "is_failing",
        "learnt_at_ns", "output_tokens", "probe", "probe_soon", "replicas", "tpot_ms", "ttft_ms", "virtual_at_ns",
        "virtual_ns",
    )  # fmt: skip

    def __init__(self, now_ns: int) -> None:
        self.breaker = Breaker()
        self.ttft_ms = Window()
        self.tpot_ms = Window()
        self.output_tokens = Lengths()
        self.billed_tokens = Lengths()
        self.hits = Hits()
        self.hides_tokens = False
        """It has billed reasoning that it did not show; before that, what is billed is what is shown."""
        self.in_flight = 0
        self.in_flight_of_others = 0
        """Attempts of the gateway's other processes, as last received."""
        self.replicas = 1
        """That took requests when it was last looked at."""
        self.virtual_ns = 0.0
        self.virtual_at_ns = now_ns
        self.learnt_at_ns: int | None = None
        self.is_failing = False
        """The last answer was none: what is known of it is of the time before, or of an outage."""
        self.asked = 0
        self.probe: Lease | None = None
        self.probe_soon = False

    def advance(self, now_ns: int) -> None:
        """Move the virtual clock to now; it starts again at zero while nothing runs, which keeps it precise."""
        if self.in_flight:
            running = self.in_flight + self.in_flight_of_others
            self.virtual_ns += (now_ns - self.virtual_at_ns) * min(self.replicas, running) / running
        else:
            self.virtual_ns = 0.0
        self.virtual_at_ns = now_ns

    def learn(self, lesson: Lesson) -> None:
        """Learn what an attempt of any process measured."""
        sample, now_ns, others = lesson.sample, lesson.ended_at_ns, lesson.load
        # What was never answered has no count of input tokens; it is taken for a prompt of the usual size.
        tokens = sample.input_tokens - (sample.cached_tokens or 0) or self.ttft_ms.usual_tokens
        fruitless = not sample.ok and not sample.output_tokens
        ttft_ms = self._waited_in_vain_ms(lesson, tokens) if fruitless else sample.ttft_ms
        low = ttft_ms is not None and self.ttft_ms.add(now_ns, ttft_ms, tokens, others)
        if sample.tpot_ms is not None:
            low = self.tpot_ms.add(now_ns, sample.tpot_ms, 0.0, others) or low
        if sample.cached_tokens:
            self.hits.reported = True
        if sample.ok:
            self.output_tokens.add(now_ns, sample.output_tokens, sample.max_output_tokens)
            if sample.hidden_tokens or self.hides_tokens:
                self.hides_tokens = True
                self.billed_tokens.add(now_ns, sample.output_tokens + sample.hidden_tokens, sample.max_output_tokens)
        if sample.ok or sample.trips_breaker or ttft_ms is not None or sample.error_kind == _TIMEOUT:
            self.learnt_at_ns, self.asked = now_ns, 0
            self.probe_soon = low

    def _waited_in_vain_ms(self, lesson: Lesson, tokens: float) -> float | None:
        """Turn a wait that ended without a token into a TTFT sample, a lower bound, if that is above what is known."""
        waited_ms = (lesson.ended_at_ns - lesson.began_at_ns) / 1e6
        known = self.ttft_ms.predict(lesson.ended_at_ns, tokens, lesson.load)
        if known is None:
            return waited_ms * BEYOND_WAIT if waited_ms >= MIN_COUNTED_WAIT_MS else None
        return max(waited_ms * BEYOND_WAIT, known.p95) if waited_ms > known.p50 else None


class Pool:
    """The targets as measured. All times come from the clock given.

    ``publish`` is given each attempt's lesson, for the other processes of a gateway that has several.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        publish: Callable[[Lesson], None] | None = None,
        replicas: Replicas | None = None,
    ) -> None:
        self.now_ns = clock.monotonic_ns
        self.replicas = replicas or Replicas(clock)
        self.affinity = Affinity()
        self._publish = publish
        self._states: dict[str, _State] = {}
        self._configured: Collection[str] = ()
        self._target_of: Callable[[str], Target | None] = lambda _target_id: None
        self._several_keys = False
        self._all_lengths = Lengths()

    def view(self, call: Call) -> tuple[TargetView, ...]:
        """Read the targets of the call's route at one moment, in their order, for this prompt size and load."""
        now_ns = self.now_ns()
        usual = self._all_lengths.predict(now_ns, call.output_cap)
        if call.input_tokens_estimate >= LEAST_TOKENS and any(map(self._may_cache, call.route.targets)):
            prompt = long_prompt(call)
            return self._spared([self._view(target, call, now_ns, usual, prompt) for target in call.route.targets])
        return tuple([self._view(target, call, now_ns, usual, None) for target in call.route.targets])

    def refusal(self, target: Target, call: Call) -> str | None:
        """Return why no attempt may begin at this target now, or None. Await nothing between this and ``begin``."""
        fleet = None if target.cluster_url is None else self.replicas.fleet(target)
        if fleet is not None and (full := fleet.refusal()):
            return full
        state = self._states.get(target.id)
        return None if state is None else state.breaker.refusal(self.now_ns(), self._key(call))

    def begin(self, target: Target, call: Call, expected: Expected | None = None) -> Lease:
        """Count an attempt that starts now. The lease must be ended or abandoned on every way out."""
        now_ns = self.now_ns()
        state = self._state_of(target.id, now_ns)
        fleet = self.replicas.fleet(target) if target.cluster_url is not None else None
        replica = None if fleet is None else fleet.lease(call, target, expected)
        lease = Lease(self, target, state, replica, self._key(call))
        lease.reading = None if expected is None else Reading(target, self.affinity, state.hits, expected, now_ns)
        if state.probe is None and self._stale(state, now_ns) and not lease.is_half_open:  # those are the breaker's
            state.probe = lease
        return lease

    async def ready(self, target: Target, deadline_ns: int) -> None:
        """Wait while no replica of the target takes requests. Raises UpstreamError, see ``Fleet.wait``."""
        while (fleet := self.replicas.fleet(target)) is not None and not fleet.usable():
            await fleet.wait((deadline_ns - self.now_ns()) / 1e9)

    def want(self, target: Target) -> Callable[[], None]:
        """Ask for a replica of a cold target; call what is returned when no call waits for it any more."""
        fleet = self.replicas.fleet(target)
        return (lambda: None) if fleet is None else fleet.want()

    def learn(self, lesson: Lesson, state: "_State") -> None:
        """Learn from an attempt of this process, and publish its lesson."""
        self._learn(lesson, state)
        if self._publish is not None:
            self._publish(lesson)

    def learn_from_peer(self, lesson: Lesson) -> None:
        """Learn what another process measured: the breaker and the predictions are those of the whole gateway.

        A failure is left out where the two processes reach the target in different ways: one of them has yet to read
        the present configuration.
        """
        current = None if lesson.reach is None else self._target_of(lesson.target_id)
        if current is not None and reach_of(current) != lesson.reach:
            return
        state = self._state_of(lesson.target_id, lesson.ended_at_ns)
        self._learn(lesson, state)
        state.breaker.settle_other(lesson.began_at_ns, lesson.ended_at_ns, lesson.sample, lesson.key)

    def set_peers_running(self, running: Mapping[str, int]) -> None:
        """Set how many attempts the other processes have under way, by target; a target that is not named has none."""
        now_ns = self.now_ns()
        for target_id in running:
            self._state_of(target_id, now_ns)
        for target_id, state in self._states.items():
            state.advance(now_ns)
            state.in_flight_of_others = running.get(target_id, 0)

    def running_here(self) -> Mapping[str, int]:
        """Return how many attempts of this process run, by target."""
        return {target_id: state.in_flight for target_id, state in self._states.items() if state.in_flight}

    def breaker_states(self) -> Mapping[str, State]:
        """Return each known target's breaker state, for metrics."""
        now_ns = self.now_ns()
        return {target_id: state.breaker.state(now_ns) for target_id, state in self._states.items()}

    def in_flight(self) -> Mapping[str, int]:
        """Return how many attempts run at each known target, for metrics."""
        return {target_id: state.in_flight + state.in_flight_of_others for target_id, state in self._states.items()}

    def follow(
        self, configured: Collection[str], target_of: Callable[[str], Target | None], *, several_keys: bool = False
    ) -> None:
        """Take over a configuration. ``target_of``: its target of an id, one behind a wildcard too.

        Targets that it does not know are forgotten, except while they have attempts under way; the ``configured`` ones
        never are for names that callers make up behind a wildcard. One that is reached at another address or with
        another credential starts with a closed breaker. ``several_keys``: breakers can distinguish callers.
        """
        before, self._target_of = self._target_of, target_of
        self._several_keys = several_keys
        self._configured = frozenset(configured)
        kept = {}
        for target_id, state in self._states.items():
            old, new = before(target_id), target_of(target_id)
            if old is not None and new is not None and reach_of(old) != reach_of(new):
                state.breaker = Breaker()
            if new is not None or state.in_flight:
                kept[target_id] = state
        self._states = kept

    def is_current(self, target: Target) -> bool:
        """Return whether the configuration still reaches it in this way; what it no longer knows is taken to be so."""
        current = self._target_of(target.id)
        return current is None or reach_of(current) == reach_of(target)

    def _key(self, call: Call) -> str | None:
        return call.principal.key_id if self._several_keys else None

    def _may_cache(self, target: Target) -> bool:
        """Return whether prompts are worth reading for its sake: its cache is documented, or it has reported one."""
        if target.cluster_url is not None or (target.prompt_cache is not None and target.prompt_cache.promise):
            return True
        state = self._states.get(target.id)
        return state is not None and state.hits.reported

    def _view(self, target: Target, call: Call, now_ns: int, usual: Quantiles | None, prompt: Looked) -> TargetView:
        """Read one target. ``usual``: the lengths of all targets' answers under such a cap."""
        fleet = None if target.cluster_url is None else self.replicas.fleet(target)
        state = self._states.get(target.id) or self._state_of(target.id, now_ns)
        state.asked += 1
        load, cold, average = state.in_flight + state.in_flight_of_others, False, None
        probe_due = state.probe is None and self._stale(state, now_ns)
        refusal = retry_after_s = None
        if not state.breaker.is_quiet:
            refusal, retry_after_s, lets_probe = state.breaker.view(now_ns, self._key(call))
            probe_due = probe_due or lets_probe
        if fleet is not None:
            load, cold, average = _replicas(fleet, target, state, now_ns)
            if refusal is None and (refusal := fleet.refusal()):
                retry_after_s = FULL_RETRY_AFTER_S
        cap, caches = call.output_cap, self.affinity if fleet is None else fleet
        expected = None if prompt is None else caches.expect(target, state.hits, prompt, now_ns)
        tokens = call.input_tokens_estimate if expected is None else expected.uncached_tokens
        return TargetView(
            target=target,
            refusal=refusal,
            retry_after_s=retry_after_s,
            probe_due=probe_due,
            ttft_ms=state.ttft_ms.predict(now_ns, tokens, load),
            tpot_ms=state.tpot_ms.predict(now_ns, 0.0, load),
            output_tokens=state.output_tokens.predict(now_ns, cap) or usual,
            billed_output_tokens=state.billed_tokens.predict(now_ns, cap) if state.hides_tokens else None,
            share=1.0 / (load + 1),
            cold=cold,
            average_nano_usd_per_mtok=average,
            expected=expected,
        )

    def _spared(self, views: Sequence[TargetView]) -> tuple[TargetView, ...]:
        """Keep a warm turn from being a probe where it would be read anew: new sessions are for that.

        A target that has waited for one through ``PROBE_EVERY_WARM`` calls gets a warm turn all the same.
        """
        if not any(view.refusal is None and _is_warm(view) for view in views):
            return tuple(views)
        return tuple(
            [
                replace(view, probe_due=False)
                if view.probe_due and not _is_warm(view) and self._states[view.target.id].asked < PROBE_EVERY_WARM
                else view
                for view in views
            ]
        )

    def _state_of(self, target_id: str, now_ns: int) -> _State:
        state = self._states.pop(target_id, None)
        if state is None:
            if len(self._states) >= MAX_TARGETS:
                self._forget_one()
            state = _State(now_ns)
        self._states[target_id] = state  # put last, so that the first idle one was used longest ago
        return state

    def _learn(self, lesson: Lesson, state: _State) -> None:
        state.learn(lesson)
        sample = lesson.sample
        if sample.ok:
            state.is_failing = False
            self._all_lengths.add(lesson.ended_at_ns, sample.output_tokens, sample.max_output_tokens)
        elif sample.trips_breaker or state.is_failing:
            self._expect_recovery(lesson.began_at_ns, state)

    def _expect_recovery(self, failed_began_at_ns: int, state: _State) -> None:
        """Let a probe be due as soon as a breaker would let one through, however few calls have looked at it."""
        state.is_failing = True
        state.asked = PROBE_EVERY
        state.learnt_at_ns = failed_began_at_ns + round(LONGEST_PAUSE_S * 1e9) - _PROBE_INTERVAL_NS

    def _stale(self, state: _State, now_ns: int) -> bool:
        return (
            state.learnt_at_ns is None
            or state.probe_soon
            or (state.asked >= PROBE_EVERY and now_ns - state.learnt_at_ns >= _PROBE_INTERVAL_NS)
        )

    def _forget_one(self) -> None:
        idle = next((i for i, state in self._states.items() if not (state.in_flight or i in self._configured)), None)
        if idle is not None:
            del self._states[idle]


def _is_warm(view: TargetView) -> bool:
    """Whether most of the prompt should be cached there; a tool list that sessions share is not most of a long one."""
    expected = view.expected
    return expected is not None and 2 * expected.matched_tokens > expected.reads.read_tokens


def _replicas(fleet: Fleet, target: Target, state: _State, now_ns: int) -> tuple[int, bool, float | None]:
    """Return the other calls that one more would meet at a replica, whether none is ready, and what its tokens cost."""
    usable = fleet.usable()
    state.advance(now_ns)
    state.replicas = max(1, len(usable))
    running = max(state.in_flight + state.in_flight_of_others, sum(each.requests for each in usable))
    average = None
    price = target.rates.hardware_nano_usd_per_hour
    if target.charge == "average" and price is not None and (tally := fleet.lately()):
        average = nano_usd_per_mtok(price, tally.up_s, tally)
    return running // state.replicas, not usable, average

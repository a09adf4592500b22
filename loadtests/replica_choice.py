"""Compare the policies of replica choice in a simulation over virtual time: docs/reference/replica-choice.md.

    python -m loadtests.replica_choice --replicas 2,4,16

The gateway's own fingerprints, index and policies choose among simulated engines: continuous batching with chunked
prefill, a step's time made of a base, the prompt tokens it computes and the requests it decodes, and a prefix cache
of 16-token blocks that evicts what was used longest ago. The engines' blocks are of the text that the model reads, the
gateway's chunks of the JSON. Replicas have no limit. The same seed gives the same trace to every policy.
"""

import argparse
import heapq
import json
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from random import Random
from statistics import mean, quantiles

from gateway.formats.tokens import estimate_input_tokens
from gateway.targets.affinity.prompt import fingerprint
from gateway.targets.choice.base import ReplicaChoice, ReplicaView
from gateway.targets.choice.prefix_aware import PrefixAware
from gateway.targets.choice.prefix_index import PrefixIndex
from gateway.targets.choice.registry import CHOICES
from loadtests.replica_traces import TOKEN_BYTES, TRACES, Session, Sizes

_BLOCK_TOKENS = 16
_STEP_TOKENS = 2048
_MAX_RUNNING = 64


@dataclass(frozen=True)
class Engine:
    """The speed and size of each replica."""

    prefill_tokens_per_s: float = 6000.0
    step_s: float = 0.015
    decode_s: float = 0.0002
    """Added to a step for each request that it decodes."""
    kv_tokens: int = 65_536


class Sticky(PrefixAware):
    """A yardstick: ``prefix`` among the replicas that hold 80% of a prompt, unless their queues are too long."""

    def choose(self, prompt_tokens: int, views: Sequence[ReplicaView], matched_tokens: Sequence[int]) -> int:
        """Leave the holders when each has over 8192 queued prompt tokens more to compute than another replica."""
        queued = [view.uncached_tokens for view in views]
        holders = [index for index, matched in enumerate(matched_tokens) if matched >= 0.8 * prompt_tokens]
        if not holders or min(queued[index] for index in holders) - min(queued) > 8192:
            return super().choose(prompt_tokens, views, matched_tokens)
        held = [matched_tokens[index] for index in holders]
        return holders[super().choose(prompt_tokens, [views[index] for index in holders], held)]


POLICIES: Mapping[str, Callable[[Random], ReplicaChoice]] = {**CHOICES, "(sticky)": Sticky}


@dataclass
class _Request:
    session: Session
    turn: int
    texts: list[str]
    came_s: float
    prompt_tokens: int
    output_tokens: int
    done: Callable[["_Request", float], None]
    blocks: list[int] = field(default_factory=list)
    expected_uncached: int = 0
    to_prefill: int = -1
    """-1: not begun."""
    produced: int = 0
    first_s: float = 0.0


class _Replica:
    """One engine: a queue, a batch, a cache."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.waiting: deque[_Request] = deque()
        self.running: list[_Request] = []
        self.uncached_tokens = 0
        self.cached_tokens = self.prompt_tokens = 0
        self.ttft_s: list[float] = []
        self.tpot_s: list[float] = []
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.stepping = False

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def step(self) -> float:
        """Compose a batch, note what it computes, and return the time it takes."""
        while self.waiting and len(self.running) < _MAX_RUNNING:
            self.running.append(self.waiting.popleft())
        budget, prefilled, decoded = _STEP_TOKENS, 0, 0
        for request in self.running:
            if request.to_prefill == 0:
                decoded += 1
                request.produced += 1
            elif budget:
                if request.to_prefill < 0:
                    self._look_up(request)
                part = min(budget, request.to_prefill)
                budget -= part
                prefilled += part
                request.to_prefill -= part
                request.produced += request.to_prefill == 0
        engine = self.engine
        return engine.step_s + prefilled / engine.prefill_tokens_per_s + decoded * engine.decode_s

    def finish_step(self, now_s: float) -> None:
        """Deliver what the step produced."""
        for request in self.running:
            if request.produced == 1:
                request.first_s = now_s
                self.ttft_s.append(now_s - request.came_s)
                self.uncached_tokens -= request.expected_uncached
                self._keep(request)
        ended = [request for request in self.running if request.produced >= request.output_tokens]
        if ended:
            self.running = [request for request in self.running if request.produced < request.output_tokens]
        for request in ended:
            self.tpot_s.append((now_s - request.first_s) / max(1, request.produced - 1))
            request.done(request, now_s)

    def _look_up(self, request: _Request) -> None:
        link, text = 0, "|".join(request.texts).encode()
        for start in range(0, len(text) - _BLOCK_TOKENS * TOKEN_BYTES + 1, _BLOCK_TOKENS * TOKEN_BYTES):
            link = hash((link, text[start : start + _BLOCK_TOKENS * TOKEN_BYTES]))
            request.blocks.append(link)
        hits = next((n for n, block in enumerate(request.blocks) if block not in self._blocks), len(request.blocks))
        cached = min(hits * _BLOCK_TOKENS, request.prompt_tokens - 1)
        request.to_prefill = request.prompt_tokens - cached
        self.cached_tokens += cached
        self.prompt_tokens += request.prompt_tokens

    def _keep(self, request: _Request) -> None:
        for block in reversed(request.blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) * _BLOCK_TOKENS > self.engine.kv_tokens:
            self._blocks.popitem(last=False)


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    hit_ratio: float
    ttft_ms: list[float]
    tpot_ms: list[float]


class Simulation:
    """One policy over one trace."""

    def __init__(self, policy: str, sessions: Sequence[Session], replicas: int, engine: Engine, random: Random) -> None:
        self._choice = POLICIES[policy](random)
        self._index = PrefixIndex()
        self._replicas = [_Replica(f"r{number}", engine) for number in range(replicas)]
        for replica in self._replicas:
            self._index.resize(replica.name, engine.kv_tokens)
        self._order = count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        for session in sessions:
            self._begin(session, 0, session.due_s)

    def run(self) -> Result:
        """Play to the end."""
        while self._events:
            now_s, _order, event = heapq.heappop(self._events)
            event(now_s)
        prompt_tokens = sum(replica.prompt_tokens for replica in self._replicas)
        return Result(
            sum(replica.cached_tokens for replica in self._replicas) / prompt_tokens,
            [ttft_s * 1000 for replica in self._replicas for ttft_s in replica.ttft_s],
            [tpot_s * 1000 for replica in self._replicas for tpot_s in replica.tpot_s],
        )

    def _at(self, due_s: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (due_s, next(self._order), event))

    def _begin(self, session: Session, turn: int, due_s: float) -> None:
        self._at(due_s, lambda now_s: self._arrive(session, turn, now_s))

    def _arrive(self, session: Session, turn: int, now_s: float) -> None:
        texts = session.prompt(turn)
        tokens = sum(map(len, texts)) // TOKEN_BYTES
        output_tokens = len(session.turns[turn].answer) // TOKEN_BYTES
        request = _Request(session, turn, texts, now_s, tokens, max(1, output_tokens), self._ended)
        replica = self._choose(request)
        replica.waiting.append(request)
        self._step(replica, now_s)

    def _choose(self, request: _Request) -> _Replica:
        """Do what the gateway does."""
        roles = ("system", *("user", "assistant") * len(request.texts))
        messages = [{"role": role, "content": text} for role, text in zip(roles, request.texts, strict=False)]
        estimate = estimate_input_tokens(sum(map(len, request.texts)))
        prompt = fingerprint({"messages": json.dumps(messages).encode()}, estimate)[0]
        matched = self._index.match(prompt, [replica.name for replica in self._replicas])
        views = [ReplicaView(replica.load, replica.uncached_tokens) for replica in self._replicas]
        chosen = self._choice.choose(estimate, views, matched)
        replica = self._replicas[chosen]
        self._index.remember(replica.name, prompt)
        request.expected_uncached = estimate - matched[chosen]
        replica.uncached_tokens += request.expected_uncached
        return replica

    def _step(self, replica: _Replica, now_s: float) -> None:
        if replica.stepping or not replica.load:
            return
        replica.stepping = True
        took_s = replica.step()
        self._at(now_s + took_s, lambda then_s: self._stepped(replica, then_s))

    def _stepped(self, replica: _Replica, now_s: float) -> None:
        replica.stepping = False
        replica.finish_step(now_s)
        self._step(replica, now_s)

    def _ended(self, request: _Request, now_s: float) -> None:
        following = request.turn + 1
        if following < len(request.session.turns):
            self._begin(request.session, following, now_s + request.session.turns[request.turn].think_s)


def play(trace: str, policy: str, *, replicas: int, requests: int, per_s: float, engine: Engine, seed: int) -> Result:
    """Run a policy over a trace made from the seed, at so many requests/s for each replica."""
    random = Random(seed)  # noqa: S311 - a simulation
    sessions = TRACES[trace](random, requests, per_s * replicas, Sizes())
    return Simulation(policy, sessions, replicas, engine, random).run()


def pool(results: Sequence[Result]) -> Result:
    """Take several runs as one."""
    return Result(
        mean(result.hit_ratio for result in results),
        [value for result in results for value in result.ttft_ms],
        [value for result in results for value in result.tpot_ms],
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="2,4,16", help="sizes to compare (default 2,4,16)")
    parser.add_argument("--traces", default=",".join(TRACES))
    parser.add_argument("--requests", type=int, default=3000, help="of each run (default 3000)")
    parser.add_argument("--per-s", type=float, default=2.0, help="requests/s for each replica (default 2)")
    parser.add_argument("--seeds", type=int, default=3, help="traces of each kind and size (default 3)")
    parser.add_argument("--kv-tokens", type=int, default=Engine.kv_tokens, help="of each replica's cache")
    options = parser.parse_args()
    engine = Engine(kv_tokens=options.kv_tokens)
    print("| trace | replicas | policy | cache hits | TTFT p50 ms | p90 | p99 | TPOT p50 ms | p99 |")
    print("|---" * 9 + "|")
    for trace, replicas, policy in product(options.traces.split(","), map(int, options.replicas.split(",")), POLICIES):
        sizes = {"replicas": replicas, "requests": options.requests}
        runs = [play(trace, policy, **sizes, per_s=options.per_s, engine=engine, seed=s) for s in range(options.seeds)]
        result = pool(runs)
        ttft, tpot = quantiles(result.ttft_ms, n=100), quantiles(result.tpot_ms, n=100)
        figures = f"{ttft[49]:.0f} | {ttft[89]:.0f} | {ttft[98]:.0f} | {tpot[49]:.1f} | {tpot[98]:.1f}"
        print(f"| {trace} | {replicas} | {policy} | {result.hit_ratio:.1%} | {figures} |", flush=True)


if __name__ == "__main__":
    main()

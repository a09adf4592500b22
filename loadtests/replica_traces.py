"""Conversations to choose replicas for, made up from a seed: with shared prefixes, without, and bound by decoding.

Every token is a word of three letters and a space, which a real tokenizer counts as one or two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

TOKEN_BYTES = 4
_CONSONANTS, _VOWELS = "bdfglmnprt", "aeiou"
_WORDS = [first + vowel + last + " " for first in _CONSONANTS for vowel in _VOWELS for last in _CONSONANTS][:256]
"""One for each byte: as cheap to draw as random bytes are."""
_TURNS = 4
"""Of a conversation, on average."""


@dataclass(frozen=True)
class Turn:
    """What a caller adds to a conversation, and what comes back."""

    user: str
    answer: str
    think_s: float = 0.0
    """Before the next turn."""


@dataclass(frozen=True)
class Session:
    """A conversation: each turn's prompt is everything before it."""

    due_s: float
    system: str
    turns: list[Turn]

    def prompt(self, turn: int) -> list[str]:
        """Return the texts of a turn's messages: the system's, then the user's and the assistant's by turns."""
        past = [text for earlier in self.turns[:turn] for text in (earlier.user, earlier.answer)]
        return [self.system, *past, self.turns[turn].user]


@dataclass(frozen=True)
class Sizes:
    """Medians in tokens, how many system prompts there are, and how long callers think."""

    systems: int = 50
    system_tokens: int = 1600
    user_tokens: int = 100
    answer_tokens: int = 120
    think_s: float = 8.0
    """Mean, between two turns."""


def prefix_heavy(random: Random, requests: int, per_s: float, sizes: Sizes) -> list[Session]:
    """Make conversations of four turns on average under a few system prompts, their popularity by Zipf."""
    prompts = [_text(random, sizes.system_tokens, 0.6) for _system in range(sizes.systems)]
    popularity = [1 / rank for rank in range(1, sizes.systems + 1)]
    sessions: list[Session] = []
    due_s, made = 0.0, 0
    while made < requests:
        turns = [_turn(random, sizes)]
        while made + len(turns) < requests and random.random() < 1 - 1 / _TURNS:
            turns.append(_turn(random, sizes))
        due_s += random.expovariate(per_s / _TURNS)
        sessions.append(Session(due_s, random.choices(prompts, popularity)[0], turns))
        made += len(turns)
    return sessions


def unshared(random: Random, requests: int, per_s: float, sizes: Sizes) -> list[Session]:
    """Make single requests of about the same sizes, each with a text of its own."""
    due_s, sessions = 0.0, []
    for _request in range(requests):
        due_s += random.expovariate(per_s)
        sessions.append(Session(due_s, _text(random, sizes.system_tokens, 0.6), [_turn(random, sizes)]))
    return sessions


def decode_bound(random: Random, requests: int, per_s: float, sizes: Sizes) -> list[Session]:
    """Make single requests with answers eight times as long, under a fifth of the prompts at a third of their size."""
    prompts = [_text(random, sizes.system_tokens / 3, 0.0) for _system in range(max(1, sizes.systems // 5))]
    popularity = [1 / rank for rank in range(1, len(prompts) + 1)]
    due_s, sessions = 0.0, []
    for _request in range(requests):
        due_s += random.expovariate(per_s)
        turn = Turn(_text(random, sizes.user_tokens, 0.0), _text(random, sizes.answer_tokens * 8, 0.0))
        sessions.append(Session(due_s, random.choices(prompts, popularity)[0], [turn]))
    return sessions


TRACES: dict[str, Callable[[Random, int, float, Sizes], list[Session]]] = {
    "prefix-heavy": prefix_heavy,
    "unshared": unshared,
    "decode-bound": decode_bound,
}


def _turn(random: Random, sizes: Sizes) -> Turn:
    user, answer = _text(random, sizes.user_tokens, 0.8), _text(random, sizes.answer_tokens, 0.7)
    return Turn(user, answer, random.expovariate(1 / sizes.think_s))


def _text(random: Random, median_tokens: float, sigma: float) -> str:
    tokens = max(1, round(median_tokens * random.lognormvariate(0, sigma)))
    return "".join([_WORDS[byte] for byte in random.randbytes(tokens)])

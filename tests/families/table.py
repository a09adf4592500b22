"""Write docs/reference/families.md from what came of a run."""

from collections.abc import Iterable
from datetime import UTC, datetime

from tests.families.asking import Outcome

_SAME = {
    "completions": "the same 8 tokens",
    "chat": "the same 8 tokens",
    "embeddings": "the same vector",
    "classify": "the same probabilities",
    "transcriptions": "the same text of 8 tokens",
}
_PATHS = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "classify": "/classify",
    "transcriptions": "/v1/audio/transcriptions",
}
_HEAD = """# Model families

Written by `python -m pytest -m soak tests/families` on {today} with vLLM {version} on a CPU.

Each family is a tiny checkpoint with random weights that transformers wrote, in the layout of the models named
(`tests/families/catalogue.py`). A replica of ours served it over HTTP, one question was asked, greedily, and the answer
compared with that of transformers itself for the same weights: tokens and text are equal, numbers within 0.0001. No
real weights, templates or tokenizers of these models were loaded, and nothing ran on a GPU. All in float32, but
DeepSeek V2 and V3 in bfloat16: vLLM's CPU kernels for them take no float32. Whisper needs the package `soundfile`
beside vLLM; without it every file is answered 400. `/classify` is vLLM's own and has no official client; the rest was
asked with the official `openai`.

| family | such as | architecture | endpoint | result |
| --- | --- | --- | --- | --- |
"""


def _result(outcome: Outcome) -> str:
    said = _SAME[outcome.family.endpoint]
    reason = f"`{outcome.failed.splitlines()[0][:200]}`" if outcome.failed else "another answer than transformers"
    if outcome.registered:
        return said if outcome.same else f"registered; not served here: {reason}"
    if outcome.same:
        return f"not in vLLM's registry; its Transformers backend serves it: {said}"
    return f"not in vLLM's registry: {reason}"


def page(outcomes: Iterable[Outcome]) -> str:
    """Return the page."""
    rows = list(outcomes)
    lines = [
        f"| {outcome.family.name} | {', '.join(outcome.family.models)} | {outcome.family.architecture} "
        f"| {_PATHS[outcome.family.endpoint]} | {_result(outcome)} |\n"
        for outcome in rows
    ]
    return _HEAD.format(today=datetime.now(UTC).date().isoformat(), version=rows[0].version) + "".join(lines)

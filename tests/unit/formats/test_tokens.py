"""Estimates of token counts from sizes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.openai.decode import EMBEDDINGS
from gateway.formats.tokens import estimate_input_tokens, estimate_output_tokens, estimate_prompt_tokens

sizes = st.integers(0, 10**7)


def test_a_prompt_is_its_bytes_its_messages_and_its_images() -> None:
    """Four bytes a token rounded up, four tokens a message, a thousand an image."""
    assert estimate_input_tokens(41, messages=2) == 11 + 8
    assert estimate_input_tokens(0, 2, messages=1) == 2004


@pytest.mark.parametrize(
    ("value", "tokens"),
    [("a" * 41, 11), (["a", "b", "c"], 3), (["a" * 400, "b"], 101), ([7] * 9, 9), ([[1, 2], [3]], 3)],
)
def test_embedded_text_has_no_template_around_it(value: Any, tokens: int) -> None:
    """Four bytes a token, token ids as they are, and at least one token a text."""
    envelope = EMBEDDINGS.decode(json.dumps({"model": "m", "input": value}).encode())
    assert estimate_prompt_tokens(envelope) == tokens


@given(sizes, sizes)
def test_an_answer_has_at_least_a_token_per_event_and_per_four_bytes(events: int, content_bytes: int) -> None:
    """Neither many tiny events nor few big ones make the estimate small."""
    estimate = estimate_output_tokens(events, content_bytes)
    assert estimate >= events
    assert estimate * 4 >= content_bytes
    assert estimate in {events, -(-content_bytes // 4)}

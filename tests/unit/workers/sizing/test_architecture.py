"""Reading a config: which attention, which experts, and one plain sentence where it cannot be sized."""

from typing import Any

import pytest

from workers.errors import WorkerError
from workers.sizing.architecture import parse
from workers.sizing.cache import blocks_per_request, bytes_per_token_and_layer, groups
from workers.sizing.known import KNOWN

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("name", KNOWN)
def test_each_known_architecture_is_read(name: str) -> None:
    shape = parse(KNOWN[name].config)
    assert shape.notes == ()
    assert shape.max_context > 0


def test_one_kv_head_is_not_split_between_gpus() -> None:
    shape = parse(KNOWN["falcon-7b"].config)
    assert shape.kv_heads == 1
    assert bytes_per_token_and_layer(shape, 2, 8) == bytes_per_token_and_layer(shape, 2) == 256


def test_a_latent_is_held_whole_by_each_gpu() -> None:
    shape = parse(KNOWN["deepseek-v3"].config)
    assert bytes_per_token_and_layer(shape, 2, 8) == bytes_per_token_and_layer(shape, 2) == 1152


def test_a_window_bounds_what_is_kept() -> None:
    shape = parse(KNOWN["mistral-7b"].config)
    assert blocks_per_request(shape, 2048, 16, 2048) == 2048 // 16 + 1
    assert blocks_per_request(shape, 32768, 16, 1) == 4096 // 16 + 1
    assert blocks_per_request(shape, 32768, 16, 2049) == (4095 + 2049) // 16 + 1


@pytest.mark.parametrize(("name", "full", "windowed"), [("gemma-2-9b", 21, 21), ("gemma-3-27b", 10, 52)])
def test_layers_that_see_everything_alternate_with_windows(name: str, full: int, windowed: int) -> None:
    windows = parse(KNOWN[name].config).windows
    assert windows.count(None) == full
    assert len(windows) - full == windowed
    assert windows[0] is not None


def test_groups_have_one_size_so_that_a_rest_is_padded() -> None:
    """Ten layers see everything and 52 do not: one group of ten, and six, of which the last has two."""
    made = groups(parse(KNOWN["gemma-3-27b"].config))
    assert [group.layers for group in made] == [10] * 7


def test_the_configs_own_layer_types_win() -> None:
    kinds = ["full_attention", "sliding_attention"] * 2
    assert parse({**SMALL, "sliding_window": 64, "layer_types": kinds}).windows == (None, 64, None, 64)


def test_a_window_that_is_switched_off_is_none() -> None:
    config = {**SMALL, "model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}
    assert parse(config).windows == (None,) * 4


def test_the_text_part_of_a_model_that_also_sees_is_sized_and_said() -> None:
    inner = {"hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240, "sliding_window": 1024}
    shape = parse({"model_type": "gemma3", "text_config": {**inner, "model_type": "gemma3_text"}})
    assert (shape.heads, shape.kv_heads, shape.vocabulary) == (8, 4, 262208)
    assert "encoders" in shape.notes[0]


def test_an_unknown_family_is_counted_like_llama_and_said() -> None:
    shape = parse({**SMALL, "model_type": "novel"})
    assert shape.notes == ("model_type novel is not known: counted as a gated decoder like Llama",)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "does not say hidden_size, num_hidden_layers, num_attention_heads, vocab_size;"),
        ({**SMALL, "intermediate_size": None}, "does not say intermediate_size;"),
        ({**SMALL, "model_type": "bert"}, "is not a decoder;"),
        ({**SMALL, "model_type": "t5", "is_encoder_decoder": True}, "is not a decoder;"),
        ({**SMALL, "model_type": "jamba", "mamba_d_state": 16}, "keeps a recurrent state (mamba_d_state)"),
        ({**SMALL, "layer_types": ["linear_attention"] * 4}, "layers of the kind linear_attention"),
    ],
    ids=["empty", "no-width", "encoder", "encoder-decoder", "recurrent", "linear"],
)
def test_model_that_cannot_be_sized_is_one_sentence_that_says_why(config: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse(config)
    assert said in str(caught.value)

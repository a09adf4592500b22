"""Write a family's checkpoint: tiny, random weights, a tokenizer and chat template of our own, and a reference.

The reference is what transformers itself answers with that checkpoint; vLLM must answer the same.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests.families.catalogue import CONTEXT, Family
from tests.families.question import MESSAGES, PROMPT, RATE, TOKENS, samples

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_START = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
_SPEECH = ("<|endoftext|>", *_START, "<|translate|>", "<|startoflm|>", "<|prev|>", "<|startofprev|>", "<|nospeech|>")


def _vocabulary(special: tuple[str, ...], size: int) -> dict[str, int]:
    """Return the special tokens, all bytes, and fillers that no text has but that every id needs."""
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return {token: index for index, token in enumerate([*tokens, *(f"x{n}" for n in range(len(tokens), size))])}


def _tokenizer(family: Family, size: int) -> Any:
    if family.kind == "whisper":
        words = transformers.WhisperTokenizer(vocab=_vocabulary(_SPEECH, size), merges=[], model_max_length=CONTEXT)
        words.add_special_tokens({"additional_special_tokens": list(_SPEECH)})
        return words
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(_SPECIAL, size), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, bos, eos, unknown = _SPECIAL
    if family.endpoint in ("embeddings", "classify"):
        ends = [(token, _SPECIAL.index(token)) for token in (bos, eos)]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
        model_max_length=CONTEXT,
        chat_template=_TEMPLATE if family.endpoint == "chat" else None,
    )


def _spoken(model: Any, tokenizer: Any, features: Any) -> str:
    heard = features(samples(), sampling_rate=RATE, return_tensors="pt").input_features
    start = torch.tensor([tokenizer.convert_tokens_to_ids(list(_START))])
    with torch.no_grad():
        for _ in range(TOKENS):
            logits = model(input_features=heard, decoder_input_ids=start).logits[:, -1]
            start = torch.cat([start, logits.argmax(-1, keepdim=True)], dim=1)
    said: str = tokenizer.decode(start[0, len(_START) :], skip_special_tokens=True)
    return said


def _reference(model: Any, tokenizer: Any, family: Family) -> Any:
    text = PROMPT
    if family.endpoint == "chat":
        text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    asked = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    if family.endpoint in ("completions", "chat"):
        said = model.generate(**asked, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        return said[0, asked["input_ids"].shape[1] :].tolist()
    with torch.no_grad():
        answered = model(**asked)
    if family.endpoint == "classify":
        return answered.logits[0].softmax(-1).tolist()
    mean = answered.last_hidden_state[0].mean(0)
    return (mean / mean.norm()).tolist()


def _write_pooling(directory: Path, width: int) -> None:
    """Write the files by which a sentence encoder says that it takes the mean and normalises it."""
    names = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(names)
    ]
    (directory / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


def write(family: Family, directory: Path) -> None:
    """Write the checkpoint and ``reference.json``. The same each time, for the same versions."""
    torch.manual_seed(0)
    ids = _IDS
    if family.kind == "whisper":
        ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    config = transformers.CONFIG_MAPPING[family.kind](**{**ids, **family.config})
    model = getattr(transformers, family.transformers_name or family.architecture)(config)
    model = model.eval().to(getattr(torch, family.dtype))
    tokenizer = _tokenizer(family, config.vocab_size)
    tokenizer.save_pretrained(directory)
    if family.endpoint == "transcriptions":
        features = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        features.save_pretrained(directory)
        reference: Any = _spoken(model, tokenizer, features)
    elif not config.is_encoder_decoder:
        model.generation_config = transformers.GenerationConfig(**ids)
        reference = _reference(model, tokenizer, family)
    else:
        reference = None
    if family.endpoint == "embeddings":
        _write_pooling(directory, config.hidden_size)
    model.save_pretrained(directory)
    (directory / "reference.json").write_text(json.dumps(reference), encoding="utf-8")

"""Checks whether vLLM can serve a LoRA adapter, from its ``adapter_config.json`` alone."""

import json
from pathlib import Path
from typing import Any

# What PEFT can write and vLLM 0.32 refuses (``vllm/lora/peft_helper.py``).
_NOT_SERVED = ("use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
_WHOLE_MODULES = {"classifier", "score"}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")


def objection(adapter: Path, max_rank: int) -> str | None:
    """Say why an adapter in a local directory cannot be served with ranks up to ``max_rank``, or nothing."""
    if not adapter.is_dir():
        return f"{adapter} does not exist"
    path = adapter / "adapter_config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return f"{adapter} is not an adapter: it has no adapter_config.json"
    except ValueError as error:
        return f"{path} is not JSON: {error}"
    if not isinstance(config, dict) or not all(config.get(key) for key in ("r", "lora_alpha", "target_modules")):
        return f"{path} is not a LoRA adapter's: it needs r, lora_alpha and target_modules"
    found = [feature for feature in _NOT_SERVED if config.get(feature)]
    found += ["bias"] if config.get("bias", "none") != "none" else []
    found += ["modules_to_save"] if not set(config.get("modules_to_save") or ()) <= _WHOLE_MODULES else []
    pattern = config.get("rank_pattern") or {}
    ranks = [config["r"], *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    if not all(isinstance(rank, int) for rank in ranks):
        return f"{path} is not a LoRA adapter's: its ranks must be whole numbers"
    rank = max(ranks)
    return (
        (f"{adapter} uses {found[0]}, which vLLM does not serve" if found else None)
        or (f"{adapter} has rank {rank}, above `lora.max_rank` {max_rank}" if rank > max_rank else None)
        or (f"{adapter} has no {_WEIGHTS[0]}" if not any((adapter / name).is_file() for name in _WEIGHTS) else None)
    )

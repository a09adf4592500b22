"""Write a LoRA adapter to try adapters with, without training: ``python make_adapter.py MODEL DIRECTORY``.

Its weights are small and random, so its answers differ a little from the model's own and are no better. MODEL is a
directory of a Llama-like model, or ``bundled:smollm2-135m-instruct``.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from workers.replica.models import prepare


def main() -> None:
    """Write the adapter's two files."""
    parser = argparse.ArgumentParser(description="write a LoRA adapter with small random weights")
    parser.add_argument("model")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = json.loads((Path(prepare(args.model, print)) / "config.json").read_text(encoding="utf-8"))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    widths = {"q_proj": heads * head, "v_proj": config["num_key_value_heads"] * head}
    random = np.random.default_rng(args.seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, width in widths.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, 0.02, (args.rank, hidden)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.02, (width, args.rank)).astype(np.float32)
    args.directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.directory / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "r": args.rank, "lora_alpha": 2 * args.rank, "target_modules": list(widths)}
    (args.directory / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.directory}")


if __name__ == "__main__":
    main()

"""Converts a GGUF file to a model directory that any engine can serve. Run as a process of its own.

``python -m workers.replica.convert FILE.gguf DIRECTORY``: the weights are dequantised to float32 and written as
safetensors, with tokenizer, chat template and configuration. It is a process because transformers and torch would
otherwise stay in the memory of the command that asked for it.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(gguf: Path, directory: Path) -> None:
    """Write the model in ``gguf`` to ``directory``, which is made when missing. Needs no network.

    Raises ``ValueError`` when the file has no chat template: an engine would then refuse every chat request.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf.name} holds no chat template")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        # Without it the quantised blocks are kept, and such a model cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

"""GPUs: what memory they have and what one costs per hour. Prices are list prices on demand, for one GPU."""

import difflib
from dataclasses import dataclass

from workers.errors import WorkerError

_GIB = 2**30
_MIB = 2**20
_RUNPOD = "RunPod, secure cloud, runpod.io/pricing"
_MODAL = "Modal, modal.com/pricing"
_LAMBDA = "Lambda, lambda.ai/instances"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. ``memory_mib`` is what nvidia-smi shows; ``capability`` NVIDIA's compute capability."""

    name: str
    memory_mib: int
    capability: float
    usd_per_hour: float
    price_source: str
    price_date: str

    @property
    def memory_bytes(self) -> int:
        """Return what CUDA offers to a process: about a hundredth less than nvidia-smi shows."""
        return round(self.memory_mib * _MIB * 0.99)

    @property
    def default_batched_tokens(self) -> int:
        """Return vLLM 0.32's ``--max-num-batched-tokens`` for a server on this GPU."""
        if self.memory_bytes >= 160 * _GIB:
            return 16384
        return 8192 if self._is_large else 2048

    @property
    def default_sequences(self) -> int:
        """Return vLLM 0.32's ``--max-num-seqs`` for a server on this GPU."""
        return 1024 if self._is_large else 256

    @property
    def _is_large(self) -> bool:
        return self.memory_bytes >= 70 * _GIB and not self.name.startswith("A100")


# Memory: nvidia-smi's totals (github.com/modal-labs/modal-client/pull/2797; RTX 4090:
# github.com/vllm-project/vllm/issues/7553); H200 and B200: NVIDIA's 141 and 180 GB, a little less than what they show.
_GPUS = (
    Gpu("T4", 15360, 7.5, 0.59, _MODAL, "2026-05-07"),
    Gpu("L4", 23034, 8.9, 0.80, _MODAL, "2026-05-07"),
    Gpu("A10", 23028, 8.6, 0.86, _LAMBDA, "2026-05-07"),
    Gpu("RTX4090", 24564, 8.9, 0.60, "RunPod, runpod.io/pricing", "2026-03-10"),
    Gpu("L40S", 46068, 8.9, 1.95, _MODAL, "2026-05-07"),
    Gpu("A100-40GB", 40960, 8.0, 1.99, _LAMBDA, "2026-09-20"),
    Gpu("A100-80GB", 81920, 8.0, 1.79, _RUNPOD, "2026-11-09"),
    Gpu("H100-80GB", 81559, 9.0, 3.99, _RUNPOD, "2026-11-09"),
    Gpu("H200-141GB", 134468, 9.0, 4.59, _RUNPOD, "2026-10-07"),
    Gpu("B200-180GB", 171661, 10.0, 6.79, _RUNPOD, "2026-10-07"),
)
GPUS = {gpu.name: gpu for gpu in _GPUS}


def gpu_named(name: str) -> Gpu:
    """Return the GPU of that name, in any case, its memory left out where only one has it.

    Raises ``WorkerError`` with the nearest names.
    """
    wanted = name.upper().replace(" ", "").replace("_", "-")
    found = [gpu for gpu in _GPUS if gpu.name == wanted] or [
        gpu for gpu in _GPUS if gpu.name.partition("-")[0] == wanted
    ]
    if len(found) == 1:
        return found[0]
    near = [gpu.name for gpu in found] or difflib.get_close_matches(wanted, GPUS, cutoff=0.4) or list(GPUS)
    raise WorkerError(f"There is no GPU {name!r} in the table; the nearest are {', '.join(near)}.")

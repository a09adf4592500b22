"""Measures what this machine has for replicas: cores, GPUs, memory. Read from the system when asked, never kept."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, NVIDIA GPUs, and bytes of memory: all of it, and what could be had now."""

    cpus: int
    gpus: int
    memory_bytes: int
    available_bytes: int


def this_machine() -> Machine:
    """Return what this machine has."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return Machine(os.cpu_count() or 1, _gpus(), total, available)


def _gpus() -> int:
    # The sign by which workers/bootstrap.py chooses the engine, too.
    if (found := shutil.which("nvidia-smi")) is None:
        return 0
    listed = subprocess.run([found, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0

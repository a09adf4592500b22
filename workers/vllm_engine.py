"""vLLM's own OpenAI-compatible server app, opened inside a replica. The only file that imports vLLM.

The import is ``vllm`` for the GPU and the CPU distribution alike. vLLM's server is used whole (chat, completions,
responses, messages, tokenize, its metrics): nothing of a request is looked at here.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from workers.engine import OpenEngine
from workers.figures import read_figures
from workers.spec import EngineValue, ModelSpec


def engine_environment(cpus: int, *, eager: bool) -> dict[str, str]:
    """Return the variables that must be set before vLLM is imported, for a machine with ``cpus`` cores."""
    environment = {
        # No usage report leaves the machine.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        # vLLM's logging set-up would close the handlers of Serve's replica.
        "VLLM_CONFIGURE_LOGGING": "0",
        # Ray limits OpenMP to the CPUs a replica reserved (one); the engine is to use the machine.
        "OMP_NUM_THREADS": str(cpus),
        # Pinning threads to cores starves whatever else runs on a small machine, the gateway first.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    if eager:
        # Some of vLLM's small functions (log-probabilities) are compiled at their first use even then, which on a CPU
        # takes longer than any caller waits.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment


def engine_arguments(name: str, model: str, spec: ModelSpec) -> list[str]:
    """Return vLLM's command line for ``spec``; ``model`` is a directory or hub id, ``name`` the served model name.

    Later arguments win in vLLM's parser, so ``engine_args`` of the spec can change every default set here.
    """
    arguments = [
        *("--model", model),
        *("--served-model-name", name),
        *("--dtype", spec.dtype),
        *("--host", "127.0.0.1"),
        "--enable-prefix-caching",
        # Cached prompt tokens are cheaper; without it usage does not show them.
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]
    if spec.tool_parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_parser]
    return arguments + _flags(spec.engine_args)


def _flags(engine_args: Mapping[str, EngineValue]) -> list[str]:
    flags: list[str] = []
    for key, value in engine_args.items():
        option = "--" + key.replace("_", "-")
        if value is True:
            flags.append(option)
        elif value is False:
            flags.append("--no-" + key.replace("_", "-"))
        elif isinstance(value, dict | list):
            flags += [option, json.dumps(value)]
        elif value is not None:
            flags += [option, str(value)]
    return flags


@asynccontextmanager
async def open_vllm(name: str, model: str, spec: ModelSpec) -> AsyncIterator[OpenEngine]:
    """Start the engine and yield vLLM's app and its health check; the engine's processes end with the context.

    Takes from ten seconds (small model, CPU) to minutes. Must run in the loop that will serve the app.
    """
    os.environ.update(engine_environment(os.cpu_count() or 1, eager=spec.engine_args.get("enforce_eager") is True))
    # Imported late: the variables above are read on import, and only replicas of this engine should pay for it.
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(engine_arguments(name, model, spec))
    validate_parsed_serve_args(args)
    async with build_async_engine_client(args) as engine:
        tasks = await engine.get_supported_tasks()
        app = build_app(args, tasks, engine.model_config)
        await init_app_state(engine, app.state, args, tasks)
        async with app.router.lifespan_context(app):
            yield OpenEngine(app, engine.check_health, read_figures)

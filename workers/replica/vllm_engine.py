"""Opens vLLM's own OpenAI-compatible server app inside a replica. The only file that imports vLLM.

The import is ``vllm`` for the GPU and the CPU distribution alike. vLLM's server is used whole (chat, completions,
responses, messages, tokenize, its metrics): nothing of a request is looked at here.
"""

import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workers.config.fields import VLLM_NAMES
from workers.config.placement import uses_bundles
from workers.config.spec import EngineValue, ModelSpec
from workers.engine import OpenEngine
from workers.replica import causes
from workers.replica.figures import read_figures


def engine_environment(spec: ModelSpec, cpus: int) -> dict[str, str]:
    """Return the variables that must be set before vLLM is imported, for a machine with ``cpus`` cores."""
    environment = {
        # No usage report leaves the machine.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        # vLLM's logging set-up would close the handlers of Serve's replica.
        "VLLM_CONFIGURE_LOGGING": "0",
        # Pinning threads to cores starves whatever else runs on a small machine, the gateway first.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    if not spec.gpus_per_replica:
        # Ray limits OpenMP to the CPUs a replica reserved (one); the engine is to use the machine. But the threads of
        # two busy engines on the same cores wait for each other actively, and both then crawl.
        environment["OMP_NUM_THREADS"] = str(max(1, cpus // spec.most_replicas))
    if spec.engine_args.get("enforce_eager") is True:
        # Some of vLLM's small functions (log-probabilities) are compiled at their first use even then, which on a CPU
        # takes longer than any caller waits.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    if spec.lora is not None and spec.lora.at_run_time:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return environment


Option = EngineValue | tuple[str, ...]
"""The value of a vLLM argument; a tuple is several words."""


def engine_options(name: str, model: str, spec: ModelSpec) -> dict[str, Option]:
    """Return all that is said to vLLM, by its own names; ``model`` is a directory, an address or a hub id.

    ``engine_args`` of the spec come last, so they can change every default that is set here. None is not passed on.
    """
    said = {field for field in VLLM_NAMES.values() if getattr(spec, field) != ModelSpec.model_fields[field].default}
    options: dict[str, Option] = {
        "model": model,
        "served_model_name": (name, *spec.served_names),
        "host": "127.0.0.1",
        # Cached prompt tokens are cheaper; without it usage does not show them.
        "enable_prompt_tokens_details": True,
        "disable_uvicorn_access_log": True,
        **{option: getattr(spec, field) for option, field in VLLM_NAMES.items() if field in said},
    }
    if spec.prefix_caching is None and spec.task == "generate":
        options["enable_prefix_caching"] = True
    if spec.cpu_offload is not None:
        options["cpu_offload_gb"] = spec.cpu_offload / 2**30
    if (draft := spec.speculative) is not None:
        drafter = {"method": draft.method, "model": draft.model, "num_speculative_tokens": draft.tokens}
        drafter["prompt_lookup_max"] = draft.lookup_max
        options["speculative_config"] = {key: value for key, value in drafter.items() if value is not None}
    if spec.tool_parser is not None:
        options["enable_auto_tool_choice"] = True
    if spec.task in ("embed", "classify"):
        options |= {"runner": "pooling", "convert": spec.task}
    if (lora := spec.lora) is not None:
        options |= {"enable_lora": True, "max_lora_rank": lora.max_rank, "max_loras": lora.max_active}
        if lora.adapters:
            modules = ({"name": adapter, "path": path} for adapter, path in lora.adapters.items())
            options["lora_modules"] = tuple(json.dumps(module) for module in modules)
    if uses_bundles(spec):
        # One rank per bundle of the replica's placement group.
        options["distributed_executor_backend"] = "ray"
    return options | {name.replace("-", "_"): value for name, value in spec.engine_args.items()}


def engine_arguments(name: str, model: str, spec: ModelSpec) -> list[str]:
    """Return ``engine_options`` as vLLM's command line."""
    arguments: list[str] = []
    for key, value in engine_options(name, model, spec).items():
        option = "--" + key.replace("_", "-")
        if value is True:
            arguments.append(option)
        elif value is False:
            arguments.append("--no-" + option.removeprefix("--"))
        elif isinstance(value, tuple):
            arguments += [option, *value]
        elif isinstance(value, dict | list):
            arguments += [option, json.dumps(value)]
        elif value is not None:
            arguments += [option, str(value)]
    return arguments


@asynccontextmanager
async def open_vllm(name: str, model: str, spec: ModelSpec) -> AsyncIterator[OpenEngine]:
    """Start the engine and yield vLLM's app and its health check; the engine's processes end with the context.

    Takes from ten seconds (small model, CPU) to minutes. Must run in the loop that will serve the app.
    """
    os.environ.update(engine_environment(spec, os.cpu_count() or 1))
    # Imported late: the variables above are read on import, and only replicas of this engine should pay for it.
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(engine_arguments(name, model, spec))
    except SystemExit as error:
        raise ValueError("vLLM refuses its arguments; `tollway check` names them") from error
    validate_parsed_serve_args(args)
    async with AsyncExitStack() as stack:
        log = causes.log_to(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vllm-"))))
        try:
            engine = await stack.enter_async_context(build_async_engine_client(args))
            tasks = await engine.get_supported_tasks()
            app = build_app(args, tasks, engine.model_config)
            await init_app_state(engine, app.state, args, tasks)
            # vLLM's handlers make it exit when the engine has died; here the replica looks after that by itself.
            app.state.server = SimpleNamespace(should_exit=False)
            await stack.enter_async_context(app.router.lifespan_context(app))
        except Exception as error:
            raise causes.root_cause(error, log) from error
        yield OpenEngine(app, engine.check_health, read_figures)


def describe() -> dict[str, Any]:
    """Return what this vLLM knows: its arguments (with choices and kinds), architectures, and parsers, for ``check``.

    Takes about ten seconds, most of them to import.
    """
    import transformers
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments: dict[str, Any] = {}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:  # noqa: SLF001 (argparse lists them nowhere else)
        kind = {int: "int", float: "float"}.get(action.type)
        choices = [str(choice) for choice in action.choices or ()]
        for option in action.option_strings:
            if option.startswith("--") and not option.startswith("--no-"):
                name = option[2:].replace("-", "_")
                arguments[name] = {"kind": "flag" if action.nargs == 0 else kind, "choices": choices}
    # An architecture that is not vLLM's own may still run on transformers' code.
    others = [name for name in dir(transformers) if name.endswith("Model") or "For" in name]
    return {
        "arguments": arguments,
        "architectures": sorted({*ModelRegistry.get_supported_archs(), *others}),
        "tool_parsers": sorted(ToolParserManager.list_registered()),
        "reasoning_parsers": sorted(ReasoningParserManager.list_registered()),
    }


if __name__ == "__main__":
    os.environ.update({"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "0"})
    print(json.dumps(describe()))

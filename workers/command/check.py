"""Finds what in the ``workers:`` section cannot start or does not fit, before anything starts.

``tollway check`` calls ``check`` through the entry points of the group ``tollway.checks``; ``up`` and ``workers run``
call ``require_startable``. Nothing is started, fetched or written but for vLLM's own answers (``catalogue.py``) and a
hub model's ``config.json``. What could not be looked at is said as a note, never taken for good in silence.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from workers.config import lora
from workers.config.fields import VLLM_NAMES, is_local
from workers.config.problems import ConfigFile, Place, Problem, nearest
from workers.config.spec import ModelSpec, read_workers
from workers.errors import WorkerError
from workers.replica.catalogue import Catalogue, read_catalogue
from workers.replica.models import kept
from workers.replica.vllm_engine import engine_options
from workers.sizing import fit
from workers.sizing.config_file import hub_config, read_config
from workers.sizing.fit import Model
from workers.sizing.machine import Machine, this_machine

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth"})

Note = Callable[[str], None]
"""Takes a sentence about something that was not checked."""


def check(path: Path) -> list[str]:
    """Return everything that is wrong with a file's ``workers:`` section, a line each; notes go to standard error.

    With ``RAY_DASHBOARD_ADDRESS`` in the environment the cluster is on other machines; this one's size is not checked.
    """
    machine = None if os.environ.get("RAY_DASHBOARD_ADDRESS") else this_machine()
    try:
        return check_file(path, machine, lambda sentence: print(f"note: {sentence}", file=sys.stderr))
    except WorkerError as error:
        return [str(error)]


def require_startable(
    path: Path, *, engine: Literal["vllm", "synthetic"] | None = None, on_cluster: bool = False
) -> None:
    """Raise ``WorkerError`` with the first thing that keeps the workers of a file from starting on this machine.

    ``engine`` replaces every worker's own; ``on_cluster`` says that they start on other machines, so this one's size
    does not matter. Notes are left to ``tollway check``.
    """
    if problems := check_file(path, None if on_cluster else this_machine(), lambda _: None, engine=engine):
        more = f" ({len(problems) - 1} more: `tollway check --config {path}`)" if problems[1:] else ""
        raise WorkerError(problems[0] + more)


def check_file(
    path: Path, machine: Machine | None, note: Note, *, engine: Literal["vllm", "synthetic"] | None = None
) -> list[str]:
    """Return the problems of a file as ``file:line: place: what``; ``machine`` is none when it is another's.

    Raises ``WorkerError`` when the file cannot be read.
    """
    document = ConfigFile.read(path)
    specs, problems = read_workers(document.section("workers"))
    if engine is not None:
        specs = {name: spec.model_copy(update={"engine": engine}) for name, spec in specs.items()}
    problems += check_specs(specs, machine, note)
    return [f"{document.where(problem.place)}: {problem}" for problem in problems]


def check_specs(specs: Mapping[str, ModelSpec], machine: Machine | None, note: Note) -> Iterator[Problem]:
    """Yield what keeps these models from starting; ``machine`` is none when it is another's."""
    real = [name for name, spec in specs.items() if spec.engine == "vllm"]
    catalogue = read_catalogue() if real else None
    if real and catalogue is None:
        note("vLLM is not installed here: engine arguments, parsers and architectures were not checked.")
    models = []
    for name, spec in specs.items():
        model = Model(name, spec, {}, {}, None)
        if name in real:
            options = engine_options(name, spec.source, spec)
            try:
                model = Model(name, spec, options, *_config(spec, name, note))
            except (WorkerError, OSError) as error:
                model = Model(name, spec, options, {}, None)
                yield Problem(("workers", name, "source"), str(error).removesuffix("."))
            try:
                yield from _of_one(model, catalogue, note)
            except OSError as error:
                yield Problem(("workers", name), str(error))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                # The config has something else there than transformers writes; vLLM may know better.
                note(f"{name}: its config.json was not understood ({error!r}), so its size was not checked.")
                model = replace(model, config={})
        models.append(model)
    if machine is not None:
        yield from (Problem(("workers",), text) for text in fit.of_the_machine(models, machine))


def _of_one(model: Model, catalogue: Catalogue | None, note: Note) -> Iterator[Problem]:
    place: Place = ("workers", model.name)
    spec = model.spec
    if catalogue is not None:
        yield from _against(catalogue, model, place)
    if model.directory is not None and not _has_weights(model.directory) and "load_format" not in spec.engine_args:
        yield Problem((*place, "source"), f"{model.directory} has a config.json, but no weights")
    yield from (Problem((*place, field), text) for field, text in fit.of_the_model(model))
    try:
        yield from (Problem(place, text) for text in fit.of_the_gpu(model))
    except WorkerError as error:
        note(f"{model.name}: {error} Its memory was not checked.")
    for adapter, source in spec.adapters.items():
        if is_local(source) and spec.lora and (said := lora.objection(Path(source), spec.lora.max_rank)):
            yield Problem((*place, "lora", "adapters", adapter), said)
    template = spec.chat_template
    if template is not None and is_local(template) and not Path(template).is_file():
        yield Problem((*place, "chat_template"), f"{template} does not exist")


def _config(spec: ModelSpec, name: str, note: Note) -> tuple[Mapping[str, Any], Path | None]:
    """Return a model's config and directory, empty and none when they are not on this machine and need not be."""
    source = spec.source
    if source.startswith(("s3://", "gs://")):
        if find_spec("runai_model_streamer") is None:
            raise WorkerError(f"{source} needs vLLM's extra `runai` (runai-model-streamer), which is not installed.")
        return {}, None
    directory = kept(source)
    if directory is None and is_local(source) and not source.endswith(".gguf"):
        raise WorkerError(f"{source} does not exist.")
    if directory is None:
        hub = not is_local(source) and not source.startswith("bundled:")
        path = hub_config(source, spec.revision) if hub else None
    else:
        path = directory / "config.json"
        if not path.is_file():
            raise WorkerError(f"{directory} is not a model directory: it has no config.json.")
    config = read_config(path) if path is not None else {}
    if not config:
        note(f"{name}: the model is not on this machine yet; its size was not checked.")
    overrides = spec.engine_args.get("hf_overrides")
    return _overridden(config, overrides) if config and isinstance(overrides, dict) else config, directory


def _overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """Change a config as vLLM does: of a config within it only what is named, any other member as a whole."""
    # Of those within, this is the only one that is looked at here.
    own, text = config.get("text_config"), overrides.get("text_config")
    merged = {"text_config": _merged(own, text)} if isinstance(own, dict) and isinstance(text, dict) else {}
    return {**config, **overrides, **merged}


def _merged(own: Mapping[str, Any], overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    changes = {
        key: _merged(own[key], value) if isinstance(value, dict) and isinstance(own.get(key), dict) else value
        for key, value in overrides.items()
    }
    return {**own, **changes}


def _has_weights(directory: Path) -> bool:
    return any(path.suffix in _WEIGHTS for path in directory.iterdir())


def _against(catalogue: Catalogue, model: Model, place: Place) -> Iterator[Problem]:
    for argument, value in model.spec.engine_args.items():
        if said := catalogue.objection(argument, value):
            yield Problem((*place, "engine_args", argument), said)
    for argument, field in VLLM_NAMES.items():
        if (
            said := catalogue.objection(argument, value)
            if isinstance(value := getattr(model.spec, field), str)
            else None
        ):
            yield Problem((*place, field), said)
    for field, known in (("tool_parser", catalogue.tool_parsers), ("reasoning_parser", catalogue.reasoning_parsers)):
        parser = getattr(model.spec, field)
        if parser is not None and parser not in known and f"{field}_plugin" not in model.spec.engine_args:
            yield Problem((*place, field), f"vLLM has no {field.replace('_', ' ')} {parser!r}{nearest(parser, known)}")
    named = model.config.get("architectures") or []
    if named and not catalogue.architectures.intersection(named) and "auto_map" not in model.config:
        yield Problem((*place, "source"), f"vLLM does not know the architecture {named[0]}")

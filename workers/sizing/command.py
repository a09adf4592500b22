"""``tollway size``: read the model, make the plans, print them as a table or as JSON."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workers.errors import WorkerError
from workers.sizing.architecture import Architecture, parse
from workers.sizing.config_file import read_config
from workers.sizing.gpus import Gpu, gpu_named
from workers.sizing.known import known_named
from workers.sizing.parameters import count
from workers.sizing.plan import GIB, GpuPlan, Workload, plan
from workers.sizing.precision import PLAIN, Precision, precision_named, stored


@dataclass(frozen=True, slots=True)
class SizingQuestion:
    """What was asked on the command line. ``dtype`` and ``context`` are the file's own when none."""

    model: str
    gpu: str
    dtype: str | None
    kv_dtype: str
    context: str | None
    concurrency: int
    utilization: float
    usd_per_hour: float | None


@dataclass(frozen=True, slots=True)
class Sizing:
    """An answer: the plan of each precision, among them ``dtype``, that of the file or the one that was asked for."""

    model: str
    source: str
    shape: Architecture
    gpu: Gpu
    load: Workload
    dtype: str
    plans: list[GpuPlan]


def size(question: SizingQuestion) -> Sizing:
    """Answer a question. Raises ``WorkerError``, in one sentence, for what cannot be sized."""
    config, source = load_config(question.model)
    try:
        shape = parse(config)
        chosen = _precision(question.dtype, config, shape)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkerError(f"The config of {question.model} has a member that is missing or odd: {error}.") from error
    gpu = gpu_named(question.gpu)
    if question.usd_per_hour is not None:
        gpu = replace(gpu, usd_per_hour=question.usd_per_hour, price_source="--usd-per-hour", price_date="")
    if question.concurrency < 1 or not 0 < question.utilization <= 1:
        raise WorkerError("--concurrency is at least 1, and --gpu-memory-utilization above 0 and at most 1.")
    context = tokens(question.context) if question.context else shape.max_context
    if context < 1:
        raise WorkerError("The config does not say how long a context the model has; give one with --context.")
    load = Workload(context, question.concurrency, question.kv_dtype, question.utilization)
    precisions = {chosen.name: chosen} | {each.name: each for each in PLAIN.values() if each.name != chosen.name}
    order = [*([] if chosen.name in PLAIN else [chosen.name]), *PLAIN]
    plans = [plan(shape, precisions[name], gpu, load) for name in order]
    shape = replace(shape, notes=(*shape.notes, *chosen.notes))
    return Sizing(question.model, source, shape, gpu, load, chosen.name, plans)


def _precision(asked: str | None, config: dict[str, Any], shape: Architecture) -> Precision:
    """Return the precision that was asked for, else that of the file's weights, else of its ``torch_dtype``."""
    if asked is None and (quantised := stored(config)) is not None:
        return quantised
    if (plain := precision_named(asked or shape.dtype)) is None:
        raise WorkerError(f"There is no precision {asked or shape.dtype!r}; there is {', '.join(PLAIN)}.")
    return plain


def load_config(model: str) -> tuple[dict[str, Any], str]:
    """Return the config of a directory, a ``config.json`` or a name in the table, and where it is from."""
    path = Path(model).expanduser()
    if path.is_dir():
        path /= "config.json"
    if not path.is_file():
        if model.startswith(("/", "~", ".")) or path.name == "config.json":
            raise WorkerError(f"{path} does not exist; give a directory with a config.json, or a name from the table.")
        known = known_named(model)
        return known.config, f"huggingface.co/{known.source}"
    return read_config(path), str(path)


def tokens(text: str) -> int:
    """Return a number of tokens such as ``8192`` or ``32k`` (1k is 1,024)."""
    number, times = (text[:-1], 1024) if text.lower().endswith("k") else (text, 1)
    if not number.isdecimal() or int(number) == 0:
        raise WorkerError(f"--context {text!r} is not a number of tokens such as 8192 or 32k.")
    return int(number) * times


def as_dict(sizing: Sizing) -> dict[str, Any]:
    """Return a sizing as JSON values; each number's unit is in its name."""
    shape, parameters = sizing.shape, count(sizing.shape)
    plans = {plan.dtype: _plan(plan, sizing.gpu) for plan in sizing.plans}
    return {
        "model": sizing.model,
        "source": sizing.source,
        "parameters": parameters.total,
        "active_parameters": parameters.active,
        "layers": shape.layers,
        "layers_with_window": sum(window is not None for window in shape.windows),
        "window_tokens": next((window for window in shape.windows if window is not None), None),
        "notes": list(shape.notes),
        "load": asdict(sizing.load),
        "gpu": asdict(sizing.gpu) | {"memory_bytes": sizing.gpu.memory_bytes},
        "chosen": plans[sizing.dtype],
        "precisions": list(plans.values()),
    }


def _plan(plan: GpuPlan, gpu: Gpu) -> dict[str, Any]:
    values = asdict(plan) | {
        "gpus": plan.gpus,
        "usd_per_hour": round(plan.gpus * gpu.usd_per_hour, 4) if plan.gpus else None,
    }
    if plan.replica is not None:
        values["replica"] |= {"split": plan.replica.split._asdict()}
    return values


def as_table(sizing: Sizing) -> str:
    """Return a sizing for a terminal."""
    gpu, load, parameters = sizing.gpu, sizing.load, count(sizing.shape)
    chosen = next(plan for plan in sizing.plans if plan.dtype == sizing.dtype)
    windows = [window for window in sizing.shape.windows if window is not None]
    kept = f"; {len(windows)} of {sizing.shape.layers} layers keep {windows[0]:,} tokens" if windows else ""
    requests = "1 request" if load.concurrency == 1 else f"{load.concurrency:,} requests at once"
    rows = [
        ("model", f"{sizing.model} ({sizing.source})"),
        ("parameters", f"{parameters.total / 1e9:,.2f} B, {parameters.active / 1e9:,.2f} B active"),
        ("asked for", f"{requests} of {load.context:,} tokens on {gpu.name}"),
        ("weights", f"{chosen.weight_bytes / GIB:,.2f} GiB in {chosen.dtype}"),
        ("KV cache", f"{chosen.kv_bytes_per_token / 1024:,.1f} KiB per token{kept}"),
    ]
    if (engine := chosen.replica) is None:
        rows.append(("does not fit", str(chosen.reason)))
    else:
        replicas = "1 replica" if chosen.replicas == 1 else f"{chosen.replicas} replicas"
        parallel = f"tensor parallel {engine.split.tensor_parallel}, pipeline parallel {engine.split.pipeline_parallel}"
        memory = (
            f"weights {engine.weight_bytes_per_gpu / GIB:,.1f}, overhead {engine.overhead_bytes_per_gpu / GIB:,.1f}"
        )
        usable = gpu.memory_bytes * load.utilization / GIB
        price = f"${chosen.gpus * gpu.usd_per_hour:,.2f}/hour, ${gpu.usd_per_hour:,.2f} per GPU"
        rows += [
            ("GPUs", f"{chosen.gpus} x {gpu.name}: {replicas}, {parallel}"),
            (
                "GiB per GPU",
                f"{memory}, KV cache {engine.kv_bytes_per_gpu / GIB:,.1f} of {usable:,.1f} that may be used",
            ),
            ("fits per replica", f"{engine.tokens:,} tokens, {engine.requests:,} requests"),
            ("price", f"{price} ({f'{gpu.price_source} {gpu.price_date}'.strip()})"),
        ]
    rows += [("note", note) for note in sizing.shape.notes]
    lines = [f"{name:<18}{text}" for name, text in rows]
    lines += ["", "precision   weights GiB   requests on one GPU   GPUs      $/hour"]
    return "\n".join([*lines, *(_precision_line(plan, gpu) for plan in sizing.plans)])


def _precision_line(plan: GpuPlan, gpu: Gpu) -> str:
    start = f"{plan.dtype:<12}{plan.weight_bytes / GIB:>11,.2f}   "
    if plan.replica is None:
        return f"{start}no: {plan.reason}"
    alone = f"{plan.requests_on_one_gpu:,}" if plan.requests_on_one_gpu else "does not fit"
    return f"{start}{alone:>19}   {plan.gpus:>4,}   {plan.gpus * gpu.usd_per_hour:>9,.2f}"

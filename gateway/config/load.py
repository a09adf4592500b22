"""Turns the file into a validated ``Config``, or into a list of everything that is wrong with it.

Decides how an error reads and whether names in the file agree with each other. Prices, addresses and what else needs
the provider types is left to ``build``.
"""

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config import document
from gateway.config.credentials import Surroundings
from gateway.config.problems import ConfigError, Place, Problems, Source, unknown
from gateway.config.schema import Config

_PLAIN_WORDS = {
    "model_type": "should be a mapping (key: value)",
    "dict_type": "should be a mapping (key: value)",
    "tuple_type": "should be a list",
    "string_type": "should be text; put it in quotes if it looks like a number or a yes",
    "too_short": "should not be empty",
}


def load(
    path: Path, environ: Mapping[str, str], kind: type[Config], *, provider_types: Collection[str] | None = None
) -> Config:
    """Read and validate a configuration file, with the secrets that it names.

    ``kind`` has the keys of the parts of a policy, too. With ``provider_types``, their names are checked along with the
    rest; ``build`` checks them in any case.
    Raises ConfigError with every problem of the file, in its order.
    """
    text = _text(path)
    values, source = document.read(text, str(path))
    problems = Problems(source)
    if not isinstance(values, dict):
        raise ConfigError([f"{path}:1: should be a mapping with keys such as providers and models"])
    types = None if provider_types is None else frozenset(provider_types)
    surroundings = Surroundings(environ, path.absolute().parent, types)
    config: Config | None = None
    try:
        config = kind.model_validate(values, context=surroundings)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=True):
            _explain(detail, kind, problems, source)
    _check_references(values, problems)
    if config is not None:
        _check_keys(config, problems)
    problems.raise_if_any()
    if config is None:
        raise ConfigError([f"{path}:1: cannot be used"])
    return config.read_from(source)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(content) > document.MAX_BYTES:
        raise ConfigError([f"{path}: larger than {document.MAX_BYTES} bytes"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8 text"]) from None


def _explain(detail: ErrorDetails, config: type[Config], problems: Problems, source: Source) -> None:
    """Put one of pydantic's findings in our words. What was written is shown only where it is one of a few names."""
    place: Place = tuple(part for part in detail["loc"] if part != "[key]")
    kind = detail["type"]
    if kind == "extra_forbidden":
        message = unknown("key", str(place[-1]), _fields_at(config, place[:-1]))
        problems.add(place[:-1], message, line=source.line(place))
    elif kind == "missing":
        problems.add(place[:-1], f"key '{place[-1]}' is missing")
    elif kind == "literal_error" and isinstance(detail["input"], str):
        known = [word.strip("' ") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        problems.add(place, unknown(_noun(place), detail["input"], known))
    elif kind == "value_error":
        problems.add(place, str(detail["ctx"]["error"]))
    elif "[key]" in detail["loc"]:
        problems.add(place, "a name starts with a letter or digit and holds only letters, digits and . _ : / @ -")
    elif kind == "string_pattern_mismatch":
        problems.add(place, "should be a name: a letter or digit first, then letters, digits and . _ : / @ -")
    else:
        said = detail["msg"].removeprefix("Decimal ").removeprefix("Input ").removeprefix("input ")
        problems.add(place, _PLAIN_WORDS.get(kind, said))


def _noun(place: Place) -> str:
    """Name what stands at a place: the item of ``capabilities`` is a capability."""
    name = str(next(part for part in reversed(place) if isinstance(part, str)))
    return {"capabilities": "capability"}.get(name, name)


def _fields_at(config: type[Config], place: Place) -> list[str]:
    """Return the keys that the schema knows at a place."""
    kind: Any = config
    for part in place:
        kind = _within(kind, part)
    return [name for section in _alternatives(kind) if _is_section(section) for name in section.model_fields]


def _within(kind: Any, part: str | int) -> Any:
    for alternative in _alternatives(kind):
        if _is_section(alternative) and part in alternative.model_fields:
            return alternative.model_fields[part].annotation
        if get_origin(alternative) is dict:
            return get_args(alternative)[1]
        if get_origin(alternative) is tuple:
            return get_args(alternative)[0]
    return None


def _alternatives(kind: Any) -> list[Any]:
    """Take ``X | None`` and ``Annotated[X, ...]`` apart."""
    if hasattr(kind, "__metadata__"):
        return _alternatives(kind.__origin__)
    if get_origin(kind) in (None, dict, tuple):
        return [kind]
    return [found for part in get_args(kind) for found in _alternatives(part)]


def _is_section(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def _check_references(values: dict[str, Any], problems: Problems) -> None:
    """Check that names lead somewhere. Works on the plain values, so that one bad section does not hide the next."""
    providers, models, routes = (_mapping(values.get(name)) for name in ("providers", "models", "routes"))
    for name, model in models.items():
        provider = _mapping(model).get("provider")
        if isinstance(provider, str) and provider not in providers:
            problems.add(("models", name, "provider"), unknown("provider", provider, providers))
        if "*" in name:
            _check_wildcard(name, _mapping(model), problems)
    plain = [name for name in models if "*" not in name]
    for name in _mapping(values.get("simulation")):
        if name not in plain:
            problems.add(("simulation", name), unknown("model", name, plain))
    for name, route in routes.items():
        if name in models:
            problems.add(("routes", name), f"a model has the name '{name}' too; a caller could not tell them apart")
        for index, model in enumerate(_sequence(_mapping(route).get("models"))):
            if isinstance(model, str) and model not in plain:
                problems.add(("routes", name, "models", index), unknown("model", model, plain))
    prefixes = tuple(name.removesuffix("*") for name in models if "*" in name)
    _check_allowed(_sequence(values.get("keys")), [*routes, *plain], prefixes, problems)


def _check_allowed(keys: list[Any], names: list[str], prefixes: tuple[str, ...], problems: Problems) -> None:
    """Check what keys may ask for; a name behind a wildcard's prefix may exist."""
    for index, key in enumerate(keys):
        for number, asked in enumerate(_sequence(_mapping(key).get("routes"))):
            if not isinstance(asked, str) or asked in names or (asked.startswith(prefixes) and "*" not in asked):
                continue
            problems.add(("keys", index, "routes", number), unknown("route or model", asked, names))


def _check_wildcard(name: str, model: dict[str, Any], problems: Problems) -> None:
    if not name.endswith("/*") or name.count("*") != 1:
        problems.add(("models", name), "a '*' can stand only at the end, behind a slash: openai/*")
    for key in ("api", "upstream", "context", "max_output_tokens", "quality"):
        if key in model:
            problems.add(("models", name, key), "says something of one model, but this name stands for many")


def _check_keys(config: Config, problems: Problems) -> None:
    names: dict[str, int] = {}
    digests: dict[bytes, int] = {}
    for index, key in enumerate(config.keys):
        if (first := names.setdefault(key.name, index)) != index:
            problems.add(("keys", index, "name"), f"keys[{first}] has the name '{key.name}' too")
        if (first := digests.setdefault(key.secret, index)) != index:
            problems.add(("keys", index, "secret"), f"keys[{first}] has the same secret; who would its caller be?")


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

"""Gives a section of the file the keys of a policy's parts: filters, predictors, objectives, strategies.

Decides how the file names a part and its options. Which parts there are, the composition root says (``narrowed``), so
that a new one's keys are in the schema, its reference page and ``tollway check`` by its line in a registry.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from pydantic import ConfigDict, Field, create_model, model_validator

from gateway.clock import Clock
from gateway.config.problems import unknown
from gateway.config.section import Section
from gateway.formats.base import Format

_NOT_YET = ("quality",)


class Tools(NamedTuple):
    """What a part may use beside its options and what it is asked with."""

    clock: Clock
    adapters: Mapping[str, Format]
    limits: Any = None
    """The route's ``limits``."""


class Part:
    """A filter, predictor, objective or strategy: one object for each route, made when a snapshot is built.

    ``Options`` are its keys in the file, each with a default and a description; the class's own first line describes it
    on the reference page. It lives as long as its snapshot, so what has to outlive a reload is not kept in it.
    """

    Options: ClassVar[type[Section]] = Section

    def __init__(self, options: Any, tools: Tools) -> None:
        self.options = options
        self.tools = tools


class PartChoice(Section):
    """One of these, by its name alone or with its options, as `{NAME: {...}}`."""

    model_config = ConfigDict(json_schema_extra={"maxProperties": 1})
    _key: ClassVar[str] = ""
    _parts: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        named = {value: None} if isinstance(value, str) else value
        if not isinstance(named, dict) or len(named) != 1:
            text = f"should be {_one_of(cls._parts)}"
            if any(_options_of(part).model_fields for part in cls._parts.values()):
                chosen = "that" if len(cls._parts) == 1 else "one of them"
                text += f", or {chosen} with its options, as {{NAME: {{...}}}}"
            raise ValueError(text)
        ((name, options),) = named.items()
        if name not in cls._parts:
            if name in _NOT_YET:
                raise ValueError(f"{cls._key} '{name}' is not there yet; use {_one_of(cls._parts)}")
            raise ValueError(unknown(cls._key, str(name), cls._parts))
        return {name: {} if options is None else options}

    def made(self, tools: Tools) -> Any:
        """Make the part that was chosen."""
        (name,) = self.model_fields_set
        return self._parts[name](getattr(self, name), tools)


def as_written(default: object, description: str) -> Any:
    """Describe a key whose kind the parts decide: its default is what the file would say."""
    return Field(default=default, description=description)


@lru_cache
def one_of(key: str, *parts: tuple[str, Callable[..., Any]]) -> type[PartChoice]:
    """Return the kind of a key that names one of these parts."""
    fields: dict[str, Any] = {
        name: (_options_of(part) | None, Field(default=None, description=(part.__doc__ or name).partition("\n")[0]))
        for name, part in parts
    }
    kind = create_model(f"{key}_choice", __base__=PartChoice, __doc__=PartChoice.__doc__, **fields)
    kind._key, kind._parts = key, dict(parts)  # noqa: SLF001 - our own
    return kind


@lru_cache
def all_of(section: type[Section], *parts: Callable[..., Any]) -> type[Section]:
    """Return the kind of a section in which all parts have their keys, which is therefore the options of each.

    Raises ValueError where two parts have a key of the same name: each would read the other's value.
    """
    bases: list[type[Section]] = []
    taken = set(section.model_fields)
    for part in parts:
        kind = _options_of(part)
        if twice := taken & set(kind.model_fields):
            raise ValueError(f"{part}: another part has a key of this name already: {_one_of(sorted(twice))}")
        if kind is not Section:
            bases.insert(0, kind)  # pydantic takes the fields of the last base first
            taken.update(kind.model_fields)
    return create_model(section.__name__, __base__=(*bases, section), __doc__=section.__doc__)


def one_if_several(key: str, *parts: tuple[str, Callable[..., Any]]) -> type[PartChoice] | PartChoice:
    """Return the kind of a key that names one of these parts; of one part that has no options, that choice itself."""
    kind = one_of(key, *parts)
    ((name, part), *others) = parts
    return kind if others or _options_of(part).model_fields else kind.model_validate(name)


@lru_cache
def narrowed(section: type[Section], **kinds: Any) -> type[Any]:
    """Return a section with these kinds of keys; their descriptions and defaults stay.

    What is given a value in place of a kind is no key of the file, and has that value.
    """
    fields: dict[str, Any] = {
        name: (ClassVar[Any], kind) if isinstance(kind, Section) else (kind, section.model_fields[name])
        for name, kind in kinds.items()
    }
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)


def _options_of(part: Callable[..., Any]) -> Any:
    return getattr(part, "Options", Section)


def _one_of(names: Iterable[str]) -> str:
    return " or ".join(repr(each) for each in names)

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

_NOT_YET = ("quality", "balanced")


class Tools(NamedTuple):
    """What a part may use beside its options and what it is asked with."""

    clock: Clock
    adapters: Mapping[str, Format]


class Part:
    """A filter, predictor, objective or strategy: one object for each route, made when a snapshot is built.

    ``Options`` are its keys in the file, each with a default and a description; the class's own first line describes it
    on the reference page. It lives as long as its snapshot, so what has to outlive a reload is not kept in it.
    """

    Options: ClassVar[type[Section]] = Section

    def __init__(self, options: Any, tools: Tools) -> None:
        self.options = options
        self.tools = tools


class Choice(Section):
    """One of these, by its name alone or with its options, as `{NAME: {...}}`."""

    model_config = ConfigDict(json_schema_extra={"maxProperties": 1})
    _key: ClassVar[str] = ""
    _parts: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        named = {value: None} if isinstance(value, str) else value
        if not isinstance(named, dict) or len(named) != 1:
            raise ValueError(f"should be {_one_of(cls._parts)}, or one of them with its options, as {{NAME: {{...}}}}")
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
def one_of(key: str, *parts: tuple[str, Callable[..., Any]]) -> type[Choice]:
    """Return the kind of a key that names one of these parts."""
    fields: dict[str, Any] = {
        name: (_options_of(part) | None, Field(default=None, description=(part.__doc__ or name).partition("\n")[0]))
        for name, part in parts
    }
    kind = create_model(f"{key}_choice", __base__=Choice, __doc__=Choice.__doc__, **fields)
    kind._key, kind._parts = key, dict(parts)  # noqa: SLF001 - our own
    return kind


@lru_cache
def all_of(section: type[Section], *parts: Callable[..., Any]) -> type[Section]:
    """Return the kind of a section in which all parts have their keys, which is therefore the options of each."""
    # pydantic takes the fields of the last base first.
    bases = [kind for part in reversed(parts) if (kind := _options_of(part)) is not Section]
    return create_model(section.__name__, __base__=(*bases, section), __doc__=section.__doc__)


@lru_cache
def narrowed(section: type[Section], **kinds: Any) -> type[Any]:
    """Return a section with these kinds of keys; their descriptions and defaults stay."""
    fields: dict[str, Any] = {name: (kind, section.model_fields[name]) for name, kind in kinds.items()}
    return create_model(section.__name__, __base__=section, __doc__=section.__doc__, **fields)


def _options_of(part: Callable[..., Any]) -> Any:
    return getattr(part, "Options", Section)


def _one_of(names: Iterable[str]) -> str:
    return " or ".join(repr(each) for each in names)

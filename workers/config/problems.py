"""Describes what is wrong with the ``workers:`` section: file, line, key, and the nearest right spelling.

Decides how a problem reads (its place, the nearest right spelling) and finds the line of the file that it is in.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from workers.errors import WorkerError

Place = tuple[str | int, ...]
_T = TypeVar("_T")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MADE = (*_NUMBERS, "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
_LOOKS_OTHERWISE = re.compile(r"[-+]?[0-9_]+:|[-+]?0[0-9_]")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to mend: where in the file, and a phrase about it without a full stop."""

    place: Place
    text: str

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"{'.'.join(map(str, self.place))}: {self.text}{'' if self.text.endswith('?') else '.'}"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A YAML file that was read: its plain values, and its nodes, which know their lines."""

    path: Path
    values: dict[str, Any]
    root: yaml.Node

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Read a file. Raises ``WorkerError`` when it cannot be read, or is not a mapping in YAML."""
        try:
            text = path.read_text(encoding="utf-8")
            values, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
        except OSError as error:
            raise WorkerError(f"{path}: {error.strerror}.") from error
        # A date that no calendar has is a ValueError.
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise WorkerError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from error
        if (mangled := next(_mangled(root), None)) is not None:
            line = f"{path}:{mangled.start_mark.line + 1}"
            became = yaml.safe_load(mangled.value)
            raise WorkerError(f"{line}: YAML reads {mangled.value} as {became}; write the number itself, or quotes.")
        if not isinstance(values, dict) or root is None:
            raise WorkerError(f"{path}: the file must be a mapping with sections such as `workers:`.")
        return cls(path, values, root)

    def section(self, name: str) -> Any:
        """Return a section's plain value, or none."""
        return self.values.get(name)

    def where(self, place: Place) -> str:
        """Return ``file:line`` of a place, or of the nearest thing around it that is in the file."""
        node, line = self.root, 1
        for part in place:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(part) or _read(key) == part]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                found = [(item, item) for item in node.value[part : part + 1]]
            else:
                found = []
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        return f"{self.path}:{line}"


def _read(key: yaml.Node) -> object:
    """Return what YAML makes of a key that looks like text: ``on`` is a boolean."""
    return yaml.safe_load(key.value) if isinstance(key, yaml.ScalarNode) and key.tag in _MADE else None


def _mangled(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Find the numbers of the section that YAML 1.1 reads otherwise than they look: 1:30 is 90 to it, 010 is 8."""
    sections = node.value if isinstance(node, yaml.MappingNode) else []
    waiting = [value for key, value in sections if key.value == "workers"]
    while waiting:
        each = waiting.pop()
        if isinstance(each, yaml.ScalarNode):
            if each.tag in _NUMBERS and _LOOKS_OTHERWISE.match(each.value):
                yield each
        else:
            waiting += [part for item in each.value for part in (item if isinstance(item, tuple) else (item,))]


def spoken(value: object) -> str:
    """Say what YAML has made of plain text."""
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    return f"the {'date' if isinstance(value, date) else 'number'} {value}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the most similar name, or nothing when none is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def problems_of(
    adapter: TypeAdapter[_T], values: object, item: type[BaseModel], place: Place
) -> tuple[_T | None, list[Problem]]:
    """Validate a mapping of names to ``item``; return it, or none with a problem for each mistake."""
    try:
        return adapter.validate_python(values), []
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        # A default that follows from other fields cannot be made while one of them is wrong: no mistake of its own.
        told = [each for each in mistakes if each["type"] != "default_factory_not_called"]
        # A key that is misspelt explains why another is missing.
        told.sort(key=lambda each: each["type"] == "missing")
        return None, [_explain(detail, item, place) for detail in told]


def _explain(detail: ErrorDetails, item: type[BaseModel], outer: Place) -> Problem:
    inner = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["loc"][-1:] == ("[key]",):
        inner = (*inner[:-1], detail["input"])
    place, kind, value = outer + inner, detail["type"], detail["input"]
    if kind == "extra_forbidden":
        keys = _section_at(item, inner[1:-1]).model_fields
        meant = nearest(str(inner[-1]), keys) or f"; known: {', '.join(keys)}"
        return Problem(place, f"there is no such key{meant}")
    if kind == "literal_error":
        known = [word.strip("' ") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return Problem(place, f"{value!r} is none of {', '.join(known)}{nearest(str(value), known)}")
    return Problem(place, _phrase(detail))


def _phrase(detail: ErrorDetails) -> str:
    kind, value = detail["type"], detail["input"]
    phrase: str = detail["msg"][0].lower() + detail["msg"][1:]
    if kind == "value_error":
        phrase = str(detail["ctx"]["error"])
    elif kind == "missing":
        phrase = "is missing"
    elif value is None:
        phrase = "is empty"
    elif kind == "string_type" and isinstance(value, bool | int | float | date):
        phrase = f"YAML reads this as {spoken(value)}; write it in quotes"
    elif kind in ("model_type", "dict_type"):
        phrase = "should be a mapping of keys to values"
    return phrase


def _section_at(kind: type[BaseModel], place: Place) -> type[BaseModel]:
    """Return the section that a place is in, from the fields' annotations."""
    for part in place:
        annotation = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                kind = candidate
    return kind

"""Describes what is wrong with the ``workers:`` section: file, line, key, and the nearest right spelling.

Decides how a problem reads (its place, the nearest right spelling) and finds the line of the file that it is in.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from workers.errors import WorkerError

Place = tuple[str | int, ...]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to mend: where in the file, and a phrase about it without a full stop."""

    place: Place
    text: str

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"{'.'.join(str(part) for part in self.place)}: {self.text}{'' if self.text.endswith('?') else '.'}"


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
                found = [(key, value) for key, value in node.value if key.value == str(part)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                found = [(item, item) for item in node.value[part : part + 1]]
            else:
                found = []
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        return f"{self.path}:{line}"


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
        return None, [_explain(detail, item, place) for detail in told]


def _explain(detail: ErrorDetails, item: type[BaseModel], outer: Place) -> Problem:
    inner = tuple(part for part in detail["loc"] if part != "[key]")
    place = outer + inner
    if detail["type"] == "extra_forbidden":
        keys = _section_at(item, inner[1:-1]).model_fields
        meant = nearest(str(inner[-1]), keys) or f"; known: {', '.join(keys)}"
        return Problem(place, f"there is no such key{meant}")
    if detail["type"] == "literal_error":
        known = [word.strip("' ") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return Problem(
            place, f"{detail['input']!r} is none of {', '.join(known)}{nearest(str(detail['input']), known)}"
        )
    if detail["type"] == "value_error":
        return Problem(place, str(detail["ctx"]["error"]))
    return Problem(place, detail["msg"][0].lower() + detail["msg"][1:])


def _section_at(kind: type[BaseModel], place: Place) -> type[BaseModel]:
    """Return the section that a place is in, from the fields' annotations."""
    for part in place:
        annotation = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                kind = candidate
    return kind

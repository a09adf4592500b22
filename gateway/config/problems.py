"""Describes what is wrong with a configuration file: file, line, key, and the nearest right spelling.

Decides the shape of the sentences. What is wrong is found out by ``document``, ``load`` and ``build``.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

Place = tuple[str | int, ...]
"""The way from the top of the file to a value: ``("routes", "auto", "models", 0)``."""

_SHOWN_NAMES = 24


class ConfigError(Exception):
    """The configuration cannot be used. ``problems``: one line of text for each thing to mend; none holds a secret."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Source(Struct, frozen=True):
    """Where a configuration was read from: the file's name as given, and the line of every value in it."""

    name: str = "configuration"
    lines: Mapping[Place, int] = {}

    def line(self, place: Place) -> int:
        """Return the line of a value, or of the nearest thing around it that is in the file."""
        for length in range(len(place), 0, -1):
            if line := self.lines.get(place[:length]):
                return line
        return 1


class Problems:
    """Collects what is wrong, so that all of it is reported at once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: list[tuple[int, str]] = []

    def add(self, place: Place, message: str, *, line: int | None = None) -> None:
        """Note a problem at a place; ``line`` when the one to show is not that of the place (an unknown key's own)."""
        line = self._source.line(place) if line is None else line
        where = f"{dotted(place)}: " if place else ""
        self._found.append((line, f"{self._source.name}:{line}: {where}{message}"))

    def raise_if_any(self) -> None:
        """Raise ConfigError with every problem, each once, in the order of the file."""
        if self._found:
            ordered = sorted(self._found, key=lambda found: found[0])
            raise ConfigError(list(dict.fromkeys(text for _, text in ordered)))


def dotted(place: Place) -> str:
    """Write a place as people do: ``keys[0].secret``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).removeprefix(".")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is not known, and which one was probably meant, or else which ones there are."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(name.lower(), names, n=1)
    if nearest:
        return f"unknown {what} '{name}'; did you mean '{nearest[0]}'?"
    if not names:
        return f"unknown {what} '{name}'; none is defined"
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    return f"unknown {what} '{name}'; known: {shown}"

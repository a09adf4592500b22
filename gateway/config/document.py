"""Reads YAML into plain values and remembers the line of each, which PyYAML's own loader forgets.

Decides what of YAML is allowed: one document of mappings with distinct keys, lists, text, numbers, yes/no and null.
Aliases and merge keys work, within bounds: what they expand to is counted, so a few lines cannot become a billion
values. What the values mean is left to ``schema``.
"""

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from gateway.config.problems import ConfigError, Place, Problems, Source

MAX_BYTES = 1_000_000
MAX_VALUES = 50_000
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_PLAIN = {_TAG + kind for kind in ("null", "bool", "int", "float", "str")}
_AS_TEXT = {_TAG + "timestamp", _TAG + "value"}
_MERGE = _TAG + "merge"


class _TooMuchError(Exception):
    """The document expands to more than MAX_VALUES values."""


def read(text: str, name: str) -> tuple[Any, Source]:
    """Parse one YAML document; return its plain values and where each stands. ``name`` is the file's, for messages.

    An empty document is an empty mapping. Raises ConfigError: not YAML, a key twice, a tag, too deep, too large.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, name)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"{name}:{line}: a character that YAML does not allow (U+{error.character:04X})"]) from None
    except (ValueError, OverflowError):  # PyYAML's own arithmetic
        message = "not valid YAML: the number of a character ('\\U...') or of '%YAML' is too large"
        raise ConfigError([f"{name}:{loader.line + 1}: {message}"]) from None
    except RecursionError:
        raise ConfigError([f"{name}:1: nested more than {MAX_DEPTH} levels deep"]) from None
    reader = _Reader()
    try:
        value = {} if root is None else reader.value(root, ())
    except _TooMuchError:
        raise ConfigError([f"{name}:1: expands to more than {MAX_VALUES} values; are aliases nested?"]) from None
    source = Source(name, reader.lines)
    problems = Problems(source)
    for place, message, line in reader.problems:
        problems.add(place, message, line=line)
    problems.raise_if_any()
    return value, source


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> str:
    """Say what the parser stumbled over. Its snippet of the file is left out: it may show a secret."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = error.problem or "cannot be read as YAML"
    if "'\\t'" in problem:
        problem = "a tab stands where YAML wants spaces; indent with spaces only"
    elif "could not find expected ':'" in problem or "mapping values are not allowed" in problem:
        problem += "; is a ':' missing or one too many, or a text with ': ' in it not in quotes?"
    return f"{name}:{line}: not valid YAML: {problem}"


class _Reader:
    """One walk over the composed nodes; an alias is walked again wherever it is used."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self.problems: list[tuple[Place, str, int]] = []
        self._left = MAX_VALUES
        self._scalars = SafeConstructor()

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooMuchError
        line = node.start_mark.line + 1
        # The line of a key, noted by its mapping, says more than that of the value, which may start below it.
        self.lines.setdefault(place, line)
        if len(place) > MAX_DEPTH:
            self.problems.append((place[:3], f"nested more than {MAX_DEPTH} levels deep", line))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, place, line)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                merged.append(value_node)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append((place, "a key must be plain text", line))
                continue
            # The text as written: a model called 3.5 or a key called on must not turn into a number or a yes.
            key = key_node.value
            here = (*place, key)
            if key in values:
                self.problems.append((place, f"key '{key}' stands here twice (first in line {self.lines[here]})", line))
                continue
            self.lines[here] = line
            values[key] = self.value(value_node, here)
        for key, value_node in self._merged(merged, place):
            if key not in values:
                values[key] = self.value(value_node, (*place, key))
        return values

    def _merged(self, nodes: list[yaml.Node], place: Place) -> Iterator[tuple[str, yaml.Node]]:
        """Yield what ``<<: *defaults`` brings in; a merge inside what is merged is not followed, but refused."""
        for node in nodes:
            for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
                pairs = part.value if isinstance(part, yaml.MappingNode) else None
                if pairs is None or any(key.tag == _MERGE or not isinstance(key, yaml.ScalarNode) for key, _ in pairs):
                    line = part.start_mark.line + 1
                    message = "'<<' can merge only plain mappings without a '<<' of their own"
                    self.problems.append((place, message, line))
                    continue
                for key, value in pairs:
                    yield key.value, value

    def _scalar(self, node: yaml.Node, place: Place, line: int) -> Any:
        if node.tag in _AS_TEXT:
            return node.value
        if node.tag not in _PLAIN:
            self.problems.append((place, "a YAML tag ('!...') has no meaning here", line))
            return None
        try:
            return self._scalars.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError, LookupError):
            kind = node.tag.removeprefix(_TAG)
            self.problems.append((place, f"cannot be read as {kind}", line))
            return None

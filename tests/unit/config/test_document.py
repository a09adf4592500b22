"""Reading YAML: what is refused, and at which line."""

import sys
import time

import pytest

from gateway.config.document import MAX_DEPTH, read
from gateway.config.problems import ConfigError

TOO_LARGE = "not valid YAML: the number of a character ('\\U...') or of '%YAML' is too large"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: key 'a' stands here twice (first in line 1)"),
        ("x:\n  a: 1\n  a: 2\n", "f:3: x: key 'a' stands here twice (first in line 2)"),
        ("a: 1\nb:\n\tc: 2\n", "f:3: not valid YAML: a tab stands where YAML wants spaces; indent with spaces only"),
        ("a: [1, 2\nb: 3\n", "f:2: not valid YAML: expected ',' or ']', but got ':'"),
        ("a: *nowhere\n", "f:1: not valid YAML: found undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2\n", "f:2: not valid YAML: but found another document"),
        ("a: 1\nb: \x07\n", "f:2: a character that YAML does not allow (U+0007)"),
        ("a: 1\nb: !!python/object:os.system x\n", "f:2: b: a YAML tag ('!...') has no meaning here"),
        ("a: 1\nb: !!int x\n", "f:2: b: cannot be read as int"),
        ('a: !!int ""\n', "f:1: a: cannot be read as int"),
        ('a: !!float ""\n', "f:1: a: cannot be read as float"),
        ("a: 1" + ":1" * 200 + ".0\n", "f:1: a: cannot be read as float"),
        ('a: !!bool ""\n', "f:1: a: cannot be read as bool"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', f"f:2: {TOO_LARGE}"),
        ('a: 1\nb: "\\U00110000"\n', f"f:2: {TOO_LARGE}"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1\n", f"f:1: {TOO_LARGE}"),
        ("a: " + "9" * 5000, "f:1: a: cannot be read as int"),
        ("[a, b]: 1\n", "f:1: a key must be plain text"),
        ("a: &x {b: *x}\n", f"f:1: a.b.b: nested more than {MAX_DEPTH} levels deep"),
        ("a: 1\n<<: 3\n", "f:2: '<<' can merge only plain mappings without a '<<' of their own"),
    ],
)
def test_forbidden_yaml_is_reported_with_its_line(text: str, problem: str) -> None:
    """Errors of the syntax, and things of YAML that a configuration has no use for."""
    with pytest.raises(ConfigError) as caught:
        read(text, "f")
    assert caught.value.problems == (problem,)


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    """A parser that recurses meets its end in a sentence."""
    with pytest.raises(ConfigError, match=f"nested more than {MAX_DEPTH} levels"):
        read("[" * 2 * sys.getrecursionlimit(), "f")


def test_aliases_cannot_become_a_billion_values() -> None:
    """Nine lists of nine aliases each would be 387 million values; it stops at the bound, at once."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 9)]
    began_s = time.monotonic()
    with pytest.raises(ConfigError, match="expands to more than"):
        read("\n".join(lines), "f")
    assert time.monotonic() - began_s < 30


def test_aliases_and_merges_work_within_bounds() -> None:
    """What is written here goes before what is merged, and an anchor is no value of its own."""
    values, source = read("a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  y: 3\nc: *base\n", "f")
    assert values == {"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": {"x": 1, "y": 2}}
    assert source.line(("b", "y")) == 4
    assert source.line(("c",)) == 5


def test_keys_are_text_as_written() -> None:
    """A model may be called 3.5, on or 007; values keep their kind, dates stay text."""
    values, _ = read("3.5: 1\non: 2\n007: {d: 2024-01-02, e: yes, f: 1.5, g: ~}\n", "f")
    assert values == {"3.5": 1, "on": 2, "007": {"d": "2024-01-02", "e": True, "f": 1.5, "g": None}}


def test_a_place_that_is_not_in_the_file_has_the_line_of_what_is_around_it() -> None:
    """A missing key is shown where it should be."""
    _, source = read("a: 1\nb:\n  - c: 1\n  - d: 2\n", "f")
    assert source.line(("b", 1, "missing", "deeper")) == 4
    assert source.line(("elsewhere",)) == 1

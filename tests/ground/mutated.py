"""Draws requests that are nearly right: valid ones of which members are missing, of a wrong type, doubled or moved."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Change = Callable[[Any, Any, Any], None]
_DEEP: Any = {}
for _ in range(60):
    _DEEP = {"a": [_DEEP]}
_INSTEAD = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1.5, 2**40, 2**70, 1e300, "", " ", "x", "ü" * 300, "\x00", "none", [], {}, [[]]),
        *([None], [7], ["x"], {"": None}, {"type": "x"}, {"type": 7}, {"type": "text"}, {"role": "user"}, _DEEP),
        *("x" * 70_000, "{", "data:image/png;base64,", "[" * 5_000, "https://a.test/b"),
    ]
)
"""What stands where something else should."""


def _leave_out(holder: Any, key: Any, _: Any) -> None:
    del holder[key]


def _replace(holder: Any, key: Any, value: Any) -> None:
    holder[key] = deepcopy(value)


def _wrap(holder: Any, key: Any, _: Any) -> None:
    holder[key] = [holder[key]]


def _double(holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, list):
        holder.insert(key, deepcopy(holder[key]))


def _to_the_front(holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, list):
        holder.insert(0, holder.pop(key))


def _turn_around(holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder[key], list):
        holder[key].reverse()


def _rename(holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)


_CHANGES: list[Change] = [_leave_out, _replace, _replace, _wrap, _double, _to_the_front, _turn_around, _rename]


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[dict[str, Any]], most: int = 3) -> dict[str, Any]:
    """Draw a body that is valid but for at most so many changes, each to what stands anywhere in it but ``model``."""
    body = deepcopy(draw(valid))
    for _ in range(draw(st.integers(0, most))):
        places = [(holder, key) for holder, key in _places(body) if key != "model"]
        if places:
            holder, key = draw(st.sampled_from(places))
            draw(st.sampled_from(_CHANGES))(holder, key, draw(_INSTEAD))
    return body


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what stands in an object or an array, at every depth down to which it may be looked at."""
    waiting = [(holder, 0)]
    while waiting:
        at, depth = waiting.pop()
        for key in list(at) if isinstance(at, dict) else range(len(at)):
            yield at, key
            if isinstance(at[key], dict | list) and depth < 12:
                waiting.append((at[key], depth + 1))

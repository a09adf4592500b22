"""Items of kept responses are read back whatever members a caller or an upstream gave them."""

import json
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.formats.responses.items import Page, as_items, can_go_on, continued, in_callers_count, list_items

_ODD = [None, 7, True, [], {"a": []}, "x"]


@pytest.mark.parametrize("member", ["id", "encrypted_content", "role", "content", "summary"])
def test_item_with_a_member_of_any_type_is_listed(member: str) -> None:
    """A target that speaks Responses may have taken it."""
    for kind in ("message", "reasoning", "invented"):
        items = json.dumps([{"type": kind, member: value} for value in _ODD]).encode()
        page = json.loads(list_items("resp_1", items, Page(newest_first=False)))
        assert [item["type"] for item in page["data"]] == [kind] * len(_ODD)
        assert json.loads(continued(items, b'{"output":%b}' % items, b"[]"))


@pytest.mark.parametrize("asked", [b"7", b"true", b"{}", b'{"role":"user"}'])
def test_input_that_is_neither_text_nor_items_is_refused(asked: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        as_items(asked)
    assert (refused.value.status, refused.value.param) == (400, "input")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ({}, True),
        ({"output": []}, True),
        ({"output": [{"type": "message", "role": 7, "id": [], "encrypted_content": 5}]}, True),
        ({"output": None}, False),
        ({"output": {}}, False),
        ({"output": [None]}, False),
        ({"output": ["x"]}, False),
        ({"output": [{"type": 7}]}, False),
    ],
)
def test_answer_that_is_no_items_is_not_gone_on_from(response: dict[str, Any], *, expected: bool) -> None:
    """So a call that names it gets a 404, and no error of ours."""
    assert can_go_on(json.dumps(response).encode()) is expected


def test_places_are_named_as_the_caller_counts_them() -> None:
    said = "'input[4].content[0]' is bad, 'input[3]' is, 'input[12].role' is."
    assert in_callers_count(said, 4) == "'input[0].content[0]' is bad, 'previous_response_id' is, 'input[8].role' is."
    assert in_callers_count("'my_input[4]' and 'inputs' stay", 4) == "'my_input[4]' and 'inputs' stay"

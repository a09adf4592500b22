"""How the file names the parts of a policy, and which keys it therefore has."""

from typing import Any

import pytest
from pydantic import Field, ValidationError

from gateway.config.parts import Part, Tools, all_of, narrowed, one_if_several, one_of
from gateway.config.section import Section


class Plain(Part):
    """Has no options."""


class Tuned(Part):
    """Has one."""

    class Options(Section):
        """Its own."""

        pace: int = Field(default=1, description="How fast.")


class AlsoTuned(Part):
    """Has one of the same name."""

    class Options(Section):
        """Its own."""

        pace: int = Field(default=2, description="How slow.")


class Holder(Section):
    """What a file would hold."""

    pace: int = 3
    way: Any = "plain"


@pytest.mark.parametrize(
    ("section", "parts"), [(Section, (Tuned, AlsoTuned)), (Section, (Tuned, Tuned)), (Holder, (Tuned,))]
)
def test_key_of_two_parts_is_refused(section: type[Section], parts: tuple[type[Part], ...]) -> None:
    """Neither would know that it reads what is meant for the other."""
    with pytest.raises(ValueError, match="another part has a key of this name already: 'pace'"):
        all_of(section, *parts)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"plain": Plain}, "should be 'plain'"),
        ({"plain": Plain, "bare": Plain}, "should be 'plain' or 'bare'"),
        ({"tuned": Tuned}, "should be 'tuned', or that with its options, as {NAME: {...}}"),
        (
            {"plain": Plain, "tuned": Tuned},
            "should be 'plain' or 'tuned', or one of them with its options, as {NAME: {...}}",
        ),
    ],
)
def test_choice_says_what_may_be_written(parts: dict[str, type[Part]], said: str) -> None:
    """Options are spoken of where a part has some."""
    with pytest.raises(ValidationError) as caught:
        one_of("way", *parts.items()).model_validate(5)
    assert caught.value.errors()[0]["msg"] == f"Value error, {said}"


@pytest.mark.parametrize(
    ("parts", "is_key"),
    [({"plain": Plain}, False), ({"tuned": Tuned}, True), ({"plain": Plain, "bare": Plain}, True)],
)
def test_key_without_a_choice_is_none(parts: dict[str, type[Part]], is_key: bool) -> None:
    """A key with one legal value says nothing; the part is used all the same."""
    kind = narrowed(Holder, way=one_if_several("way", *parts.items()))
    name = next(iter(parts))
    assert ("way" in kind.model_fields) is is_key
    assert ("way" in kind.model_json_schema()["properties"]) is is_key
    tools: Any = Tools
    assert isinstance(kind.model_validate({"way": name} if is_key else {}).way.made(tools), parts[name])
    if not is_key:
        with pytest.raises(ValidationError):
            kind.model_validate({"way": name})

"""The reference page is what the schema says."""

from pathlib import Path

from gateway.reference import render

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


def test_the_reference_page_is_up_to_date() -> None:
    """Run `python -m gateway.reference > docs/reference/configuration.md` when this fails."""
    assert PAGE.read_text(encoding="utf-8") == render()

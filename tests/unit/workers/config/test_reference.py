"""The reference page of the workers is what the schema says."""

from pathlib import Path

from workers.config.reference import render

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "workers.md"


def test_the_reference_page_is_up_to_date() -> None:
    """Run `python -m workers.config.reference > docs/reference/workers.md` when this fails."""
    assert PAGE.read_text(encoding="utf-8") == render()

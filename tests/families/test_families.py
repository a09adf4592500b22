"""Every open model family that the product names: served by a real vLLM replica, or known not to be.

The run is about a quarter of a minute of two cores per family, and writes docs/reference/families.md.
"""

from pathlib import Path

import pytest

from tests.families.asking import Outcome, ask_all
from tests.families.catalogue import FAMILIES
from tests.families.table import page

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]

_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Serve and ask all of them, and write the page."""
    found = ask_all(FAMILIES, tmp_path_factory.mktemp("families"))
    _PAGE.write_text(page(found[family.name] for family in FAMILIES), encoding="utf-8")
    return found


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_a_family_answers_as_transformers_does_or_is_refused(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.registered is outcome.family.registered
    if outcome.family.refused is None:
        assert outcome.failed is None
        assert outcome.same, (outcome.answer, outcome.reference)
    else:
        assert outcome.family.refused in (outcome.failed or "")

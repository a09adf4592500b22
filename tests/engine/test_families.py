"""Four families at three endpoints; all of them are in tests/families, which `make soak` runs."""

import pytest

from tests.families.asking import Outcome, ask_all
from tests.families.catalogue import FAMILIES

FOUR = ("Llama 3.2", "Mixtral", "BERT embeddings", "FinBERT classification")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Serve and ask the four, two at a time."""
    return ask_all([family for family in FAMILIES if family.name in FOUR], tmp_path_factory.mktemp("families"))


@pytest.mark.parametrize("name", FOUR)
def test_a_family_answers_as_transformers_does(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.failed is None
    assert outcome.same, (outcome.answer, outcome.reference)

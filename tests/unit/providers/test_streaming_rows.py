"""The page that says which types stream plain calls says it of every type, and truly."""

import re
from pathlib import Path

from gateway.providers.registry import PROVIDER_TYPES

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "providers.md"


def test_page_names_every_type_and_whether_it_streams() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (yes|no) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {name: "yes" if kind.always_stream else "no" for name, kind in PROVIDER_TYPES.items()}

"""Every flow test fails if the gateway blocks its event loop."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

ALLOWED = {
    "gateway/accounting/journal.py": "_put",  # the one write per line that the loop is meant to make (docs/adr/0002)
    "gateway/app.py": ("__init__", "reload"),  # before there are requests; and at an operator's word
    "tests/ground/gateway.py": ("read", "totals"),  # before the gateway runs, and after
}


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    """Raise where code of the gateway makes a blocking call on the loop, but for what is meant to be."""
    # The virtual loop is below everything that runs on it, the tests' own code included.
    with blockbuster_ctx("gateway", excluded_modules=["gateway.simulation"]) as blockbuster:
        for function in blockbuster.functions.values():
            for file, names in ALLOWED.items():
                function.can_block_in(file, names)
        yield

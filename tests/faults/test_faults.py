"""No fault of a provider is answered worse than its table says, over real sockets and in real time."""

from pathlib import Path

import pytest

from tests.faults.__main__ import is_bad, report
from tests.faults.play import play, rows_of
from tests.faults.table import FAULTS


@pytest.mark.slow
async def test_faults_are_answered_as_the_table_says(tmp_path: Path) -> None:
    """All that take less than the minute of an outage; what one costs in time, ``tests/flow`` plays virtually."""
    rows = rows_of([fault for fault in FAULTS if not fault.outage])
    await play(rows, tmp_path)
    assert not [row for row in rows if is_bad(row)], report(rows)


@pytest.mark.soak
async def test_outage_of_a_minute_ends_as_the_table_says(tmp_path: Path) -> None:
    rows = rows_of([fault for fault in FAULTS if fault.outage])
    await play(rows, tmp_path)
    assert not [row for row in rows if is_bad(row)], report(rows)

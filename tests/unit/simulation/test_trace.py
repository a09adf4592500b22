"""What a trace may say, and what is said of one that says something else."""

from pathlib import Path
from random import Random

import pytest

from gateway.simulation.prefixes import LifetimeCache
from gateway.simulation.trace import Row, TraceError, read_trace

GOOD = '{"t":0,"in":10,"out":5}'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def _read(path: Path, text: str | bytes, name: str = "trace.jsonl") -> list[Row]:
    file = path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_trace(str(file), Random(0))


def _cached(rows: list[Row]) -> list[int]:
    """Return how much of each prompt was in an earlier one."""
    cache = LifetimeCache(1e9)
    found = []
    for row in rows:
        found.append(cache.cached_tokens(row.prompt, row.at_s))
        cache.use(row.prompt, row.at_s)
    return found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no request"),
        ("\n\n", "has no request"),
        (f"{GOOD}\n[1]", ":2: is no request"),
        (f"{GOOD}\nnot json", ":2: is no request"),
        (f"{GOOD}\n{'[' * 100_000}", ":2: is no request"),
        ('{"in":10,"out":5}', "no `t`"),
        ('{"t":0,"out":5}', "no `in`"),
        ('{"t":0,"in":10}', "no `out`"),
        ('{"t":-1,"in":10,"out":5}', ":1: is no request"),
        ('{"t":NaN,"in":10,"out":5}', ":1: is no request"),
        ('{"t":1e300,"in":10,"out":5}', ":1: is no request"),
        ('{"t":0,"in":0,"out":5}', ":1: is no request"),
        ('{"t":0,"in":10,"out":-5}', ":1: is no request"),
        ('{"t":0,"in":1e99,"out":5}', ":1: is no request"),
        ('{"t":0,"in":"10","out":5}', ":1: is no request"),
        ('{"t":0,"in":10,"out":5,"cap":0}', ":1: is no request"),
        ('{"t":0,"in":10,"out":5,"blocks":[[5,1]]}', "ends before it begins"),
        ('{"t":0,"in":10,"out":5,"blocks":[[5]]}', ":1: is no request"),
        (b'{"t":0,"in":10,"out":5,"session":"\xff"}', "UTF-8"),
    ],
)
def test_bad_row_is_named_in_one_sentence(tmp_path: Path, text: str | bytes, said: str) -> None:
    """With its line."""
    with pytest.raises(TraceError, match=r"\.$") as raised:
        _read(tmp_path, text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\n",
        f"{AZURE}yesterday,1,2\n",
        f"{AZURE}2023-11-16 18:15:46.6805900,1\n",
        f"{AZURE}2023-11-16 18:15:46.6805900,0,2\n",
        f"{AZURE}2023-11-16 18:15:46.6805900,1,2\n2023-11-16 18:15:45.6805900,1,2\n",
        AZURE,
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, text: str) -> None:
    """Its header, its rows, their order."""
    with pytest.raises(TraceError):
        _read(tmp_path, text, "trace.csv")


@pytest.mark.parametrize("source", ["poisson:", "poisson:1,2", "poisson:0,10,10", "poisson:nan,1,1", "poisson:5,1e9,1"])
def test_made_trace_of_impossible_numbers_is_refused(source: str) -> None:
    """Instead of running for ever."""
    with pytest.raises(TraceError):
        read_trace(source, Random(0))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """And a directory is no file."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(TraceError, match="cannot be read"):
            read_trace(str(path), Random(0))


def test_azure_trace_is_read(tmp_path: Path) -> None:
    """Times count from its first row."""
    rows = _read(
        tmp_path, f"{AZURE}2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n", "azure.csv"
    )
    assert [(round(each.at_s, 3), each.input_tokens, each.output_tokens) for each in rows] == [
        (0, 374, 44),
        (4.315, 396, 109),
    ]
    assert _cached(rows) == [0, 0]


def test_mooncake_trace_is_read(tmp_path: Path) -> None:
    """Its blocks have 512 tokens and are numbered over the whole file."""
    rows = _read(
        tmp_path,
        '{"timestamp":0,"input_length":1500,"output_length":9,"hash_ids":[0,1,2]}\n'
        '{"timestamp":2500,"input_length":2000,"output_length":0,"hash_ids":[0,1,5,6]}\n',
    )
    assert [(each.at_s, each.output_tokens) for each in rows] == [(0, 9), (2.5, 1)]
    assert _cached(rows) == [0, 1024]


def test_blocks_of_a_session_are_its_own(tmp_path: Path) -> None:
    """Equal numbers in two sessions mean nothing."""
    row = '{"t":%d,"session":"%s","in":640,"out":1,"blocks":[[1,10]]}\n'
    assert _cached(_read(tmp_path, "".join(row % each for each in ((0, "a"), (1, "b"), (2, "a"))))) == [0, 0, 640]


def test_shared_tokens_are_those_of_the_sessions_last_prompt(tmp_path: Path) -> None:
    """Rows need not be in order, and may say nothing of it."""
    rows = _read(
        tmp_path,
        '{"t":5,"session":"a","in":300,"out":1,"shared":100}\n'
        '{"t":0,"session":"a","in":100,"out":1,"cap":7}\n'
        '{"t":6,"session":"a","in":400,"out":1,"shared":250}\n'
        '{"t":7,"session":"a","in":400,"out":1}\n',
    )
    assert [each.at_s for each in rows] == [0, 5, 6, 7]
    assert rows[0].cap == 7
    assert _cached(rows) == [0, 100, 250, 0]


def test_made_trace_has_the_rate_and_lengths_that_were_asked_for() -> None:
    """In the mean."""
    rows = read_trace("poisson:5,1000,200", Random(1), 2000)
    assert len(rows) == 2000
    assert rows[-1].at_s == pytest.approx(400, rel=0.1)
    assert sum(each.input_tokens for each in rows) / 2000 == pytest.approx(1000, rel=0.1)
    assert sum(each.output_tokens for each in rows) / 2000 == pytest.approx(200, rel=0.1)

"""The load test's parts that need neither locust nor a server: schedules, shapes, reading answers, judging a run."""

import csv
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from loadtests.load.answer import Answer, AnswerError, read_stream, read_whole, refusal
from loadtests.load.figures import Ceilings, Line, append_csv, misses
from loadtests.load.schedule import Arrival, arrivals, follow, ramp, sized_prompt, spike, tick

TRACE = [
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2023-11-16 18:15:46.5000000,10,1",
    "2023-11-16 18:15:48.0000000,20,2",
    "2023-11-16 18:15:50.5000000,30,3",
    "2023-11-16 18:16:46.5000000,40,4",
]
AZURE = Path(__file__).parents[3] / "loadtests" / "traces" / "AzureLLMInferenceTrace_conv_2023.csv"


def test_a_replay_at_xn_sends_at_the_traces_times_divided_by_n() -> None:
    assert list(arrivals(TRACE, speed=2, skip_s=0, seconds=None)) == [
        Arrival(0.0, 10, 1),
        Arrival(0.75, 20, 2),
        Arrival(2.0, 30, 3),
        Arrival(30.0, 40, 4),
    ]


def test_a_replay_leaves_out_the_traces_start_and_counts_from_there() -> None:
    assert [a.due_s for a in arrivals(TRACE, speed=1, skip_s=1, seconds=None)] == [0.5, 3.0, 59.0]


@pytest.mark.parametrize(("speed", "sent"), [(1, 2), (2, 3), (100, 4)])
def test_a_replay_is_bounded_in_its_own_seconds_not_in_the_traces(speed: float, sent: int) -> None:
    assert len(list(arrivals(TRACE, speed=speed, skip_s=0, seconds=4))) == sent


class _Clock:
    """Stands still but where it is slept by."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


DUE = [Arrival(0.0, 10, 1), Arrival(0.75, 20, 2), Arrival(0.75, 25, 2), Arrival(2.0, 30, 3)]


def test_a_replay_sends_when_a_request_is_due_whether_or_not_the_others_are_answered() -> None:
    clock, sent = _Clock(), []

    def send(arrival: Arrival, due_s: float) -> None:
        sent.append((arrival, due_s, clock.now_s))

    follow(DUE, send, now=clock.now, sleep=clock.sleep, stopping=lambda: False)
    assert sent == [(arrival, 1000 + arrival.due_s, 1000 + arrival.due_s) for arrival in DUE]


def test_a_replay_that_falls_behind_sends_at_once_and_knows_what_was_due() -> None:
    clock, sent = _Clock(), []

    def send(_: Arrival, due_s: float) -> None:
        sent.append((due_s, clock.now_s))
        clock.now_s += 1

    follow(DUE, send, now=clock.now, sleep=clock.sleep, stopping=lambda: False)
    assert sent == [(1000, 1000), (1000.75, 1001), (1000.75, 1002), (1002, 1003)]


def test_a_replay_that_is_stopped_sends_nothing_more() -> None:
    clock, sent = _Clock(), []
    follow(
        DUE,
        lambda arrival, _: sent.append(arrival),
        now=clock.now,
        sleep=clock.sleep,
        stopping=lambda: clock.now_s >= 1001,
    )
    assert sent == DUE[:3]


def test_the_azure_trace_is_read_whole_and_in_order() -> None:
    with AZURE.open(encoding="utf-8") as trace:
        rows = list(arrivals(trace, speed=1, skip_s=0, seconds=None))
    assert len(rows) == 19_366
    assert all(earlier.due_s <= later.due_s for earlier, later in pairwise(rows))


def test_a_sized_prompt_grows_by_a_word_a_token_and_never_begins_as_another_did() -> None:
    assert len(sized_prompt(105).split()) == 101
    assert sized_prompt(1).strip()
    assert sized_prompt(50).split()[0] != sized_prompt(50).split()[0]


def test_a_ramp_rises_evenly_from_one_user_to_all() -> None:
    assert [ramp(at_s, 10, 5) for at_s in range(10)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert ramp(10, 10, 5) == 5


def test_a_spike_is_the_middle_fifth_of_the_time() -> None:
    assert [spike(at_s, 10, 20) for at_s in range(10)] == [2, 2, 2, 2, 20, 20, 2, 2, 2, 2]
    assert spike(0, 10, 3) == 1


def test_a_shape_ends_when_its_time_is_up() -> None:
    assert [tick("spike", at_s, 10, 200) for at_s in (0, 5, 9.9, 10, 11)] == [
        (20, 100), (200, 100), (20, 100), None, None,
    ]  # fmt: skip
    assert tick("ramp", 0, 10, 8) == (1, 8)


def _event(text: str) -> list[bytes]:
    return [f"data: {text}\n".encode(), b"\n"]


CONTENT = _event('{"choices":[{"delta":{"content":"a"}}]}')
USAGE = _event('{"choices":[],"usage":{"completion_tokens":3}}')
DONE = _event("[DONE]")


def test_a_streams_cost_is_in_its_last_comment() -> None:
    answer = read_stream([*CONTENT, *USAGE, *DONE, b": x-tollway-cost-usd 1.000000013\n", b"\n"])
    assert (answer.tokens, answer.cost_nano_usd) == (3, 1_000_000_013)


def test_a_stream_of_another_server_has_no_cost() -> None:
    assert read_stream([b": keep-alive\n", *CONTENT, *USAGE, *DONE]).cost_nano_usd is None


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([*CONTENT, *USAGE], r"without \[DONE\]"),
        ([*CONTENT, *_event('{"error":{"message":"died"}}')], "died"),
        ([*CONTENT, *DONE], "no usage"),
        ([*USAGE, *DONE], "no content"),
    ],
    ids=["no end marker", "error", "no usage", "no content"],
)
def test_a_stream_that_is_not_a_whole_answer_is_a_failure(lines: list[bytes], says: str) -> None:
    with pytest.raises(AnswerError, match=says):
        read_stream(lines)


def test_an_unstreamed_answers_cost_is_in_its_header() -> None:
    body = b'{"choices":[{}],"usage":{"completion_tokens":2}}'
    assert read_whole(body, "0.000013000").cost_nano_usd == 13_000
    assert read_whole(body, None).cost_nano_usd is None
    with pytest.raises(msgspec.DecodeError):
        read_whole(b"<html>", None)


def test_refusal_is_named_by_its_message_or_else_by_its_body() -> None:
    assert refusal(429, b'{"error":{"message":"slow down","code":"x"}}') == "429: slow down"
    assert refusal(502, b"<html>") == "502: <html>"


def test_tpot_is_the_time_between_tokens_after_the_first() -> None:
    assert Answer(5, None, 9.0, (1.0, 1.2)).tpot_ms == pytest.approx(50)
    assert Answer(1, None, 9.0, (1.0, 1.0)).tpot_ms is None
    assert Answer(5, None, 9.0).tpot_ms is None


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (Answer(5, None, 12.0, (10.1, 10.3)), True),
        (Answer(5, None, 12.0, (10.2, 10.3)), False),
        (Answer(5, None, 12.0, (10.1, 10.4)), False),
        (Answer(1, None, 12.0, (10.1, 10.1)), True),
        (Answer(5, None, 10.3), True),
        (Answer(5, None, 10.4), False),
    ],
    ids=["both", "late first", "slow", "one token", "unstreamed in time", "unstreamed late"],
)
def test_goodput_counts_answers_within_both_ceilings_from_when_they_were_due(answer: Answer, kept: bool) -> None:
    assert Ceilings(ttft_ms=150, tpot_ms=60).kept_by(answer, due_s=10.0) is kept


def _line(*, requests: int, failed: int, kept: int) -> Line:
    return Line("chat auto", requests, failed, kept, 1.0, None, None, None, None, None)


def test_a_bound_is_missed_by_the_share_of_all_requests() -> None:
    lines = [_line(requests=9, failed=1, kept=8), _line(requests=1, failed=0, kept=1)]
    assert misses(lines, min_goodput=None, max_failures=None) == []
    assert misses(lines, min_goodput=0.9, max_failures=0.1) == []
    assert misses(lines, min_goodput=0.91, max_failures=None) == ["goodput 90.0% is less than --min-goodput 91.0%"]
    assert misses(lines, min_goodput=None, max_failures=0.0) == ["failures 10.0% are more than --max-failures 0.0%"]


def test_a_run_without_an_answer_misses_every_bound() -> None:
    assert misses([], min_goodput=None, max_failures=None) == ["no request was answered"]


def test_the_summary_of_each_run_is_appended_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    for users in (1, 2):
        append_csv(path, [_line(requests=4, failed=0, kept=3)], {"users": users})
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["users"], row["requests"], row["kept"], row["cost_usd"]) for row in rows] == [
        ("1", "4", "3", ""),
        ("2", "4", "3", ""),
    ]

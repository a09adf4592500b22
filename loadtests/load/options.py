"""The options, each also by an environment variable, beside locust's own."""

from argparse import ArgumentTypeError
from pathlib import Path

from locust.argument_parser import LocustArgumentParser

from .schedule import SHAPES

_PROMPT = "Explain in a few sentences how a toll road pays for itself."
_TRACE = Path(__file__).parents[1] / "traces" / "AzureLLMInferenceTrace_conv_2023.csv"


def add_options(parser: LocustArgumentParser) -> None:
    """Add ours to locust's; a run that names no user class has ``StreamUser``."""
    add = parser.add_argument
    add("--model", env_var="TOLLWAY_MODEL", default="auto", help="model or route to ask for (default auto)")
    add("--api-key", env_var="TOLLWAY_API_KEY", default="", is_secret=True, help="bearer token (default none)")
    add("--prompt", env_var="TOLLWAY_PROMPT", default=_PROMPT, help="what to ask")
    add(
        "--prompt-tokens",
        env_var="TOLLWAY_PROMPT_TOKENS",
        type=int,
        default=0,
        help="ask with a made-up prompt of about so many tokens, each another one (default 0: --prompt)",
    )
    add("--max-tokens", env_var="TOLLWAY_MAX_TOKENS", type=int, default=64, help="of an answer (default 64)")
    add(
        "--stream-share",
        env_var="TOLLWAY_STREAM_SHARE",
        type=_share,
        default=0.5,
        help="MixedUser: share of requests that stream (default 0.5)",
    )
    add(
        "--slo-ttft-ms",
        env_var="TOLLWAY_SLO_TTFT_MS",
        type=float,
        default=2000.0,
        help="goodput: the longest TTFT (default 2000)",
    )
    add(
        "--slo-tpot-ms",
        env_var="TOLLWAY_SLO_TPOT_MS",
        type=float,
        default=200.0,
        help="goodput: the longest TPOT (default 200)",
    )
    add(
        "--min-goodput",
        env_var="TOLLWAY_MIN_GOODPUT",
        type=_share,
        help="end with exit code 1 if a smaller share of requests keeps both (0 to 1)",
    )
    add(
        "--max-failures",
        env_var="TOLLWAY_MAX_FAILURES",
        type=_share,
        help="end with exit code 1 if a larger share of requests fails (0 to 1; without it, if any does)",
    )
    add("--summary-csv", env_var="TOLLWAY_SUMMARY_CSV", default="", help="append the run's summary to this file")
    add(
        "--shape",
        env_var="TOLLWAY_SHAPE",
        choices=["constant", *SHAPES],
        default="constant",
        help="how --users come and go within --run-time (default constant)",
    )
    add("--trace", env_var="TOLLWAY_TRACE", default=str(_TRACE), help="ReplayUser: CSV of arrivals and sizes")
    add(
        "--replay-speed",
        env_var="TOLLWAY_REPLAY_SPEED",
        type=_positive,
        default=1.0,
        help="ReplayUser: times the trace's own clock (default 1)",
    )
    add(
        "--replay-skip",
        env_var="TOLLWAY_REPLAY_SKIP",
        type=float,
        default=60.0,
        help="ReplayUser: seconds of the trace to leave out at its start (default 60: the first minute is quiet)",
    )
    if not parser.get_default("user_classes"):
        parser.set_defaults(user_classes=["StreamUser"])


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ArgumentTypeError(f"{text} is not between 0 and 1")
    return share


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise ArgumentTypeError(f"{text} is not above 0")
    return number

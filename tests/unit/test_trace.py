"""Reading a trace's header, by the rules and examples of https://www.w3.org/TR/trace-context/."""

import pytest

from gateway.trace import trace_id_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-ff",  # unknown flags are no fault
        f"cc-{TRACE}-{PARENT}-01",  # nor is a version to come,
        f"cc-{TRACE}-{PARENT}-01-what-the-future-adds",  # with more fields
        f"cc-{TRACE}-{PARENT}-01-",
    ],
)
def test_a_well_formed_header_names_its_trace(header: str) -> None:
    assert trace_id_of(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",  # version 00 has four fields
        f"cc-{TRACE}-{PARENT}-01more",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{chr(0x661) * 32}-{PARENT}-01",  # digits of another script
    ],
)
def test_a_malformed_one_is_passed_over(header: str) -> None:
    assert trace_id_of(header) is None

"""A signer adds what proves whose a request is, and nothing else of a request changes."""

import pytest
from msgspec.structs import replace

from gateway.clock import SystemClock
from gateway.credentials.registry import signers
from gateway.providers.registry import PROVIDER_TYPES
from gateway.transport.http1 import HttpTransport
from gateway.types import Secret
from tests.ground.builders import build_upstream_request

SIGNERS = signers(SystemClock(), HttpTransport())
SHOWN = {
    "bearer": ("authorization", "Bearer sk-1"),
    "x-api-key": ("x-api-key", "sk-1"),
    "api-key": ("api-key", "sk-1"),
}


@pytest.mark.parametrize("name", SHOWN)
async def test_signer_adds_one_header(name: str) -> None:
    """Behind those that are there."""
    request = build_upstream_request("http://up.test")
    signed = await SIGNERS[name].sign(request, Secret("sk-1"))
    assert signed.headers == (*request.headers, SHOWN[name])
    assert not [*SIGNERS[name].secrets(Secret("sk-1"))]
    assert replace(signed, headers=request.headers) == request


def test_every_provider_row_names_a_signer() -> None:
    """A row with a typing mistake would fail at the first request."""
    assert {kind.signer for kind in PROVIDER_TYPES.values()} <= SIGNERS.keys() == SHOWN.keys()

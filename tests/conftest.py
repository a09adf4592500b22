"""Fixtures for every test."""

import gc
import os
import re
import zlib
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from gateway.accounting import applier_process
from tests.ground.appliers import WarmApplier
from tests.ground.upstream import ScriptedUpstream

pytest.register_assert_rewrite("tests.sdk.suite")

# What this machine's user has set for another gateway, cluster or client is not for those that tests start.
for _name in [name for name in os.environ if re.match("(RAY|TOLLWAY|OPENAI|ANTHROPIC)_|XDG_STATE_HOME$", name)]:
    del os.environ[_name]
# A proxy may be needed to fetch a model; none stands before loopback.
os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost,::1")

_AUTHORITY = Path(__file__).parent / "ground" / "authority.pem"

# How long an example takes is the machine's affair; in a clean clone the first text to be made up takes seconds, for
# hypothesis writes its table of all characters then.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", settings.get_profile("untimed"), max_examples=3_000)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let several runs beside each other share the tests by files, each of which only one of them reads."""
    parser.addoption("--share", default="1/1", help="read only a share of the files: 2/3 is the second of three")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the files of other shares to other runs: by the checksum of the name, which is the same everywhere."""
    share, shares = map(int, config.getoption("--share").split("/"))
    is_of_another = zlib.crc32(collection_path.name.encode()) % shares != share % shares
    return True if is_of_another and collection_path.match("test_*.py") else None


@pytest.fixture(autouse=True, scope="session")
def _appliers_start_warm() -> Iterator[None]:
    """Have ledgers in this process start their appliers from one that has its modules already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applier_process, "launch", WarmApplier)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected, and never look at what stays from it: thousands of tests.

    That would take a third of the collection, in every process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Trust one authority that signs nothing: to read all that a machine trusts takes 50 ms, for each gateway.

    Tests that may have to fetch a model keep the machine's own.
    """
    if not any(item.get_closest_marker(name) for item in session.items for name in ("engine", "soak")):
        os.environ |= {"SSL_CERT_FILE": str(_AUTHORITY), "SSL_CERT_DIR": str(_AUTHORITY.parent)}


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Start a healthy scripted upstream on a socket."""
    async with ScriptedUpstream() as server:
        yield server

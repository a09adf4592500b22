"""What the log says of a fault, and what it keeps to itself."""

import logging
import sys
from collections.abc import Iterator

import pytest

from gateway.telemetry import logs


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_shows_no_local_variable(
    terminal: bool,
    root_logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An internal error names the place and the exception; headers and bodies are in variables and stay there."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure()
    headers = {"authorization": f"Bearer very-{len('six') * 2}-secret"}
    try:
        _fail(headers)
    except KeyError:
        root_logger.exception("internal error in request req_1")
    written = capsys.readouterr().err
    assert "req_1" in written
    assert "KeyError" in written
    assert "_fail" in written
    assert "very-6-secret" not in written


def _fail(headers: dict[str, str]) -> str:
    return headers["cookie"]

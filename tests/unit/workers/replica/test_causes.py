"""Why a start failed reaches the command that says it."""

import json
import logging
import logging.config
import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from workers.replica.causes import log_to, not_started, reason, root_cause

LOG = """EngineCore failed to start.
Traceback (most recent call last):
  File "loader.py", line 1, in load
safetensors_rust.SafetensorError: Error while deserializing header: header too large

During handling of the above exception, another exception occurred:
RuntimeError: Engine core initialization failed
"""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the settings of vLLM's log."""
    monkeypatch.setenv("VLLM_CONFIGURE_LOGGING", "0")
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "")


def test_the_first_error_of_the_log_is_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "errors.log"
    pointing = RuntimeError("Engine core initialization failed. See root cause above.")
    assert root_cause(pointing, log) is pointing, "there is no log"
    log.write_text(LOG, encoding="utf-8")
    assert str(root_cause(pointing, log)) == (
        "safetensors_rust.SafetensorError: Error while deserializing header: header too large"
    )
    plain = ValueError("Call to add_lora method failed")
    assert root_cause(plain, log) is plain, "an error that says what is wrong is enough"


def test_vllm_s_processes_write_errors_to_the_log(tmp_path: Path) -> None:
    """With the settings that they read on import."""
    log = log_to(tmp_path)
    assert os.environ["VLLM_CONFIGURE_LOGGING"] == "1"
    logger = logging.getLogger("vllm")
    try:
        logging.config.dictConfig(json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text(encoding="utf-8")))
        logging.getLogger("vllm.v1").warning("only a warning")
        assert not log.exists()
        logging.getLogger("vllm.v1").error("failed to start")
        assert log.read_text(encoding="utf-8") == "failed to start\n"
    finally:
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)


def test_the_reason_of_a_replica_stands_at_the_end_of_what_serve_says() -> None:
    said = (
        f"It failed 1 times in a row. Error:\n  File x\nworkers.errors.WorkerError: {reason(ValueError('no room'))}\n"
    )
    assert str(not_started("m", said)) == "The replicas of m did not start: ValueError: no room"
    assert str(not_started("m", "first\nThe actor died")) == "The replicas of m did not start: The actor died"
    assert str(not_started("m", "")) == "The replicas of m did not start: Ray Serve gave no reason"


def test_a_reason_is_one_line() -> None:
    assert reason(ValueError("no room\nand more")) == "ValueError: no room"


def test_reason_of_a_validation_error_is_reported() -> None:
    """The configuration of vLLM is pydantic's, too."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[int, Field(le=8)]).validate_python(9)
    assert reason(caught.value) == "ValidationError: Input should be less than or equal to 8"

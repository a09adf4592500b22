"""Carries the reason of a failed start from the process that knows it to the command that prints it.

vLLM says the cause only in the log of its own processes, so they also write their errors to a file that the replica
reads. Ray Serve says of an ASGI app only that its start failed, so the replica raises its reason in place of that.
"""

import json
import os
import re
from pathlib import Path

from pydantic import ValidationError

from workers.errors import WorkerError

STOP_FILE = "TOLLWAY_STOP_FILE"
"""The environment variable with the path of a file that appears when all of this machine's replicas are to stop."""

FAILED = "failed to start"
"""In Serve's message of a deployment when one of its replicas did not; where others did, it goes on trying."""

# The last line of a traceback; the first in a log is what failed first.
_ERROR = re.compile(r"^[^\n]*?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): [^\n]+)$", re.MULTILINE)


def log_to(directory: Path) -> Path:
    """Let vLLM's processes that start from now on write errors to the returned file too, and all else as before."""
    log, settings = directory / "errors.log", directory / "logging.json"
    handlers = {
        "file": {"class": "logging.FileHandler", "level": "ERROR", "filename": str(log), "delay": True},
        "stream": {"class": "logging.StreamHandler", "level": "WARNING"},
    }
    logger = {"handlers": list(handlers), "level": "INFO", "propagate": False}
    configuration = {"version": 1, "disable_existing_loggers": False, "handlers": handlers, "loggers": {"vllm": logger}}
    settings.write_text(json.dumps(configuration), encoding="utf-8")
    os.environ.update({"VLLM_CONFIGURE_LOGGING": "1", "VLLM_LOGGING_CONFIG_PATH": str(settings)})
    return log


def root_cause(error: Exception, log: Path) -> Exception:
    """Return the first error of a log where ``error`` only points there, or else ``error`` itself."""
    if "root cause" in str(error) and log.is_file():
        found = _ERROR.search(log.read_text(encoding="utf-8", errors="replace"))
        return RuntimeError(found[1]) if found else error
    return error


def reason(error: Exception) -> str:
    """Return in one line what went wrong."""
    # What pydantic raises, vLLM's own configuration too, has its reason only further down.
    said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
    return f"{type(error).__name__}: {said}".partition("\n")[0]


def not_started(model: str, said: str) -> WorkerError:
    """Return the error that says why a model's replicas did not start; ``said`` is what Serve has to say of them.

    A replica's reason stands at the end of Serve's traceback, as a ``WorkerError``.
    """
    last = said.strip().rpartition("\n")[2]
    cause = last.rpartition(f"{WorkerError.__name__}: ")[2] or "Ray Serve gave no reason"
    return WorkerError(f"The replicas of {model} did not start: {cause}")

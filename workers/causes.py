"""Why a start failed, carried from the process that knows it to the command that says it.

vLLM says the cause only in the log of its own processes, and Ray Serve says of a replica only that it did not start. So
vLLM's processes also write their errors to a file that the replica reads, and the replica writes its own beside the
run's stop file, where the command that started the cluster finds it. On other machines the cause stays in the log.
"""

import json
import os
import re
from pathlib import Path

from pydantic import ValidationError

from workers.errors import WorkerError

STOP_FILE = "TOLLWAY_STOP_FILE"
"""The environment variable with the path of a file that appears when all of this machine's replicas are to stop."""

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


def tell(model: str, error: Exception) -> None:
    """Leave the reason for the command that started this replica, if it is of this machine."""
    if (path := _told_at(model)) is not None:
        # What pydantic raises, vLLM's own configuration too, has its reason only further down.
        said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        path.write_text(f"{type(error).__name__}: {said}", encoding="utf-8")


def told(model: str, otherwise: str) -> WorkerError:
    """Return the error that says why a model's replicas did not start; ``otherwise`` where none of them told."""
    path = _told_at(model)
    if path is not None and path.is_file():
        reason = path.read_text(encoding="utf-8").partition("\n")[0]
        path.unlink()
    else:
        reason = otherwise.strip().rpartition("\n")[2] or "Ray Serve gave no reason"
    return WorkerError(f"The replicas of {model} did not start: {reason}")


def _told_at(model: str) -> Path | None:
    stop_file = os.environ.get(STOP_FILE)
    return Path(stop_file).with_name(f"failed-{model}") if stop_file else None

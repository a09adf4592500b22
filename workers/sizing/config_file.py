"""Fetches a model's ``config.json`` from a directory or the model hub, which also proves that the id is right."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from workers.errors import WorkerError


def read_config(path: Path) -> dict[str, Any]:
    """Return a parsed ``config.json``; raise ``WorkerError``, in one sentence, for what is none.

    NVIDIA's older quantised models say their precision in a file beside it, which vLLM reads too.
    """
    config, beside = _read_object(path), path.with_name("hf_quant_config.json")
    if "quantization_config" not in config and beside.is_file():
        config["quantization_config"] = {"quant_method": "modelopt", **_read_object(beside)}
    return config


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkerError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise WorkerError(f"{path} is not a model's config: it must be a JSON object.")
    return found


def hub_config(model: str, revision: str | None) -> Path | None:
    """Return the path of a hub model's config, fetched if it was not; none when the hub's client is not installed.

    Raises ``WorkerError`` when there is no such model, or neither the hub nor an earlier copy can be had.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"{model} at {revision}" if revision else model
    try:
        # The client would ask the hub all the same, for half a minute where it is away.
        if isinstance(here := try_to_load_from_cache(model, "config.json", revision=revision), str):
            return Path(here)
        return Path(hf_hub_download(model, "config.json", revision=revision))
    except HFValidationError as error:
        raise WorkerError(f"{model!r} is no hub id (org/name), no path (/, ~ or ./) and not bundled:<name>.") from error
    except GatedRepoError as error:
        raise WorkerError(f"{at} is gated: its licence must be accepted at {ENDPOINT}, and HF_TOKEN set.") from error
    except RevisionNotFoundError as error:
        raise WorkerError(f"There is no revision {revision!r} of {model} at {ENDPOINT}.") from error
    except RepositoryNotFoundError as error:
        raise WorkerError(f"There is no model {at} at {ENDPOINT}, or it is private and HF_TOKEN is not set.") from error
    except LocalEntryNotFoundError as error:
        raise WorkerError(f"{at} is not on this machine, and {ENDPOINT} cannot be reached.") from error
    except EntryNotFoundError as error:
        raise WorkerError(f"{at} at {ENDPOINT} has no config.json.") from error
    except OSError as error:
        raise WorkerError(f"The config of {at} cannot be fetched from {ENDPOINT}: {error}") from error

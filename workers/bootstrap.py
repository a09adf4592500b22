"""Sets up ``.venv`` from a bare Python 3.11; ``make`` runs it before anything is installed.

Standard library only. ``python3.11 -m workers.bootstrap SET`` makes ``.venv`` in the current checkout and installs one
locked set into it (``requirements/SET.txt``, every file checked by its hash), then the project itself. ``worker`` is
the set this machine can run: the GPU's or the CPU's. A stamp with the lock's hash makes the second time cost nothing.

The package client's own settings (index, links, certificates) are read from pip's configuration, since uv reads none
of it. One wheel is not on the index: the CPU build of torch. It is taken from the links that pip is configured with if
they have it, and otherwise from the index named by the variable TORCH_CPU_INDEX.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
REQUIREMENTS = Path("requirements")
_HEARTBEAT_S = 15.0


class SetupError(Exception):
    """A failure whose text is one plain sentence for the person who typed ``make``."""


def main(arguments: list[str]) -> int:
    """Install the set named by the one argument; return the exit code."""
    try:
        install(arguments[0])
    except SetupError as error:
        print(f"tollway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tollway: stopped before the installation was complete; the next run goes on.", file=sys.stderr)
        return 130
    return 0


def install(wanted: str) -> None:
    """Install a set into ``.venv`` unless its stamp says that it is there. Raises ``SetupError``."""
    if sys.version_info[:2] != (3, 11):
        raise SetupError(f"Python 3.11 is needed, and this is {sys.version.split()[0]}; say `make PYTHON=...`.")
    name = _for_this_machine() if wanted == "worker" else wanted
    lock = REQUIREMENTS / f"{name}.txt"
    tools = REQUIREMENTS / "tools.txt"
    stamp = VENV / f"installed-{name}"
    state = _digest([lock, tools, Path("pyproject.toml")])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
        _say(f"{name} is installed")
        return
    _make_venv()
    _run("installing uv", [str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(tools)])
    settings = _PipSettings()
    # Without dependencies: the lock is complete, and what it leaves out (see overrides.txt) must stay out.
    command = [str(UV), "pip", "install", "--python", str(PYTHON), "--quiet", "--no-deps"]
    links = _torch_links(lock, settings)
    _run(f"installing {name}", [*command, "--require-hashes", *links, "-r", str(lock)], settings.for_uv())
    own = [*command, "--no-build-isolation", "--offline", "--editable", "."]
    _run("installing tollway itself", own, settings.for_uv())
    stamp.write_text(state, encoding="utf-8")


def _for_this_machine() -> str:
    found = shutil.which("nvidia-smi")
    if found and subprocess.run([found, "-L"], capture_output=True, check=False).returncode == 0:
        _say("a GPU is here: the set for it is `worker`; we have not run this set on a GPU ourselves yet")
        return "worker"
    _say("no GPU seen: the set for this machine is `worker-cpu` (the same vLLM, built for CPUs)")
    return "worker-cpu"


def _make_venv() -> None:
    if PYTHON.exists():
        return
    _say(f"making {VENV}")
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError("Python's venv module does not work here; on Debian: apt-get install python3.11-venv.")


class _PipSettings:
    """What pip is configured with, by its files or its environment, as far as uv needs it."""

    def __init__(self) -> None:
        self.links = self._get("find-links").split()
        self._index = self._get("index-url")
        self._cert = self._get("cert")

    def for_uv(self) -> dict[str, str]:
        """Return the environment for uv; what the user set for uv itself stays."""
        mapped = {"UV_DEFAULT_INDEX": self._index, "SSL_CERT_FILE": self._cert}
        return {**{name: value for name, value in mapped.items() if value}, **os.environ}

    @staticmethod
    def _get(name: str) -> str:
        command = [str(PYTHON), "-m", "pip", "config", "list"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        # The environment comes last and wins, as it does in pip.
        values = re.findall(rf"^(?:global|install|:env:)\.{name}='(.*)'$", shown, re.MULTILINE)
        return values[-1].replace("\\n", " ").strip() if values else ""


def _torch_links(lock: Path, settings: _PipSettings) -> list[str]:
    """Return the uv options that let it find the CPU build of torch, if the lock has one."""
    pinned = re.search(r"^torch==\S+\+cpu", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if pinned is None:
        return []
    configured = [option for link in settings.links for option in ("--find-links", link)]
    if configured:
        ask = [
            str(UV),
            "pip",
            "install",
            "--python",
            str(PYTHON),
            "--dry-run",
            "--reinstall",
            "--no-deps",
            "--no-index",
        ]
        found = subprocess.run([*ask, *configured, pinned.group()], capture_output=True, check=False)
        if found.returncode == 0:
            _say(f"{pinned.group()} comes from pip's configured links")
            return configured
    index = os.environ.get("TORCH_CPU_INDEX", "").rstrip("/")
    if not index:
        raise SetupError(f"{pinned.group()} is not in pip's configured links, and TORCH_CPU_INDEX is not set.")
    _say(f"{pinned.group()} comes from {index}")
    # The page of this one project, as a page of links: as an index it would shadow other packages by its old copies.
    return ["--find-links", f"{index}/torch/"]


def _run(step: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    started = time.monotonic()
    _say(step)
    done = threading.Event()

    def still_there() -> None:
        while not done.wait(_HEARTBEAT_S):
            _say(f"still {step} ({time.monotonic() - started:.0f} s)")

    threading.Thread(target=still_there, daemon=True).start()
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    finally:
        done.set()
    if result.returncode != 0:
        print(result.stderr.strip() or result.stdout.strip(), file=sys.stderr)
        raise SetupError(f"{step} failed; the installer's own words are above.")
    _say(f"{step}: done in {time.monotonic() - started:.0f} s")


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _say(line: str) -> None:
    print(f"[setup] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The agents as npm has them: installed once from the lock, under the repository's build directory."""

import fcntl
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_CACHE = _HERE.parents[1] / "build" / "agents"


@cache
def installed() -> Path:
    """Return the ``node_modules`` of ``package-lock.json``; fails with a sentence where npm is missing.

    What it holds are the packages of binaries for Linux on x86-64, which need no script to be run.
    """
    lock = (_HERE / "package-lock.json").read_bytes()
    place = _CACHE / hashlib.sha256(lock).hexdigest()[:16]
    modules = place / "node_modules"
    done = place / "installed"
    if done.exists():
        return modules
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.fail("The tests of coding agents need node and npm; on Debian: sudo apt-get install nodejs npm")
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as held:  # several processes of pytest may come here
        fcntl.flock(held, fcntl.LOCK_EX)
        if not done.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_HERE / name, place)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
            run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            if run.returncode:
                pytest.fail(f"npm ci in tests/agents failed:\n{run.stderr}")
            done.touch()
    return modules

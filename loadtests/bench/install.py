"""Puts contenders into a cache directory outside the repository, once per version of what is to be installed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_WIRE = Path(__file__).with_name("wire")
_INSTALL_LIMIT_S = 900.0


class InstallError(Exception):
    """Something could not be installed; the message is one line for the table."""


@dataclass(frozen=True)
class Installed:
    """What was found or installed: its version, and what it takes on the disk beyond its language's interpreter."""

    version: str
    size_bytes: int


def cache_directory() -> Path:
    """Return where contenders are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tollway" / "bench"


def build_wire(cache: Path) -> Path:
    """Build the bench's client and upstream, if their sources have changed; return the program."""
    go = shutil.which("go")
    if go is None:
        raise InstallError("the bench's client and upstream need Go: apt-get install golang-go")
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(_WIRE.iterdir()))).hexdigest()[:16]
    program = cache / f"wire-{digest}"
    if not program.exists():
        env = os.environ | {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        _run([go, "build", "-o", str(program), "."], cwd=_WIRE, env=env)
    return program


def python_packages(home: Path, requirements: Sequence[str], *, named: str) -> Installed:
    """Install into a virtual environment at ``home``; ``named`` is the package whose version is told."""
    return _once(home, ["python", *requirements], lambda: _install_python(home, requirements, named))


def locked_tree(home: Path) -> Installed:
    """Install this repository's gateway: its locked requirements, and its code where it lies, so as it is now."""
    # The project's file names the entry points, which are installed.
    files = (_lock(REPOSITORY), REPOSITORY / "pyproject.toml")
    recipe = ["tree", str(REPOSITORY), *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]
    return _once(home, recipe, lambda: _install_tree(home, REPOSITORY, "this tree"))


def commit_of(name: str) -> str:
    """Return the whole hash of a commit of this repository. Raises InstallError when there is none of that name."""
    return _run(["git", "-C", str(REPOSITORY), "rev-parse", "--verify", f"{name}^{{commit}}"]).strip()


def committed_tree(home: Path, commit: str) -> Installed:
    """Install the gateway of another commit of this repository, with the requirements that it locked."""
    return _once(home, ["commit", commit], lambda: _install_commit(home, commit))


def npm_package(home: Path, name: str, *, held: Mapping[str, str]) -> Installed:
    """Install a package and what it needs below ``home``; ``held`` gives versions for some of what it needs."""
    return _once(home, ["npm", name, *map("@".join, held.items())], lambda: _install_npm(home, name, held))


def debian_package(program: str, packages: Sequence[str]) -> Installed:
    """Find a program of Debian's, which the bench does not install itself; size and version are the packages'."""
    if shutil.which(program) is None:
        raise InstallError(f"{program} is not there: apt-get install {packages[0]}")
    query = ["dpkg-query", "-W", "-f", "${Installed-Size} ${Version}\n", *packages]
    rows = [line.split() for line in _run(query).splitlines()]
    return Installed(rows[0][1], sum(int(kilobytes) for kilobytes, _ in rows) * 1024)


def _install_python(home: Path, requirements: Sequence[str], named: str) -> Installed:
    python = _environment(home)
    before = tree_bytes(home)
    _run([*_pip(python), *requirements])
    query = f"import importlib.metadata as m; print(m.version({named!r}))"
    return Installed(_run([python, "-c", query]).strip(), tree_bytes(home) - before)


def _install_commit(home: Path, commit: str) -> Installed:
    _environment(home)
    tree, archive = home / "tree", home / "tree.tar"
    tree.mkdir()
    _run(["git", "-C", str(REPOSITORY), "archive", "--output", str(archive), commit])
    _run(["tar", "--extract", "--file", str(archive), "--directory", str(tree)])
    archive.unlink()
    return _install_tree(home, tree, commit[:12])


def _install_tree(home: Path, tree: Path, named: str) -> Installed:
    python = _environment(home)
    before = tree_bytes(home)
    _run([*_pip(python), "--require-hashes", "-r", str(_lock(tree))])
    _run([*_pip(python), "--no-deps", "--editable", str(tree)])
    code = sum(path.stat().st_size for path in (tree / "gateway").rglob("*.py"))
    return Installed(named, tree_bytes(home) - before + code)


def _lock(tree: Path) -> Path:
    return tree / "requirements" / "gateway.txt"


def _environment(home: Path) -> str:
    """Make a virtual environment; return its Python."""
    _run([sys.executable, "-m", "venv", str(home)])
    return str(home / "bin" / "python")


def _pip(python: str) -> list[str]:
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _install_npm(home: Path, name: str, held: Mapping[str, str]) -> Installed:
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError("npm is not there: apt-get install npm")
    home.mkdir(parents=True)
    (home / "package.json").write_text(json.dumps({"dependencies": {name: "*"}, "overrides": dict(held)}))
    _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home)])
    manifest = json.loads((home / "node_modules" / name / "package.json").read_text())
    return Installed(str(manifest["version"]), tree_bytes(home))


def _once(home: Path, recipe: list[str], install: Callable[[], Installed]) -> Installed:
    """Install anew only when the recipe has changed since the last time that it worked."""
    note = home / "bench-installed.json"
    if note.exists():
        kept = json.loads(note.read_text())
        if kept["recipe"] == recipe:
            return Installed(kept["version"], kept["size_bytes"])
    shutil.rmtree(home, ignore_errors=True)
    installed = install()
    note.write_text(json.dumps({"recipe": recipe, **asdict(installed)}))
    return installed


def tree_bytes(directory: Path) -> int:
    """Add up the sizes of the files below a directory, links not followed."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def _run(argv: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Return what a command prints. Raises InstallError with the last line of its complaint."""
    try:
        done = subprocess.run(  # noqa: S603 - every command is a list of ours
            argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"{Path(argv[0]).name} took longer than {_INSTALL_LIMIT_S:g} s") from None
    if done.returncode != 0:
        complaint = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise InstallError(f"{Path(argv[0]).name} failed: {complaint[-1] if complaint else 'no output'}")
    return done.stdout

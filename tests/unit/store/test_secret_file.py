"""A secret of the state directory: made once, the same for all, readable by its owner alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import StateUnusableError
from gateway.store.secret_file import secret_of


def test_secret_is_made_once(tmp_path: Path) -> None:
    """By whichever process is first, and no draft is left."""
    path = tmp_path / "a.key"
    with ThreadPoolExecutor(4) as pool:
        secrets = {secret_of(path, 32)} | set(pool.map(lambda _: secret_of(path, 32), range(8)))
    assert secrets == {path.read_bytes()}
    assert len(path.read_bytes()) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_secret_that_another_process_makes_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found none; the second to link its own takes that of the first."""
    path = tmp_path / "a.key"

    def made_by_another(_size: int) -> bytes:
        path.write_bytes(b"x" * 32)
        return b"y" * 32

    monkeypatch.setattr("os.urandom", made_by_another)
    assert secret_of(path, 32) == b"x" * 32
    assert list(tmp_path.iterdir()) == [path]


def test_secret_is_made_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def refuse(*_paths: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "a.key"
    assert secret_of(path, 32) == path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_file_of_another_size_is_refused(tmp_path: Path) -> None:
    """It is no secret of ours, so it is neither used nor replaced."""
    path = tmp_path / "a.key"
    path.write_bytes(b"short")
    with pytest.raises(StateUnusableError, match="should hold 32 bytes and has 5"):
        secret_of(path, 32)
    assert path.read_bytes() == b"short"

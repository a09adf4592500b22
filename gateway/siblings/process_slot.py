"""Names the files of each process of a gateway: its own (journal, figures) and those that all of them share."""

import shutil
from pathlib import Path
from typing import NamedTuple

_FIGURES = ".figures"


class ProcessSlot(NamedTuple):
    """One process's slot in the gateway's state directory."""

    state_dir: Path
    slot: int

    @property
    def journal_dir(self) -> Path:
        """Its own journal; see ``accounting.journal``."""
        return self.state_dir / f"process-{self.slot}"

    @property
    def shared_dir(self) -> Path:
        """What lives as long as the gateway: the sockets of ``exchange``, limits and figures."""
        return self.state_dir / "processes"

    @property
    def limits_dir(self) -> Path:
        """Counts of ``admission.shared``."""
        return self.shared_dir / "limits"

    @property
    def figures(self) -> Path:
        """What this process has counted; see ``telemetry.figures``."""
        return self.shared_dir / f"{self.slot}{_FIGURES}"

    def all_figures(self) -> list[Path]:
        """Return what each has counted, the dead included."""
        return sorted(self.shared_dir.glob(f"*{_FIGURES}"))


def journal_dirs(state_dir: Path) -> list[Path]:
    """Return every journal that processes of a gateway have left: any number of them, whatever runs now."""
    return sorted(path for path in state_dir.glob("process-*") if path.is_dir())


def begin(state_dir: Path, processes: int) -> None:
    """Forget what the processes of an earlier gateway shared, for none is left, and make room for new ones."""
    shared = ProcessSlot(state_dir, 0).shared_dir
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(mode=0o700, parents=True)
    for slot in range(processes):
        ProcessSlot(state_dir, slot).journal_dir.mkdir(mode=0o700, exist_ok=True)

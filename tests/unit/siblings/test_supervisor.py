"""The supervisor, over small programs in the place of gateways: how many run, whom it tells what, and what it survives.

A program writes a line for each thing that happens to it: ``serves``, ``hup``, ``term``; told twice to end, it does.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import create_connection, create_server, socket

import pytest

from gateway.siblings import supervisor
from gateway.siblings.supervisor import Supervisor
from tests.ground.waiting import until

_PROGRAM = """
import os, signal, sys
directory, slot, ready = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.closerange(3, ready)
os.closerange(ready + 1, 256)
def say(what):
    with open(f"{directory}/said", "a") as file:
        file.write(f"{slot} {what}\\n")
told = 0
def term(*_):
    global told
    told += 1
    say("term")
    if told > 1 or not os.path.exists(f"{directory}/busy"):
        sys.exit(0)
if os.path.exists(f"{directory}/hardy"):
    signal.signal(signal.SIGTERM, term)
if os.path.exists(f"{directory}/slow"):
    say("begins")
    while os.path.exists(f"{directory}/slow"):
        signal.sigtimedwait([], 0.01)
signal.signal(signal.SIGTERM, term)
signal.signal(signal.SIGHUP, lambda *_: say("hup"))
say("serves")
os.write(ready, b"x")
while True:
    signal.sigtimedwait([], 0.01)  # pause() would sleep through a signal that comes just before it
"""


class Ground:
    """A supervisor that runs."""

    def __init__(self, directory: Path, listener: socket, count: int) -> None:
        self.directory = directory
        self.listener = listener
        self.interpreter = sys.executable
        self.released: list[int] = []
        self.supervisor = Supervisor(
            self._command, count=count, listener=listener, drain_s=20, release_slot=self.released.append
        )

    def _command(self, slot: int, ready_fd: int, life_fd: int) -> list[str]:  # noqa: ARG002 - of Command
        return [self.interpreter, "-ISc", _PROGRAM, str(self.directory), str(slot), str(ready_fd)]

    @property
    def said(self) -> list[str]:
        """Return what the programs have written."""
        file = self.directory / "said"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def running(self) -> dict[int, int]:
        """Return the process of each slot that serves and was not told to end."""
        workers = self.supervisor._workers.values()
        return {each.slot: each.process.pid for each in workers if each.serves and not each.retiring}


@asynccontextmanager
async def supervised(directory: Path, count: int) -> AsyncIterator[Ground]:
    with create_server(("127.0.0.1", 0)) as listener:
        ground = Ground(directory, listener, count)
        serving = asyncio.Event()
        running = asyncio.create_task(ground.supervisor.run(serving.set))
        try:
            await serving.wait()
            yield ground
        finally:
            for name in ("slow", "busy"):
                (directory / name).unlink(missing_ok=True)
            ground.supervisor.stop()
            for worker in ground.supervisor._workers.values():
                worker.signal(signal.SIGTERM)
            assert await running


async def test_a_stop_lets_replaced_processes_finish(tmp_path: Path) -> None:
    """They were told once, when they were replaced; a gateway that is told twice waits for nobody."""
    (tmp_path / "busy").touch()
    async with supervised(tmp_path, 1) as ground:
        ground.supervisor.replace_all()
        await until(lambda: ground.said == ["0 serves", "1 serves", "0 term"])
        ground.supervisor.stop()
        await until(lambda: "1 term" in ground.said)
        assert ground.said.count("0 term") == 1


async def test_caller_who_connects_after_a_stop_has_begun_is_refused(tmp_path: Path) -> None:
    """Nobody accepts any more, and the system would let them wait until the last stream has ended."""
    (tmp_path / "busy").touch()
    async with supervised(tmp_path, 1) as ground:
        address = ground.listener.getsockname()
        create_connection(address).close()
        ground.supervisor.stop()
        await until(lambda: "0 term" in ground.said)
        with pytest.raises(ConnectionRefusedError):
            create_connection(address)


async def test_a_stop_while_one_is_being_replaced_cuts_neither(tmp_path: Path) -> None:
    """Both were told to stop; what is told to end because another serves in its place would be told twice."""
    (tmp_path / "busy").touch()
    async with supervised(tmp_path, 1) as ground:
        for name in ("slow", "hardy"):
            (tmp_path / name).touch()
        replacing = asyncio.create_task(ground.supervisor._replace_all())
        await until(lambda: "1 begins" in ground.said and 1 in ground.supervisor._workers)
        ground.supervisor.stop()
        await until(lambda: {"0 term", "1 term"} <= set(ground.said))
        (tmp_path / "slow").unlink()
        await replacing
        assert "1 serves" in ground.said
        assert not ground.supervisor._workers[0].retiring
        assert ground.said.count("0 term") == 1


async def test_second_stop_is_forwarded_to_the_processes(tmp_path: Path) -> None:
    """So that an operator's second Ctrl-C does what it does with a single process."""
    (tmp_path / "busy").touch()
    async with supervised(tmp_path, 1) as ground:
        ground.supervisor.stop()
        await until(lambda: ground.said[1:] == ["0 term"])
        ground.supervisor.stop()
        await until(lambda: ground.said[1:] == ["0 term", "0 term"])


async def test_replacing_while_one_is_started_again_makes_no_more_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is dead and waits for its next start when all are replaced: two come for two, not three."""
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.3)
    async with supervised(tmp_path, 2) as ground:
        dead = ground.supervisor._workers[0]
        dead.signal(signal.SIGKILL)
        await dead.process.wait()
        ground.supervisor.replace_all()
        await until(lambda: ground.running().keys() == {2, 3})
        # A task leaves its set one turn after its last step.
        await until(lambda: ground.supervisor._workers.keys() == {2, 3} and len(ground.supervisor._tasks) == 2)
        assert sorted(ground.released) == [0, 1]


async def test_a_start_that_the_system_refuses_is_tried_again(tmp_path: Path) -> None:
    """The program's file is missing for a moment, as while a new version is installed; no descriptor is left behind."""
    async with supervised(tmp_path, 1) as ground:
        gc.collect()  # what other tests left open must not be closed in the middle of this one
        open_before = len([*Path("/proc/self/fd").iterdir()])
        first = ground.running()[0]
        ground.interpreter = str(tmp_path / "missing")
        refused = asyncio.Event()
        command = ground.supervisor._command

        def watched(*arguments: int) -> list[str]:
            refused.set()
            return command(*arguments)

        ground.supervisor._command = watched
        os.kill(first, signal.SIGKILL)
        await refused.wait()
        ground.interpreter = sys.executable
        await until(lambda: ground.running().get(0, first) != first)
        assert len([*Path("/proc/self/fd").iterdir()]) == open_before


async def test_a_reload_reaches_one_that_is_just_starting(tmp_path: Path) -> None:
    """The signal would kill it before it can be handled; it is told once it serves."""
    async with supervised(tmp_path, 1) as ground:
        (tmp_path / "slow").touch()
        ground.supervisor.replace_all()
        await until(lambda: "1 begins" in ground.said and 1 in ground.supervisor._workers)
        ground.supervisor.reload()
        (tmp_path / "slow").unlink()
        await until(lambda: "1 hup" in ground.said)


async def test_no_more_processes_than_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced ones that never finish fill the slots: what runs then stays, for a limit's file has no more places."""
    monkeypatch.setattr(supervisor, "SLOTS", 2)
    (tmp_path / "busy").touch()
    async with supervised(tmp_path, 1) as ground:
        ground.supervisor.replace_all()
        await until(lambda: ground.running().keys() == {1})
        await ground.supervisor._replace_all()
        assert ground.running().keys() == {1}
        # What the one that was told to end says of it may come later.
        await until(lambda: ground.said == ["0 serves", "1 serves", "0 term"])

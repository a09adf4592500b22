"""A gateway's accounting, killed with SIGKILL again and again: ``python victim.py STATE_DIR ROUNDS SEED``.

Each round forks a child that recovers what its predecessor left (and may be killed at that), then accounts for calls as
fast as it can and reports every verb that has returned on a pipe. In one of three rounds its applier is killed before
it. Prints all that was reported, one report a line.
"""

import asyncio
import os
import random
import select
import signal
import socket
import sys
import time
from pathlib import Path

from msgspec.structs import replace

import gateway.accounting.recovery  # noqa: F401 - else each of the forked would import it
from gateway import applier
from gateway.accounting import applier_process
from gateway.tariff import Usage
from tests.unit.accounting.ledgers import applier_pid, build_dispatch, build_entry, build_record, running_ledger


async def live(state_dir: Path, name: int, report: int) -> None:
    """Account for calls until killed, five at a time, with one long stream beside them."""

    def say(*words: object) -> None:
        os.write(report, " ".join(map(str, words)).encode() + b"\n")

    # Small segments: rotation, carrying over and deletion happen many times a round.
    async with running_ledger(state_dir, segment_bytes=4096, fsync_interval_s=0.005) as ledger:
        say("applier", applier_pid(ledger))
        long_id, relayed = f"att_{name}_long", 1
        ledger.dispatch(build_dispatch(long_id, f"req_{name}_long"))
        say("dispatched", long_id)
        for number in range(1_000_000):
            ids = [(f"att_{name}_{number}_{i}", f"req_{name}_{number}_{i}") for i in range(5)]
            for attempt_id, call_id in ids:
                ledger.dispatch(build_dispatch(attempt_id, call_id))
                say("dispatched", attempt_id)
            for attempt_id, _ in ids:
                ledger.progress(attempt_id, 4)
                say("relayed", attempt_id, 4)
            relayed += 1
            ledger.progress(long_id, relayed)
            say("relayed", long_id, relayed)
            for attempt_id, call_id in ids:
                usage = Usage(input_tokens=10, output_tokens=4 + number % 7)
                ledger.settle(replace(build_entry(attempt_id, call_id), usage=usage))
                say("settled", attempt_id, usage.output_tokens)
                ledger.record(build_record(call_id, attempt_id))
                say("recorded", call_id)
            await asyncio.sleep(0)


def kill_once(state_dir: Path, name: int, lifetime_s: float) -> bytes:
    """Fork a child, kill it after that time, and return what it reported.

    The time of every third child begins with the fork, so that some die while they recover; that of the others with
    their first report, so that they live however slow the machine is. Every second of these first loses its applier.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        asyncio.run(live(state_dir, name, writer))
        os._exit(0)
    os.close(writer)
    reports = b""
    if name % 3:
        reports = os.read(reader, 65536)
    ends_at = time.monotonic() + lifetime_s
    if name % 3 == 2:
        os.kill(int(reports.split()[1]), signal.SIGKILL)
    while (left_s := ends_at - time.monotonic()) > 0:
        if select.select([reader], [], [], left_s)[0]:
            chunk = os.read(reader, 65536)
            if not chunk:
                sys.exit("the child ended by itself")
            reports += chunk
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while chunk := os.read(reader, 65536):
        reports += chunk
    os.close(reader)
    # A report that the kill cut in two was not made.
    return reports[: reports.rfind(b"\n") + 1]


class ForkedApplier:
    """An applier that has the modules of the process that it is forked from, for many are started here."""

    def __init__(self, theirs: socket.socket) -> None:
        with theirs:
            self.pid = os.fork()
            if self.pid == 0:
                fd = theirs.detach()
                os.closerange(3, fd)
                os.closerange(fd + 1, 1000)
                applier.main(fd)
                os._exit(0)

    def wait(self) -> int:
        """Wait for its end."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)


def main() -> None:
    """Run the rounds."""
    applier_process.launch = ForkedApplier  # type: ignore[assignment]
    state_dir, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    lifetimes = random.Random(seed)
    for name in range(rounds):
        sys.stdout.buffer.write(kill_once(state_dir, name, lifetimes.uniform(0.001, 0.12)))


if __name__ == "__main__":
    main()

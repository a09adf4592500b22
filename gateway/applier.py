"""The applier, a process of each gateway that runs all SQL. The ledger starts it as ``python -m gateway.applier FD``.

It opens and migrates the database, recovers what a dead gateway left, carries the journal's lines into rows, answers
questions about calls, and deletes what is old; ``accounting.messages`` has the protocol. It may be killed at any
moment, and ends by itself as soon as the gateway has: the socket's end says so.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from gateway.accounting.apply import JournalReader
from gateway.accounting.lines import segment_numbers
from gateway.accounting.messages import NOTHING_APPLIED, Begin, Order, Report, decode_begin, decode_order, line_of
from gateway.accounting.rejected import Rejected
from gateway.accounting.retention import Retention
from gateway.clock import SystemClock
from gateway.errors import StateUnusableError
from gateway.store.queries import Store

_NICENESS = 5
"""Where it shares a core with the gateway, requests go first."""
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0


def main(fd: int) -> None:
    """Serve the gateway at the other end of this socket until it says that this is the end, or is gone."""
    # A signal to the whole group stops the gateway; this process is needed until the last line is applied.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    gc.freeze()  # what is loaded by now stays; rows are freed by counting references
    gc.set_threshold(20_000, 50, 100)
    with socket.socket(fileno=fd) as channel, channel.makefile("rb") as lines:
        if first := lines.readline():
            _Applier(channel, lines, decode_begin(first)).run()


class _Applier:
    """One journal and its database. The main thread applies lines, another takes orders, a third deletes."""

    def __init__(self, channel: socket.socket, lines: BinaryIO, begin: Begin) -> None:
        self._channel = channel
        self._lines = lines
        self._begin = begin
        self._storage = begin.storage
        self._saying = threading.Lock()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._store = Store(begin.database_url, first=begin.makes_database)
        journal_dir = Path(begin.journal_dir)
        self._reader = JournalReader(journal_dir, self._store, self._rejected(journal_dir), self._alarm)

    def run(self) -> None:
        """Recover, apply lines until the end, and close the database."""
        logging.getLogger().addHandler(_ToGateway(self))
        logging.getLogger("tollway").setLevel(logging.INFO)
        listening = threading.Thread(target=self._listen, daemon=True)
        listening.start()
        try:
            if self._begin.recover:
                self._recover()
            self._say(Report(applied=NOTHING_APPLIED))
            self._serve()
        except Exception as error:  # noqa: BLE001 - the gateway does not start, whatever it is, and says so
            self._say_stuck(error)
        listening.join()
        self._store.close()

    def _recover(self) -> None:
        self._store.open()
        self._reader.begin_behind(segment_numbers(Path(self._begin.journal_dir)))
        for journal in filter(segment_numbers, map(Path, self._begin.recover)):
            # Only where there is something: what prices an interrupted attempt takes a while to import, and memory.
            from gateway.accounting.recovery import recover

            recover(journal, self._store, self._rejected(journal))

    def _serve(self) -> None:
        state_dir, forgetter = Path(self._begin.state_dir), self._store.forgetter
        retention = Retention(state_dir, forgetter, SystemClock(), lambda: self._storage, self._begin.delete_interval_s)
        deleting = threading.Thread(target=retention.run, args=(self._ending,))
        deleting.start()
        retry_s, opened = _FIRST_RETRY_S, bool(self._begin.recover)
        # Once more after the order to end: that rows are where they were put is checked last.
        ends = False
        while not ends:
            ends = self._ending.is_set()
            try:
                self._apply(opened=opened, say=retry_s > _FIRST_RETRY_S)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows are in the journal and the next try may do
                self._say_stuck(error)
                self._wait(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
            else:
                opened, retry_s = True, _FIRST_RETRY_S
                self._wait(self._begin.apply_interval_s)
        deleting.join()

    def _apply(self, *, opened: bool, say: bool) -> None:
        """Apply all lines that are there. A database that is another than before gets all that the journal has."""
        if self._store.open() and opened:
            self._reader.begin_anew()
            self._alarm("the ledger's database is another than before: it is given all rows that the journal still has")
            say = True
        more = True
        while more:
            before = self._reader.position
            more = self._reader.apply_batch() and not self._ending.is_set()
            if say or self._reader.position > before:
                self._say(Report(applied=self._reader.position))
                say = False

    def _wait(self, longest_s: float) -> None:
        if not self._ending.is_set():
            self._wake.wait(longest_s)
        self._wake.clear()

    def _rejected(self, journal: Path) -> Rejected:
        return Rejected(journal, lambda: self._storage.rejected.max_bytes, self._alarm)

    def _listen(self) -> None:
        """Take orders until the last one."""
        while not self._ending.is_set():
            line = b""
            with contextlib.suppress(OSError):
                line = self._lines.readline()
            if not line.endswith(b"\n"):
                # The gateway is gone, perhaps within a line, and another may begin at once. SQLite undoes what is
                # half done.
                os._exit(0)
            order = decode_order(line)
            if order.number:
                self._say(self._answer(order))
            self._storage = order.storage or self._storage
            if order.end:
                self._ending.set()
            self._wake.set()

    def _answer(self, order: Order) -> Report:
        try:
            if order.call_id is not None:
                return Report(answered=order.number, call=self._store.find_call(order.call_id))
            trace_id, key_id = order.trace_of_key or ("", "")
            return Report(answered=order.number, trace=self._store.find_trace(trace_id, key_id))
        except Exception:  # noqa: BLE001 - whatever the driver calls it: a read by an index fails only when the database does
            return Report(answered=order.number, failed=True)

    def _say(self, report: Report) -> None:
        with self._saying, contextlib.suppress(OSError):  # ``_listen`` sees that it is gone
            self._channel.sendall(line_of(report))

    def _say_stuck(self, error: Exception) -> None:
        """Say no more of an error than a text of ours or the system's; a driver's quotes rows and addresses."""
        match error:
            case StateUnusableError():
                self._say(Report(stuck=str(error)))
            case OSError(strerror=str(cause), filename=str(name)):
                self._say(Report(stuck=f"{name}: {cause}", errno=error.errno, path=name))
            case _:
                self._say(Report(stuck=f"the ledger's database cannot be used ({type(error).__name__})"))

    def _alarm(self, sentence: str) -> None:
        self._say(Report(alarm=sentence))


class _ToGateway(logging.Handler):
    """Has the gateway log what is logged here."""

    def __init__(self, applier: _Applier) -> None:
        super().__init__()
        self._applier = applier

    def emit(self, record: logging.LogRecord) -> None:
        """Send the line."""
        self._applier._say(Report(log=(record.name, record.levelno, record.getMessage())))  # noqa: SLF001 - its own


if __name__ == "__main__":
    main(int(sys.argv[1]))

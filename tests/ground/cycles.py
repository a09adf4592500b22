"""A gateway whose garbage collector is off, and which reports on request what only the collector would free.

``python -m tests.ground.cycles serve --config ...`` is ``tollway serve``; it answers each line on its stdin with a line
of JSON. ``running``: how many tasks are not done. ``collect``: how many objects of each type were unreachable and not
free, those of frames, tracebacks and coroutines by the function's name. ``waste``: make such objects, of 20 MB each.
"""

import asyncio
import gc
import json
import sys
import threading
from collections import Counter
from types import CoroutineType, FrameType, FunctionType, GeneratorType, TracebackType

from gateway.cli import main


def _name(thing: object) -> str:
    match thing:
        case TracebackType():
            code = thing.tb_frame.f_code
        case FrameType():
            code = thing.f_code
        case CoroutineType():
            code = thing.cr_code
        case GeneratorType():
            code = thing.gi_code
        case FunctionType():
            code = thing.__code__
        case _:
            return f"{type(thing).__module__}.{type(thing).__qualname__}"
    return f"{type(thing).__qualname__} of {code.co_qualname}"


def _collect() -> dict[str, int]:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = dict(Counter(_name(each) for each in gc.garbage))
    gc.garbage.clear()
    gc.collect()
    return found


def _running() -> int:
    return sum(not task.done() for task in list(asyncio.tasks._all_tasks))  # type: ignore[attr-defined]


def _waste() -> int:
    for _ in range(10):
        wasted: list[object] = [b"x" * 20_000_000]
        wasted.append(wasted)
    return 10


def _answer() -> None:
    for line in sys.stdin:
        print(json.dumps({"running": _running, "collect": _collect, "waste": _waste}[line.strip()]()), flush=True)


if __name__ == "__main__":
    gc.disable()
    threading.Thread(target=_answer, daemon=True).start()
    sys.exit(main(sys.argv[1:]))

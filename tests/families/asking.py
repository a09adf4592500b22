"""Have families served by host processes, ask each one question over HTTP, and compare with transformers' answer."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Timer
from types import TracebackType
from typing import IO, Any, Self

import httpx
from openai import OpenAI, OpenAIError

from tests.families.catalogue import Family
from tests.families.question import MESSAGES, PROMPT, TOKENS, sound

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
    # See host.py: the engine works in its own process, without a further one.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # What a replica sets before it imports vLLM; here the engines' process begins before.
    "OMP_NUM_THREADS": str(os.cpu_count()),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    # Compiled modules halve what the second import takes.
    "PYTHONDONTWRITEBYTECODE": "",
}
# pydantic says what is wrong on the next line, an assertion on the one before.
_ERROR = re.compile(
    r"^(?:[\w.]*(?:Error|Exception): (?:.*validation error.*\n  Value error, )?(.*?)"
    r"(?: \[type=.*| Supported architectures: .*)?| +(assert .*)\nAssertionError)$",
    re.MULTILINE,
)
_PATIENCE_S = 600.0
"""For a host's next line: a family takes a quarter of a minute, the imports before the first one more than that."""
_UNWRITTEN = "transformers has no such model"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one family: whether vLLM's registry has it, what it answered and should have, or why it did not."""

    family: Family
    version: str
    registered: bool
    answer: Any = None
    reference: Any = None
    failed: str | None = None

    @property
    def same(self) -> bool:
        """Tell whether the answer is transformers' own: equal tokens or text, or numbers as near as float32 is."""
        if self.failed is not None or self.answer is None:
            return False
        if self.family.endpoint in ("embeddings", "classify"):
            pairs = zip(self.answer, self.reference, strict=True)
            return all(math.isclose(ours, theirs, abs_tol=1e-4) for ours, theirs in pairs)
        return bool(self.answer == self.reference)


class _Host:
    """One host process; another is begun when it has died."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._log = base / "log"
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._pipe(self._process.stdin).close()
            self._process.wait(60)
        self._process.kill()
        self._process.wait()
        self._pipe(self._process.stdout).close()

    def ask(self, family: Family) -> Outcome:
        known = family.architecture in self._registered
        if family.kind is None:
            return Outcome(family, self.version, known, failed=_UNWRITTEN)
        begin = self._log.stat().st_size
        try:
            self._write(family.name)
            served = self._read()
        except (EOFError, BrokenPipeError):
            self.__exit__(None, None, None)
            self._begin()
            return Outcome(family, self.version, known, failed=f"the process ended: {self._reason(begin)}")
        try:
            if served["url"] is None:
                return Outcome(family, self.version, known, failed=self._reason(begin, served["failed"]))
            reference = (self._base / family.name.replace(" ", "-") / "reference.json").read_text(encoding="utf-8")
            try:
                answer = _ask(family, served["url"])
            except (OpenAIError, httpx.HTTPError) as error:
                return Outcome(family, self.version, known, failed=f"{type(error).__name__}: {error}")
            return Outcome(family, self.version, known, answer, json.loads(reference))
        finally:
            self._write("")

    def _begin(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.families.host", str(self._base)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,
                env={**os.environ, **_ENVIRONMENT},
            )
        about = self._read()
        self.version, self._registered = str(about["version"]), frozenset(about["registered"])

    def _write(self, line: str) -> None:
        pipe = self._pipe(self._process.stdin)
        pipe.write(line + "\n")
        pipe.flush()

    def _read(self) -> dict[str, Any]:
        """Return the next line of JSON; libraries write other lines between. Raises EOFError when none comes.

        A host that hangs is killed together with its engines, which have the same pipe.
        """
        hung = Timer(_PATIENCE_S, os.killpg, (self._process.pid, signal.SIGKILL))
        hung.start()
        try:
            for line in self._pipe(self._process.stdout):
                if line.startswith("{"):
                    said: dict[str, Any] = json.loads(line)
                    return said
        finally:
            hung.cancel()
        raise EOFError

    def _reason(self, begin: int, said: str = "") -> str:
        """Return the first error in the log since then, or in what the replica said."""
        text = self._log.read_bytes()[begin:].decode(errors="replace") + "\n" + said
        found = _ERROR.search(text)
        return (found[1] or found[2]) if found else ""

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def _ask(family: Family, url: str) -> Any:
    """Ask once, greedily, for eight tokens where there are tokens; return their ids, a text, or numbers."""
    if family.endpoint == "classify":  # vLLM's own: no official client
        answer = httpx.post(f"{url}/classify", json={"model": "tiny", "input": PROMPT}, timeout=120)
        answer.raise_for_status()
        return answer.json()["data"][0]["probs"]
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        if family.endpoint == "embeddings":
            return client.embeddings.create(model="tiny", input=PROMPT, encoding_format="float").data[0].embedding
        if family.endpoint == "transcriptions":
            heard = client.audio.transcriptions.create(
                model="tiny",
                file=("tone.wav", sound()),
                language="en",
                temperature=0,
                extra_body={"max_completion_tokens": TOKENS},
            )
            return heard.text
        greedy: dict[str, Any] = {
            "model": "tiny",
            "max_tokens": TOKENS,
            "temperature": 0,
            "extra_body": {"ignore_eos": True, "return_token_ids": True},
        }
        if family.endpoint == "chat":
            said: Any = client.chat.completions.create(messages=MESSAGES, **greedy)
        else:
            said = client.completions.create(prompt=PROMPT, **greedy)
        assert said.usage.completion_tokens == TOKENS
        return said.choices[0].token_ids


def ask_all(families: Iterable[Family], base: Path, hosts: int = 2) -> dict[str, Outcome]:
    """Serve and ask each family, several at a time, and return what came of it by its name."""
    left: Queue[Family] = Queue()
    for family in families:
        left.put(family)
    outcomes: dict[str, Outcome] = {}

    def work(directory: Path) -> None:
        directory.mkdir()
        with _Host(directory) as host, suppress(Empty):
            while True:
                family = left.get_nowait()
                outcomes[family.name] = host.ask(family)

    with ThreadPoolExecutor(hosts) as pool:
        try:
            list(pool.map(work, (base / str(number) for number in range(hosts))))
        finally:
            left.queue.clear()  # a run that is broken off waits for the families under way, not for all
    return outcomes

"""Who asks: closed-loop users (the next request as soon as the last is answered), and the replay of a trace."""

import itertools
import math
import os
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import ClassVar

import gevent  # type: ignore[import-untyped]
import msgspec
from gevent.pool import Group  # type: ignore[import-untyped]
from geventhttpclient.response import HTTPParseError
from locust import FastHttpUser, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from .answer import COST_HEADER, Answer, AnswerError, read_stream, read_whole, refusal
from .figures import Ceilings, record, record_late
from .schedule import Arrival, arrivals, follow, sized_prompt

_UNREADABLE = (AnswerError, HTTPParseError, OSError, msgspec.DecodeError)


class Caller(FastHttpUser):
    """Asks for one completion and enters its figures."""

    abstract = True
    host = os.environ.get("TOLLWAY_URL", "http://127.0.0.1:8080")
    network_timeout = 600.0

    @property
    def options(self) -> Namespace:
        """The run's options."""
        options = self.environment.parsed_options
        assert isinstance(options, Namespace)
        return options

    @property
    def ceilings(self) -> Ceilings:
        """The run's ceilings."""
        return Ceilings(self.options.slo_ttft_ms, self.options.slo_tpot_ms)

    def row(self, *, stream: bool) -> str:
        """Name the rows of a request."""
        return f"{'stream' if stream else 'chat'} {self.options.model}"

    def ask(self, *, stream: bool) -> None:
        """Send one request as the options say."""
        size = self.options.prompt_tokens
        prompt = sized_prompt(size) if size else self.options.prompt
        self.send(prompt, self.options.max_tokens, stream=stream, due_s=time.perf_counter())

    def send(self, prompt: str, max_tokens: int, *, stream: bool, due_s: float) -> None:
        """Send one request and read its whole answer; its times count from ``due_s`` (``time.perf_counter``)."""
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"accept-encoding": "identity"}
        if self.options.api_key:
            headers["authorization"] = f"Bearer {self.options.api_key}"
        name = self.row(stream=stream)
        answer = None
        with self.client.post(
            "/v1/chat/completions", name=name, json=body, headers=headers, stream=stream, catch_response=True
        ) as response:
            try:
                answer = _read(response, stream=stream)
                response.success()
            except _UNREADABLE as error:
                response.failure(error)
            # Locust's own time would be that to a stream's headers, and would count from the sending.
            ended_s = time.perf_counter() if answer is None else answer.ended_s
            response.request_meta["response_time"] = (ended_s - due_s) * 1000
        record(self.environment.stats, name, answer, due_s, self.ceilings)


def _read(response: ResponseContextManager, *, stream: bool) -> Answer:
    if response.status_code == 0:
        raise AnswerError(str(getattr(response, "error", "no answer")))
    if response.status_code != 200:
        raise AnswerError(refusal(response.status_code, response.content or b""))
    if stream:
        return read_stream(iter(partial(response.stream.readline, b"\n"), b""))
    cost_usd = response.headers.get(COST_HEADER) if response.headers else None
    return read_whole(response.content or b"", str(cost_usd) if cost_usd else None)


class ChatUser(Caller):
    """Asks without a stream."""

    @task
    def chat(self) -> None:
        """Ask."""
        self.ask(stream=False)


class StreamUser(Caller):
    """Asks for streams."""

    @task
    def stream(self) -> None:
        """Ask."""
        self.ask(stream=True)


class MixedUser(Caller):
    """Asks for streams by ``--stream-share``: of any number of requests, all users' together, just that share."""

    _turns: ClassVar["itertools.count[int]"] = itertools.count(1)

    @task
    def mixed(self) -> None:
        """Ask."""
        turn, share = next(self._turns), self.options.stream_share
        self.ask(stream=math.floor(turn * share) > math.floor((turn - 1) * share))


class ReplayUser(Caller):
    """Sends a trace's requests as streams when they are due, answered or not: open loop, one user for the whole run.

    Replays what is due within ``--run-time`` and waits for the answers (``--stop-timeout``); what then has none has
    failed. Without ``--run-time`` the run ends with the trace.
    """

    fixed_count = 1
    concurrency = 4096

    def on_start(self) -> None:
        """Begin with nothing asked."""
        self._asked = Group()

    def on_stop(self) -> None:
        """Give up what has no answer."""
        self._asked.kill()

    @task
    def replay(self) -> None:
        """Send what is due."""
        options = self.options
        with Path(options.trace).open(encoding="utf-8") as trace:
            schedule = arrivals(
                trace, speed=options.replay_speed, skip_s=options.replay_skip, seconds=options.run_time or None
            )
            follow(
                schedule,
                partial(self._asked.spawn, self._follow),
                now=time.perf_counter,
                sleep=gevent.sleep,
                stopping=lambda: self._state == LOCUST_STATE_STOPPING,
            )
        self._asked.join()
        if not options.run_time and self.environment.runner is not None:
            self.environment.runner.quit()
        raise StopUser

    def _follow(self, arrival: Arrival, due_s: float) -> None:
        name, stats = self.row(stream=True), self.environment.stats
        record_late(stats, name, (time.perf_counter() - due_s) * 1000)
        try:
            self.send(sized_prompt(arrival.prompt_tokens), arrival.output_tokens, stream=True, due_s=due_s)
        except gevent.GreenletExit:
            self.environment.events.request.fire(
                request_type="POST",
                name=name,
                response_time=(time.perf_counter() - due_s) * 1000,
                response_length=0,
                exception=AnswerError("not answered when the run ended"),
                context={},
            )
            record(stats, name, None, due_s, self.ceilings)
            raise

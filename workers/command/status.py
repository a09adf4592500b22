"""``tollway workers status``: prints what each model's replicas are doing, and what their tokens cost.

Reads the directory and one line of each replica (docs/adr/0006). Speeds and utilisation are those of the last minute;
dollars per token are since the replicas started, so that a quiet minute does not hide them.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from workers.errors import WorkerError

_PATIENCE_S = 5.0
_AT_ONCE = 32
_LONGEST_LINE = 16 * 2**20
_NOTHING = "-"


class _Counted(msgspec.Struct, frozen=True):
    up_s: float | None = None
    busy_s: float | None = None
    prompt_tokens: float | None = None
    cached_tokens: float | None = None
    output_tokens: float | None = None


class ReplicaLine(msgspec.Struct, frozen=True):
    """What is read of a replica's line."""

    state: str | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    total: _Counted = _Counted()
    window: _Counted = _Counted()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model. ``loads``: the line of each replica that answered; ``silent``: how many did not."""

    name: str
    serves: tuple[str, ...]
    usd_per_replica_hour: float
    loads: tuple[ReplicaLine, ...]
    silent: int

    @property
    def replicas(self) -> dict[str, int]:
        """Return how many replicas are in each state."""
        states = Counter(str(load.state) for load in self.loads)
        return dict(states) | ({"silent": self.silent} if self.silent else {})

    @property
    def usd_per_hour(self) -> float:
        """Return what the replicas cost per hour, the silent ones too: they are paid for."""
        return self.usd_per_replica_hour * (len(self.loads) + self.silent)

    def now(self, figure: str) -> float | None:
        """Return the sum of a figure over the replicas that say it, or none."""
        return _sum(getattr(load, figure) for load in self.loads)

    def kv_usage(self) -> float | None:
        """Return the part of the KV caches in use, on average."""
        said = [load.kv_usage for load in self.loads if load.kv_usage is not None]
        return sum(said) / len(said) if said else None

    def counted(self, span: str, figure: str) -> float | None:
        """Return what the replicas have counted together in the ``window`` or in ``total``."""
        return _sum(getattr(getattr(load, span), figure) for load in self.loads)

    def tokens_per_second(self, *figures: str) -> float | None:
        """Return the last minute's tokens per second of all replicas; of the figures, the later are taken away."""
        speeds = []
        for window in (load.window for load in self.loads):
            first, *less = (getattr(window, figure) for figure in figures)
            if first is not None and window.up_s:
                speeds.append((first - sum(figure or 0 for figure in less)) / window.up_s)
        return _sum(speeds)

    def utilisation(self) -> float | None:
        """Return the part of the last minute in which a replica had a request, on average."""
        busy, up = self.counted("window", "busy_s"), self.counted("window", "up_s")
        return busy / up if busy is not None and up else None

    def usd_per_million(self, seconds: str) -> float | None:
        """Return the dollars per 1M tokens, of prompts and answers: ``up_s`` for all time, ``busy_s`` for busy time."""
        spent, prompt, output = (self.counted("total", name) for name in (seconds, "prompt_tokens", "output_tokens"))
        tokens = (prompt or 0) + (output or 0)
        return self.usd_per_replica_hour / 3600 * spent / tokens * 1e6 if spent is not None and tokens else None

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values; what is not known is null."""
        return {
            "model": self.name,
            "serves": list(self.serves),
            "replicas": self.replicas,
            "running": self.now("running"),
            "waiting": self.now("waiting"),
            "kv_usage": self.kv_usage(),
            "prefill_tokens_per_s": self.tokens_per_second("prompt_tokens", "cached_tokens"),
            "decode_tokens_per_s": self.tokens_per_second("output_tokens"),
            "utilisation": self.utilisation(),
            "usd_per_hour": self.usd_per_hour,
            "usd_per_million_tokens": {
                "average": self.usd_per_million("up_s"),
                "marginal": self.usd_per_million("busy_s"),
            },
        }


def read_status(url: str, token: str | None) -> list[ModelStatus]:
    """Ask the directory at ``url`` and every replica that it names, all at once; ``token`` is sent as a bearer.

    Raises ``WorkerError`` when there is no directory; a replica that does not answer is counted as silent.
    """
    if not url.startswith(("http://", "https://")):
        raise WorkerError(f"{url} is not an address; it begins with http:// or https://.")
    directory = _directory(url.rstrip("/"), token)
    try:
        models = {
            name: (model, [str(replica["url"]) for replica in model["replicas"]])
            for name, model in directory["models"].items()
        }
        addresses = [address for _, replicas in models.values() for address in replicas]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            loads = dict(zip(addresses, pool.map(lambda address: _load(address, token), addresses), strict=True))
        return [_model(name, said, [loads[at] for at in replicas]) for name, (said, replicas) in models.items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WorkerError(f"The directory at {url} answers something else than replicas: {error!r}.") from error


def status(url: str, *, as_json: bool) -> str:
    """Return what ``tollway workers status`` prints; the token is ``TOLLWAY_REPLICA_TOKEN`` of the environment."""
    models = read_status(url, os.environ.get("TOLLWAY_REPLICA_TOKEN"))
    if as_json:
        return json.dumps({"models": [model.as_dict() for model in models]}, indent=2)
    return _table(models) if models else f"The workers at {url} serve no model."


def _model(name: str, said: dict[str, Any], loads: Sequence[ReplicaLine | None]) -> ModelStatus:
    answered = tuple(load for load in loads if load is not None)
    serves = tuple(str(served) for served in said.get("serves") or (name,))
    return ModelStatus(name, serves, float(said.get("usd_per_hour") or 0), answered, len(loads) - len(answered))


def _directory(url: str, token: str | None) -> dict[str, Any]:
    try:
        found = json.loads(_get(f"{url}/tollway/replicas", token))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise WorkerError(f"{url} refuses the token; set TOLLWAY_REPLICA_TOKEN to the workers' own.") from error
        raise WorkerError(
            f"{url} answers {error.code} instead of a directory of replicas; is that the workers' address?"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WorkerError(
            f"No workers answer at {url} ({reason}); start them with `tollway up` or give --url."
        ) from error
    except ValueError as error:
        raise WorkerError(f"{url} does not answer as workers do; is that the workers' address?") from error
    if not isinstance(found, dict):
        raise WorkerError(f"{url} does not answer as workers do; is that the workers' address?")
    return found


def _load(url: str, token: str | None) -> ReplicaLine | None:
    try:
        return msgspec.json.decode(_get(f"{url}/tollway/load", token), type=ReplicaLine)
    except (OSError, http.client.HTTPException, ValueError, msgspec.DecodeError, RecursionError):
        return None


def _get(url: str, token: str | None) -> bytes:
    """Return an answer's first line: a replica's goes on for ever, and the directory's is one line."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is not an HTTP address")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # A proxy of the environment is for the way out, not for one's own cluster.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=_PATIENCE_S) as answer:  # noqa: S310
        line: bytes = answer.readline(_LONGEST_LINE)
        return line


def _sum(figures: Iterable[float | None]) -> float | None:
    said = [figure for figure in figures if figure is not None]
    return sum(said) if said else None


def _table(models: Sequence[ModelStatus]) -> str:
    heads = ["model", "serves", "replicas", "running", "waiting", "KV", "prefill/s", "decode/s", "used"]
    rows = [[*heads, "$/hour", "$/1M", "$/1M busy"], *(_row(model) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts, numbers = slice(0, 3), slice(3, None)
    lines = (
        [cell.ljust(width) for cell, width in zip(row[texts], widths[texts], strict=True)]
        + [cell.rjust(width) for cell, width in zip(row[numbers], widths[numbers], strict=True)]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _row(model: ModelStatus) -> list[str]:
    others = [name for name in model.serves if name != model.name]
    states = ", ".join(f"{count} {state}" for state, count in sorted(model.replicas.items())) or "at zero"
    return [
        model.name,
        ", ".join(others) or _NOTHING,
        states,
        _shown(model.now("running"), "{:.0f}"),
        _shown(model.now("waiting"), "{:.0f}"),
        _shown(model.kv_usage(), "{:.0%}"),
        _shown(model.tokens_per_second("prompt_tokens", "cached_tokens"), "{:,.1f}"),
        _shown(model.tokens_per_second("output_tokens"), "{:,.1f}"),
        _shown(model.utilisation(), "{:.0%}"),
        _shown(model.usd_per_hour, "{:,.2f}"),
        _shown(model.usd_per_million("up_s"), "{:,.2f}"),
        _shown(model.usd_per_million("busy_s"), "{:,.2f}"),
    ]


def _shown(figure: float | None, form: str) -> str:
    return _NOTHING if figure is None else form.format(figure)

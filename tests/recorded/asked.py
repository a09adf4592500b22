"""Send recorded requests through a gateway to a target of their own dialect, and see what goes up of each.

One at a time, in the caller's own bytes. The target has another name for every model, and no limit; that name is all
that may change.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.ground.gateway import running_gateway
from tests.ground.script import Answer, Seen
from tests.ground.upstream import ScriptedUpstream

_PLACES = {"messages": "messages", "count_tokens": "messages/count_tokens", "responses": "responses"}
_UPSTREAM = "name-of-the-recorded-model-upstream"
_ANSWERS: dict[str, Any] = {
    "messages": {"type": "message", "id": "m", "role": "assistant", "model": "m", "content": []}
    | {"stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}},
    "count_tokens": {"input_tokens": 1},
    "responses": {"object": "response", "id": "r", "status": "completed", "model": "m", "output": []}
    | {"usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}},
}  # fmt: skip


@dataclass
class Asked:
    """One recorded request, and what became of it."""

    name: str
    operation: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    """Of the recorded answer."""
    changed: str = ""
    """Members that went up otherwise, in a word each."""
    refused: str = ""
    """The gateway's own reason."""

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return str(json.loads(self.body)["model"])

    @property
    def is_wrong(self) -> bool:
        """Whether it was changed, or refused though it was answered, and with nothing that lies at the provider."""
        asks = json.loads(self.body)
        may_be = self.status >= 400 or asks.get("background") or asks.get("previous_response_id")
        return bool(self.changed or (self.refused and not may_be))


def load_requests(folder: Path) -> list[Asked]:
    """Read the requests of a folder's recordings in Anthropic's dialect and in Responses, where they were kept."""
    found = []
    for file in sorted(folder.glob("*/*.json")):
        exchange = json.loads(file.read_text())
        asked, operation = exchange.get("request") or {}, exchange["operation"]
        if operation in _PLACES and asked.get("body"):
            query = asked.get("path", "").partition("?")[1:]
            headers = {name: value for name, value in asked["headers"].items() if name.startswith("anthropic-")}
            name, path = f"{file.parent.name}/{file.stem}", f"/v1/{_PLACES[operation]}{''.join(query)}"
            body = asked["body"].encode(errors="surrogatepass")
            found.append(Asked(name, operation, path, headers, body, exchange["response"]["status"]))
    return found


async def send(requests: list[Asked], path: Path) -> None:
    """Send every request, and note what became of it; ``path`` is an empty folder for the gateways' state.

    Each dialect has a gateway of its own: a model of one name may have been asked for in both.
    """
    for is_responses in (False, True):
        mine = [each for each in requests if (each.operation == "responses") is is_responses]
        if mine:
            folder = path / str(is_responses)
            folder.mkdir()
            await _send(mine, folder)


async def _send(requests: list[Asked], path: Path) -> None:
    seen: list[Seen] = []

    def script(operation: str) -> Any:
        def answer(request: Seen) -> Answer:
            seen.append(request)
            body = json.dumps(_ANSWERS[operation]).encode()
            return Answer(headers=(("content-type", "application/json"),), chunks=(body,))

        return answer

    async with ScriptedUpstream() as upstream:
        for operation, place in _PLACES.items():
            upstream.on_path(f"/v1/{place}", script(operation))
        environ = {"KEY_OF_RECORDED": "recorded"}
        async with (
            running_gateway(_config(requests, upstream.url), path, environ=environ) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=30) as client,
        ):
            for each in requests:
                seen.clear()
                headers = {"content-type": "application/json", **each.headers}
                answer = await client.post(each.path, content=each.body, headers=headers)
                if answer.status_code != 200 or not seen:
                    each.refused = f"{answer.status_code}: {answer.text}"
                else:
                    each.changed = _changed(each, seen[-1])


def _config(requests: list[Asked], url: str) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for each in requests:
        kind = "openai" if each.operation == "responses" else "anthropic"
        models[each.model] = {"provider": kind, "upstream": _UPSTREAM, "price": "free"}
        if kind == "openai":
            models[each.model]["api"] = "responses"
    provider = {"api_key": "env:KEY_OF_RECORDED"}
    providers = {
        "openai": provider | {"type": "openai", "base_url": f"{url}/v1", "always_stream": False},
        "anthropic": provider | {"type": "anthropic", "base_url": url},
    }
    return {"providers": providers, "models": models}


def _changed(each: Asked, seen: Seen) -> str:
    """Compare byte by byte, but for the model's name; name the members of which the value is another."""
    expected = each.body.replace(json.dumps(each.model).encode(), json.dumps(_UPSTREAM).encode(), 1)
    betas = each.headers.get("anthropic-beta", "")
    lost = set(betas.split(",")) - set(seen.headers.get("anthropic-beta", "").split(","))
    found = [f"anthropic-beta without {', '.join(sorted(lost))}"] if betas and lost else []
    if seen.body != expected:
        ours, theirs = json.loads(expected), json.loads(seen.body)
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        found += names or ["the bytes"]
    return "; ".join(found)


def report_requests(requests: list[Asked]) -> str:
    """Write the tables in Markdown: a line for each operation, and for each request that was changed or refused."""
    lines = ["| requests of | kept | unchanged | changed | refused |", "| --- | --- | --- | --- | --- |"]
    for operation in _PLACES:
        mine = [each for each in requests if each.operation == operation]
        refused, changed = sum(bool(each.refused) for each in mine), sum(bool(each.changed) for each in mine)
        lines.append(f"| {operation} | {len(mine)} | {len(mine) - refused - changed} | {changed} | {refused} |")
    lines += ["", "| request | recorded answer | changed or refused |", "| --- | --- | --- |"]
    for each in requests:
        if each.changed or each.refused:
            lines.append(f"| {each.name} | {each.status} | {each.changed or each.refused.replace('|', '/')} |")
    return "\n".join(lines)

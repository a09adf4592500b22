"""``tollway check --online``: asks each target once whether it is there, takes our credential and knows the model.

Decides what is asked, which is what costs least at a provider of that type (``ProviderType.question``): for the model,
for the list of models, or for one token of a chat. Nothing is tried twice, nothing is recorded, and no breaker
counts it. What an upstream says is shown as its first sentence, without what is ours in it.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Literal, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.app import configuration
from gateway.clock import SystemClock
from gateway.config.parts import Tools
from gateway.config.snapshot import ProviderType, Snapshot
from gateway.credentials.base import Signer, further_secrets
from gateway.errors import ErrorKind, UpstreamError, speaks
from gateway.execution.relay import usd
from gateway.fleet import ListedModel
from gateway.formats.base import Format
from gateway.formats.classify import is_of_another_operation, names_no_model
from gateway.formats.malformed import UNREADABLE
from gateway.formats.openai.decode import CHAT, EMBEDDINGS
from gateway.formats.redaction import cleaner, first_sentence
from gateway.routing.registry import policy as policy_of
from gateway.tariff import Usage
from gateway.transport.base import Transport
from gateway.types import Call, Endpoint, Principal, Route, Target, UpstreamRequest

TIMEOUT_S = 20.0
"""For one question, from the look-up of the name to the answer's last byte."""
MAX_AT_ONCE = 16
MAX_ANSWER_BYTES = 16_000_000
_METADATA_HOSTS = frozenset({"fd00:ec2::254", "100.100.100.200", "metadata.google.internal"})
"""Where AWS over IPv6, Alibaba Cloud and Google Cloud hand a machine its own credentials; others are link-local."""
_ATTEMPT_ID = "check"
_TOKENS = Usage(input_tokens=20, output_tokens=1)
"""What the question of one token takes, chat template included, by a generous estimate."""

Verdict = Literal["ok", "wrong", "not asked"]


class Finding(NamedTuple):
    """What came of one target."""

    name: str
    verdict: Verdict
    sentence: str


def metadata_providers(snapshot: Snapshot) -> list[str]:
    """Return the providers whose address is that of a cloud's metadata service, or link-local as those are."""
    targets = [*snapshot.targets.values(), *(each.template for each in snapshot.wildcards)]
    return sorted({each.provider for each in targets if _is_metadata(urlsplit(each.base_url).hostname or "")})


def _is_metadata(host: str) -> bool:
    if host in _METADATA_HOSTS:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_link_local


class TargetQuestion(NamedTuple):
    """What one target is asked; ``about`` None: nothing."""

    target: Target
    about: Literal["model", "models", "chat", "embeddings", "directory"] | None
    models_url: str = ""


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


class _Directory(Struct):
    models: dict[str, ListedModel]


_models = msgspec.json.Decoder(_Models | list[_Model]).decode
_model = msgspec.json.Decoder(_Model).decode
_directory = msgspec.json.Decoder(_Directory).decode


def questions(snapshot: Snapshot) -> list[TargetQuestion]:
    """Choose a question for each target and each wildcard."""
    kinds = snapshot.provider_types
    named = [_question(target, kinds[target.provider]) for target in snapshot.targets.values()]
    return named + [_of_wildcard(each.template, kinds[each.template.provider]) for each in snapshot.wildcards]


def _question(target: Target, kind: ProviderType) -> TargetQuestion:
    models_url = target.base_url + kind.models_path
    if target.cluster_url is not None:
        return TargetQuestion(target, "directory", models_url)
    if kind.question != "chat":
        return TargetQuestion(target, kind.question, models_url)
    able = target.capabilities
    if able is None or "chat" in able:
        return TargetQuestion(target, "chat")
    return TargetQuestion(target, "embeddings" if "embeddings" in able else None)


def _of_wildcard(template: Target, kind: ProviderType) -> TargetQuestion:
    """Choose the list of models for a wildcard, which names none; where the list says nothing of us, nothing."""
    is_asked = kind.question != "chat" and "{upstream}" not in template.base_url
    return TargetQuestion(template, "models" if is_asked else None, template.base_url + kind.models_path)


def price_of_asking(asked: Sequence[TargetQuestion]) -> str:
    """Say what the questions cost."""
    paid = [each.target for each in asked if each.about in {"chat", "embeddings"}]
    free = sum(each.about is not None for each in asked) - len(paid)
    cost = sum(target.rates.in_force(time.time_ns(), {}).cost(_TOKENS) for target in paid)
    parts = [f"{free} by a question that costs nothing"] if free else []
    parts += [f"{len(paid)} for one token, which costs about {usd(cost)} USD in all"] if paid else []
    return f"Asking each target once: {', '.join(parts)}." if parts else "There is nothing that could be asked."


class _WrongError(Exception):
    """What is wrong, in sentences that may be shown."""


class Asker:
    """Asks. The transport must have been started."""

    def __init__(
        self,
        transport: Transport,
        adapters: Mapping[str, Format],
        signers: Mapping[str, Signer],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._transport = transport
        self._adapters = adapters
        self._signers = signers
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._asked: dict[UpstreamRequest, asyncio.Task[tuple[int, Mapping[str, str], bytes]]] = {}
        """A list of models is asked for once for all targets of a provider."""

    async def ask_all(self, asked: Iterable[TargetQuestion]) -> list[Finding]:
        """Ask all, some at a time, and return what came of each, in order."""
        return await asyncio.gather(*map(self._ask, asked))

    async def _ask(self, question: TargetQuestion) -> Finding:
        target = replace(question.target, always_stream=False)
        if question.about is None:
            return Finding(target.id, "not asked", "nothing that costs little would say something of it")
        try:
            return Finding(target.id, "ok", await self._answer(question._replace(target=target)))
        except UpstreamError as error:
            if question.about == "chat" and _does_other_things(error):
                return Finding(target.id, "ok", "it is there and takes the credential; the model does not chat")
            return Finding(target.id, "wrong", self._sentence(error, target))
        except _WrongError as error:
            return Finding(target.id, "wrong", str(error))
        except TimeoutError:
            return Finding(target.id, "wrong", f"There was no answer within {self._timeout_s:g} s.")

    async def _answer(self, question: TargetQuestion) -> str:
        """Ask, and say what is good about the answer. Raises UpstreamError and TimeoutError."""
        target = question.target
        if question.about == "directory":
            return await self._in_cluster(target, question.models_url)
        if question.about == "models":
            return await self._listed(target, question.models_url)
        if question.about == "model":
            name = quote(target.upstream_model, safe="/:")
            try:
                _model(await self._get(target, f"{question.models_url}/{name}"))
            except UNREADABLE:
                raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "What it answered is no model.") from None
            return "the provider knows the model"
        endpoint = CHAT if question.about == "chat" else EMBEDDINGS
        call = self._call(endpoint, target)
        adapter = self._adapters[target.adapter]
        body = self._good(target, *await self._exchange(target, _request(adapter, call, target)))
        decoder = adapter.decoder(call, target)
        decoder.feed(body)
        decoder.finish()
        return "it answered with one token" if endpoint is CHAT else "it answered with a vector"

    async def _listed(self, target: Target, url: str) -> str:
        try:
            found = _models(await self._get(target, url))
        except UNREADABLE:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "What it answered is no list of models.") from None
        names = [each.id for each in (found.data if isinstance(found, _Models) else found)]
        if target.upstream_model and target.upstream_model not in names:
            clean = cleaner(target, further_secrets(target, self._signers))
            shown = [first_sentence(clean(name)) for name in sorted(names)[:5]]
            some = f" It lists {', '.join(shown)}{' ...' if len(names) > 5 else ''}." if names else ""
            raise _WrongError(f"The upstream does not list the model '{target.upstream_model}'.{some}")
        return "the upstream lists the model" if target.upstream_model else f"the upstream lists {len(names)} models"

    async def _in_cluster(self, target: Target, models_url: str) -> str:
        """Ask a directory for the model's replicas, and one of them; without a directory, ask the proxy there."""
        try:
            body = await self._get(target, f"{target.cluster_url}/tollway/replicas")
        except UpstreamError as error:
            if error.upstream_status != 404:
                raise
            return await self._listed(target, models_url)
        try:
            models = _directory(body).models
        except UNREADABLE:
            raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "What it answered is no list of replicas.") from None
        served = {each: model for name, model in models.items() for each in (model.serves or (name,))}
        model = served.get(target.upstream_model)
        if model is None:
            raise _WrongError(f"The directory lists no model '{target.upstream_model}'.")
        if not model.replicas:
            return "the directory lists the model; it has no replica now, and a request starts one"
        replica = replace(target, base_url=model.replicas[0].url)
        try:
            return await self._listed(replica, f"{replica.base_url}/v1/models")
        except UpstreamError as error:
            raise _WrongError(self._sentence(error, replica)) from None  # the address to be left out is the replica's

    async def _get(self, target: Target, url: str) -> bytes:
        """Ask for an address under the target's credential, once for all that ask the same."""
        chat = _request(self._adapters[target.adapter], self._call(CHAT, target), target)
        headers = tuple(each for each in chat.headers if each[0] not in {"content-type", "x-tollway-attempt-id"})
        request = UpstreamRequest(method="GET", url=url, headers=headers, body=b"", pool=target.pool)
        task = self._asked.get(request)
        if task is None:
            task = self._asked[request] = asyncio.create_task(self._exchange(target, request))
        return self._good(target, *await task)

    def _good(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> bytes:
        if not 200 <= status < 300:
            raise self._adapters[target.adapter].failure(status, headers, body)
        return body

    async def _exchange(self, target: Target, request: UpstreamRequest) -> tuple[int, Mapping[str, str], bytes]:
        async with self._places, asyncio.timeout(self._timeout_s):
            if target.credential is not None:
                request = await self._signers[target.signer].sign(request, target.credential)
            async with self._transport.send(request, connect_timeout_s=target.timeouts.connect_s) as answer:
                body = bytearray()
                while piece := await answer.read():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise UpstreamError(ErrorKind.UPSTREAM_PROTOCOL, "The upstream's answer is too large.")
                return answer.status, answer.headers, bytes(body)

    def _call(self, endpoint: Endpoint, target: Target) -> Call:
        """Make the question of one token as a call of a caller's."""
        policy = policy_of(configuration().plain_route(), [target], Tools(SystemClock(), self._adapters))
        members = (
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1} if endpoint is CHAT else {"input": "Hi"}
        )
        envelope = endpoint.decode(msgspec.json.encode({"model": target.upstream_model or "none", **members}))
        return Call(
            id=_ATTEMPT_ID,
            envelope=envelope,
            route=Route(name=target.id, targets=(target,), policy=policy),
            principal=Principal(key_id=_ATTEMPT_ID),
            input_tokens_estimate=_TOKENS.input_tokens,
            output_cap=envelope.max_output_tokens,
            received_at_ns=0,
            deadline_ns=0,
        )

    def _sentence(self, error: UpstreamError, target: Target) -> str:
        """Say what is wrong, with the first sentence of the upstream's own, in which nothing of ours is left."""
        clean = cleaner(target, further_secrets(target, self._signers))
        if error.said is None:
            return first_sentence(clean(error.message))
        said = first_sentence(clean(error.said))
        if error.kind is ErrorKind.UPSTREAM_UNSUPPORTED and names_no_model(error.said):
            return f'The upstream does not know the model. It said: "{said}"'
        if speaks(error.kind, error.upstream_status):
            return said
        return f'{clean(error.message)} It said: "{said}"' if said else clean(error.message)


def _request(adapter: Format, call: Call, target: Target) -> UpstreamRequest:
    return adapter.prepare(call)(target, _ATTEMPT_ID)


def _does_other_things(error: UpstreamError) -> bool:
    """Whether the model is there and refuses this kind of request; a caller's error of that kind may mean its name."""
    return error.kind is ErrorKind.UPSTREAM_UNSUPPORTED and is_of_another_operation(error.said or "")

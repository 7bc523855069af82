"""A provider's answer, from its first content on: falling back is over, usage is known or estimated."""

import sys
import time
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import orjson

from adapters import emit, interface
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import (
    JSON,
    Adapter,
    EmbeddingAdapter,
    StreamRelay,
    Target,
    UpstreamRequest,
)
from adapters.usage import Usage

from .call import Call, Deployment
from .plaintext import plain
from .relays import completion_id, forces_a_tool, relay_for
from .tiers import AttemptTier
from .upstream import UpstreamResponse

MAX_BODY = 64 * 1024 * 1024
"""Decoded bytes of an answer that is not streamed: an upstream's bomb must not become ours."""


class Pourable(Protocol):
    """Where a stream goes: see ``reply.Reply``."""

    def push(self, data: bytes) -> bool: ...
    async def drained(self) -> None: ...
    async def send(self, data: bytes) -> None: ...


class StreamedAnswer:
    """A stream whose first content has arrived."""

    def __init__(
        self,
        deployment: Deployment,
        sent: UpstreamRequest,
        response: UpstreamResponse,
        relay: StreamRelay,
        first: bytes,
        kept: emit.Accumulator | None,
        tier: AttemptTier,
    ) -> None:
        self.deployment = deployment
        self.tier = tier
        self.sent = sent
        self._response = response
        self._relay = relay
        self._first = first
        self._kept = kept
        self._complete = False
        self._charged: Usage | None = None
        self._reply: Pourable
        """Where it is poured."""
        self._since: float | None = None
        """When it was that nothing but heartbeats began to arrive."""
        self.reached = 0.0
        """Seconds until the request was on its way."""
        self.waited = 0.0
        """Seconds from the request to the first content."""
        self._on_end: list[Callable[[], None]] = []

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call once, when the answer is closed or aborted."""
        self._on_end.append(callback)

    @property
    def usage(self) -> Usage | None:
        return self._relay.usage

    @property
    def served_tier(self) -> str:
        """The tier that serves; while the provider has not told, the one it was asked for."""
        told = self._relay.served_tier
        return self.tier.served(told) if told is not None or self._complete else self.tier.expected

    @property
    def finished(self) -> bool:
        """Whether the provider told the end of every choice: its usage is final."""
        return self._relay.finished

    @property
    def text_bytes(self) -> int:
        return self._relay.text_bytes

    @property
    def called_tools(self) -> bool:
        return self._relay.called_tools

    async def pour(self, reply: Pourable) -> None:
        """Send the stream until the provider says that it is over, each piece as it arrives; raises ProviderError.

        The end of the HTTP body is not waited for: some servers leave it open.
        """
        if self._first:
            first, self._first = self._first, b""
            await reply.send(first)
        self._reply, self._since = reply, None
        while not (self._relay.ended or await self._response.pour(self._forward)):
            await reply.drained()

    def _forward(self, data: bytes) -> bool:
        """Send what the bytes of the upstream come to; False: the client is slow, or that was all."""
        out = self._relay.feed(data)
        if out:
            self._since = None
            going_on = out is data or not self._relay.ended  # bytes that go on as they are end nothing
            return self._reply.push(out) and going_on
        if self._relay.ended:
            return False
        self._since = progress(self._since, self.deployment, self.tier)
        return True

    def last(self) -> bytes:
        """The closing bytes, ``[DONE]`` included; raises ProviderError if the stream was cut short."""
        data = self._relay.close()
        self._complete = True
        return data

    def charge(self, usage: Usage) -> None:
        """Tell the client of an estimate, which the provider's silence makes what it pays for."""
        self._charged = usage

    def counted(self, last: bytes) -> bytes:
        """The closing bytes with the usage chunk that the provider left out, where the client asked for one."""
        assert self._charged is not None, "an answer without usage is charged an estimate"
        return last.removesuffix(emit.DONE) + self._relay.usage_chunk(self._charged) + emit.DONE

    def completion(self, call: Call) -> JSON | None:
        """The whole answer as the client could put it together, where it was asked to be kept; after ``last``."""
        if self._kept is None:
            return None
        answer = interface.Answer(self._kept.completion(), self.usage or self._charged, self.served_tier)
        return _lawful(answer, call, self.deployment)

    async def close(self) -> None:
        self._ended()
        await self._response.close()

    def abort(self) -> None:
        self._ended()
        self._response.abort()

    def _ended(self) -> None:
        while self._on_end:
            self._on_end.pop()()


class WholeAnswer:
    """An answer that is not streamed, complete."""

    finished = True

    def __init__(
        self,
        deployment: Deployment,
        sent: UpstreamRequest,
        body: bytes,
        usage: Usage | None,
        tier: AttemptTier,
        served_tier: str,
        completion: JSON,
    ) -> None:
        self.deployment = deployment
        self.sent = sent
        self.body = body
        self.usage = usage
        self.tier = tier
        self.served_tier = served_tier
        self.reached = 0.0
        """Seconds until the request was on its way."""
        self.waited = 0.0
        """Seconds from the request to its last byte."""
        self._completion = completion

    @property
    def text_bytes(self) -> int:
        """Of the generated text, without the JSON around it."""
        return sum(map(_text_bytes, self._completion.get("choices") or ()))

    @property
    def called_tools(self) -> bool:
        messages = [choice.get("message") or {} for choice in self._completion.get("choices") or ()]
        return any(message.get("tool_calls") or message.get("function_call") for message in messages)

    def charge(self, usage: Usage) -> None:
        """Tell the client of an estimate, which the provider's silence makes what it pays for."""
        told = usage.to_openai()
        if "choices" not in self._completion:
            told = {name: told[name] for name in ("prompt_tokens", "total_tokens")}  # all that embeddings have
        self._completion["usage"] = told
        self.body = orjson.dumps(self._completion)

    def completion(self, call: Call) -> JSON:  # noqa: ARG002 - a streamed answer needs it
        return self._completion


Answer: TypeAlias = StreamedAnswer | WholeAnswer


def _text_bytes(choice: Mapping[str, Any]) -> int:
    message = choice.get("message") or {}
    calls = [c.get("function") or c.get("custom") or {} for c in message.get("tool_calls") or ()]
    texts = [message.get("content"), message.get("refusal"), message.get("reasoning_content")]
    texts += [c.get("arguments") or c.get("input") for c in calls]
    return sum(len(text.encode("utf-8", "replace")) for text in texts if isinstance(text, str))


class Ended:
    """A relay whose stream ended before any content: all its bytes are last bytes."""

    started = True
    finished = True
    ended = True

    def __init__(self, relay: StreamRelay, rest: bytes) -> None:
        self._relay = relay
        self._rest = rest
        self.usage = relay.usage
        self.served_tier = relay.served_tier
        self.text_bytes = relay.text_bytes
        self.called_tools = relay.called_tools

    def feed(self, data: bytes) -> bytes:  # noqa: ARG002 - nothing comes after the end
        return b""

    def close(self) -> bytes:
        return self._rest

    def usage_chunk(self, usage: Usage) -> bytes:
        return self._relay.usage_chunk(usage)


class Chat:
    """Create Chat Completion."""

    name = "chat"

    def prepare(self, adapter: Adapter, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        return adapter.prepare(request, target)

    async def read(
        self, call: Call, deployment: Deployment, sent: UpstreamRequest, tier: AttemptTier, response: UpstreamResponse
    ) -> Answer:
        if call.stream:
            return await _first_content(call, deployment, sent, tier, response)
        return self.whole(call, deployment, sent, tier, await response.read(MAX_BODY))

    def whole(
        self, call: Call, deployment: Deployment, sent: UpstreamRequest, tier: AttemptTier, body: bytes
    ) -> WholeAnswer:
        """Read a complete answer; raises ProviderError where it is none."""
        answer = deployment.adapter.parse(body, sent)
        served = tier.served(answer.served_tier)
        if answer.body is not None and answer.served_tier == served and len(answer.completion["choices"]) >= call.n:
            return WholeAnswer(deployment, sent, answer.body, answer.usage, tier, served, answer.completion)
        completion = _lawful(replace(answer, served_tier=served), call, deployment)
        return WholeAnswer(deployment, sent, orjson.dumps(completion), answer.usage, tier, served, completion)


class Embeddings:
    """Create Embeddings."""

    name = "embeddings"

    def prepare(self, adapter: Adapter, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        if not isinstance(adapter, EmbeddingAdapter):
            raise UnsupportedParameter("model", "This model has no embeddings.")
        return adapter.prepare_embeddings(request, target)

    async def read(
        self, call: Call, deployment: Deployment, sent: UpstreamRequest, tier: AttemptTier, response: UpstreamResponse
    ) -> WholeAnswer:
        return self.whole(call, deployment, sent, tier, await response.read(MAX_BODY))

    def whole(
        self, call: Call, deployment: Deployment, sent: UpstreamRequest, tier: AttemptTier, body: bytes
    ) -> WholeAnswer:
        assert isinstance(deployment.adapter, EmbeddingAdapter), "prepare has seen to it"
        answer = deployment.adapter.parse_embeddings(body, sent)
        data, given = answer.completion["data"], call.request["input"]
        if len(data) != (1 if type(given) is str or type(given[0]) is int else len(given)):
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream did not return one embedding for each input.")
        told = packed if call.request.get("encoding_format") == "base64" else unpacked
        for item in data:
            item["embedding"] = told(item["embedding"])
        whole = {**answer.completion, "model": answer.completion.get("model") or deployment.target.model}
        return WholeAnswer(deployment, sent, orjson.dumps(whole), answer.usage, tier, "default", whole)


def packed(embedding: list[float] | str) -> str:
    """Little-endian float32 in base64: what the SDKs ask for when the caller names no format (checklist C-505)."""
    if isinstance(embedding, str):
        _bytes(embedding)
        return embedding
    numbers = array("f", embedding)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()


def unpacked(embedding: list[float] | str) -> list[float]:
    """The numbers of either form."""
    if not isinstance(embedding, str):
        return embedding
    numbers = array("f", _bytes(embedding))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _bytes(text: str) -> bytes:
    """Of float32 in base64; raises ProviderError for a text that is none."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        data = b""
    if not data or len(data) % 4:
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an embedding that is not a list of numbers.")
    return data


def progress(since: float | None, deployment: Deployment, tier: AttemptTier) -> float:
    """When it was that nothing but heartbeats began to arrive; raises ProviderError when that is too long ago."""
    now = time.monotonic()
    if since is None:
        return now
    if now - since > deployment.tier_timeouts.get(tier.expected, deployment.timeouts).progress:
        raise ProviderError(ErrorKind.TIMEOUT, "The provider sent nothing but heartbeats for too long.")
    return since


async def _first_content(
    call: Call, deployment: Deployment, sent: UpstreamRequest, tier: AttemptTier, response: UpstreamResponse
) -> StreamedAnswer:
    """Read until the model has said something: up to here nothing was sent, and another may still answer."""
    wanted = call.store or call.traced or (deployment.resumable and plain(call))
    kept = emit.Accumulator() if wanted else None
    relay = relay_for(call, deployment, sent, kept, tier)
    held: list[bytes] = []
    since = None
    while not relay.started:
        since = progress(since, deployment, tier)
        data = b"" if relay.ended else await response.chunk()
        if not data:
            # Over before any content: lawful only for an answer that is complete without any.
            held.append(relay.close())
            return StreamedAnswer(deployment, sent, response, Ended(relay, b"".join(held)), b"", kept, tier)
        held.append(relay.feed(data))
    response.content()
    return StreamedAnswer(deployment, sent, response, relay, b"".join(held), kept, tier)


def _lawful(answer: interface.Answer, call: Call, deployment: Deployment) -> JSON:
    return emit.completion(
        answer,
        id=completion_id(call),
        created=call.created,
        model=deployment.target.model,
        forced_tool=forces_a_tool(call),
        functions=bool(call.request.get("functions")),
        n=call.n,
    )

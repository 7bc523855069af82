"""The demo upstream's HTTP side: aiohttp on loopback, and the faults that need a socket."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from adapters.usage import Usage

from . import cohere, gemini, openai
from .answer import Dialect, Prompt, answer
from .anthropic import AnthropicDialect
from .bedrock import BedrockDialect
from .cohere import CohereDialect
from .family import AzureDialect, MistralDialect
from .gemini import GeminiDialect
from .journal import Journal
from .openai import OpenAIDialect
from .playback import Exchange
from .refusals import REFUSALS
from .scripts import SCRIPTS, Script, script_for

MAX_BODY = 512 * 1024 * 1024
_GOOGLE = "/projects/{project}/locations/{location}/publishers"
CHAT: Sequence[tuple[str, Dialect]] = (
    ("/openai/v1/chat/completions", OpenAIDialect()),
    ("/anthropic/v1/messages", AnthropicDialect()),
    ("/azure/openai/v1/chat/completions", AzureDialect()),
    ("/azure/openai/deployments/{deployment}/chat/completions", AzureDialect()),
    ("/mistral/v1/chat/completions", MistralDialect()),
    ("/cohere/v2/chat", CohereDialect()),
    ("/bedrock/model/{model}/{operation:converse(-stream)?}", BedrockDialect()),
    ("/gemini/v1beta/models/{model}:{operation:(g|streamG)enerateContent}", GeminiDialect()),
    ("/vertex/v1beta1" + _GOOGLE + "/google/models/{model}:{operation:(g|streamG)enerateContent}", GeminiDialect()),
    ("/vertex/v1" + _GOOGLE + "/anthropic/models/{model}:{operation:(r|streamR)awPredict}", AnthropicDialect()),
)
"""Where each dialect is spoken."""
EMBEDDINGS: Sequence[tuple[str, Dialect, Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]]]] = (
    ("/openai/v1/embeddings", OpenAIDialect(), openai.embeddings),
    ("/azure/openai/v1/embeddings", AzureDialect(), openai.embeddings),
    ("/mistral/v1/embeddings", MistralDialect(), openai.embeddings),
    ("/cohere/v2/embed", CohereDialect(), cohere.embeddings),
    ("/gemini/v1beta/models/{model}:batchEmbedContents", GeminiDialect(), gemini.embeddings),
    ("/vertex/v1beta1" + _GOOGLE + "/google/models/{model}:predict", GeminiDialect(), gemini.predictions),
)


async def start(host: str = "127.0.0.1", port: int = 0) -> "DemoUpstream":
    """Serve; port 0 takes a free one."""
    upstream = DemoUpstream()
    await upstream.listen(host, port)
    return upstream


@dataclass(frozen=True, slots=True)
class Verbatim:
    """An answer to the letter. An event stream is written one event at a time."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class DemoUpstream:
    """A running demo upstream."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.in_flight = 0
        """Requests being answered now."""
        self.scripts: dict[str, Script] = {}
        """Scripts of models by name, instead of what the name says: change them while it runs."""
        self.verbatim: dict[str, Verbatim] = {}
        """What models answer by name, word for word, instead of playing a script."""
        self.url = ""
        self._seen: Counter[str] = Counter()
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes([web.post(path, self._speaking(dialect)) for path, dialect in CHAT])
        app.add_routes([web.post(path, self._embedding(dialect, how)) for path, dialect, how in EMBEDDINGS])
        app.add_routes(
            [
                web.get("/openai/v1/models", self._models),
                web.get("/journal", self._read_journal),
                web.delete("/journal", self._clear_journal),
                web.get("/stats", self._stats),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)

    @property
    def openai_url(self) -> str:
        """The base URL for the OpenAI dialect."""
        return f"{self.url}/openai/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for the Anthropic dialect."""
        return f"{self.url}/anthropic"

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._runner.server.connections) if self._runner.server else 0

    async def listen(self, host: str, port: int) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=4096)
        await site.start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        await self._runner.cleanup()

    def _speaking(self, dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            self.in_flight += 1
            try:
                return await self._answer(request, dialect)
            finally:
                self.in_flight -= 1

        return handler

    async def _answer(self, request: web.Request, dialect: Dialect) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
            prompt = dialect.read(_addressed(body, request))
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.json_response(dialect.refusal(REFUSALS["invalid"]), status=400)
        entry = self.journal.open(dialect.name, prompt.model, _headers(request), body, stream=prompt.stream)
        if (fixed := self.verbatim.get(prompt.model)) is not None:
            entry.status, entry.complete = fixed.status, True
            return await _recite(request, fixed)
        script = self.scripts.get(prompt.model) or script_for(prompt.model)
        self._seen[prompt.model] += 1
        exchange = Exchange(
            request, dialect, prompt, script or Script(), entry, _strikes(script, self._seen[prompt.model])
        )
        if script is None:
            return exchange.refuse(REFUSALS["model"])
        try:
            return await _play(exchange)
        except (asyncio.CancelledError, ConnectionError):
            entry.aborted_at = entry.usage.completion_tokens if entry.status else -1
            entry.complete = False
            raise

    def _embedding(
        self, dialect: Dialect, embeddings: Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                body = orjson.loads(await request.read())
                model: str = _addressed(body, request)["model"]
                result, tokens = embeddings(body)
            except (ValueError, KeyError, TypeError, AttributeError):
                return web.json_response(dialect.refusal(REFUSALS["invalid"]), status=400)
            script = script_for(model)
            entry = self.journal.open(dialect.name, model, _headers(request), body, stream=False)
            prompt = Prompt(model=model, words=tokens)
            exchange = Exchange(request, dialect, prompt, script or Script(), entry, strikes=True)
            if script is None or script.fault:
                return exchange.refuse(REFUSALS[script.fault if script else "model"])
            entry.status, entry.usage, entry.reported, entry.complete = 200, Usage(input=tokens), True, True
            return web.json_response(result, headers=dialect.headers(entry.number))

        return handler

    async def _models(self, _request: web.Request) -> web.Response:
        names = ["demo", *(f"demo-{name}" for name in SCRIPTS)]
        data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "demo"} for name in names]
        return web.json_response({"object": "list", "data": data})

    async def _read_journal(self, _request: web.Request) -> web.Response:
        entries = [entry.to_json() for entry in self.journal]
        return web.json_response({"entries": entries, "totals": self.journal.totals()})

    async def _clear_journal(self, _request: web.Request) -> web.Response:
        self.journal.clear()
        return web.Response(status=204)

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response({"in_flight": self.in_flight, "connections": self.connections})


def _addressed(body: Any, request: web.Request) -> dict[str, Any]:
    """The body with the model and the kind of answer, where the address tells them."""
    told: dict[str, Any] = {**body}
    path = request.match_info
    if "model" in path:
        told["model"] = path["model"]
    if "operation" in path:
        told["stream"] = "stream" in path["operation"]
    return told


async def _play(exchange: Exchange) -> web.StreamResponse:
    prompt, script = exchange.prompt, exchange.script
    await asyncio.sleep(script.delay)
    if script.refuse_tier and script.refuse_tier == prompt.tier:
        return exchange.refuse(REFUSALS["capacity"])
    if exchange.strikes and script.fault:
        return exchange.refuse(REFUSALS[script.fault])
    try:
        played = answer(prompt, script, exchange.entry.number)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):  # a schema that is none
        return exchange.refuse(REFUSALS["invalid"])
    return await exchange.play(played)


async def _recite(request: web.Request, fixed: Verbatim) -> web.StreamResponse:
    headers = {"content-type": fixed.content_type, **fixed.headers}
    if fixed.content_type != "text/event-stream":
        return web.Response(status=fixed.status, body=fixed.body, headers=headers)
    response = web.StreamResponse(status=fixed.status, headers=headers)
    await response.prepare(request)
    for event in fixed.body.split(b"\n\n"):
        if event:
            await response.write(event + b"\n\n")
    await response.write_eof()
    return response


def _headers(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def _strikes(script: Script | None, seen: int) -> bool:
    """Whether a model's request, the so-many-th, meets its script's fault."""
    if script is None:
        return False
    turn = seen <= script.first if script.first else seen % script.every == 0
    return turn and random.random() < script.chance  # noqa: S311 - an upstream's bad luck

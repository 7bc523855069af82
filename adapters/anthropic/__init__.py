"""Claude by Anthropic: Chat Completions <-> Messages.

What is decided where a client could expect otherwise:

* Thinking survives a round trip in ``thinking_blocks`` only; see ``thinking`` for what happens without.
* ``n`` over 1 is refused: the provider has no such thing, and fewer choices than asked for would be silent.
* Temperatures over 1 are sent as 1. Sampling that a model refuses is left out and named.
* A conversation that ends with the assistant's words is continued where the model can, else answered.
* A JSON schema that the provider's subset cannot say is a tool that must be called, whose arguments are the content.
* Server-side tools (web search) never appear as tool calls; their charges are in ``Usage.calls``.
"""

from collections.abc import Mapping
from typing import Any

from ..continuation import begun
from ..errors import ProviderError
from ..interface import Answer, ChatRequest, CredentialSpec, StreamTranslator, Target, UpstreamRequest
from ..jsonio import dumps
from ..options import decode
from . import models, response
from .options import AnthropicOptions
from .platform import ANTHROPIC
from .request import PARAMS, TIERS, draft
from .stream import MessagesStream

DEFAULT = AnthropicOptions()


class Anthropic:
    params = PARAMS
    base_url = "https://api.anthropic.com"
    tiers = TIERS
    reports_tier = True
    flex_refusals: frozenset[int] = frozenset()

    def options(self, raw: Mapping[str, Any]) -> AnthropicOptions:
        return decode(AnthropicOptions, raw)

    def credential(self, options: Any) -> CredentialSpec | None:  # noqa: ARG002 - the interface's
        return None

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        options = target.options or DEFAULT
        made = draft(request, target, options, ANTHROPIC)
        headers = {"anthropic-version": options.version, "content-type": "application/json", **target.headers}
        if target.api_key:  # an empty one is refused, whatever `authorization` says
            headers.setdefault("x-api-key", target.api_key)
        if made.betas:
            own = (beta.strip() for beta in headers.get("anthropic-beta", "").split(","))
            headers["anthropic-beta"] = ",".join(dict.fromkeys([*made.betas, *filter(None, own)]))
        return UpstreamRequest(
            f"{target.base_url.removesuffix('/v1')}/v1/messages",
            headers,
            dumps({"model": target.model, **made.body}),
            bool(request.get("stream")),
            made.dropped,
            made.notes,
        )

    def parse(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return response.parse(body, sent)

    def stream(self, sent: UpstreamRequest) -> StreamTranslator:
        return MessagesStream(sent)

    def continuing(self, request: ChatRequest, said: str, target: Target) -> tuple[ChatRequest, Target] | None:
        options = target.options or DEFAULT
        gates = models.gates(options.same_as.get(target.model, target.model))
        return (begun(request, said), target) if gates.prefill else None

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return response.error(status, headers, body)

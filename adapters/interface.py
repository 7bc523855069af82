"""The one interface between the gateway and a provider. Read this first.

An adapter is sans-IO: it turns values into bytes and bytes into values, and never opens a socket,
reads a clock or awaits. The gateway calls it in this order::

    sent = adapter.prepare(request, target)      # ChatRequest -> UpstreamRequest
    ...the gateway sends it...
    adapter.error(status, headers, body)         # status other than 2xx -> ProviderError
    adapter.parse(body, sent)                    # the whole body -> Answer
    translator = adapter.stream(sent)            # or, streamed: one translator per response
    translator.feed(data) ... translator.close() # bytes -> chunks

A further capability (byte relay, embeddings) is a further small Protocol that an adapter satisfies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from .errors import ProviderError
from .params import Fate, Policy
from .usage import Usage
from .values import Answer, UpstreamRequest

JSON: TypeAlias = dict[str, Any]
ChatRequest: TypeAlias = Mapping[str, Any]
"""A validated Chat Completions request body. Never changed in place: prepare() builds a new one."""
Chunk: TypeAlias = JSON
"""A loose ``chat.completion.chunk``: ``{"choices": [{"index", "delta", "finish_reason"?, "logprobs"?}]}``.

A translator says what happened; ``adapters.emit.StreamWriter`` makes it lawful (id, created, model,
role once, dense tool indexes, usage chunk, obfuscation), so no translator repeats those rules.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """The upstream model an adapter translates for."""

    base_url: str
    """Without a trailing slash."""
    model: str
    """The provider's own name for the model."""
    api_key: str = field(default="", repr=False)
    """The credential to send now; for expiring credentials the token of the moment."""
    options: Any = field(default=None, repr=False)
    """What ``Adapter.options`` made of the provider's ``options`` in the config."""
    unsupported: Policy = "translate"
    allow: frozenset[str] = frozenset()
    """Extensions that the model's ``params.allow`` passes on unchanged."""
    max_output: int | None = None
    """The most tokens the model can generate, where known: for providers that demand a bound."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Extra headers from the config."""
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What an adapter works out from all this once, for every request. A changed copy begins with none."""


class StreamTranslator(Protocol):
    """Provider bytes in, loose chunks out. One instance per response.

    ``feed`` and ``close`` raise ProviderError for an error event inside the stream, a malformed event,
    or (``close``) a stream cut short. Chunks that precede the error in the same bytes are not lost: they are
    returned first and the error is raised by the next call.
    """

    @property
    def usage(self) -> Usage | None:
        """What the provider has reported so far."""
        ...

    @property
    def served_tier(self) -> str | None: ...

    @property
    def ended(self) -> bool:
        """Whether the provider said that nothing more comes, or an error waits to be raised: the bytes need not be over.

        False throughout in a dialect whose only end is that of the bytes.
        """
        ...

    def feed(self, data: bytes) -> list[Chunk]: ...

    def close(self) -> list[Chunk]:
        """Tell that the bytes are over; raise ProviderError if the stream was cut short."""
        ...


class StreamRelay(Protocol):
    """Provider bytes in, client-ready SSE bytes out: for upstreams that speak our dialect. One per response."""

    @property
    def usage(self) -> Usage | None: ...
    @property
    def served_tier(self) -> str | None: ...
    @property
    def started(self) -> bool:
        """Whether any answer (content, a tool call, a finish) has been seen: from here on falling back is over."""
        ...

    @property
    def finished(self) -> bool:
        """Whether every choice has ended: usage that was reported is final."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the provider said that nothing more comes, or an error waits to be raised: the bytes need not be over."""
        ...

    @property
    def text_bytes(self) -> int:
        """An upper estimate of the generated text and arguments of tools so far, in bytes: for settling without usage."""
        ...

    @property
    def called_tools(self) -> bool:
        """Whether any tool call has been seen: it has tokens besides its arguments."""
        ...

    def feed(self, data: bytes) -> bytes: ...
    def close(self) -> bytes:
        """The rest, ``[DONE]`` included; raises ProviderError if the stream was cut short."""
        ...

    def usage_chunk(self, usage: Usage) -> bytes:
        """The chunk before ``[DONE]`` for a client that asked for usage which the provider did not tell; else empty."""
        ...


@dataclass(frozen=True, slots=True)
class CredentialSpec:
    """Which kind of expiring credential or signature the gateway must provide for an adapter's requests."""

    kind: Literal["google", "entra", "aws"]
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Adapter(Protocol):
    """A provider's dialect. Stateless: one instance serves all requests of a provider."""

    params: Mapping[str, Fate]
    """The fate of every Chat Completions parameter: the table that ``prepare`` uses and the documents show."""
    base_url: str
    """The provider's public endpoint; empty when the config must name one."""
    tiers: Mapping[str, str]
    """Service tiers that the provider has: OpenAI's word -> the provider's. Empty when it has none.

    Where only some accounts or models have them, ``tiers_declared`` is true as well: then a deployment must name them.
    """
    reports_tier: bool
    """Whether an answer names the tier that served it; where none ever does, a tier that was accepted has served."""
    flex_refusals: frozenset[int]
    """Statuses that mean no capacity for flex, where the error itself does not tell it from other overload."""

    def options(self, raw: Mapping[str, Any]) -> Any:
        """Decode the provider's ``options`` once, at load; raises ValueError naming the bad key."""
        ...

    def credential(self, options: Any) -> CredentialSpec | None:
        """The expiring credential that requests need, or None for a static ``api_key``."""
        ...

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        """Translate; raises UnsupportedParameter for what the provider cannot take and policy does not drop."""
        ...

    def parse(self, body: bytes, sent: UpstreamRequest) -> Answer:
        """Translate a 2xx body; raises ProviderError if it is not an answer (an error in a 200 included)."""
        ...

    def stream(self, sent: UpstreamRequest) -> StreamTranslator: ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Classify a failure; header names are lower case."""
        ...


ServedTier: TypeAlias = Callable[[str | None], str]
"""What an answer's ``service_tier`` shall say, by what the provider told of it (in OpenAI's words, or None)."""


def told_or_default(told: str | None) -> str:
    """The provider's own word."""
    return told or "default"


@runtime_checkable
class RelayAdapter(Protocol):
    """An adapter whose streams may be relayed frame by frame."""

    def relay(
        self, sent: UpstreamRequest, *, include_usage: bool, served: ServedTier = told_or_default
    ) -> StreamRelay | None:
        """A relay for this response, or None when it must be translated. Every frame names the tier of ``served``."""
        ...


@runtime_checkable
class EmbeddingAdapter(Protocol):
    """An adapter whose provider has embeddings."""

    def prepare_embeddings(self, request: Mapping[str, Any], target: Target) -> UpstreamRequest: ...

    def parse_embeddings(self, body: bytes, sent: UpstreamRequest) -> Answer:
        """``completion`` is a CreateEmbeddingResponse whose embeddings are lists of floats, or float32 in base64."""
        ...


@runtime_checkable
class ContinuingAdapter(Protocol):
    """An adapter some of whose models go on with an answer that was begun."""

    def continuing(self, request: ChatRequest, said: str, target: Target) -> tuple[ChatRequest, Target] | None:
        """What to ``prepare`` for the rest of an answer that begins with ``said``; None where it would begin anew."""
        ...


__all__: Sequence[str] = [
    "JSON",
    "Adapter",
    "Answer",
    "ChatRequest",
    "Chunk",
    "ContinuingAdapter",
    "CredentialSpec",
    "EmbeddingAdapter",
    "RelayAdapter",
    "ServedTier",
    "StreamRelay",
    "StreamTranslator",
    "Target",
    "UpstreamRequest",
    "told_or_default",
]

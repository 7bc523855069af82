"""What turns an upstream's stream into the client's: its own bytes where they will do, else chunks written anew."""

from functools import cache
from typing import cast

from adapters import emit
from adapters.interface import Adapter, RelayAdapter, StreamRelay, StreamTranslator, UpstreamRequest
from adapters.usage import Usage

from .call import Call, Deployment
from .tiers import AttemptTier


class Translated:
    """A translator and the writer of lawful chunks, behind the interface of a relay."""

    def __init__(
        self,
        translator: StreamTranslator,
        writer: emit.StreamWriter,
        keep: emit.Accumulator | None,
        tier: AttemptTier,
    ) -> None:
        self._translator = translator
        self._tier = tier
        self._writer = writer
        self._keep = keep

    @property
    def usage(self) -> Usage | None:
        return self._translator.usage

    @property
    def served_tier(self) -> str | None:
        return self._translator.served_tier

    @property
    def started(self) -> bool:
        return self._writer.started

    @property
    def finished(self) -> bool:
        return self._writer.finished

    @property
    def ended(self) -> bool:
        return self._translator.ended

    @property
    def text_bytes(self) -> int:
        return self._writer.text_bytes

    @property
    def called_tools(self) -> bool:
        return self._writer.called_tools

    def feed(self, data: bytes) -> bytes:
        chunks = self._translator.feed(data)
        if self._keep is not None:
            self._keep.add(chunks)
        return self._writer.write(chunks, None if self._writer.started else self._known)

    def close(self) -> bytes:
        chunks = self._translator.close()
        if self._keep is not None:
            self._keep.add(chunks)
        return self._writer.write(chunks, None if self._writer.started else self._known) + self._writer.finish(
            self.usage, self._tier.served(self.served_tier)
        )

    def usage_chunk(self, usage: Usage) -> bytes:
        return self._writer.usage_chunk(usage)

    @property
    def _known(self) -> str:
        """The tier that serves, or while the provider has not told the one it was asked for."""
        told = self.served_tier
        return self._tier.served(told) if told is not None else self._tier.expected


def relay_for(
    call: Call, deployment: Deployment, sent: UpstreamRequest, keep: emit.Accumulator | None, tier: AttemptTier
) -> StreamRelay:
    """The byte path where the upstream speaks our dialect and nobody needs the chunks; else translation."""
    adapter = deployment.adapter
    if keep is None and _relays(type(adapter)):
        relay = cast("RelayAdapter", adapter).relay(sent, include_usage=call.include_usage, served=tier.served)
        if relay is not None:
            return relay
    writer = emit.StreamWriter(
        id=completion_id(call),
        created=call.created,
        model=deployment.target.model,
        include_usage=call.include_usage,
        obfuscation=call.obfuscation,
        n=call.n,
        service_tier=tier.expected,
        forced_tool=forces_a_tool(call),
        functions=bool(call.request.get("functions")),
    )
    return Translated(adapter.stream(sent), writer, keep, tier)


@cache
def _relays(kind: type[Adapter]) -> bool:
    """Whether it is a RelayAdapter; asking that of an object is dear."""
    return issubclass(kind, RelayAdapter)


def completion_id(call: Call) -> str:
    """An id for providers that have none of their own kind."""
    return f"chatcmpl-{call.id.removeprefix('req_')}"


def forces_a_tool(call: Call) -> bool:
    """Whether one named tool must be called: such answers finish with ``stop`` (checklist C-266)."""
    choice = call.request.get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") == "function"

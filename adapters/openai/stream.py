"""A stream of an OpenAI-shaped provider, mended: chunks in any of the family's variants become loose chunks."""

from typing import Any

from ..accumulate import chunks as synthesise
from ..classify import embedded_error
from ..errors import ErrorKind, ProviderError, bare
from ..interface import JSON, Chunk
from ..jsonio import loads
from ..sse import MAX_EVENT_BYTES, Event, SSEDecoder
from ..usage import Usage
from .dialect import Dialect, read_usage, told_tier, told_usage
from .response import failure, lawful, mend, parse, sources, split
from .think import ThinkSplitter

_TOP = ("model", "system_fingerprint", "moderation")


class Translator:
    """Provider bytes in, loose chunks out."""

    def __init__(self, dialect: Dialect) -> None:
        self.usage: Usage | None = None
        self.served_tier: str | None = None
        self._dialect = dialect
        self._sse = SSEDecoder()
        self._started = False
        self._json: bytearray | None = None
        """A body that is no event stream: an error, or a whole answer of a server that cannot stream."""
        self._done = False
        self._open: set[int] = set()
        """Choices that began and did not end."""
        self._ended: set[int] = set()
        self._thinking: dict[int, ThinkSplitter] = {}
        self._annexes: JSON = {}
        """Repeated on every chunk: the last ones count."""
        self._failure: ProviderError | None = None

    @property
    def ended(self) -> bool:
        return self._done or self._failure is not None

    def feed(self, data: bytes) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure.again()
        if not self._started and not self._begin(data):
            return []
        if self._json is not None:
            self._json += data
            if len(self._json) > MAX_EVENT_BYTES:
                raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an answer that is too large.")
            return []
        out: list[Chunk] = []
        try:
            for event in self._sse.feed(data):
                self._event(event, out)
        except ProviderError as error:
            if not out:
                raise
            self._failure = bare(error)
        return out

    def close(self) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure.again()
        if self._json is not None:
            return self._whole(bytes(self._json))
        out = self._last()
        natural = self._done or (self._dialect.lenient and self._ended and not self._open)
        if not natural or not (self._open or self._ended):
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's answer ended before it was complete.")
        if self._annexes:
            out.append({"choices": [{"index": 0, "delta": self._annexes}]})
        if self._dialect.lenient:
            out += [{"choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in sorted(self._open)]
        return out

    def _last(self) -> list[Chunk]:
        """A last event without its blank line: whole, or cut short."""
        out: list[Chunk] = []
        try:
            for event in self._sse.feed(b"\n\n"):
                self._event(event, out)
        except ProviderError as error:
            if error.kind is not ErrorKind.PROTOCOL:
                raise
        return out

    def _begin(self, data: bytes) -> bool:
        """Look at the first byte that is no blank (DeepSeek sends blank lines while it waits)."""
        first = data.lstrip()[:1]
        self._started = bool(first)
        if first in (b"{", b"["):
            self._json = bytearray()
        return self._started

    def _whole(self, body: bytes) -> list[Chunk]:
        answer = parse(body, self._dialect)
        self.usage, self.served_tier = answer.usage, answer.served_tier
        return synthesise(answer.completion)

    def _event(self, event: Event, out: list[Chunk]) -> None:
        data = event.data
        if self._done or not data or data.isspace():
            return
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            self._done = True
            return
        chunk = loads(data)
        if not isinstance(chunk, dict):
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an event that is not a chunk.")
        if (error := failure(chunk, event.event)) is not None:
            raise embedded_error(error)
        self._account(chunk)
        choices = chunk.get("choices")
        mended = [self._choice(c) for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
        if mended or isinstance(chunk.get("moderation"), dict):
            told: Chunk = {key: chunk[key] for key in _TOP if chunk.get(key)}
            if self.served_tier is not None:
                told["service_tier"] = self.served_tier
            told["choices"] = mended
            out.append(told)

    def _account(self, chunk: JSON) -> None:
        given = told_usage(chunk)
        if given and (usage := read_usage(given)) is not None:
            self.usage = usage
        if (tier := told_tier(self._dialect, chunk)) is not None:
            self.served_tier = tier
        self._annexes.update(sources(chunk))

    def _choice(self, choice: JSON) -> JSON:
        index = choice.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else 0
        delta: Any = choice.get("delta")
        told: JSON = {"index": index, "delta": mend(delta) if isinstance(delta, dict) else {}}
        if (logprobs := lawful(choice.get("logprobs"))) is not None:
            told["logprobs"] = logprobs
        reason = choice.get("finish_reason")
        if self._dialect.think_tags is not None:
            self._split(index, told["delta"], ended=bool(reason))
        if isinstance(reason, str) and reason:
            told["finish_reason"] = reason
            self._open.discard(index)
            self._ended.add(index)
        elif index not in self._ended:
            self._open.add(index)
        return told

    def _split(self, index: int, delta: JSON, *, ended: bool) -> None:
        splitter = self._thinking.setdefault(index, ThinkSplitter(self._dialect.think_tags or "explicit"))
        reasoning, content = splitter.feed(delta.get("content") or "")
        if ended:
            rest = splitter.close()
            reasoning, content = reasoning + rest[0], content + rest[1]
        split(delta, reasoning, content)

"""Gemini's streams: server-sent events, or JSON where a proxy, an error or a forgotten ``alt=sse`` makes it so."""

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ErrorKind, ProviderError, bare
from ..interface import Chunk
from ..jsonio import loads
from ..sse import MAX_EVENT_BYTES, SSEDecoder
from ..usage import Usage
from .response import Reader
from .signatures import Memory

_DECODER = json.JSONDecoder()
_BETWEEN = " \t\r\n[],"


class Translator:
    """The StreamTranslator of Gemini."""

    def __init__(self, notes: Mapping[str, Any], memory: Memory) -> None:
        self._reader = Reader(notes, memory)
        self._source = _Source()
        self._failure: ProviderError | None = None

    @property
    def usage(self) -> Usage | None:
        return self._reader.usage

    @property
    def served_tier(self) -> str | None:
        return self._reader.served_tier

    @property
    def ended(self) -> bool:
        return self._failure is not None

    def feed(self, data: bytes) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure.again()
        chunks: list[Chunk] = []
        try:
            for response in self._source.feed(data):
                chunks.extend(self._reader.read(response))
        except ProviderError as failure:
            self._fail(failure, chunks)
        return chunks

    def close(self) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure.again()
        chunks: list[Chunk] = []
        for response in self._source.close():
            chunks.extend(self._reader.read(response))
        return chunks + self._reader.end()

    def _fail(self, failure: ProviderError, chunks: list[Chunk]) -> None:
        """What preceded the failure is not lost: it is returned now, and the failure raised by the next call."""
        self._failure = bare(failure)
        if not chunks:
            raise self._failure.again()


class _Source:
    """Bytes in, decoded objects out.

    An error in the middle of a stream is no event but bare JSON after a blank line. No field of an event begins
    with a brace or bracket, so a line that does is the begin of JSON up to the end of the bytes.
    """

    def __init__(self) -> None:
        self._events: SSEDecoder | None = SSEDecoder()
        self._fresh = True
        """Whether the next byte begins a line."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._json = ""

    def feed(self, data: bytes) -> Iterator[Any]:
        if self._events is not None:
            at = self._bare(data)
            events = self._events.feed(data if at < 0 else data[:at])
            for event in events:
                yield loads(event.data)
            if at < 0:
                return
            self._events = None
            data = data[at:]
        yield from self._objects(data)

    def close(self) -> Iterator[Any]:
        """The last event, which may lack its blank line; raises ProviderError(INCOMPLETE) for a part of one."""
        for event in self._events.feed(b"\n\n") if self._events is not None else ():
            try:
                yield loads(event.data)
            except ProviderError:
                raise _cut_short() from None
        if self._json.strip(_BETWEEN):
            raise _cut_short()

    def _bare(self, data: bytes) -> int:
        """Where a line begins with a brace or a bracket, or -1."""
        found = -1
        if self._fresh and data[:1] in (b"{", b"["):
            found = 0
        else:
            places = [data.find(start) + 1 for start in (b"\n{", b"\r{", b"\n[", b"\r[")]
            found = min((place for place in places if place), default=-1)
        if data:
            self._fresh = data[-1:] in (b"\n", b"\r")
        return found

    def _objects(self, data: bytes) -> Iterator[Any]:
        """The objects that are complete, of a list or one after another."""
        self._json += self._decode(data)
        if len(self._json) > MAX_EVENT_BYTES:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an event that is too large.")
        while b"}" in data and self._json:
            text = self._json.lstrip(_BETWEEN)
            try:
                found, end = _DECODER.raw_decode(text)
            except ValueError:
                return
            except RecursionError:
                raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent something that is not JSON.") from None
            self._json = text[end:]
            yield found


def _cut_short() -> ProviderError:
    return ProviderError(ErrorKind.INCOMPLETE, "The upstream's answer ended before it was complete.")

"""ConverseStream: binary event-stream frames into chunks.

Frames: https://smithy.io/2.0/aws/amazon-eventstream.html. botocore's buffer decodes them without I/O.
Text and reasoning blocks have no start event, usage comes after the stop, tools are blocks among others.
"""

from collections.abc import Callable, Mapping
from typing import Any

from botocore.eventstream import EventStreamBuffer, ParserError

from .. import tools
from ..errors import ErrorKind, ProviderError, bare
from ..interface import JSON, Chunk
from ..jsonio import loads
from ..shapes import documented, text
from ..usage import Usage
from . import reasoning, response
from .errors import event_error


class _Block:
    """A content block that has begun. ``json``: it is the answer itself; ``skip``: not the client's business."""

    __slots__ = (
        "arguments",
        "citations",
        "custom",
        "id",
        "index",
        "json",
        "name",
        "signature",
        "skip",
        "start",
        "text",
    )

    def __init__(self, start: int) -> None:
        self.start = start
        self.index = -1
        """Of the tool call; -1 for other blocks."""
        self.id = self.name = self.signature = ""
        self.text: list[str] = []
        """Reasoning, kept for its signature."""
        self.arguments: list[str] = []
        self.citations: list[Any] = []
        self.custom = self.json = self.skip = False


class ConverseStream:
    """One response's translator."""

    def __init__(self, notes: Mapping[str, Any]) -> None:
        self.usage: Usage | None = None
        self.served_tier: str | None = None
        self._notes = notes
        self._buffer = EventStreamBuffer()
        self._failed: ProviderError | None = None
        self._stopped = False
        self._spoiled: ProviderError | None = None
        """What a bad end means: told after the usage, which comes after it."""
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._length = 0
        """Characters of content so far: where a citation's text lies."""
        self._json_tool = notes.get("json_tool")
        self._answered = False
        """Whether the tool that stands for the answer was called."""
        self._preface: list[Chunk] = []
        """Text before it is known whether the answer comes through a tool, which then is all there is."""
        self._events: Mapping[str, Callable[[Any], list[Chunk]]] = {
            "contentBlockStart": self._start,
            "contentBlockDelta": self._delta,
            "contentBlockStop": self._stop,
            "messageStop": self._message_stop,
            "metadata": self._metadata,
        }
        self._deltas: Mapping[str, Callable[[_Block, Any], list[Chunk]]] = {
            "text": self._text,
            "toolUse": self._arguments,
            "reasoningContent": self._reasoning,
            "citation": self._citation,
        }

    @property
    def ended(self) -> bool:
        return (self._stopped and self.usage is not None) or self._failed is not None  # usage comes last

    def feed(self, data: bytes) -> list[Chunk]:
        if self._failed:
            raise self._failed.again()
        chunks: list[Chunk] = []
        try:
            with documented():
                self._buffer.add_data(data)
                for message in self._buffer:
                    chunks += self._message(message.headers, message.payload)
        except ParserError:
            self._failed = ProviderError(ErrorKind.PROTOCOL, "The upstream sent a broken event-stream frame.")
        except ProviderError as error:
            self._failed = bare(error)
        if self._failed and not chunks:
            raise self._failed.again()
        return chunks

    def close(self) -> list[Chunk]:
        if self._failed:
            raise self._failed.again()
        if not self._stopped:
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's stream ended before the answer was complete.")
        if self._spoiled:
            raise self._spoiled.again()
        return []

    def _message(self, headers: Mapping[str, Any], payload: bytes) -> list[Chunk]:
        if headers.get(":message-type", "event") != "event":
            raise event_error(headers, payload)
        handler = self._events.get(headers.get(":event-type", ""))
        return handler(loads(payload)) if handler else []

    def _block(self, event: Mapping[str, Any]) -> _Block:
        return self._blocks.setdefault(event["contentBlockIndex"], _Block(self._length))

    def _start(self, event: Mapping[str, Any]) -> list[Chunk]:
        block = self._block(event)
        use = event["start"].get("toolUse")
        if use is None or not response.is_client_call(use):
            block.skip = True  # a server-side tool, its result, an image
            return []
        block.id, block.name = text(use["toolUseId"]), text(use["name"])
        if block.name == self._json_tool:
            block.json, block.skip = True, self._answered
            self._answered = True
            self._preface.clear()
            return []
        block.index, self._calls = self._calls, self._calls + 1
        block.custom = block.name in self._notes.get("custom", ())
        return [] if block.custom else [_call(block.index, block.id, {"name": block.name, "arguments": ""})]

    def _delta(self, event: Mapping[str, Any]) -> list[Chunk]:
        block = self._block(event)
        if block.skip:
            return []
        chunks: list[Chunk] = []
        for kind, value in event["delta"].items():
            if handler := self._deltas.get(kind):
                chunks += handler(block, value)
        return chunks

    def _text(self, _: _Block, value: Any) -> list[Chunk]:
        words = text(value)
        self._length += len(words)
        if not words or self._answered:
            return []
        chunk = _chunk({"content": words})
        if self._json_tool:
            self._preface.append(chunk)
            return []
        return [chunk]

    def _arguments(self, block: _Block, value: Mapping[str, Any]) -> list[Chunk]:
        piece = text(value["input"])
        if not piece:
            return []
        block.arguments.append(piece)
        if block.json:
            return [_chunk({"content": piece})]
        return [] if block.custom else [_call(block.index, None, {"arguments": piece})]

    def _reasoning(self, block: _Block, value: Mapping[str, Any]) -> list[Chunk]:
        block.signature += text(value.get("signature"))
        delta: JSON = {}
        if words := text(value.get("text")):
            block.text.append(words)
            delta["reasoning_content"] = words
        if hidden := text(value.get("redactedContent")):
            delta["thinking_blocks"] = [reasoning.redacted(hidden)]
        return [_chunk(delta)] if delta else []

    def _citation(self, block: _Block, value: Any) -> list[Chunk]:
        block.citations.append(value)
        return []

    def _stop(self, event: Mapping[str, Any]) -> list[Chunk]:
        block = self._blocks.pop(event["contentBlockIndex"], None)
        return self._end(block) if block and not block.skip else []

    def _end(self, block: _Block) -> list[Chunk]:
        if block.signature:
            thought = reasoning.thought("".join(block.text), block.signature)
            return [_chunk({"thinking_blocks": [thought]})]
        if block.custom:
            told = tools.custom_input("".join(block.arguments))
            call = {
                "index": block.index,
                "id": block.id,
                "type": "custom",
                "custom": {"name": block.name, "input": told},
            }
            return [_chunk({"tool_calls": [call]})]
        if block.json and not block.arguments:
            return [_chunk({"content": "{}"})]
        found = (response.annotation(citation, block.start, self._length) for citation in block.citations)
        annotations = [a for a in found if a]
        return [_chunk({"annotations": annotations})] if annotations else []

    def _message_stop(self, event: Mapping[str, Any]) -> list[Chunk]:
        chunks = self._preface  # there was no call of the JSON tool: the text is the answer
        self._preface = []
        for index in sorted(self._blocks):
            block = self._blocks.pop(index)
            chunks += [] if block.skip else self._end(block)
        self._stopped = True
        try:
            reason = response.finish(event.get("stopReason"))
        except ProviderError as error:
            self._spoiled = bare(error)
            return chunks
        return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}]

    def _metadata(self, event: Mapping[str, Any]) -> list[Chunk]:
        self.usage = response.usage(event.get("usage")) or self.usage
        self.served_tier = response.served_tier(event) or self.served_tier
        self._failed = self._spoiled
        return []


def _chunk(delta: JSON) -> Chunk:
    return {"choices": [{"index": 0, "delta": delta}]}


def _call(index: int, call_id: str | None, function: JSON) -> Chunk:
    call: JSON = {"index": index, "function": function}
    if call_id is not None:
        call |= {"id": call_id, "type": "function"}
    return _chunk({"tool_calls": [call]})

"""Cohere's v2 chat stream into chunks."""

from collections.abc import Callable, Mapping
from typing import Any

from .. import tools
from ..classify import embedded_error
from ..errors import ErrorKind, ProviderError, bare
from ..interface import JSON, Chunk
from ..jsonio import loads
from ..shapes import documented, text
from ..sse import SSEDecoder
from ..usage import Usage
from . import response


class _Call:
    __slots__ = ("arguments", "custom", "held", "id", "index", "json", "name")

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self.index, self.id, self.name = index, call_id, name
        self.arguments: list[str] = []
        self.held = ""
        """Arguments that may yet turn out to be ``null``."""
        self.custom = self.json = False


class ChatStream:
    """One response's translator."""

    served_tier: str | None = None

    def __init__(self, notes: Mapping[str, Any]) -> None:
        self.usage: Usage | None = None
        self._notes = notes
        self._json_tool = notes.get("json_tool")
        self._decoder = SSEDecoder()
        self._failed: ProviderError | None = None
        self._ended = False
        self._answered = False
        """Whether the tool that stands for the answer was called."""
        self._preface: list[Chunk] = []
        """Text before it is known whether the answer comes through a tool, which then is all there is."""
        self._calls: dict[int, _Call] = {}
        self._count = 0
        self._length = 0
        self._starts: dict[int, int] = {}
        """Content item -> where its text begins in the whole."""
        self._thought = False
        self._events: Mapping[str, Callable[[Any], list[Chunk]]] = {
            "content-start": self._content,
            "content-delta": self._content,
            "tool-plan-delta": self._plan,
            "tool-call-start": self._call_start,
            "tool-call-delta": self._call_delta,
            "tool-call-end": self._call_end,
            "citation-start": self._citation,
            "message-end": self._end,
        }

    @property
    def ended(self) -> bool:
        return self._ended or self._failed is not None

    def feed(self, data: bytes) -> list[Chunk]:
        if self._failed:
            raise self._failed.again()
        chunks: list[Chunk] = []
        try:
            with documented():
                for event in self._decoder.feed(data):
                    chunks += self._event(event.data)
        except ProviderError as error:
            self._failed = bare(error)
        if self._failed and not chunks:
            raise self._failed.again()
        return chunks

    def close(self) -> list[Chunk]:
        if self._failed:
            raise self._failed.again()
        if not self._ended:
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's stream ended before the answer was complete.")
        return []

    def _event(self, data: bytes) -> list[Chunk]:
        if data.strip() == b"[DONE]" or self._ended:
            return []
        event = loads(data)
        kind = event.get("type")
        if kind is None and isinstance(event.get("message"), str):
            raise embedded_error(event)
        handler = self._events.get(kind or "")
        return handler(event) if handler else []

    def _content(self, event: Mapping[str, Any]) -> list[Chunk]:
        content = event["delta"]["message"]["content"]
        index = event.get("index") or 0
        if thought := text(content.get("thinking")):
            self._thought = True
            return [_chunk({"reasoning_content": thought})]
        self._starts.setdefault(index, self._length)
        words = text(content.get("text"))
        if not words or self._answered:
            return []
        self._length += len(words)
        chunk = _chunk({"content": words})
        if isinstance(item := event.get("logprobs"), dict):
            chunk["choices"][0]["logprobs"] = response.logprobs([item])
        if self._json_tool:
            self._preface.append(chunk)
            return []
        return [chunk]

    def _plan(self, event: Mapping[str, Any]) -> list[Chunk]:
        plan = text(event["delta"]["message"]["tool_plan"])
        if not plan:
            return []
        if self._thought:  # the plan is a line of its own after the thoughts
            self._thought, plan = False, "\n" + plan
        return [_chunk({"reasoning_content": plan})]

    def _call_start(self, event: Mapping[str, Any]) -> list[Chunk]:
        told = event["delta"]["message"]["tool_calls"]
        function = told["function"]
        call = _Call(self._count, text(told["id"]), response.own_name(text(function["name"]), self._notes))
        self._calls[event.get("index") or 0] = call
        if call.name == self._json_tool:
            call.json = not self._answered
            call.custom = self._answered  # a second answer: read and left out
            call.index = -1
            self._answered = True
            self._preface.clear()
            return self._add(call, function.get("arguments"))
        self._count += 1
        call.custom = call.name in self._notes.get("custom", ())
        begun = {
            "index": call.index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        return ([] if call.custom else [_chunk({"tool_calls": [begun]})]) + self._add(call, function.get("arguments"))

    def _call_delta(self, event: Mapping[str, Any]) -> list[Chunk]:
        told = event["delta"]["message"]["tool_calls"]
        return self._add(self._calls[event.get("index") or 0], told["function"]["arguments"])

    def _add(self, call: _Call, value: Any) -> list[Chunk]:
        piece = call.held + text(value)
        if not call.arguments and "null".startswith(piece.strip()):
            call.held = piece
            return []
        call.held = ""
        return self._arguments(call, piece)

    def _arguments(self, call: _Call, piece: str) -> list[Chunk]:
        call.arguments.append(piece)
        if call.custom:
            return []
        if call.json:
            return [_chunk({"content": piece})]
        return [_chunk({"tool_calls": [{"index": call.index, "function": {"arguments": piece}}]})]

    def _call_end(self, event: Mapping[str, Any]) -> list[Chunk]:
        call = self._calls.pop(event.get("index") or 0, None)
        return self._finish(call) if call else []

    def _finish(self, call: _Call) -> list[Chunk]:
        chunks: list[Chunk] = []
        if call.held.strip() not in response.NO_ARGUMENTS:
            chunks += self._arguments(call, call.held)
        if call.json and not call.arguments:
            chunks.append(_chunk({"content": "{}"}))
        elif call.custom and call.index >= 0:
            told = {"name": call.name, "input": tools.custom_input("".join(call.arguments))}
            custom = {"index": call.index, "id": call.id, "type": "custom", "custom": told}
            chunks.append(_chunk({"tool_calls": [custom]}))
        return chunks

    def _citation(self, event: Mapping[str, Any]) -> list[Chunk]:
        citation = event["delta"]["message"]["citations"]
        if self._answered or self._json_tool:
            return []
        start = self._starts.get(citation.get("content_index") or 0, 0)
        delta: JSON = {"citations": [citation]}
        if found := response.annotations(citation, start):
            delta["annotations"] = found
        return [_chunk(delta)]

    def _end(self, event: Mapping[str, Any]) -> list[Chunk]:
        delta = event["delta"]
        chunks = self._preface  # there was no call of the JSON tool: the text is the answer
        self._preface = []
        for index in sorted(self._calls):
            chunks += self._finish(self._calls.pop(index))
        self._ended = True
        self.usage = response.usage(delta.get("usage"))
        try:
            reason = response.finish(delta.get("finish_reason"))
        except ProviderError as error:
            self._failed = bare(error)
            return chunks
        return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}]


def _chunk(delta: JSON) -> Chunk:
    return {"choices": [{"index": 0, "delta": delta}]}

"""Messages events -> loose chunks.

Nothing is sent on before the first content: an overload told right after ``message_start`` can still be tried
elsewhere. The end is sent with ``message_stop``, so that a stream cut before it is never taken for a whole one.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..classify import embedded_error
from ..errors import ErrorKind, ProviderError, bare
from ..interface import JSON, Chunk, UpstreamRequest
from ..jsonio import dumps, loads
from ..sse import SSEDecoder
from ..usage import Usage
from .emulation import JSONText, StringField
from .response import SERVED_TIERS, annotated, explanation, mapping, usage
from .thinking import shown


class MessagesStream:
    """One response. Unknown events, deltas and blocks are ignored: Anthropic announces that there will be more."""

    def __init__(self, sent: UpstreamRequest) -> None:
        self._events = SSEDecoder()
        self._translation = Translation(sent.notes)
        self._failure: ProviderError | None = None

    @property
    def usage(self) -> Usage | None:
        return self._translation.usage

    @property
    def served_tier(self) -> str | None:
        return SERVED_TIERS.get(str(self._translation.counts.get("service_tier")))

    @property
    def ended(self) -> bool:
        return self._translation.stopped or self._failure is not None

    def feed(self, data: bytes) -> list[Chunk]:
        if self._failure:
            raise self._failure.again()
        deltas: list[JSON] = []
        try:
            for event in self._events.feed(data):
                if event.data and event.data != b"[DONE]":  # some gateways add it
                    self._translation.event(loads(event.data), deltas)
        except ProviderError as failure:
            if not deltas:
                raise
            self._failure = bare(failure)
        return [self._translation.chunk(delta) for delta in deltas]

    def close(self) -> list[Chunk]:
        if self._failure:
            raise self._failure.again()
        self._events.close()
        if not self._translation.stopped:
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's stream ended before the answer was complete.")
        return []


class Translation:
    """The state of one message: events in, choices' deltas out (a finish is a delta of its own)."""

    def __init__(self, notes: Mapping[str, Any]) -> None:
        self.counts: JSON = {}
        """Usage as told so far; later events overwrite, they do not add."""
        self.started = self.stopped = False
        self._custom: frozenset[str] = notes.get("custom", frozenset())
        self._answer: str | None = notes.get("answer")
        self._json = None if notes.get("json") is None else JSONText(notes["json"])
        self._head: JSON = {}
        self._blocks: dict[int, Block] = {}
        self._aside: list[str] = []
        """Text beside the tool that is the answer: told only if that tool is never called."""
        self._length = 0
        """Characters of content so far."""
        self._calls = self._thoughts = 0
        self._annotations: list[JSON] = []
        self._end: str | None = None
        self._refusal: str | None = None

    @property
    def usage(self) -> Usage | None:
        return usage(self.counts) if self.counts else None

    def chunk(self, choice: JSON) -> Chunk:
        return {**self._head, "choices": [{"index": 0, **choice}]}

    def event(self, event: Any, out: list[JSON]) -> None:
        """Translate one event; raises ProviderError for one that is an error or malformed."""
        if not isinstance(event, dict) or self.stopped:
            return
        if event.get("type") == "error" or event.get("error"):
            raise embedded_error(event)
        handle = _EVENTS.get(str(event.get("type")))
        if handle is not None:
            handle(self, event, out)

    def _message_start(self, event: JSON, _out: list[JSON]) -> None:
        message = mapping(event.get("message"))
        if self._blocks and message.get("id") != self._head.get("id"):
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream began another answer inside the first one.")
        self._head = {key: message[key] for key in ("id", "model") if message.get(key)}
        self._count(message.get("usage"))

    def _block_start(self, event: JSON, out: list[JSON]) -> None:
        given = mapping(event.get("content_block"))
        block = Block(given)
        self._blocks[_index(event)] = block
        if block.kind == "text":
            block.start = self._length
            self._text(str(given.get("text") or ""), out)
        elif block.kind == "thinking" and given.get("thinking"):
            out.append({"delta": {"reasoning_content": given["thinking"]}})
        elif block.kind == "tool_use":
            self._tool_start(block, out)
        if isinstance(given.get("citations"), list):
            block.citations += given["citations"]

    def _tool_start(self, block: "Block", out: list[JSON]) -> None:
        name = str(block.given.get("name"))
        if name == self._answer:
            again = any(known.kind == "answer" for known in self._blocks.values())
            block.kind = "another answer" if again else "answer"  # one is all that the content can be
        else:
            block.at = self._calls
            self._calls += 1
            key, argument = ("custom", "input") if name in self._custom else ("function", "arguments")
            block.field = StringField() if key == "custom" else None
            call = {"index": block.at, "id": block.given.get("id"), "type": key, key: {"name": name, argument: ""}}
            out.append({"delta": {"tool_calls": [call]}})
        if block.given.get("input") and block.kind != "another answer":
            self._arguments(block, dumps(block.given["input"]).decode(), out)

    def _block_delta(self, event: JSON, out: list[JSON]) -> None:
        block = self._blocks.get(_index(event))
        if block is None:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent a part of a block that it never began.")
        delta = mapping(event.get("delta"))
        known = _DELTAS.get(str(delta.get("type")))
        if known is not None and block.kind in known[0]:
            known[1](self, block, delta, out)

    def _text_delta(self, _block: "Block", delta: Mapping[str, Any], out: list[JSON]) -> None:
        self._text(str(delta.get("text") or ""), out)

    def _json_delta(self, block: "Block", delta: Mapping[str, Any], out: list[JSON]) -> None:
        self._arguments(block, str(delta.get("partial_json") or ""), out)

    def _thinking_delta(self, block: "Block", delta: Mapping[str, Any], out: list[JSON]) -> None:
        if text := str(delta.get("thinking") or ""):
            block.pieces.append(text)
            out.append({"delta": {"reasoning_content": text}})

    def _signature_delta(self, block: "Block", delta: Mapping[str, Any], _out: list[JSON]) -> None:
        block.signature += str(delta.get("signature") or "")

    def _citations_delta(self, block: "Block", delta: Mapping[str, Any], _out: list[JSON]) -> None:
        block.citations.append(delta.get("citation"))

    def _block_stop(self, event: JSON, out: list[JSON]) -> None:
        block = self._blocks.get(_index(event))
        if block is None or block.ended:
            return
        block.ended = True
        if block.kind in ("thinking", "redacted_thinking"):
            out.append(
                {"delta": {"thinking_blocks": [shown(block.whole(), self._thoughts, self._length, self._calls)]}}
            )
            self._thoughts += 1
        elif block.kind == "tool_use" and block.field is None and not block.told:
            self._arguments(block, "{}", out)  # a call without arguments streams none
        elif block.kind == "answer" and not block.told:
            self._say("{}", out)
        elif block.field is not None:
            self._custom_input(block, block.field.close(), out)
        self._annotations += annotated(block.citations, block.start, self._length)

    def _arguments(self, block: "Block", piece: str, out: list[JSON]) -> None:
        if not piece:
            return
        block.told = True
        if block.kind == "answer":
            self._say(piece, out)
        elif block.field is not None:
            self._custom_input(block, block.field.feed(piece), out)
        else:
            out.append({"delta": {"tool_calls": [{"index": block.at, "function": {"arguments": piece}}]}})

    def _custom_input(self, block: "Block", text: str, out: list[JSON]) -> None:
        if text:
            out.append({"delta": {"tool_calls": [{"index": block.at, "custom": {"input": text}}]}})

    def _text(self, text: str, out: list[JSON]) -> None:
        if self._answer is None:
            self._say(text, out)
        else:
            self._aside.append(text)

    def _say(self, text: str, out: list[JSON]) -> None:
        if self._json is not None:
            text = self._json.feed(text)
        if text:
            self._length += len(text)
            out.append({"delta": {"content": text}})

    def _message_delta(self, event: JSON, _out: list[JSON]) -> None:
        delta = mapping(event.get("delta"))
        self._end = str(delta.get("stop_reason") or self._end or "end_turn")
        if self._end == "refusal":
            self._refusal = explanation(delta.get("stop_details"))
        self._count(event.get("usage"))

    def _message_stop(self, _event: JSON, out: list[JSON]) -> None:
        if self._end is None:
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's stream ended without saying why.")
        self.stopped = True
        if not any(block.kind == "answer" for block in self._blocks.values()):
            self._say("".join(self._aside), out)
        if self._json is not None and (rest := self._json.close()):
            out.append({"delta": {"content": rest}})
        if self._annotations:
            out.append({"delta": {"annotations": self._annotations}})
        if self._refusal:
            out.append({"delta": {"refusal": self._refusal}})
        out.append({"delta": {}, "finish_reason": self._end})

    def _count(self, told: Any) -> None:
        self.counts.update({key: value for key, value in mapping(told).items() if value is not None})


class Block:
    """A content block while it streams."""

    __slots__ = ("at", "citations", "ended", "field", "given", "kind", "pieces", "signature", "start", "told")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.kind = str(given.get("type"))
        self.at = 0
        """The position among the tool calls."""
        self.start = 0
        """Where in the content a text block began."""
        self.told = self.ended = False
        self.field: StringField | None = None
        self.pieces = [str(given.get("thinking") or "")]
        self.signature = str(given.get("signature") or "")
        self.citations: list[Any] = []

    def whole(self) -> Mapping[str, Any]:
        if self.kind == "redacted_thinking":
            return self.given
        return {"type": "thinking", "thinking": "".join(self.pieces), "signature": self.signature}


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else -1


_Handler: TypeAlias = Callable[[Translation, Block, Mapping[str, Any], list[JSON]], None]
_DELTAS: Mapping[str, tuple[tuple[str, ...], _Handler]] = {
    "text_delta": (("text",), Translation._text_delta),
    "input_json_delta": (("tool_use", "answer"), Translation._json_delta),
    "thinking_delta": (("thinking",), Translation._thinking_delta),
    "signature_delta": (("thinking",), Translation._signature_delta),
    "citations_delta": (("text",), Translation._citations_delta),
}
"""A delta's type -> the kinds of block that it may come in, and what it means."""
_EVENTS: Mapping[str, Callable[[Translation, JSON, list[JSON]], None]] = {
    "message_start": Translation._message_start,
    "content_block_start": Translation._block_start,
    "content_block_delta": Translation._block_delta,
    "content_block_stop": Translation._block_stop,
    "message_delta": Translation._message_delta,
    "message_stop": Translation._message_stop,
}

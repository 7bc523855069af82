"""Loose chunks in, lawful client bytes out: checklist C-300 to C-352.

* StreamWriter  one per streamed answer; every rule of the stream is kept here, so no translator repeats one
* completion    the same for a whole answer
* Accumulator   chunks to one completion, for what is stored
* chunks        one completion to chunks, for an upstream that cannot stream
"""

import secrets
from collections.abc import Iterable
from typing import Any

from .accumulate import Accumulator, chunks
from .completion import FAILED, completion, finish_reason, lawful_logprobs
from .errors import ErrorKind, ProviderError
from .interface import JSON, Chunk
from .jsonio import dumps
from .toolcalls import ToolCalls
from .usage import Usage

__all__ = ["DONE", "Accumulator", "StreamWriter", "chunks", "completion"]

DONE = b"data: [DONE]\n\n"
_MODULUS, _REMAINDER = 16, 7
"""All events have lengths, in characters, of this remainder (C-333)."""
_PADDING = tuple(secrets.token_hex(8)[:k].encode() + b'"}\n\n' for k in range(_MODULUS))
"""Padding hides lengths, not words: what it consists of is of no matter."""
_NO_LOGPROBS = b"null"
_EMPTY_LOGPROBS = b'{"content":[],"refusal":null}'
_TEXT_FIRST = b'{"role":"assistant","content":"","refusal":null}'
_REFUSAL_FIRST = b'{"role":"assistant","content":null,"refusal":""}'
_AUDIO = 800
"""Bytes of base64 that are as many tokens as a byte of text: 16-bit PCM at 24 kHz has 20 tokens a second."""
_HANDLED = frozenset({"role", "content", "refusal", "reasoning_content", "tool_calls", "function_call", "audio"})


class _Choice:
    __slots__ = ("annexes", "calls", "finish", "function", "head", "logprobs", "opened", "surrogate")

    def __init__(self, head: bytes) -> None:
        self.head = head
        """The event up to the delta."""
        self.opened = False
        self.calls: ToolCalls | None = None
        self.function = False
        """Whether the deprecated ``function_call`` was streamed."""
        self.finish: str | None = None
        """Held until the end: some providers repeat it on every chunk, or send more after it."""
        self.annexes: dict[str, list[Any]] = {}
        """Lists without an index of their own, which SDKs can only take whole: sent in one delta, before the end."""
        self.surrogate = ""
        self.logprobs = False


class StreamWriter:
    """Writes one answer's stream. ``write`` chunks as they come, then ``finish``, or ``error`` if it failed.

    ``model``, ``service_tier`` and ``system_fingerprint`` of the first chunk win over the ones given here.
    ``n`` is the number of choices asked for. ``forced_tool``: the request named the tool to call (C-266).
    ``functions``: the request used the deprecated ``functions``, so a tool call is told as ``function_call``.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - OpenAI's word
        created: int,
        model: str,
        include_usage: bool = False,
        obfuscation: bool = True,
        n: int = 1,
        service_tier: str | None = None,
        forced_tool: bool = False,
        functions: bool = False,
    ) -> None:
        self.started = False
        """Whether any answer was seen: text, reasoning, a refusal, a tool call, audio or an end."""
        self.text_bytes = 0
        """Generated text and arguments of tools so far, an upper estimate in bytes."""
        self._id, self._created, self._model, self._tier = id, created, model, service_tier
        self._fingerprint: str | None = None
        self._include_usage, self._obfuscation, self._n = include_usage, obfuscation, n
        self._forced_tool, self._functions = forced_tool, functions
        tail = b',"usage":null' if include_usage else b""
        self._tail = b"}]" + tail + (b',"obfuscation":"' if obfuscation else b"}\n\n")
        self._plain = b',"logprobs":null,"finish_reason":null' + self._tail
        self._choices: list[_Choice] = []
        self._next = 0
        """The first choice that has not appeared yet: they appear in ascending order (C-313)."""

    @property
    def finished(self) -> bool:
        """Whether every choice has ended."""
        return bool(self._choices) and all(choice.finish is not None for choice in self._choices)

    @property
    def called_tools(self) -> bool:
        """Whether any tool call was written."""
        return any(choice.calls or choice.function for choice in self._choices)

    def write(self, chunks: Iterable[Chunk], served_tier: str | None = None) -> bytes:
        """The bytes for the client; raises ProviderError(PROTOCOL) for a choice that was not asked for.

        ``served_tier`` is stamped when it is known by the first chunk (C-308), whatever that one says.
        """
        out: list[bytes] = []
        for chunk in chunks:
            if not self._choices:
                self._stamp(chunk, served_tier)
            for choice in chunk.get("choices") or ():
                index = choice.get("index") or 0
                if not 0 <= index < self._n:
                    raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent a choice that was not asked for.")
                state = self._choices[index]
                delta = choice.get("delta")
                logprobs = choice.get("logprobs")
                if delta or logprobs:
                    text = delta.get("content") if delta else None
                    if text and len(delta) == 1 and state.opened and not logprobs:
                        self._text(out, state, "content", text)
                    else:
                        self._delta(out, index, delta or {}, logprobs)
                if finish := choice.get("finish_reason"):
                    failed = finish.lower() in FAILED
                    self.started = self.started or not failed
                    state.finish = None if failed else finish
            if moderation := chunk.get("moderation"):
                out.append(self._event(self._bare(b'"moderation":' + dumps(moderation) + self._nulls())))
        return b"".join(out)

    def finish(self, usage: Usage | None, served_tier: str | None = None) -> bytes:
        """The ends of all choices, the usage chunk if asked for, and ``[DONE]``.

        Without ``usage`` there is no usage chunk: see ``usage_chunk``. ``served_tier`` is stamped on the last chunks
        when it became known only at the end. Raises ProviderError(INCOMPLETE) for a choice that never ended.
        """
        if not self._choices:
            self._stamp({}, served_tier)
        if any(choice.finish is None for choice in self._choices):
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's answer ended before it was complete.")
        if served_tier is not None and served_tier != self._tier:
            self._tier = served_tier
            self._restamp()
        out: list[bytes] = []
        for index, state in enumerate(self._choices):
            self._end(out, index, state)
        if usage is not None:
            out.append(self.usage_chunk(usage))
        out.append(DONE)
        return b"".join(out)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk before ``[DONE]``; empty where it was not asked for."""
        return self._event(self._bare(b'"usage":' + dumps(usage.to_openai()))) if self._include_usage else b""

    def error(self, body: JSON) -> bytes:
        """The event that ends a failed stream; nothing follows it, not even ``[DONE]`` (C-341)."""
        return b"data: " + dumps(body) + b"\n\n"

    def _stamp(self, chunk: Chunk, served_tier: str | None) -> None:
        if isinstance(model := chunk.get("model"), str) and model:
            self._model = model
        if isinstance(tier := served_tier or chunk.get("service_tier"), str):
            self._tier = tier
        if isinstance(fingerprint := chunk.get("system_fingerprint"), str):
            self._fingerprint = fingerprint
        self._choices = [_Choice(b"") for _ in range(self._n)]
        self._restamp()

    def _restamp(self) -> None:
        known: JSON = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
        known["model"] = self._model
        if self._tier is not None:
            known["service_tier"] = self._tier
        known["system_fingerprint"] = self._fingerprint
        self._head = b"data: " + dumps(known)[:-1]
        for index, choice in enumerate(self._choices):
            choice.head = self._head + b',"choices":[{"index":%d,"delta":' % index

    def _nulls(self) -> bytes:
        return b',"usage":null' if self._include_usage else b""

    def _bare(self, rest: bytes) -> bytes:
        """A chunk without choices."""
        return self._head + b',"choices":[],' + rest + (b',"obfuscation":"' if self._obfuscation else b"}\n\n")

    def _event(self, event: bytes) -> bytes:
        """Pad an event."""
        if not self._obfuscation:
            return event
        length = len(event) if event.isascii() else len(event.decode())
        return event + _PADDING[(_REMAINDER - length - 2) % _MODULUS]

    def _text(self, out: list[bytes], state: _Choice, key: str, text: str, logprobs: bytes | None = None) -> None:
        if state.surrogate:
            text, state.surrogate = state.surrogate + text, ""
        if 0xD800 <= ord(text[-1]) <= 0xDBFF:
            text, state.surrogate = text[:-1], text[-1]
            if not text:
                return
        told = dumps(text)
        self.text_bytes += len(told) - 2
        delta = b'{"' + key.encode() + b'":' + told + b"}"
        self._send(out, state, delta, logprobs)

    def _send(self, out: list[bytes], state: _Choice, delta: bytes, logprobs: bytes | None = None) -> None:
        rest = self._plain if logprobs is None else b',"logprobs":' + logprobs + b',"finish_reason":null' + self._tail
        out.append(self._event(state.head + delta + rest))

    def _open(self, out: list[bytes], index: int, first: bytes = _TEXT_FIRST, logprobs: bytes = _NO_LOGPROBS) -> None:
        """Let a choice appear, and those before it that have not yet, with their role (C-310, C-313)."""
        self.started = True
        for at in range(self._next, index + 1):
            state = self._choices[at]
            state.opened = True
            role, told = (first, logprobs) if at == index else (_TEXT_FIRST, _NO_LOGPROBS)
            out.append(self._event(state.head + role + b',"logprobs":' + told + b',"finish_reason":null' + self._tail))
        self._next = max(self._next, index + 1)

    def _delta(self, out: list[bytes], index: int, delta: JSON, logprobs: Any) -> None:
        state = self._choices[index]
        self._texts(out, index, delta, logprobs)
        if calls := delta.get("tool_calls"):
            if state.calls is None:
                state.calls = ToolCalls()
            self._calls(out, index, state.calls.feed(calls))
        if called := delta.get("function_call"):
            self._function(out, index, called)
        if isinstance(audio := delta.get("audio"), dict) and audio:
            self.text_bytes += _size(audio.get("transcript")) + _size(audio.get("data")) // _AUDIO
            self._first_or_more(out, index, "audio", audio)
            if "expires_at" in audio and state.finish is None:
                state.finish = "stop"  # an audio answer has no other end (C-352)
        if len(delta) > 1 or not _HANDLED.issuperset(delta):
            self._extras(out, index, delta)

    def _texts(self, out: list[bytes], index: int, delta: JSON, logprobs: Any) -> None:
        state = self._choices[index]
        told = dumps(lawful_logprobs(logprobs)) if logprobs else None
        opening = _EMPTY_LOGPROBS if told else _NO_LOGPROBS
        for key in ("reasoning_content", "content", "refusal"):
            if not isinstance(text := delta.get(key), str) or not text:
                continue
            if not state.opened:
                self._open(out, index, _REFUSAL_FIRST if key == "refusal" else _TEXT_FIRST, opening)
            self._text(out, state, key, text, None if key == "reasoning_content" else told)
            if key != "reasoning_content":
                told = None
        if told and (logprobs.get("content") or logprobs.get("refusal")):
            if not state.opened:
                self._open(out, index, logprobs=opening)
            self._send(out, state, b'{"content":""}', told)

    def _first_or_more(self, out: list[bytes], index: int, key: str, value: Any) -> None:
        told = dumps(value)
        if self._choices[index].opened:
            self._send(out, self._choices[index], b'{"' + key.encode() + b'":' + told + b"}")
        else:
            first = b'{"role":"assistant","content":null,"' + key.encode() + b'":' + told + b',"refusal":null}'
            self._open(out, index, first)

    def _calls(self, out: list[bytes], index: int, fragments: Iterable[JSON]) -> None:
        for fragment in fragments:
            if not self._functions:
                called = fragment.get("function") or fragment.get("custom") or {}
                self.text_bytes += _size(called.get("arguments") or called.get("input"))
                self._first_or_more(out, index, "tool_calls", [fragment])
            elif fragment["index"] == 0 and "function" in fragment:  # the deprecated API knows one call
                self._function(out, index, fragment["function"])

    def _function(self, out: list[bytes], index: int, called: JSON) -> None:
        state = self._choices[index]
        if (name := called.get("name")) and not state.function:
            state.function = True
            self._first_or_more(out, index, "function_call", {"name": name, "arguments": ""})
        if state.function and (text := called.get("arguments")):
            self.text_bytes += _size(text)
            self._first_or_more(out, index, "function_call", {"arguments": text})

    def _extras(self, out: list[bytes], index: int, delta: JSON) -> None:
        """What OpenAI's API does not have but clients read, say ``annotations`` or ``thinking_blocks``."""
        state = self._choices[index]
        for key, value in delta.items():
            if key in _HANDLED or value is None or value in ([], ""):
                continue
            if isinstance(value, list) and not all(isinstance(v, dict) and "index" in v for v in value):
                state.annexes.setdefault(key, []).extend(value)
                continue
            if not state.opened:
                self._open(out, index)
            self._send(out, state, dumps({key: value}))

    def _end(self, out: list[bytes], index: int, state: _Choice) -> None:
        if state.calls is not None:
            self._calls(out, index, state.calls.close())
        if not state.opened:
            self._open(out, index)
        if state.surrogate:
            state.surrogate = ""
            self._text(out, state, "content", "\ufffd")
        if state.annexes:
            self._send(out, state, dumps(state.annexes))
        reason = finish_reason(
            state.finish or "stop",
            calls=bool(state.calls) or state.function,
            forced_tool=self._forced_tool,
            functions=state.function,
        )
        told = b'{},"logprobs":null,"finish_reason":"%b"' % reason.encode()
        out.append(self._event(state.head + told + self._tail))


def _size(text: Any) -> int:
    return len(text.encode(errors="replace")) if isinstance(text, str) else 0

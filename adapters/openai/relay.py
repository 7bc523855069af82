"""The byte path: frames of an upstream that speaks our dialect cleanly go to the client as they are.

Nothing is decoded that nobody needs. Until the first content every frame is read (an error must still become another
attempt); from then on only a read that holds anything but plain content is decoded. Quotes inside JSON strings are
escaped, so a key with bare quotes is always a key, whatever the text says.
"""

import json
import re
from typing import Any

from ..classify import embedded_error
from ..completion import FAILED
from ..emit import DONE
from ..errors import ErrorKind, ProviderError, bare
from ..interface import JSON, ServedTier, told_or_default
from ..jsonio import dumps, loads
from ..sse import BOM, MAX_EVENT_BYTES
from ..usage import Usage
from .deltas import answers, had_nulls, said, size_of
from .dialect import Dialect, read_usage, served_tier, told_usage
from .frames import Shape, opened, payload, shape_of
from .response import failure, shortened

_HIDDEN = (b', "usage": null', b'"usage":null,', b'"usage": null, ')
"""Rarer forms of what a client that did not ask for usage must not see; servers differ in blanks and key order."""
_TIER = re.compile(rb'"service_tier": ?(?:null|"[^"\\]*")')
_NULL = b'data: {"usage":null,'
"""How a chunk begins for a client that asked for usage, where a server leaves the key out until the end (C-326)."""
_PADDING = b'"obfuscation":"'
"""What OpenAI's padding of an event begins after (checklist C-333)."""
_MUCH = 12
"""Bytes of text in one frame from which on it is worth a look whether all of that is text."""
_SILENT = (b'"finish_reason":null}],"usage":null', b'"finish_reason": null}], "usage": null')
_NAMES = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
"""What all chunks of a stream have in common."""
_CALM = (*_SILENT, b'"finish_reason":null', b'"finish_reason": null')
"""How a choice that goes on ends its chunk, the most telling first: nearly every server writes one of these."""


class Relay:
    """One stream. ``feed`` returns complete frames only; ``close`` returns ``[DONE]``."""

    def __init__(
        self, dialect: Dialect, *, include_usage: bool, n: int = 1, served: ServedTier = told_or_default
    ) -> None:
        self.usage: Usage | None = None
        self.served_tier: str | None = None
        self.started = False
        self.called_tools = False
        self._dialect = dialect
        self._served = served
        self._named = False
        """Whether a chunk was seen, and with it whether its ``service_tier`` must be another..."""
        self._tier: tuple[re.Pattern[bytes] | None, bytes] | None = None
        """...and what is put where, then; None: how each begins."""
        self._include_usage = include_usage
        self._left = n
        """Choices that have not finished."""
        self._several = n > 1
        self._pieces: list[bytes] = []
        self._size = 0
        """A frame that is not complete yet."""
        self._calm = b'"finish_reason":null'
        """In every frame that is one choice's content; not in an end, usage, an error event or ``[DONE]``."""
        self._silent = False
        """Whether that tells as well that there is no usage."""
        self._end: JSON = {}
        """The last chunk in which a choice ended."""
        self._total: JSON | None = None
        """The chunk of the last usage told, which is the client's only one: some servers tell it in every chunk."""
        self._cr = False
        """Whether the upstream ends lines with CR LF."""
        self._held: list[bytes] = []
        """Frames before the first content."""
        self._done = False
        self._failure: ProviderError | None = None
        self._straight = False
        """Whether a read of whole frames needs nothing done to it before it is looked at."""
        self._shape: Shape | None = None
        """Of the frames that need not even be looked at..."""
        self._lessons = 3
        """...and how often another one may be learned: in vain where every frame ends in a padding of its own."""
        self._bytes = self._frames = 0
        """Of all frames of this shape."""
        self._text = 0
        """Bytes of text in all others."""
        self._overhead = self._call_overhead = 0
        """Bytes of a frame that are neither text nor padding, and of one with arguments of a tool; 0: not known yet."""
        self._padded = False

    @property
    def finished(self) -> bool:
        return self._left <= 0

    @property
    def ended(self) -> bool:
        return self._done or self._failure is not None

    @property
    def text_bytes(self) -> int:
        """What is left of the relayed frames without their JSON and their padding."""
        return max(self._text + self._shaped(), 0)

    def _shaped(self) -> int:
        return 0 if self._shape is None else self._bytes - self._frames * self._shape.overhead

    def feed(self, data: bytes) -> bytes:
        if self._straight and not self._pieces:
            told = self._shape.relayed(data) if self._shape is not None else None
            if told is not None:  # nearly every read of nearly every stream
                frames, out = told
                self._bytes += len(data)
                self._frames += frames
                return out
            if data.endswith(b"\n\n") and b"\r" not in data:
                return self._learn(data, self._retier(self._block(data)))
        return self._retier(self._long(data))

    def _learn(self, data: bytes, out: bytes) -> bytes:
        """Frames of this shape need not be looked at any more."""
        shape = shape_of(data, out) if self._straight and self._lessons else None  # not straight: it was no content
        if shape is not None:
            self._text += self._shaped()
            self._bytes = self._frames = 0
            self._shape = shape
            self._lessons -= 1
        return out

    def _long(self, data: bytes) -> bytes:
        out = self._feed(data)
        self._straight = self.started and not (self._done or self._cr or self._failure)
        return out

    def _feed(self, data: bytes) -> bytes:
        if self._failure is not None:
            raise self._failure.again()
        if self._cr or b"\r" in data:
            data = self._unix(data)
        if self._pieces:
            if (self._pieces[-1][-1:] + data).rfind(b"\n\n") < 0:
                return self._hold(data)
            data = b"".join((*self._pieces, data))
            self._pieces.clear()
        end = data.rfind(b"\n\n")
        if end < 0:
            return self._hold(data)
        block = data[: end + 2]
        if end + 2 < len(data):
            self._pieces.append(data[end + 2 :])
        self._size = len(data) - len(block)
        if self._done:
            return b""
        return self._block(block) if self.started else self._begin(block)

    def _hold(self, data: bytes) -> bytes:
        """Keep a part of a frame until the rest is there."""
        self._size += len(data)
        if self._size > MAX_EVENT_BYTES:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an event that is too large.")
        if data:
            self._pieces.append(data)
        return b""

    def close(self) -> bytes:
        if self._failure is not None:
            raise self._failure.again()
        last = self._last()
        if self._left > 0 or not (self._done or self.usage is not None):
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's answer ended before it was complete.")
        return self._retier(b"".join(self._held) + last + self._told()) + DONE

    def usage_chunk(self, usage: Usage) -> bytes:
        """See StreamRelay: with the names that the provider's own last chunk has."""
        if not self._include_usage:
            return b""
        named = {key: self._end[key] for key in _NAMES if key in self._end}
        told = named | {"choices": [], "usage": usage.to_openai()}
        return self._retier(b"data: " + dumps(told) + b"\n\n")

    def _retier(self, frames: bytes) -> bytes:
        """Frames that name the tier that served, from an upstream that names none or means another thing by it."""
        if self._tier is None:
            return frames
        pattern, put = self._tier
        return opened(frames, put) if pattern is None else pattern.sub(put, frames)

    def _name_tier(self, chunk: JSON) -> None:
        self._named = True
        told = chunk.get("service_tier")
        tier = self._served(served_tier(self._dialect, told))
        if told == tier:
            return
        word = b'"service_tier":' + dumps(tier)
        self._tier = (_TIER, word) if "service_tier" in chunk else (None, b"data: {" + word + b",")

    def _last(self) -> bytes:
        """A last event without its blank line: whole, or cut short. Or, at the start, an error that is no event."""
        frame = b"".join(self._pieces).strip()
        if not self._named:
            frame = frame.removeprefix(BOM)
        if not frame or self._done:
            return b""
        try:
            if frame.startswith(b"{") and not self.started:
                body = loads(frame)
                raise embedded_error(body.get("error") or body)
            return self._frame(frame + b"\n\n")
        except ProviderError as error:
            if error.kind is not ErrorKind.PROTOCOL:
                raise
            return b""

    def _unix(self, data: bytes) -> bytes:
        self._cr = True
        if self._pieces and self._pieces[-1].endswith(b"\r"):
            piece = self._pieces.pop()
            self._size -= len(piece)
            data = piece + data
        if data.endswith(b"\r"):  # half a CR LF, perhaps
            return data[:-1].replace(b"\r\n", b"\n") + b"\r"
        return data.replace(b"\r\n", b"\n")

    def _begin(self, block: bytes) -> bytes:
        """Read every frame until the answer has begun; what comes after in the same read goes on unread."""
        at = 0 if self._named or not block.startswith(BOM) else len(BOM)
        while not self.started and at < len(block):
            end = block.index(b"\n\n", at) + 2
            frame = block[at:end]
            at = end
            told = self._frame(frame)
            if told:
                self._held.append(told)
            if self._done:
                break
        if not self.started:
            return b""
        held = b"".join(self._held)
        self._held.clear()
        try:
            return held + self._block(block[at:]) if at < len(block) else held
        except ProviderError as error:
            self._failure = bare(error)
            return held

    def _block(self, block: bytes) -> bytes:
        """Frames of a stream under way."""
        frames = block.count(b"\n\n")
        ends = self._several and block.count(b'"finish_reason"') != frames  # beside the text of another choice
        if ends or not block.startswith(b"data:") or block.count(self._calm) != frames or b'"error"' in block:
            return self._slowly(block)
        out = block
        if not (self._include_usage if self._silent else b'"usage"' not in block):
            hidden = self._hide(block)
            if not self._silent and b'"usage"' in hidden:  # it is not null
                return self._slowly(block)
            out = block if self._include_usage else hidden
        elif self._include_usage and not self._silent:
            out = opened(block, _NULL)
        if self.called_tools and b'"name"' in block:  # the next call begins
            return self._decoded(block)
        size = len(block) - _padding(block, frames) if self._padded else len(block)
        text = size - frames * self._overhead
        if not frames <= text <= frames * _MUCH:
            if not self._call_overhead or block.count(b'"arguments"') != frames:
                return self._decoded(block)
            # Nearly every piece of arguments has quotes, which are escaped: JSON within JSON.
            text = size - frames * self._call_overhead - block.count(b"\\")
            if not frames <= text <= frames * _MUCH:
                return self._decoded(block)
        self._text += text
        return out

    def _slowly(self, block: bytes) -> bytes:
        """Frames of which one may be the end, or an error."""
        self._straight = False
        return self._decoded(block)

    def _decoded(self, block: bytes) -> bytes:
        out: list[bytes] = []
        try:
            for frame in block.split(b"\n\n")[:-1]:
                if self._done:
                    break
                out.append(self._frame(frame + b"\n\n"))
        except ProviderError as error:
            self._straight = False
            if not any(out):
                raise
            self._failure = bare(error)
        return b"".join(out)

    def _hide(self, block: bytes) -> bytes:
        block = block.replace(b',"usage":null', b"")
        if b'"usage"' in block:
            for form in _HIDDEN:
                block = block.replace(form, b"")
        return block

    def _frame(self, frame: bytes) -> bytes:
        """Decode one frame and give what the client may have of it."""
        data, plain, event = payload(frame)
        if not data:
            return b""
        if data == b"[DONE]":
            self._done = True
            return self._told()
        chunk = loads(data)
        if not isinstance(chunk, dict):
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an event that is not a chunk.")
        if (error := failure(chunk, event)) is not None:
            raise embedded_error(error)
        changed = had_nulls(chunk)
        if (tier := served_tier(self._dialect, chunk.get("service_tier"))) is not None:
            self.served_tier = tier
        if not self._named:
            self._name_tier(chunk)
        if self._calm not in data or not self._silent:
            self._see_calm(data)
        choices = chunk["choices"]
        if ends := [reason for choice in choices if (reason := choice.get("finish_reason"))]:
            self._ends(chunk, ends)
        self.started = self.started or answers(choices)
        self._count(frame, chunk, choices)
        if (self.called_tools and shortened(choices)) or changed:
            plain = b"data: " + dumps(chunk) + b"\n\n"
        if given := told_usage(chunk):
            return self._usage(chunk, choices, given)
        if self._include_usage:
            return plain if "usage" in chunk else opened(plain, _NULL)
        return self._hide(plain)

    def _ends(self, chunk: JSON, reasons: list[str]) -> None:
        if not FAILED.isdisjoint([reason.lower() for reason in reasons]):
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's answer ended before it was complete.")
        self._left -= len(reasons)
        self._end = chunk

    def _see_calm(self, data: bytes) -> None:
        for calm in _CALM:
            if calm in data:
                self._calm, self._silent = calm, calm in _SILENT
                return

    def _count(self, frame: bytes, chunk: JSON, choices: list[JSON]) -> None:
        """Measure the text of a frame, and how much of it is not text; all such frames of a stream are alike."""
        deltas = [choice.get("delta") or {} for choice in choices]
        calls = any(delta.get("tool_calls") or delta.get("function_call") for delta in deltas)
        self.called_tools = self.called_tools or calls
        told = [said(delta) for delta in deltas]
        texts = [text for each in told for text in each]
        self._text += sum([size_of(text) for each in told for text in set(each)])  # some tell reasoning by two names
        if len(texts) != 1 or chunk.get("usage") or any(choice.get("logprobs") for choice in choices):
            return
        self._padded = "obfuscation" in chunk
        escaped = json.dumps(texts[0], ensure_ascii=b"\\u" in frame)
        overhead = len(frame) - (_padding(frame, 1) if self._padded else 0) - (size_of(escaped) - 2)
        if b'"arguments"' in frame:
            self._call_overhead = min(self._call_overhead or overhead, overhead)
        elif not calls:  # custom tools are rare enough to decode every piece
            self._overhead = min(self._overhead or overhead, overhead)

    def _usage(self, chunk: JSON, choices: list[JSON], given: Any) -> bytes:
        """Keep what was used for the end; the rest of the chunk, if any, is for the client."""
        if (usage := read_usage(given)) is not None:
            self.usage = usage
            if self._include_usage:
                self._total = {**chunk, "choices": [], "usage": given}
        if not choices:
            return b""
        if self._include_usage:
            chunk["usage"] = None
        else:
            chunk.pop("usage", None)
        return b"data: " + dumps(chunk) + b"\n\n"

    def _told(self) -> bytes:
        """The usage chunk, once: the last before ``[DONE]``."""
        total, self._total = self._total, None
        return b"" if total is None else b"data: " + dumps(total) + b"\n\n"


def _padding(block: bytes, frames: int) -> int:
    if frames == 1:  # it is the last of a frame
        return len(block) - len(b'""}\n\n') - block.rfind(b'"', 0, -len(b'"}\n\n'))
    return sum([part.find(b'"') for part in block.split(_PADDING)[1:]])

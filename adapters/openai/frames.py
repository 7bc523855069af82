"""Frames that differ from the one before in their text alone, as nearly all of a stream do, and how they begin."""

import re

_TEXTS = (b'"content":"', b'"reasoning_content":"')
"""What a text begins after. Quotes inside JSON strings are escaped, so this is always a key and its value's beginning."""
_OPENING = re.compile(rb"^data: ?\{(?!\s*\})", re.MULTILINE)
"""The beginning of a chunk: inside JSON a line break is escaped, so no text can look like one."""
_OPEN = b'data: {"'
"""How it is nearly always written."""


class Shape:
    """What is around the text of a frame of one line, and what the client has around it instead."""

    def __init__(self, before: bytes, after: bytes, out_before: bytes, out_after: bytes) -> None:
        self._before = before
        self._after = after
        self._start = len(before)
        self._end = -len(after)
        self.overhead = len(before) + len(after)
        """Bytes of a frame without its text."""
        self._changed = (before, after) != (out_before, out_after)
        self._between = after + before
        self._out_before = out_before
        self._out_after = out_after
        self._out_between = out_after + out_before

    def relayed(self, data: bytes) -> tuple[int, bytes] | None:
        """How many frames ``data`` is and what the client gets for it; None where one has not this shape or no plain text."""
        if len(data) < self.overhead or not data.startswith(self._before) or not data.endswith(self._after):
            return None
        text = data[self._start : self._end]
        if b"\n" not in text:
            if b'"' in text:  # an escaped quote: something may hide in it
                return None
            return 1, self._out_before + text + self._out_after if self._changed else data
        texts = text.split(self._between)
        for text in texts:
            if b'"' in text or b"\n" in text:
                return None
        return len(texts), self._out_before + self._out_between.join(texts) + self._out_after if self._changed else data


def shape_of(frames: bytes, out: bytes) -> Shape | None:
    """The shape of the first of whole frames that go to the client as ``out``, one for one; None where it has none that is
    worth knowing. Under load several come at once from the beginning.
    """
    inside, outside = _around(frames), _around(out)
    if inside is None or outside is None or frames.count(b"\n\n") != out.count(b"\n\n"):
        return None
    return Shape(*inside, *outside)


def _around(frames: bytes) -> tuple[bytes, bytes] | None:
    line = frames.find(b"\n")
    if not frames.startswith(b"data:") or frames.find(b"\n\n") != line:
        return None
    frame = frames[: line + 2]
    for key in _TEXTS:
        at = frame.find(key)
        if at >= 0:
            start = at + len(key)
            end = frame.find(b'"', start)
            escaped = frame[end - 1 : end] == b"\\"
            # Where this text is empty, what differs from frame to frame is another one.
            if start == end or escaped or frame[end + 1 : end + 2] not in (b"}", b","):
                return None
            return frame[:start], frame[end:]
    return None


def opened(frames: bytes, put: bytes) -> bytes:
    """Frames whose chunks begin with ``put``."""
    if frames.startswith(_OPEN) and frames.count(b"\ndata:") == frames.count(b"\n" + _OPEN):
        opening = put + b'"'  # every chunk begins in the usual way: no need to look at every line
        return opening + frames[len(_OPEN) :].replace(b"\n" + _OPEN, b"\n" + opening)
    return _OPENING.sub(put, frames)


def payload(frame: bytes) -> tuple[bytes, bytes, str]:
    """The data of a frame, the frame without anything else (C-301), and whether it is named an ``error``."""
    if frame.startswith(b"data:") and frame.find(b"\n") == len(frame) - 2:  # one line, as nearly all
        return frame[5:-2].removeprefix(b" "), frame, ""
    lines = frame.split(b"\n")
    # A line break between two lines of JSON is a blank, and would end the client's line.
    data = b" ".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")])
    return data, b"data: " + data + b"\n\n", "error" if b"event: error" in lines or b"event:error" in lines else ""

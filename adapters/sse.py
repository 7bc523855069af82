"""Server-sent events, decoded without I/O (WHATWG HTML, section 9.2)."""

from dataclasses import dataclass

from .errors import ErrorKind, ProviderError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The largest event accepted. Base64 images and long tool arguments come as one line of several MiB."""

BOM = b"\xef\xbb\xbf"
"""What may come before the first line, and says nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    event: str
    data: bytes


class SSEDecoder:
    """Bytes in, events out. Only CR, LF and CRLF end a line; U+2028 and U+0085 are text."""

    def __init__(self, max_event: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event
        self._pieces: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._first = True
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """Decode what is complete; raises ProviderError(PROTOCOL) for an event over the cap."""
        if not data:
            return []
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]  # the LF of a CRLF that was cut in two
        if not data:
            self._after_cr = False
            return []
        self._after_cr = data[-1:] == b"\r"
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._hold(data)
            return []
        if self._pieces:
            head = b"".join((*self._pieces, head))
            self._pieces.clear()
        self._held = 0
        if tail:
            self._hold(tail)
        return self._lines(head)

    def close(self) -> list[Event]:
        """Tell that the bytes are over. An event without its blank line is dropped, as the standard says."""
        self._pieces.clear()
        self._data.clear()
        return []

    def _hold(self, piece: bytes) -> None:
        self._held += len(piece)
        if self._held + self._size > self._max:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an event that is too large.")
        self._pieces.append(piece)

    def _lines(self, text: bytes) -> list[Event]:
        if self._first:
            self._first = False
            text = text.removeprefix(BOM)
        events: list[Event] = []
        for line in text.split(b"\n"):
            if not line:
                if self._data:
                    events.append(Event(self._event, b"\n".join(self._data)))
                    self._data = []
                    self._size = 0
                self._event = ""
            else:
                self._field(line)
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value)
            if self._size > self._max:
                raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent an event that is too large.")
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"error" and value.startswith(b"{"):  # llama.cpp's own field, until its builds of late 2025
            self._event, self._data = "error", [value]

"""What the demo upstream generated, request by request: what a provider would bill."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.usage import NO_USAGE, TOKEN_BUCKETS, Usage

CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key"})


@dataclass(slots=True)
class Entry:
    """One request. Tokens count when they were generated: a request refused or left before the head costs nothing,
    and one that broke off costs its prompt and the pieces sent until then."""

    number: int
    dialect: str
    model: str
    request_id: str = ""
    """The ``x-client-request-id`` or ``x-request-id`` received."""
    stream: bool = False
    status: int = 0
    """Of the answer; 0 while, or if, none was sent."""
    usage: Usage = NO_USAGE
    tier: str = ""
    """The tier that served it."""
    reported: bool = False
    """Whether the client was told the usage."""
    complete: bool = False
    """Whether the whole answer was sent."""
    aborted_at: int | None = None
    """Pieces sent when the client left; -1: it left before the head."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    def to_json(self) -> dict[str, Any]:
        """Without credentials."""
        entry = asdict(self)
        entry["headers"] = {name: value for name, value in self.headers.items() if name not in CREDENTIALS}
        return entry


class Journal:
    """The last ``size`` requests, oldest first."""

    def __init__(self, size: int = 100_000) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)
        self._number = 0

    def open(self, dialect: str, model: str, headers: Mapping[str, str], body: Any, *, stream: bool) -> Entry:
        """Begin an entry."""
        self._number += 1
        request_id = headers.get("x-client-request-id") or headers.get("x-request-id", "")
        entry = Entry(self._number, dialect, model, request_id, stream, headers=headers, body=body)
        self._entries.append(entry)
        return entry

    def clear(self) -> None:
        self._entries.clear()

    def totals(self) -> dict[str, int]:
        """Tokens by bucket, over all entries."""
        return {name: sum(getattr(entry.usage, name) for entry in self) for name in TOKEN_BUCKETS}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

"""What passes between the gateway and an adapter for every request: its bytes, and what was read of its answer.

Written out, here and wherever else a value is made for every request: a constructor that is compiled costs a quarter of
what ``dataclass`` makes, and ``Final`` fields cost nothing, where those of a frozen one are set four times as slowly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .usage import Usage


@dataclass(init=False, slots=True, repr=False)
class UpstreamRequest:
    """One HTTP request, complete but for a signature, and what its answer must be read with."""

    url: Final[str]
    headers: Final[Mapping[str, str]]
    body: Final[bytes]
    stream: Final[bool]
    dropped: Final[tuple[str, ...]]
    """Parameters left out because the provider has nothing like them."""
    notes: Final[Mapping[str, Any]]
    """The adapter's memory from ``prepare`` to ``parse`` and ``stream`` (say, which tool stands for a JSON schema)."""

    def __init__(
        self, url: str, headers: Mapping[str, str], body: bytes, stream: bool = False,
        dropped: tuple[str, ...] = (), notes: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.url, self.headers, self.body, self.stream, self.dropped = url, headers, body, stream, dropped
        self.notes = {} if notes is None else notes

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.url!r})"  # the rest is secret, or a prompt


@dataclass(init=False, slots=True)
class Answer:
    """A complete answer."""

    completion: Final[dict[str, Any]]
    """A loose ``chat.completion``; ``adapters.emit.completion`` makes it lawful."""
    usage: Final[Usage | None]
    served_tier: Final[str | None]
    """In OpenAI's words, where the provider told."""
    body: Final[bytes | None]
    """The upstream's own bytes, when the client can have them as they are."""

    def __init__(
        self, completion: dict[str, Any], usage: Usage | None, served_tier: str | None = None, body: bytes | None = None
    ) -> None:
        self.completion, self.usage, self.served_tier, self.body = completion, usage, served_tier, body

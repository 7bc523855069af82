"""Thought signatures: what Gemini wants back with its function calls, and how clients carry it.

A signature travels in ``extra_content.google.thought_signature`` of a tool call or a message, as at Google's own
OpenAI-compatible endpoint. Many clients drop fields they do not know, and a tool call id is too short for it (C-210),
so the last signatures are remembered as well. A call without one, of another model say, gets the value that Google
documents for it: the model then goes on without its former thoughts, where it would refuse otherwise (edge case 41).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

SKIP = "skip_thought_signature_validator"
"""Google's page "Thought signatures": for calls that the model did not make itself."""


def extra(signature: str) -> dict[str, Any]:
    """The field that carries a signature to the client."""
    return {"extra_content": {"google": {"thought_signature": signature}}}


def carried(holder: Mapping[str, Any] | None) -> str | None:
    """The signature that a client sent back on a tool call or a message."""
    for key in ("extra_content", "google"):
        inner = holder.get(key) if holder is not None else None
        holder = inner if isinstance(inner, Mapping) else None
    signature = holder.get("thought_signature") if holder is not None else None
    return signature if isinstance(signature, str) and signature else None


class Memory:
    """The last signatures by call, of one process: an aid for forgetful clients, never needed for a right answer.

    Keyed by id and name together, so that only who knows both gets one attached. ``limit`` is in bytes.
    """

    def __init__(self, limit: int = 16 * 1024 * 1024) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    def remember(self, call_id: str, name: str, signature: str) -> None:
        key = _key(call_id, name)
        self._size += len(signature) - len(self._kept.pop(key, ""))
        self._kept[key] = signature
        while self._size > self._limit:
            self._size -= len(self._kept.popitem(last=False)[1])

    def recall(self, call_id: str, name: str) -> str | None:
        return self._kept.get(_key(call_id, name))


def _key(call_id: str, name: str) -> bytes:
    return hashlib.sha256(f"{call_id}\0{name}".encode(errors="replace")).digest()

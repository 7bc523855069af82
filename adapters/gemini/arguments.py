"""Function arguments that Vertex AI streams in pieces, put together again.

We never ask for them, but a proxy in between may. A piece is ``{"jsonPath": "$.a[0].b", "stringValue": "x"}``;
text of the same path is appended while ``willContinue`` says so.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ..errors import ErrorKind, ProviderError

_STEP = re.compile(r"\.([^.\[]+)|\[(\d{1,5})\]|\[['\"]([^'\"]+)['\"]\]")
_MOST = 10_000
"""The longest list accepted: an index is a claim, not an element."""


class StreamedArguments:
    """One call whose arguments come in pieces."""

    def __init__(self, signature: str | None) -> None:
        self.signature = signature
        self.call: dict[str, Any] = {}
        self._open: str | None = None

    @staticmethod
    def is_piece(call: Mapping[str, Any]) -> bool:
        return "partialArgs" in call or bool(call.get("willContinue"))

    def add(self, call: Mapping[str, Any]) -> bool:
        """Add a piece; tells whether more follow."""
        for key in ("name", "id"):
            if call.get(key):
                self.call[key] = call[key]
        arguments = self.call.setdefault("args", {})
        if isinstance(whole := call.get("args"), Mapping):
            arguments.update(whole)
        pieces = call.get("partialArgs")
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, Mapping) and isinstance(piece.get("jsonPath"), str):
                self._piece(arguments, piece)
        return bool(call.get("willContinue"))

    def _piece(self, arguments: dict[str, Any], piece: Mapping[str, Any]) -> None:
        path = piece["jsonPath"]
        steps = [int(m[2]) if m[2] else m[1] or m[3] for m in _STEP.finditer(path)]
        if not steps:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent arguments without a path.")
        holder: Any = arguments
        for step, following in pairwise(steps):
            holder = _entered(holder, step, [] if isinstance(following, int) else {})
        value = next((piece[key] for key in ("stringValue", "numberValue", "boolValue") if key in piece), None)
        if self._open == path and isinstance(value, str):
            value = _entered(holder, steps[-1], "") + value
        _set(holder, steps[-1], value)
        self._open = path if piece.get("willContinue") else None


def _entered(holder: Any, step: str | int, default: Any) -> Any:
    """What is at ``step``, made if there is nothing."""
    known = holder.get(step) if isinstance(holder, dict) else None
    if isinstance(holder, list) and isinstance(step, int) and step < len(holder):
        known = holder[step]
    if known is None or type(known) is not type(default):
        _set(holder, step, default)
        return default
    return known


def _set(holder: Any, step: str | int, value: Any) -> None:
    if isinstance(holder, dict):
        holder[str(step)] = value
        return
    if not isinstance(step, int) or step > _MOST:
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent arguments with a wrong path.")
    holder.extend([None] * (step + 1 - len(holder)))
    holder[step] = value

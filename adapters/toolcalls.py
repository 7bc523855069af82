"""Tool calls of a stream, put in lawful order: dense indexes, one call finished before the next begins."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from .errors import ErrorKind, ProviderError
from .jsonio import dumps, whole

CALL_KEYS = frozenset({"index", "id", "type", "function", "custom"})
"""What a tool call, or a fragment of one, is made of; the rest are extensions."""


LONGEST_ID = 40
"""OpenAI's limit for the id of a call in a request: a client must be able to send back what it was given (C-210)."""


def new_id() -> str:
    """An id like OpenAI's own: ``call_`` and 24 letters and digits (checklist C-210)."""
    return "call_" + secrets.token_hex(12)


def is_custom(call: Mapping[str, Any]) -> bool:
    """Whether a call, or a fragment of one, is of a custom tool; some providers send both kinds, one of them empty."""
    kind = call.get("type")
    return kind == "custom" or (kind != "function" and isinstance(call.get("custom"), dict))


class _Call:
    __slots__ = ("custom", "extra", "given", "half", "id", "index", "name", "seen", "waiting")

    def __init__(self, index: int, given: str) -> None:
        self.index = index
        self.given = given
        """The id in the provider's words; ``id`` is the one that clients see."""
        self.id = given
        self.name = ""
        self.custom = False
        self.half = ""
        """Of a surrogate pair that a fragment ended in: the next one begins with the other."""
        self.seen: list[str] = []
        """All arguments so far, to tell whether they are complete."""
        self.waiting: list[str] = []
        """Arguments that could not be sent on yet."""
        self.extra: dict[str, Any] = {}

    def joined(self, text: str) -> str:
        """The text of a fragment with the half before it, and without one at its end."""
        half, self.half = self.half, ""
        if 0xD800 <= ord(text[-1]) <= 0xDBFF:
            text, self.half = text[:-1], text[-1]
        return whole(half + text) if half else text

    def complete(self) -> bool:
        """Whether no more arguments can follow: they are a whole JSON object (free text of a custom tool has no end)."""
        if self.custom:
            return True
        if not self.seen or not self.seen[-1].rstrip().endswith("}"):
            return False
        try:
            orjson.loads("".join(self.seen))
        except ValueError:
            return False
        return True


class ToolCalls:
    """One choice's tool calls: fragments as a provider sends them in, fragments as clients need them out.

    Out comes ``{index, id, type, function: {name, arguments: ""}}`` once per call and then only
    ``{index, function: {arguments}}`` (checklist C-315, C-316). Missing ids are made, double and overlong ones replaced,
    missing, sparse or all-zero indexes renumbered; fragments of a later call wait for the earlier one's end.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._ids: set[str] = set()
        self._open = -1
        """The position of the call whose fragments pass through."""

    def __bool__(self) -> bool:
        return self._open >= 0

    def feed(self, fragments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for fragment in fragments:
            self._fragment(fragment, out)
        return out

    def close(self) -> list[dict[str, Any]]:
        """The calls that still wait, and ``{}`` for a call that never got arguments."""
        out: list[dict[str, Any]] = []
        self._advance(out, force=True)
        return out

    def _fragment(self, fragment: Mapping[str, Any], out: list[dict[str, Any]]) -> None:
        custom = is_custom(fragment)
        body = fragment.get("custom" if custom else "function")
        if not isinstance(body, dict):
            body = {}
        name = body.get("name")
        name = name if isinstance(name, str) else ""
        call = self._find(fragment, name)
        if not call.name and name:
            call.name = name
            call.custom = custom
        text = _text(body.get("input") if call.custom else body.get("arguments"))
        if text and (call.half or 0xD800 <= ord(text[-1]) <= 0xDBFF):
            text = call.joined(text)
        extra: dict[str, Any] = {}
        if not CALL_KEYS.issuperset(fragment):
            extra = {key: value for key, value in fragment.items() if key not in CALL_KEYS and value is not None}
        if text:
            call.seen.append(text)
        if call.index > self._open:
            call.extra.update(extra)
            if text:
                call.waiting.append(text)
        elif text or extra:
            out.append(_more(call, text) | extra if extra else _more(call, text))
        if self._open + 1 < len(self._calls):
            self._advance(out)

    def _find(self, fragment: Mapping[str, Any], name: str) -> _Call:
        index, given = fragment.get("index"), fragment.get("id")
        identity = given if isinstance(given, str) and given != "null" else ""  # Mistral's default is "null"
        if isinstance(index, int) and not isinstance(index, bool):
            call = self._by_index.get(index)
        else:
            call = next((c for c in self._calls if identity and c.given == identity), None)
            if call is None and self._calls and not name:
                call = self._calls[-1]
        if call is None or (name and call.name and _another(call, identity, name)):
            call = _Call(len(self._calls), identity)
            if not identity or identity in self._ids or len(identity) > LONGEST_ID:
                call.id = new_id()
            self._ids.add(call.id)
            self._calls.append(call)
        if isinstance(index, int):
            self._by_index[index] = call
        return call

    def _advance(self, out: list[dict[str, Any]], *, force: bool = False) -> None:
        """Begin the calls whose turn has come."""
        while self._open < 0 or force or self._calls[self._open].complete():
            if force and self._open >= 0 and not (last := self._calls[self._open]).seen and not last.custom:
                last.seen.append("{}")  # many clients parse the arguments without looking (C-281)
                out.append(_more(last, "{}"))
            if self._open + 1 >= len(self._calls):
                return
            call = self._calls[self._open + 1]
            if not call.name:
                if force and not call.seen:
                    del self._calls[self._open + 1]  # an empty husk, no call
                    for at, later in enumerate(self._calls):
                        later.index = at
                    continue
                if not force:
                    return
                raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent a tool call without a name.")
            self._open += 1
            kind, key = ("custom", "input") if call.custom else ("function", "arguments")
            head = {"index": call.index, "id": call.id, "type": kind, kind: {"name": call.name, key: ""}}
            out.append(head | call.extra)
            if call.waiting:
                out.append(_more(call, "".join(call.waiting)))
                call.waiting.clear()


def _another(call: _Call, identity: str, name: str) -> bool:
    """Whether a fragment with a name begins a new call although its index is taken (some providers number all 0)."""
    if identity:
        return identity != call.given
    return name != call.name or call.complete()


def _more(call: _Call, text: str) -> dict[str, Any]:
    if call.custom:
        return {"index": call.index, "custom": {"input": text}}
    return {"index": call.index, "function": {"arguments": text}}


def _text(arguments: Any) -> str:
    """Arguments as text; some providers send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else dumps(arguments).decode()

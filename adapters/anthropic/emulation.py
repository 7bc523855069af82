"""What Claude does not stream the way clients expect it, put right piece by piece.

* JSONText     JSON that a model wrote as plain text: without the code fence around it
* StringField  the free text of a custom tool: out of the JSON object that it comes in
"""

import json
import re

from ..tools import INPUT, custom_input

_FENCE = "```"
_TAIL = re.compile(r"\s*`{0,3}\s*\Z")
_OPENING = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
_WHOLE = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4})*"
)
"""String contents up to a piece of an escape that is not complete yet."""


class JSONText:
    """Feed text, get JSON. ``prefix`` is what was prefilled and so is missing from the answer."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._fenced = bool(prefix)
        self._began = bool(prefix)
        self._held = ""

    def feed(self, text: str) -> str:
        text, self._held = self._held + text, ""
        if not self._began:
            start = text.lstrip()
            if _FENCE.startswith(start[:3]) and "\n" not in start:
                self._held = text
                return ""
            self._began = True
            if start.startswith(_FENCE):
                self._fenced = True
                text = start.partition("\n")[2]
        if not self._fenced:
            return text
        cut = _TAIL.search(text)
        if cut is not None:
            text, self._held = text[: cut.start()], text[cut.start() :]
        text, self._prefix = self._prefix + text, ""
        return text

    def close(self) -> str:
        """The rest, when the text is over."""
        rest, self._held = self._held, ""
        if self._fenced:
            rest = "" if not rest.strip() or _FENCE in rest else rest
        rest, self._prefix = self._prefix + rest, ""
        return rest


class StringField:
    """Feed the pieces of ``{"input": "..."}``, get the pieces of the string."""

    def __init__(self) -> None:
        self._all: list[str] = []
        self._held = ""
        self._inside = False

    def feed(self, piece: str) -> str:
        self._held += piece
        if not self._inside:
            self._all.append(piece)
            opening = _OPENING.match(self._held)
            if opening is None:
                return ""
            self._inside = True
            self._held = self._held[opening.end() :]
        whole = _WHOLE.match(self._held)
        assert whole is not None  # it matches nothing, too
        self._held = self._held[whole.end() :]
        return _decoded(whole[0])

    def close(self) -> str:
        """The rest: all of it, when the arguments are of another shape; nothing more of a string cut short."""
        if self._inside:
            return ""
        text = "".join(self._all)
        return custom_input(text) if text else ""


def _decoded(escaped: str) -> str:
    text: str = json.loads(f'"{escaped}"', strict=False)
    return text

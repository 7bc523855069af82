"""Reasoning inside the text, between ``<think>`` and ``</think>``, as servers without a reasoning parser send it."""

from typing import Literal, TypeAlias

ThinkTags: TypeAlias = Literal["explicit", "implied"]
"""``implied``: the chat template itself opens the tag, so the text begins inside it (edge case 46)."""
_OPEN, _CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Text in pieces in, reasoning and content out. Tags may be cut anywhere; only those at the start count."""

    def __init__(self, tags: ThinkTags) -> None:
        self._step = self._opening
        self._implied = tags == "implied"
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        """The reasoning and the content that are certain by now."""
        text, self._held = self._held + text, ""
        return self._step(text)

    def close(self) -> tuple[str, str]:
        """What was held back: it was no tag after all."""
        held, self._held = self._held, ""
        inside = self._step == self._thinking or (self._implied and self._step == self._opening)
        return (held, "") if inside else ("", held)

    def _opening(self, text: str) -> tuple[str, str]:
        start = text.lstrip()
        if len(start) < len(_OPEN) and _OPEN.startswith(start):
            self._held = text
            return "", ""
        if start.startswith(_OPEN):
            text = start[len(_OPEN) :]
        elif not self._implied:
            self._step = self._answering
            return "", text
        self._step = self._thinking
        return self._thinking(text)

    def _thinking(self, text: str) -> tuple[str, str]:
        reasoning, closed, content = text.partition(_CLOSE)
        if closed:
            self._step = self._parting
            return reasoning, self._parting(content)[1]
        keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if reasoning.endswith(_CLOSE[:n])), 0)
        self._held = reasoning[len(reasoning) - keep :]
        return reasoning[: len(reasoning) - keep], ""

    def _parting(self, text: str) -> tuple[str, str]:
        """The blank lines between the reasoning and the content belong to neither."""
        content = text.lstrip("\n")
        if content:
            self._step = self._answering
        return "", content

    def _answering(self, text: str) -> tuple[str, str]:
        return "", text

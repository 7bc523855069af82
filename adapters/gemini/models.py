"""What each Gemini model takes, as a table: the names are all there is to tell the generations apart.

Sources: Google's pages "Thinking", "Function calling", "File input methods" and recorded answers.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
"""In ascending order."""
_RANKS = {"none": 0, "minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 3, "max": 3}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
"""reasoning_effort -> thinkingBudget in tokens, as Google's own OpenAI-compatible endpoint has it."""


@dataclass(frozen=True, slots=True)
class Gates:
    """What one family of models takes."""

    levels: tuple[str, ...] = ()
    """The values of ``thinkingLevel``; empty for models that have none."""
    budgets: tuple[int, int] | None = None
    """The least and the most ``thinkingBudget``; 0 switches thinking off where the least is 0."""
    generation_3: bool = True
    """Call ids, thought signatures, images inside function responses, JSON mode or search together with functions."""
    json_schema: bool = True
    """Raw JSON Schema, not only the OpenAPI subset."""
    fetches: bool = True
    """Whether ``fileData`` may name a public URL."""
    system: bool = True
    """Whether there is a ``systemInstruction``."""
    penalties: Literal["nowhere", "vertex", "everywhere"] = "nowhere"
    """Where presence and frequency penalties are taken: on Vertex AI only, or at AI Studio as well; elsewhere one is a 400."""
    prefill: bool = True
    """Whether it goes on with a conversation that ends with its own turn, which is a 400 elsewhere."""

    def thinking(self, effort: str | None) -> dict[str, Any] | None:
        """The ``thinkingConfig`` of a ``reasoning_effort``; None when the model cannot be told."""
        if effort not in _RANKS:
            return None
        if self.budgets is not None:
            least, most = self.budgets
            budget = min(max(_BUDGETS[effort], least), most)
            return {"thinkingBudget": budget, "includeThoughts": True} if budget else {"thinkingBudget": 0}
        if not self.levels:
            return None
        wanted = _RANKS[effort]
        level = next((level for level in self.levels if _LEVELS.index(level) >= wanted), self.levels[-1])
        return {"thinkingLevel": level} if effort == "none" else {"thinkingLevel": level, "includeThoughts": True}


_OLD = Gates(generation_3=False, json_schema=False, fetches=False, penalties="everywhere")
_2_5 = Gates(generation_3=False, penalties="vertex")
_NEWEST = Gates(("LOW", "MEDIUM", "HIGH"), prefill=False)
"""Of models not in the table: what all newer ones share (from 3.7 on MINIMAL is refused)."""
_FAMILIES: tuple[tuple[str, Gates], ...] = (
    (r"gemma-[123]", replace(_OLD, system=False)),
    (r"gemini-1|gemini-2\.0|gemini-exp|learnlm|gemini-pro($|-vision)|text-|chat-", _OLD),
    (r"gemini-2\.5-.*(image|tts|audio|live)", _2_5),
    (r"gemini-2\.5-pro", replace(_2_5, budgets=(128, 32_768))),
    (r"gemini-2\.5-", replace(_2_5, budgets=(0, 24_576))),
    (r"gemini-3.*flash-image", Gates(("MINIMAL", "HIGH"))),
    (r"gemini-.*(image|tts|audio|live)", Gates()),
    (r"gemini-3-pro", Gates(("LOW", "HIGH"))),
    (r"gemini-3\.1-pro|gemini-pro-latest", replace(_NEWEST, prefill=True)),
    (r"gemini-3\.(6-flash|[5-9].*-lite)", Gates(_LEVELS, prefill=False)),
    (r"gemini-3(\.[0-6])?-flash|gemini-3.*-lite", Gates(_LEVELS)),
)


@lru_cache(1024)
def gates(model: str) -> Gates:
    """The gates of a model by its name, with or without ``models/`` before it."""
    name = model.rsplit("/", 1)[-1].lower()
    return next((found for pattern, found in _FAMILIES if re.match(pattern, name)), _NEWEST)

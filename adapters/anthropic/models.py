"""What each Claude model takes and refuses: a table, because every wrong cell is a 400.

Sources: platform.claude.com, pages "Thinking", "Effort", "Structured outputs", "Tool use", "Mid-conversation
system messages" and the "What's new" page of each model, as of 2026-11; recorded 400 answers.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal


@dataclass(frozen=True, slots=True)
class Gates:
    """The capabilities of one model that decide what a request to it may say."""

    thinking: Literal["none", "budget", "adaptive"]
    """``budget``: ``enabled`` with ``budget_tokens``; ``adaptive``: the model decides, ``effort`` steers."""
    max_output: int
    """Tokens, thinking included."""
    thinking_off: Literal["omit", "disabled", "between_tools", "never"] = "omit"
    """How thinking is turned off: by saying nothing, with a ``type`` of this name, or not at all."""
    efforts: tuple[str, ...] = ()
    sampling: bool = True
    """Whether temperature, top_p and top_k are taken at all."""
    sampling_pair: bool = True
    """Whether temperature and top_p may come together."""
    prefill: bool = True
    """Whether the conversation may end with an assistant turn."""
    forced_tools: bool = True
    """Whether tool_choice may be ``any`` or ``tool``."""
    schemas: bool = False
    """Whether ``output_config.format`` and strict tools exist."""
    inline_system: bool = False
    """Whether a system turn may stand inside the conversation."""
    bound_thinking: bool = False
    """Whether a thinking block is tied to the exact conversation that it was made in."""


_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_CLAUDE_3 = Gates("none", 4_096)
_CLAUDE_4 = Gates("budget", 64_000)
_CLAUDE_4_1 = replace(_CLAUDE_4, schemas=True, sampling_pair=False)
_CLAUDE_4_6 = replace(
    _CLAUDE_4_1, thinking="adaptive", max_output=128_000, prefill=False, efforts=("low", "medium", "high", "max")
)
_CLAUDE_4_7 = replace(_CLAUDE_4_6, sampling=False, efforts=_EFFORTS)
_CLAUDE_5 = replace(_CLAUDE_4_7, thinking_off="disabled")
_CLAUDE_5_5 = replace(_CLAUDE_5, thinking_off="never", forced_tools=False, inline_system=True, bound_thinking=True)

NEWEST = replace(_CLAUDE_5_5, inline_system=False)
"""Taken for a Claude that the table does not know: later models refuse what the latest known ones refuse."""
OTHER = replace(_CLAUDE_4, max_output=8_192)
"""Taken for a model of somebody else behind the same dialect."""

GATES = {
    "claude-instant": _CLAUDE_3,
    "claude-2": _CLAUDE_3,
    "claude-3": _CLAUDE_3,
    "claude-3-5": replace(_CLAUDE_3, max_output=8_192),
    "claude-3-7": _CLAUDE_4,
    "claude-opus-4": replace(_CLAUDE_4, max_output=32_000),
    "claude-opus-4-0": replace(_CLAUDE_4, max_output=32_000),
    "claude-sonnet-4": _CLAUDE_4,
    "claude-sonnet-4-0": _CLAUDE_4,
    "claude-opus-4-1": replace(_CLAUDE_4_1, max_output=32_000),
    "claude-opus-4-5": _CLAUDE_4_1,
    "claude-sonnet-4-5": _CLAUDE_4_1,
    "claude-haiku-4-5": _CLAUDE_4_1,
    "claude-opus-4-6": _CLAUDE_4_6,
    "claude-sonnet-4-6": _CLAUDE_4_6,
    "claude-opus-4-7": _CLAUDE_4_7,
    "claude-opus-4-8": replace(_CLAUDE_4_7, inline_system=True),
    "claude-sonnet-5": _CLAUDE_5,
    "claude-opus-5": replace(_CLAUDE_5, inline_system=True),
    "claude-fable-5": replace(_CLAUDE_5, thinking_off="never", inline_system=True),
    "claude-mythos-5": replace(_CLAUDE_5, thinking_off="never", inline_system=True),
    "claude-mythos-preview": replace(_CLAUDE_5, thinking_off="never"),
    "claude-fable-5-1": _CLAUDE_5_5,
    "claude-mythos-5-1": replace(_CLAUDE_5_5, bound_thinking=False),
    "claude-opus-5-5": _CLAUDE_5_5,
    "claude-sonnet-5-5": replace(_CLAUDE_5_5, thinking_off="between_tools"),
    "claude-haiku-5-5": replace(_CLAUDE_5_5, thinking_off="disabled", forced_tools=True),
}
"""By family: the name up to a date or a variant."""

_FAMILY = re.compile(r"(?:-(?!\d{1,2}(?!\d)).*)?")
"""What may follow a family: a date or a word, but not a further version number."""


@lru_cache(maxsize=512)
def gates(model: str) -> Gates:
    """The gates of a model under any name it goes by: dated, or with a region or vendor in front."""
    _, claude, rest = model.lower().rpartition("claude")
    if not claude:
        return OTHER
    name = (claude + rest).replace(".", "-").replace("@", "-").replace(":", "-")
    families = [f for f in GATES if name.startswith(f) and _FAMILY.fullmatch(name, len(f))]
    return GATES[max(families, key=len)] if families else NEWEST

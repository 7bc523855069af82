"""Reasoning effort -> thinking, and thinking blocks there and back.

Thinking goes out twice: as text in ``reasoning_content``, for people, and whole in ``thinking_blocks``, for the next
turn. A block there has three more keys than Anthropic's own: ``index``, which accumulating clients need, and ``at``:
the characters of content and the number of tool calls that came before it, so that it returns to its exact place.

A signature has several hundred bytes and a tool call id may have 40, so a signature cannot travel in an id; and an
adapter keeps nothing between requests. A client that drops ``thinking_blocks`` therefore loses the thinking of that
turn: with adaptive thinking nothing more happens, and with a thinking budget, where Anthropic would refuse the
tool results, thinking is left off until the next user turn and ``reasoning_effort`` is named among the dropped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsupportedParameter
from ..interface import JSON
from .models import Gates
from .omitted import Omitted

BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
"""Thinking tokens by reasoning effort, for models that take a budget."""
MIN_BUDGET = 1_024
EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_OFF = ("disabled", "between_tools")
BINDING_BETA = "thinking-binding-controls-2026-08-01"


@dataclass(slots=True)
class Thinking:
    """What a request says of thinking."""

    config: JSON | None = None
    effort: str | None = None
    on: bool = False
    """Whether the model may think: only then may earlier thinking be sent."""
    betas: list[str] = field(default_factory=list)


def decide(request: Mapping[str, Any], gates: Gates, max_tokens: int, *, hindered: bool, omitted: Omitted) -> Thinking:
    """The thinking that ``thinking`` or ``reasoning_effort`` asks for and the model can have.

    ``hindered``: the request has what a thinking budget excludes (a forced tool, a prefilled answer, tool results
    whose call came without its signed thinking).
    """
    name = "thinking" if "thinking" in request else "reasoning_effort"
    if name == "thinking" and not isinstance(request["thinking"], dict):
        raise UnsupportedParameter(name, "Invalid type for 'thinking': expected an object.")
    made = Thinking(on=gates.thinking_off != "omit")
    if name == "thinking":
        made.config = _own(request["thinking"], gates)
    elif effort := request.get("reasoning_effort"):
        _by_effort(made, str(effort), gates)
    config = made.config
    if config and config["type"] == "enabled":
        config["budget_tokens"] = min(int(config.get("budget_tokens") or BUDGETS["medium"]), max_tokens * 3 // 4)
        if hindered or config["budget_tokens"] < MIN_BUDGET:
            made.config = None
    asked = request.get(name, "none")
    wanted = asked != "none" and not (name == "thinking" and asked.get("type") in _OFF)
    if wanted and gates.thinking != "adaptive" and made.config is None:
        omitted.hint(name)
    if made.config:
        made.on = made.config["type"] != "disabled"
    return made


def _own(config: Mapping[str, Any], gates: Gates) -> JSON | None:
    """The client's own ``thinking``, in the form that the model takes."""
    if config.get("type") in _OFF:
        return _off(gates)
    if gates.thinking == "none":
        return None
    kept = {"display": config["display"]} if config.get("display") in ("summarized", "omitted") else {}
    if gates.thinking == "adaptive" and (config.get("type") != "enabled" or not gates.sampling):
        return {"type": "adaptive", **kept}
    budget = config.get("budget_tokens")
    return {"type": "enabled", "budget_tokens": budget if isinstance(budget, int) else BUDGETS["medium"], **kept}


def _by_effort(made: Thinking, effort: str, gates: Gates) -> None:
    if gates.thinking == "none":
        return
    if effort == "none":
        made.config = _off(gates)
        if gates.thinking_off == "never":
            made.effort = "low"
    elif gates.thinking == "budget":
        made.config = {"type": "enabled", "budget_tokens": BUDGETS.get(effort, BUDGETS["medium"])}
    else:
        made.config = {"type": "adaptive", "display": "summarized"}
        level = EFFORTS.get(effort, "medium")
        made.effort = level if level in gates.efforts else gates.efforts[-1]


def _off(gates: Gates) -> JSON | None:
    return None if gates.thinking_off in ("omit", "never") else {"type": gates.thinking_off}


def signed_blocks(message: Mapping[str, Any]) -> list[tuple[tuple[int, int], JSON]]:
    """The thinking that may go back, each with its place: signed and whole, in its order.

    Read from ``thinking_blocks`` or from OpenRouter's ``reasoning_details``. What has no signature is dropped: the
    provider checks it.
    """
    given = message.get("thinking_blocks")
    if isinstance(given, list) and given:
        read = (_block(item) for item in given if isinstance(item, dict))
    else:
        details = message.get("reasoning_details")
        read = (_detail(item) for item in (details if isinstance(details, list) else ()) if isinstance(item, dict))
    return [found for found in read if found]


def _block(item: Mapping[str, Any]) -> tuple[tuple[int, int], JSON] | None:
    at = item.get("at")
    place = (at[0], at[1]) if isinstance(at, list) and len(at) == 2 and all(type(n) is int for n in at) else (0, 0)
    if item.get("type") == "redacted_thinking" and item.get("data"):
        return place, {"type": "redacted_thinking", "data": item["data"]}
    if item.get("type") == "thinking" and item.get("signature"):
        return place, {"type": "thinking", "thinking": item.get("thinking") or "", "signature": item["signature"]}
    return None


def _detail(item: Mapping[str, Any]) -> tuple[tuple[int, int], JSON] | None:
    made_by = str(item.get("format") or "anthropic")
    if not made_by.startswith("anthropic"):
        return None
    if item.get("type") == "reasoning.encrypted" and item.get("data"):
        return (0, 0), {"type": "redacted_thinking", "data": item["data"]}
    if item.get("type") == "reasoning.text" and item.get("signature"):
        return (0, 0), {"type": "thinking", "thinking": item.get("text") or "", "signature": item["signature"]}
    return None


def is_thought(block: Mapping[str, Any]) -> bool:
    return block["type"] in ("thinking", "redacted_thinking")


def shown(block: Mapping[str, Any], index: int, characters: int, calls: int) -> JSON:
    """A thinking block as the client gets it, in ``thinking_blocks``."""
    kept = {key: block[key] for key in ("type", "thinking", "signature", "data") if key in block}
    return {"index": index, **kept, "at": [characters, calls]}


def bind(thinking: Thinking, gates: Gates, turns: Iterable[Mapping[str, Any]]) -> None:
    """Let the provider drop thinking whose conversation was changed since, where it would refuse the request."""
    if not (gates.bound_thinking and thinking.on):
        return
    if any(is_thought(block) for turn in turns for block in turn["content"]):
        if thinking.config is None:
            thinking.config = {"type": "adaptive"}
        if thinking.config["type"] == "adaptive":
            thinking.config["block_binding"] = {"prefix_mismatch_behavior": "drop_block"}
            thinking.betas.append(BINDING_BETA)

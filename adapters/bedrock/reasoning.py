"""Reasoning: an effort into each family's own words, and signed thoughts there and back."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..interface import JSON
from .models import BUDGETS, SMALLEST_BUDGET, THREE_EFFORTS, Family

RAW = "bedrock"
"""Marks redacted content that is not Anthropic's text in base64."""


@dataclass(slots=True)
class Plan:
    """What to send. ``on``: whether the model may think; ``strict``: whether its API then refuses forced tools and
    sampling parameters; ``budget``: thinking tokens, which count into maxTokens; ``dropped``: the effort was not sent."""

    fields: JSON = field(default_factory=dict)
    on: bool = False
    strict: bool = False
    budget: int = 0
    bare: bool = False
    """Whether no inference parameter at all may be sent along."""
    dropped: bool = False


def plan(effort: str | None, family: Family, max_tokens: int | None, native: Mapping[str, Any] | None) -> Plan:
    """``native`` is the extension ``thinking``, Claude's own words, which win over the effort."""
    if native is not None and family.claude:
        enabled = native.get("type") == "enabled"
        if enabled and family.reasoning == "adaptive" and family.sampling == "none":  # from 4.7 on without a budget
            return Plan({"thinking": {"type": "adaptive"}}, on=True)
        budget = native.get("budget_tokens")
        return Plan(
            {"thinking": dict(native)},
            on=native.get("type") != "disabled",
            strict=enabled,
            budget=budget if enabled and isinstance(budget, int) else 0,
        )
    if effort is None:
        return Plan(on=family.reasoning == "adaptive")
    planners = {"budget": _budget, "adaptive": _adaptive, "nova": _nova, "effort": _effort, "config": _config}
    planner = planners.get(family.reasoning)
    if planner is None:
        return Plan(dropped=effort != "none")
    return planner(effort, family, max_tokens)


def _budget(effort: str, _: Family, max_tokens: int | None) -> Plan:
    if effort == "none":
        return Plan()
    budget = BUDGETS[effort]
    if max_tokens is not None:
        # the API demands less than maxTokens (edge case 44), and a quarter is left for the answer
        budget = min(budget, max(max_tokens * 3 // 4, min(SMALLEST_BUDGET, max_tokens - 1)))
    if budget < SMALLEST_BUDGET:
        return Plan(dropped=True)
    return Plan({"thinking": {"type": "enabled", "budget_tokens": budget}}, on=True, strict=True, budget=budget)


def _adaptive(effort: str, family: Family, _: int | None) -> Plan:
    if effort == "none" and family.stop:
        return Plan({"thinking": {"type": family.stop}})
    word = {"none": "low", "minimal": "low", "xhigh": "xhigh" if family.extra_high else "max"}.get(effort, effort)
    return Plan({"thinking": {"type": "adaptive"}, "output_config": {"effort": word}}, on=True)


def _nova(effort: str, _: Family, __: int | None) -> Plan:
    if effort == "none":
        return Plan()
    word = THREE_EFFORTS[effort]
    fields = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": word}}
    return Plan(fields, bare=word == "high")


def _effort(effort: str, _: Family, __: int | None) -> Plan:
    return Plan({"reasoning_effort": THREE_EFFORTS.get(effort, "low")})


def _config(effort: str, _: Family, __: int | None) -> Plan:
    return Plan() if effort == "none" else Plan({"reasoning_config": THREE_EFFORTS[effort]})


def open_loop_unthought(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the conversation ends in results of a tool call that was made without a signed thought.

    Thinking with a budget cannot be turned on inside such a loop (edge case 38).
    """
    for message in reversed(messages):
        if message["role"] == "assistant":
            return bool(message.get("tool_calls") or message.get("function_call")) and not blocks(message)
        if message["role"] not in ("tool", "function"):
            return False
    return False


def blocks(message: Mapping[str, Any]) -> list[JSON]:
    """Converse blocks of a message's signed thoughts; unsigned ones are left out: the API checks (edge case 40)."""
    found: list[JSON] = []
    for block in message.get("thinking_blocks") or message.get("reasoning_details") or ():
        if not isinstance(block, Mapping):
            continue
        text = block["thinking"] if isinstance(block.get("thinking"), str) else block.get("text")
        signature, data = block.get("signature"), block.get("data")
        if isinstance(text, str) and isinstance(signature, str) and signature:
            found.append({"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}})
        elif isinstance(data, str) and data:
            content = data if block.get("format") == RAW else base64.b64encode(data.encode()).decode()
            found.append({"reasoningContent": {"redactedContent": content}})
    return found


def thought(text: str, signature: str) -> JSON:
    """Anthropic's own block, so that a conversation can go on at Anthropic or Vertex."""
    return {"type": "thinking", "thinking": text, "signature": signature}


def redacted(content: str) -> JSON:
    """Converse wraps Anthropic's text into base64 once more."""
    try:
        data = base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return {"type": "redacted_thinking", "data": content, "format": RAW}
    return {"type": "redacted_thinking", "data": data}

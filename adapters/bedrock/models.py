"""What the model families behind Converse can do: the differences that decide a 400.

Sources: the Bedrock user guide's feature tables, the model cards of each vendor, and recorded refusals.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from ..anthropic import models as anthropic

Reasoning: TypeAlias = Literal["none", "budget", "adaptive", "nova", "effort", "config"]


@dataclass(frozen=True, slots=True)
class Family:
    claude: bool = False
    forced_choice: bool = True
    """Takes toolChoice ``any`` and ``tool``."""
    schema: bool = False
    """Takes outputConfig.textFormat and strict tools."""
    plain: bool = False
    """Takes tool schemas without references, and with nothing but its properties at the root of one."""
    cache: bool = False
    """Takes cache points."""
    prefill: bool = True
    """Continues a conversation that ends with an assistant turn."""
    reasoning: Reasoning = "none"
    """budget: thinking with a number of tokens; adaptive: thinking with an effort; nova: reasoningConfig;
    effort: reasoning_effort; config: reasoning_config."""
    stop: str = "disabled"
    """The ``type`` of thinking that turns it off; empty where nothing does."""
    extra_high: bool = False
    """Knows the effort ``xhigh``."""
    sampling: Literal["both", "one", "none"] = "both"
    """Of temperature and top_p."""


_OTHERS: tuple[tuple[str, Family], ...] = (
    (r"amazon\.nova-2", Family(plain=True, cache=True, reasoning="nova")),
    (r"amazon\.nova", Family(plain=True, cache=True)),
    (r"openai\.", Family(schema=True, reasoning="effort")),
    (r"qwen\.", Family(schema=True, reasoning="config")),
    (r"deepseek\.v", Family(schema=True, reasoning="config")),
    (r"mistral\.(magistral|ministral-3|mistral-large-3|voxtral)", Family(schema=True)),
    (r"(google\.gemma|minimax\.|moonshot|nvidia\.)", Family(schema=True)),
    (r"(meta\.|cohere\.|ai21\.|deepseek\.r|amazon\.titan)", Family(forced_choice=False)),
)
_FIRST_CLAUDES = re.compile(r"claude-(v\d|instant|3-(haiku|sonnet|opus))")


@lru_cache(maxsize=1024)
def family(model: str) -> Family:
    """The family of a model id, an inference profile's id or an ARN; unknown ones are taken to do the common things."""
    if "claude" in model:
        return _claude(model)
    for pattern, known in _OTHERS:
        if re.search(pattern, model):
            return known
    return Family()


def _claude(model: str) -> Family:
    """What Anthropic's own table says, and what Bedrock serves otherwise."""
    first = _FIRST_CLAUDES.search(model) is not None
    gates = anthropic.gates("claude-3" if first else model)
    return Family(
        claude=True,
        cache=not first,
        forced_choice=gates.forced_tools,
        schema=gates.schemas and "opus-4-1" not in model,  # the user guide has it from 4.5 on
        prefill=gates.prefill,
        reasoning=gates.thinking,
        stop={"omit": "disabled", "never": ""}.get(gates.thinking_off, gates.thinking_off),
        extra_high="xhigh" in gates.efforts,
        sampling="none" if not gates.sampling else "both" if gates.sampling_pair else "one",
    )


BUDGETS: Mapping[str, int] = {
    "minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 32_768,
}  # fmt: skip
"""Thinking tokens for an effort, for models that count tokens."""
SMALLEST_BUDGET = 1024
THREE_EFFORTS: Mapping[str, str] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip

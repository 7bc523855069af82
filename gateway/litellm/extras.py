"""What a deployment of LiteLLM's says beside its address: limits, weight, prices, sizes."""

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from .providers import ADAPTERS, split
from .settings import JSON

PRICES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_reasoning_token": "reasoning",
}
_NOT_SENT = re.compile(
    r".*_cost($|_per_|_above_).*|(aws|vertex|azure|mock|watsonx|s3)_.*|tpd|max_budget|budget_duration|cooldown_time|region_name|drop_params"
    r"|additional_drop_params|allowed_openai_params|use_in_pass_through|use_litellm_proxy|merge_reasoning_content_in_choices|model_info"
    r"|cache_control_injection_points|configurable_clientside_auth_params|hf_model_name|custom_tokenizer|max_file_size_mb|litellm_.*"
)
"""Parameters that LiteLLM keeps to itself: no provider knows them."""
_HEAVIEST = 1_000_000


def is_sent(parameter: str) -> bool:
    """Whether LiteLLM would send it to the provider."""
    return _NOT_SENT.fullmatch(parameter) is None


def extras(parameters: Mapping[str, Any], info: Mapping[str, Any], note: Callable[[str], None]) -> JSON:
    """``note`` is told of what cannot be taken, beginning with its place within the deployment."""
    told: JSON = {}
    for key, path in _NUMBERS.items():
        value = number(parameters.get(key))
        if value == 0 and path[0] == "timeouts":
            note(f".litellm_params.{key}: 0 is not possible; left out")
        elif value is not None:
            _put(told, path, int(value) if value == int(value) else value)
        elif parameters.get(key) is not None:
            note(f".litellm_params.{key}: not a number; left out")
    told |= _price({**info, **{k: v for k, v in parameters.items() if v is not None}}, note)
    base = info.get("base_model")
    if "price" not in told and isinstance(base, str):
        prefix, slash, rest = base.partition("/")
        listed = prefix if slash else split(parameters)[0]
        told["priced_as"] = f"{ADAPTERS.get(listed, listed)}/{rest if slash else base}"
    for theirs, ours in (("max_input_tokens", "max_input"), ("max_output_tokens", "max_output")):
        if (size := number(info.get(theirs))) is not None and size >= 1:
            told[ours] = int(size)
        elif info.get(theirs) is not None:
            note(f".model_info.{theirs}: not a number of tokens; left out")
    return told


def _price(given: Mapping[str, Any], note: Callable[[str], None]) -> JSON:
    price = {ours: _per_million(given.get(theirs)) for theirs, ours in PRICES.items()}
    if wrong := [theirs for theirs, ours in PRICES.items() if price[ours] is None and given.get(theirs) is not None]:
        note(f": prices left out, for this is none: {', '.join(wrong)}")  # not at a part of what it costs
        return {}
    known = {key: value for key, value in price.items() if value is not None}
    if "input" in known:
        return {"price": {"output": "0", **known}}  # as there: an embedding has no output
    if known:
        note(".model_info: prices without input_cost_per_token; left out")
    return {}


def whole_weights(deployments: list[JSON]) -> None:
    """Weights may be fractions there: all of a model's are made larger alike."""
    weights = [deployment.get("weight", 1) for deployment in deployments]
    if all(isinstance(weight, int) for weight in weights):
        return
    scale = min(1000.0, _HEAVIEST / max(weights))
    for deployment, weight in zip(deployments, weights, strict=True):
        deployment["weight"] = math.ceil(round(weight * scale, 3))


_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "rpm": ("limits", "rpm"),
    "tpm": ("limits", "tpm"),
    "max_parallel_requests": ("limits", "concurrency"),
    "weight": ("weight",),
    "order": ("order",),
    "timeout": ("timeouts", "response"),
    "stream_timeout": ("timeouts", "first_byte"),
}


def _put(told: JSON, path: tuple[str, ...], value: float) -> None:
    for part in path[:-1]:
        told = told.setdefault(part, {})
    told[path[-1]] = value


def _per_million(value: Any) -> str | None:
    try:
        return format((Decimal(str(value)) * 1_000_000).quantize(Decimal("1e-9")).normalize(), "f")
    except InvalidOperation:
        return None


def number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < 1e12 else None

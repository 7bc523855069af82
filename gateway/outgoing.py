"""What is changed in a request for one deployment: its defaults, its tier, a bound on its answer."""

from collections.abc import Mapping
from typing import Any

from adapters.errors import UnsupportedParameter
from adapters.params import PARAMS

from .call import Call, Deployment, Route
from .defaults import completed
from .tiers import AttemptTier

KNOWN = frozenset({*PARAMS, "input", "encoding_format", "dimensions"})
"""The parameters of the API; all others are extensions."""
OURS = frozenset({"store", "metadata", "service_tier"})
"""The gateway does these itself (stored completions) or decides them (tiers): never passed on as they came."""


def outgoing(
    call: Call, route: Route, deployment: Deployment, tier: str, max_output: int | None, chosen: AttemptTier
) -> tuple[Mapping[str, Any], AttemptTier]:
    """The request to translate, and ``chosen``, the tier it runs at; raises UnsupportedParameter for an extension that the model
    does not allow, though another one does.

    ``max_output`` bounds the completion tokens of one choice, where a budget needs the bound to be real.
    """
    request, params = call.request, route.config.params
    if not KNOWN.issuperset(request):
        for name in request.keys() - KNOWN:
            if name not in params.allow:
                raise UnsupportedParameter(name, f"Unsupported parameter: '{name}' is not supported with this model.")
    if params.default:
        request = completed(request, params.default)
    tiered = chosen.sent is not None or deployment.takes_priority
    if not tiered and max_output is None and OURS.isdisjoint(request) and None not in request.values():
        return request, chosen  # nearly always
    changed = {k: v for k, v in request.items() if v is not None and k not in OURS}
    if tiered:
        changed["service_tier"] = tier
    if max_output is not None:
        changed.pop("max_tokens", None)
        changed["max_completion_tokens"] = max_output
    return changed, chosen

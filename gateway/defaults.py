"""A model's default parameters: what counts where the client said nothing."""

from collections.abc import Mapping
from typing import Any

LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
"""Two words for one thing: a client that gave one of them gave both."""


def completed(request: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The request without its nulls, and with the defaults of what it does not say; embeddings have none."""
    said = {name: value for name, value in request.items() if value is not None}
    if not defaults or "messages" not in said:
        return said
    skipped = LIMITS if not LIMITS.isdisjoint(said) else frozenset()
    return {**{name: value for name, value in defaults.items() if name not in skipped}, **said}

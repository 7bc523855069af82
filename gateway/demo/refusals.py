"""How the demo upstream says no: one row per way, worded by each dialect."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status and the words that OpenAI and Anthropic have for it."""

    status: int
    message: str
    type: str
    """OpenAI's type."""
    code: str | None
    """OpenAI's code."""
    anthropic: str
    """Anthropic's type."""
    param: str | None = None
    anthropic_message: str = ""
    """Where Anthropic's words differ."""
    html: bool = False
    """A proxy in front answers with a page."""


REFUSALS: Mapping[str, Refusal] = {
    "invalid": Refusal(
        400, "Invalid value.", "invalid_request_error", "invalid_value", "invalid_request_error", "temperature"
    ),
    "context": Refusal(
        400,
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "invalid_request_error",
        "context_length_exceeded",
        "invalid_request_error",
        "messages",
        "prompt is too long: 9000 tokens > 8192 maximum",
    ),
    "content": Refusal(
        400,
        "The response was filtered.",
        "invalid_request_error",
        "content_policy_violation",
        "invalid_request_error",
        None,
        "Output blocked by content filtering policy",
    ),
    "authentication": Refusal(
        401,
        "Incorrect API key provided.",
        "invalid_request_error",
        "invalid_api_key",
        "authentication_error",
        None,
        "invalid x-api-key",
    ),
    "permission": Refusal(403, "You have no access to this model.", "invalid_request_error", None, "permission_error"),
    "model": Refusal(
        404, "The model does not exist.", "invalid_request_error", "model_not_found", "not_found_error", "model"
    ),
    "too-large": Refusal(413, "Request too large.", "invalid_request_error", None, "request_too_large"),
    "rate": Refusal(429, "Rate limit reached for requests.", "requests", "rate_limit_exceeded", "rate_limit_error"),
    "quota": Refusal(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
        "billing_error",
    ),
    "capacity": Refusal(
        429, "Resource Unavailable", "resource_unavailable", "resource_unavailable", "rate_limit_error"
    ),
    "server": Refusal(
        500, "The server had an error.", "server_error", None, "api_error", None, "Internal server error"
    ),
    "unavailable": Refusal(
        503, "The server is overloaded.", "service_unavailable_error", "server_is_overloaded", "overloaded_error"
    ),
    "overloaded": Refusal(529, "Overloaded", "overloaded_error", None, "overloaded_error"),
    "html": Refusal(502, "", "", None, "", html=True),
}

HTML = b"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>"

"""Google's error bodies (``google.rpc.Status``) as ProviderError: what they say beyond ``adapters.classify``."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..classify import embedded_error, provider_error
from ..errors import ErrorKind, ProviderError
from ..jsonio import loads

_TEXTS: tuple[tuple[re.Pattern[str], ErrorKind], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"exceeds the maximum number of tokens|input context is too long", ErrorKind.CONTEXT_LENGTH),
        (r"api key (expired|not found)", ErrorKind.AUTHENTICATION),
        (r"(enable|requires) billing|billing account", ErrorKind.QUOTA),
        (r"payload size exceeds", ErrorKind.TOO_LARGE),
        (r"user location is not supported", ErrorKind.AUTHENTICATION),
    )
)
"""What a 400 really means, where only its words tell. Our region is the operator's affair, as our key is."""
_OWN_WORDS: Mapping[ErrorKind, str] = {
    ErrorKind.AUTHENTICATION: "The upstream provider refused the gateway's credential.",
    ErrorKind.NOT_FOUND: "The upstream provider does not know the model.",
    ErrorKind.QUOTA: "The upstream provider's quota for this gateway is used up.",
    ErrorKind.RATE_LIMITED: "The upstream provider limits the gateway's rate.",
}
"""Instead of Google's words, which name our project, its quotas and its consoles."""
_CODES: Mapping[ErrorKind, str] = {
    ErrorKind.CONTEXT_LENGTH: "context_length_exceeded",
    ErrorKind.CONTENT_POLICY: "content_filter",
}
"""OpenAI's codes; Google's own (INVALID_ARGUMENT) tell clients nothing."""
_PROJECT = re.compile(r"\bprojects/[\w.:-]+(/[\w./:@-]+)?")
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """Classify a failed answer; header names are lower case."""
    try:
        told = _error_of(loads(body))
    except ProviderError:
        told = {}  # Vertex answers unknown addresses with an HTML page
    return _refined(provider_error(status, headers, body), told)


def of_answer(body: Any) -> ProviderError | None:
    """The error that came with a status of 200, or None. Streaming calls send a list of one."""
    inner = body[0] if isinstance(body, list) and body else body
    if not isinstance(inner, Mapping) or "error" not in inner:
        return None
    return _refined(embedded_error(inner["error"]), _error_of(inner))


def _error_of(body: Any) -> Mapping[str, Any]:
    body = body[0] if isinstance(body, list) and body else body
    told = body.get("error") if isinstance(body, Mapping) else None
    return told if isinstance(told, Mapping) else {}


def _refined(found: ProviderError, told: Mapping[str, Any]) -> ProviderError:
    text = told.get("message")
    listed = told.get("details")
    details = [d for d in listed if isinstance(d, Mapping)] if isinstance(listed, list) else []
    kind = _kind(found, text if isinstance(text, str) else "", str(told.get("status")), details)
    wait = next((w for d in details if (w := _seconds(d.get("retryDelay"))) is not None), found.retry_after)
    message = _OWN_WORDS.get(kind) or _PROJECT.sub("[id]", found.message)
    return ProviderError(
        kind,
        message,
        status=found.status,
        retry_after=None if kind is ErrorKind.QUOTA else wait,
        code=_CODES.get(kind),
        param="messages" if kind is ErrorKind.CONTEXT_LENGTH else None,
    )


def _kind(found: ProviderError, text: str, status: str, details: list[Mapping[str, Any]]) -> ErrorKind:
    if found.status == 400 and found.kind is ErrorKind.INVALID_REQUEST:
        by_status = ErrorKind.AUTHENTICATION if status == "FAILED_PRECONDITION" else found.kind
        return next((kind for pattern, kind in _TEXTS if pattern.search(text)), by_status)
    if found.status == 429:  # Google says "quota" for every rate; only the violations tell which
        return ErrorKind.QUOTA if any(map(_is_spent, _violations(details))) else ErrorKind.RATE_LIMITED
    return found.kind


def _violations(details: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for detail in details:
        given = detail.get("violations")
        yield from (v for v in given if isinstance(v, Mapping)) if isinstance(given, list) else ()


def _is_spent(violation: Mapping[str, Any]) -> bool:
    """Whether waiting does not help: a quota of a day, or of nothing at all."""
    return "PerDay" in str(violation.get("quotaId", "")) or str(violation.get("quotaValue", "")) == "0"


def _seconds(delay: Any) -> float | None:
    """``38.5s`` of a RetryInfo."""
    match = _DELAY.fullmatch(delay) if isinstance(delay, str) else None
    return float(match[1]) if match else None

"""What an upstream's failure means: the status first, then codes, then texts (a match in a text is a guess).

* provider_error  a response with a failing status
* embedded_error  an ``error`` inside a 200, in a body or a stream
* retry_after     how long to wait, in seconds
* sanitise        a text of the provider's that a client may see
"""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import ErrorKind, ProviderError
from .jsonio import loads

K = ErrorKind

STATUSES: Mapping[int, ErrorKind] = {
    400: K.INVALID_REQUEST,
    401: K.AUTHENTICATION,
    402: K.QUOTA,
    403: K.AUTHENTICATION,
    404: K.NOT_FOUND,
    408: K.TIMEOUT,
    409: K.SERVER,
    410: K.NOT_FOUND,
    413: K.TOO_LARGE,
    424: K.SERVER,
    425: K.OVERLOADED,
    429: K.RATE_LIMITED,
    498: K.CAPACITY,  # Groq: no flex capacity
    499: K.SERVER,
    503: K.OVERLOADED,
    504: K.TIMEOUT,
    524: K.TIMEOUT,  # Cloudflare
    529: K.OVERLOADED,  # Anthropic
}
"""Any other 4xx is INVALID_REQUEST, any other status SERVER."""

CODES: Mapping[str, ErrorKind] = {
    "context_length_exceeded": K.CONTEXT_LENGTH,
    "exceed_context_size_error": K.CONTEXT_LENGTH,
    "too_many_prompt_tokens": K.CONTEXT_LENGTH,
    "too_many_tokens": K.CONTEXT_LENGTH,
    "model_max_prompt_tokens_exceeded": K.CONTEXT_LENGTH,
    "string_above_max_length": K.INVALID_REQUEST,
    "content_filter": K.CONTENT_POLICY,
    "content_policy_violation": K.CONTENT_POLICY,
    "responsibleaipolicyviolation": K.CONTENT_POLICY,
    "data_inspection_failed": K.CONTENT_POLICY,
    "datainspectionfailed": K.CONTENT_POLICY,
    "insufficient_quota": K.QUOTA,
    "credit_balance_exhausted": K.QUOTA,
    "organization_spend_limit_exceeded": K.QUOTA,
    "project_spend_limit_exceeded": K.QUOTA,
    "organization_usage_limit_exceeded": K.QUOTA,
    "billing_hard_limit_reached": K.QUOTA,
    "billing_not_active": K.QUOTA,
    "billing_error": K.QUOTA,
    "enforced_spend_limit_reached": K.QUOTA,
    "insufficient_balance": K.QUOTA,
    "arrearage": K.QUOTA,
    "resource_unavailable": K.CAPACITY,
    "capacity_exceeded": K.CAPACITY,
    "rate_limit_exceeded": K.RATE_LIMITED,
    "rate_limit_error": K.RATE_LIMITED,
    "rate_limited": K.RATE_LIMITED,
    "too_many_requests_error": K.RATE_LIMITED,
    "slow_down": K.RATE_LIMITED,
    "server_is_overloaded": K.OVERLOADED,
    "overloaded_error": K.OVERLOADED,
    "service_unavailable_error": K.OVERLOADED,
    "unavailable_error": K.OVERLOADED,
    "engine_overloaded_error": K.OVERLOADED,
    "model_not_found": K.NOT_FOUND,
    "invalid_model": K.NOT_FOUND,
    "not_found_error": K.NOT_FOUND,
    "deploymentnotfound": K.NOT_FOUND,
    "invalid_api_key": K.AUTHENTICATION,
    "api_key_invalid": K.AUTHENTICATION,
    "authentication_error": K.AUTHENTICATION,
    "permission_error": K.AUTHENTICATION,
    "request_too_large": K.TOO_LARGE,
    "timeout_error": K.TIMEOUT,
}
"""An error's ``code``, ``type`` or ``innererror.code``, in lower case."""

_TEXTS: tuple[tuple[ErrorKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile("|".join(texts), re.IGNORECASE))
    for kind, *texts in (
        (
            K.CONTEXT_LENGTH,
            r"maximum context length|context (?:window|size|length)|exceeds? context limit|maximum prompt length",
            r"prompt is too long|input is too long|prompt too long|too large for model with \d+ maximum context",
            r"input token count .{0,40} (?:exceeds|supports (?:only )?up to)|input tokens exceed",
            r"model token limit|range of input length|prompt exceeds max length|prompt token count .{0,20} exceeds",
            r"maximum allowed input length|`inputs` (?:tokens \+ `max_new_tokens` must be|must have less than)",
        ),
        (
            K.CONTENT_POLICY,
            r"content (?:management|filtering) policy|content exists risk|inappropriate content|safety system",
            r"flagged by moderation|requires moderation|potentially unsafe or sensitive content",
        ),
        (
            K.QUOTA,
            r"credit balance|insufficient (?:balance|credits|quota|funds)|exceeded your current quota|out of credits",
            r"spend(?:ing)? limit|requires more credits|billing details",
        ),
        (K.CAPACITY, r"resource unavailable|flex (?:tier )?capacity|no flex"),
        (K.AUTHENTICATION, r"(?:incorrect|invalid) api[ -]?key|api[ -]?key (?:is )?(?:not valid|invalid)"),
        (
            K.NOT_FOUND,
            r"invalid model\b|not a valid model|model .{0,80}(?:does not exist|not found|not exist)|no such model",
            r"supported api model names",
        ),
        (
            K.INVALID_REQUEST,  # llama.cpp answers 500 for what the client did
            r"requires --jinja|input is not supported|cannot make GET request|cannot use both",
        ),
    )
)
_ALONE = re.compile(r"request too large for .{1,300}\btokens per (?:min|day)", re.IGNORECASE)
"""What OpenAI (429) and Groq (413) say to a request that is larger by itself than a rate, whatever else runs."""
_TEXT_KINDS: Mapping[ErrorKind, frozenset[ErrorKind]] = {
    K.INVALID_REQUEST: frozenset({K.CONTEXT_LENGTH, K.CONTENT_POLICY, K.QUOTA, K.AUTHENTICATION, K.NOT_FOUND}),
    K.TOO_LARGE: frozenset({K.CONTEXT_LENGTH}),
    K.AUTHENTICATION: frozenset({K.CONTENT_POLICY, K.QUOTA}),
    K.RATE_LIMITED: frozenset({K.QUOTA, K.CAPACITY}),
    K.OVERLOADED: frozenset({K.CAPACITY}),
    K.SERVER: frozenset({K.INVALID_REQUEST, K.CONTEXT_LENGTH}),
}
"""What a text may turn a kind into: it refines the status, it never contradicts it."""
_CODE_KINDS: Mapping[ErrorKind, frozenset[ErrorKind]] = {
    **_TEXT_KINDS,
    K.INVALID_REQUEST: _TEXT_KINDS[K.INVALID_REQUEST] | {K.TOO_LARGE, K.CAPACITY},
    K.SERVER: frozenset(ErrorKind),
    K.OVERLOADED: frozenset({K.CAPACITY, K.RATE_LIMITED}),
}
_FIXED: Mapping[ErrorKind, str] = {
    K.AUTHENTICATION: "The upstream provider refused the gateway's credential.",
    K.QUOTA: "The upstream provider's quota for this gateway is used up.",
}
"""Texts about our account are for the operator, not for the client (S-25)."""
_CODE_OF: Mapping[ErrorKind, str] = {
    K.CONTEXT_LENGTH: "context_length_exceeded",
    K.CONTENT_POLICY: "content_filter",
}
"""Codes that clients act on, whatever the provider calls them."""
MAX_MESSAGE = 600


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The words of an error body of any shape."""

    message: str = ""
    codes: tuple[str, ...] = ()
    """``code``, ``type``, inner code: as they came, numbers included as text."""
    param: str | None = None
    wait: float | None = None
    """Seconds after which to try again, where a text or Google's ``RetryInfo`` says so."""


def provider_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """Classify a response. Header names are lower case."""
    said = read_body(body)
    kind = STATUSES.get(status) or (K.INVALID_REQUEST if 400 <= status < 500 else K.SERVER)
    wait = retry_after(headers)
    return _error(_refine(kind, said), said, status, said.wait if wait is None else wait)


def embedded_error(error: Any) -> ProviderError:
    """Classify an ``error`` that came with status 200: an object, a text, or the body around it."""
    said = _words(error)
    numbers = [int(code) for code in said.codes if code.isdecimal() and 400 <= int(code) < 600]
    kind = K.SERVER
    if numbers:
        kind = STATUSES.get(numbers[0]) or (K.INVALID_REQUEST if numbers[0] < 500 else K.SERVER)
    if "invalid_request_error" in said.codes:
        kind = K.INVALID_REQUEST
    return _error(_refine(kind, said), said, numbers[0] if numbers else None, said.wait)


def read_body(body: bytes) -> ErrorBody:
    """The words of a failed response; empty for HTML and other things that are not for a client."""
    try:
        return _words(loads(body))
    except ProviderError:
        text = body[: 4 * MAX_MESSAGE].decode(errors="replace").strip()
        return ErrorBody() if text.startswith("<") else _said(text)


def retry_after(headers: Mapping[str, str], message: str = "") -> float | None:
    """Seconds to wait: ``retry-after-ms``, ``retry-after`` (seconds or, against ``date``, a date), or the message's."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None and milliseconds > 0:
        return milliseconds / 1000
    if (given := headers.get("retry-after")) is not None:
        seconds = _number(given)
        if seconds is None:
            seconds = _between(headers.get("date"), given)
        if seconds is not None:
            return seconds
    if found := re.search(
        r"(?:try|retry)(?: [a-z]+){0,6} (?:in|after) ((?:[\d.]+ ?(?:ms|s|m|h)(?:ec\w*|in\w*)? ?)+)",
        message,
        re.IGNORECASE,
    ):
        return duration(found[1])
    return None


_PARTS = re.compile(r"(\d{1,12}(?:\.\d{0,12})?) ?(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def duration(text: str) -> float | None:
    """Seconds of a Go duration (``6m0s``, ``130ms``), of a plain number, or None."""
    if (plain := _number(text)) is not None:
        return plain
    parts = _PARTS.findall(text)
    return sum([float(number) * _UNITS[unit] for number, unit in parts]) if parts else None


_SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE), put)
    for pattern, put in (
        (r"[\x00-\x1f\x7f\u2028\u2029]+", " "),
        (r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>)\]]+", "[url]"),
        (r"[\w.+-]+@[\w-]+\.[\w.-]+", "[address]"),
        (r"\barn:[\w:/.-]+", "[id]"),
        (r"\bbearer\s+\S+", "[key]"),
        (r"\b(?:sk|pk|rk|key)[-_][\w*.-]{4,}", "[key]"),
        (r"\b(?:akia|asia|aiza|ya29|gsk|xai|csk|hf|nvapi|pplx|r8|fw)[-_.]?[\w-]{14,}", "[key]"),
        (r"[^\s'\"]*\*{3,}[^\s'\"]*", "[key]"),
        (r"\b(?:org|proj|project|user|acct|account|team|tenant|req|wrkspc|workspace)[-_][A-Za-z0-9]{6,}\b", "[id]"),
        (r"\b(?:organization|project|account)s?[ /]+[`'\"]?[\w-]*\d[\w-]{5,}", "[id]"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "[id]"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "[address]"),
        (r"\b(?:[a-z0-9-]+\.)+(?:com|net|org|io|ai|dev|cloud|local|internal|svc)(?::\d+)?\b(?:/\S*)?", "[address]"),
    )
)


def sanitise(text: str) -> str:
    """A provider's text without keys, accounts and addresses, on one line and of bounded length (S-24, C-363)."""
    text = text[: 4 * MAX_MESSAGE]
    for pattern, put in _SECRETS:
        text = pattern.sub(put, text)
    text = text.strip()
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _error(kind: ErrorKind, said: ErrorBody, status: int | None, wait: float | None) -> ProviderError:
    if kind in (K.RATE_LIMITED, K.TOO_LARGE) and _ALONE.search(said.message):
        kind, wait = K.TOO_LARGE_FOR_RATE, None
    message = _FIXED.get(kind) or sanitise(said.message) or "The upstream provider failed without saying why."
    code = _CODE_OF.get(kind)
    if code is None and kind not in _FIXED:
        code = next((c for c in said.codes if re.fullmatch(r"[A-Za-z][\w.-]{1,63}", c) and not _vague(c)), None)
    return ProviderError(kind, message, status=status, retry_after=wait, code=code, param=said.param)


def _vague(code: str) -> bool:
    """Whether a code is a mere class of errors, which tells nothing that the status does not."""
    return code.endswith(("_error", "Error")) or code in ("error", "requests", "tokens", "forbidden")


def _refine(kind: ErrorKind, said: ErrorBody) -> ErrorKind:
    allowed = _CODE_KINDS.get(kind, frozenset())
    for code in said.codes:
        if (found := CODES.get(code.lower())) in allowed:
            return found
    allowed = _TEXT_KINDS.get(kind, frozenset())
    if kind is K.RATE_LIMITED and said.wait is not None:
        allowed -= {K.QUOTA}  # Google says "quota" for every rate; what comes back soon is not used up
    for found, pattern in _TEXTS:
        if found in allowed and pattern.search(said.message):
            return found
    return kind


def _words(body: Any, depth: int = 0) -> ErrorBody:
    if depth > 8 or not isinstance(body, list | str | dict):
        return ErrorBody()
    if isinstance(body, list):
        return _words(body[0], depth + 1) if body else ErrorBody()
    if isinstance(body, str):
        inner = _inside(body)
        return _words(inner, depth + 1) if inner is not None else _said(body[: 4 * MAX_MESSAGE])
    outer = [body[key] for key in ("code", "type", "status") if key in body]
    if (wrapped := _wrapped(body, depth)) is not None:
        return replace(wrapped, codes=tuple(dict.fromkeys((*wrapped.codes, *_codes(outer)))))
    for key in ("error", "detail", "errors", "message", "Message", "msg"):  # AWS writes it both ways
        inner = body.get(key)
        if inner in (None, "", [], {}):
            continue
        said = _words(inner, depth + 1)
        deeper = [*said.codes, *_codes(outer), *_inner_codes(body)]
        param = body.get("param")
        return ErrorBody(
            said.message,
            tuple(dict.fromkeys(deeper)),
            said.param or (param if isinstance(param, str) else None),
            _delay(body) or said.wait,
        )
    return ErrorBody("", (*_codes(outer), *_inner_codes(body)))


def _wrapped(body: Mapping[str, Any], depth: int) -> ErrorBody | None:
    """The words of the provider behind OpenRouter, whose own are "Provider returned error" and no more."""
    metadata = body.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(raw, str):
        with contextlib.suppress(ProviderError):
            raw = loads(raw)
    said = _words(raw, depth + 1)
    return said if said.message and not said.message.startswith("{") else None


def _said(text: str) -> ErrorBody:
    return ErrorBody(text, wait=retry_after({}, text))


def _delay(body: Mapping[str, Any]) -> float | None:
    """The ``RetryInfo`` of Google's details."""
    details = body.get("details")
    delays = [d.get("retryDelay") for d in details if isinstance(d, dict)] if isinstance(details, list) else []
    return next((duration(delay) for delay in delays if isinstance(delay, str)), None)


def _inner_codes(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Azure's ``innererror.code``, Anthropic's ``details.error_code``, Google's ``details[].reason``."""
    found: list[Any] = []
    for key, name in (("innererror", "code"), ("details", "error_code")):
        if isinstance(inner := body.get(key), dict):
            found.append(inner.get(name))
    if isinstance(details := body.get("details"), list):
        found += [detail.get("reason") for detail in details if isinstance(detail, dict)]
    return _codes(found)


def _codes(values: list[Any]) -> tuple[str, ...]:
    return tuple(str(v) for v in values if isinstance(v, str | int) and not isinstance(v, bool) and v != "")


def _inside(text: str) -> Any:
    """JSON that came inside a string, as Vertex wraps Anthropic's errors."""
    start = text.find("{")
    if start < 0 or '"message"' not in text:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\s*\d{1,12}(?:\.\d{0,12})?\s*", text, re.ASCII):
        return None
    return float(text)


def _between(now: str | None, then: str) -> float | None:
    if now is None:
        return None
    try:
        return max(0.0, (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None

"""Bedrock's failures, as statuses and as frames inside a stream."""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ErrorKind, ProviderError
from ..jsonio import loads

EXCEPTIONS: Mapping[str, ErrorKind] = {
    "accessdenied": ErrorKind.AUTHENTICATION,
    "unrecognizedclient": ErrorKind.AUTHENTICATION,
    "expiredtoken": ErrorKind.AUTHENTICATION,
    "invalidsignature": ErrorKind.AUTHENTICATION,
    "signaturedoesnotmatch": ErrorKind.AUTHENTICATION,
    "incompletesignature": ErrorKind.AUTHENTICATION,
    "missingauthenticationtoken": ErrorKind.AUTHENTICATION,
    "invalidclienttokenid": ErrorKind.AUTHENTICATION,
    "resourcenotfound": ErrorKind.NOT_FOUND,
    "throttling": ErrorKind.RATE_LIMITED,
    "toomanyrequests": ErrorKind.RATE_LIMITED,
    "servicequotaexceeded": ErrorKind.QUOTA,
    "modelnotready": ErrorKind.OVERLOADED,
    "serviceunavailable": ErrorKind.OVERLOADED,
    "internalserver": ErrorKind.SERVER,
    "modelerror": ErrorKind.SERVER,
    "modelstreamerror": ErrorKind.SERVER,
    "modeltimeout": ErrorKind.TIMEOUT,
    "validation": ErrorKind.INVALID_REQUEST,
}
"""Exceptions of the service model and of the signature check, in lower case without ``Exception``."""
STATUSES: Mapping[int, ErrorKind] = {
    401: ErrorKind.AUTHENTICATION,
    403: ErrorKind.AUTHENTICATION,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    413: ErrorKind.TOO_LARGE,
    424: ErrorKind.SERVER,
    429: ErrorKind.RATE_LIMITED,
    503: ErrorKind.OVERLOADED,
    504: ErrorKind.TIMEOUT,
    529: ErrorKind.OVERLOADED,
}
_TEXTS: tuple[tuple[str, ErrorKind], ...] = (
    (
        r"too long|input tokens exceeded|maximum (context|input|prompt) length|context (window|limit)",
        ErrorKind.CONTEXT_LENGTH,
    ),
    (r"too many tokens per day", ErrorKind.QUOTA),
    (r"model identifier is invalid|on-demand throughput|end of its life", ErrorKind.NOT_FOUND),
    (r"blocked by (our )?content filter|content filtering policy", ErrorKind.CONTENT_POLICY),
)
"""What one exception alone does not tell."""
_UNSURE = frozenset({ErrorKind.INVALID_REQUEST, ErrorKind.RATE_LIMITED})
_SAFE: Mapping[ErrorKind, str] = {
    ErrorKind.AUTHENTICATION: "The provider refused the gateway's credential.",
    ErrorKind.SERVER: "The provider had an internal error.",
}
"""Words for failures whose own words tell of our account."""
_OURS = re.compile(r"arn:aws[^\s\"',]*|\b\d{12}\b")


def classify(name: str, status: int | None, message: str, retry_after: float | None = None) -> ProviderError:
    """By what was sent first, by words last."""
    short = name.partition(":")[0].rpartition("#")[2].lower().removesuffix("exception").removesuffix("error")
    kind = EXCEPTIONS.get(short) or EXCEPTIONS.get(short + "error")
    if kind is None:
        kind = STATUSES.get(status or 0, ErrorKind.SERVER if (status or 500) >= 500 else ErrorKind.INVALID_REQUEST)
    if kind in _UNSURE:
        kind = next((k for pattern, k in _TEXTS if re.search(pattern, message, re.IGNORECASE)), kind)
    told = _SAFE.get(kind) or _OURS.sub("[resource]", message)[:1000] or "The provider refused the request."
    code = "context_length_exceeded" if kind is ErrorKind.CONTEXT_LENGTH else None
    return ProviderError(kind, told, status=status, retry_after=retry_after, code=code)


def event_error(headers: Mapping[str, Any], payload: bytes) -> ProviderError:
    """The error of an ``exception`` or ``error`` frame."""
    name = str(headers.get(":exception-type") or headers.get(":error-code") or "")
    return classify(name, None, message_of(payload) or str(headers.get(":error-message") or ""))


def message_of(body: bytes) -> str:
    """The message of a body of any shape (edge case 76)."""
    try:
        data = loads(body)
    except ProviderError:
        return ""
    if not isinstance(data, dict):
        return ""
    found = data.get("message") or data.get("Message") or data.get("originalMessage")
    return found if isinstance(found, str) else ""

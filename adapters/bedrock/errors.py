"""Bedrock's failures, as statuses and as frames inside a stream."""

import re
from collections.abc import Mapping
from typing import Any

from ..classify import STATUSES, read_body, retry_after, sanitise
from ..errors import ErrorKind, ProviderError

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


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The error of a status other than 2xx."""
    message = read_body(body).message
    return _error(headers.get("x-amzn-errortype", ""), status, message, retry_after(headers, message))


def event_error(headers: Mapping[str, Any], payload: bytes) -> ProviderError:
    """The error of an ``exception`` or ``error`` frame."""
    name = str(headers.get(":exception-type") or headers.get(":error-code") or "")
    return _error(name, None, read_body(payload).message or str(headers.get(":error-message") or ""))


def _error(name: str, status: int | None, message: str, wait: float | None = None) -> ProviderError:
    """By what was sent first, by words last."""
    short = name.partition(":")[0].rpartition("#")[2].lower().removesuffix("exception").removesuffix("error")
    kind = EXCEPTIONS.get(short) or EXCEPTIONS.get(short + "error")
    if kind is None:
        kind = STATUSES.get(status or 0, ErrorKind.SERVER if (status or 500) >= 500 else ErrorKind.INVALID_REQUEST)
    if kind in _UNSURE:
        kind = next((k for pattern, k in _TEXTS if re.search(pattern, message, re.IGNORECASE)), kind)
    told = _SAFE.get(kind) or sanitise(message) or "The provider refused the request."
    code = "context_length_exceeded" if kind is ErrorKind.CONTEXT_LENGTH else None
    return ProviderError(kind, told, status=status, retry_after=wait, code=code)

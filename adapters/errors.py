"""
How an upstream fails, in one vocabulary that routing, billing and the client's error all read.

* ProviderError(kind)       an upstream failed; the retry policy reads only ``kind``
* UnsupportedParameter      the request asks for what this provider cannot do
"""

from enum import StrEnum
from typing import TypeVar

E = TypeVar("E", bound=Exception)


class ErrorKind(StrEnum):
    INVALID_REQUEST = "invalid_request"
    """The provider refused the request itself: another deployment of the same model would too."""
    CONTEXT_LENGTH = "context_length"
    CONTENT_POLICY = "content_policy"
    TOO_LARGE = "too_large"
    AUTHENTICATION = "authentication"
    """Our credential was refused (401, 403): the operator's fault, never the client's."""
    NOT_FOUND = "not_found"
    """The provider does not know the model or deployment."""
    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    """The provider account has no money or quota left: waiting does not help."""
    CAPACITY = "capacity"
    """No capacity at this service tier now (flex refused); nothing was charged."""
    OVERLOADED = "overloaded"
    SERVER = "server"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    """No connection, or one that broke before a status line."""
    INCOMPLETE = "incomplete"
    """The answer was cut short."""
    PROTOCOL = "protocol"
    """The answer is not what the provider documents."""
    TOO_LARGE_FOR_RATE = "too_large_for_rate"
    """The request alone passes our account's tokens per minute: it will never do there, others will, and elsewhere it may."""


class ProviderError(Exception):
    """An upstream failed.

    ``message`` is safe for a client: no credential, account or address of ours. ``retry_after`` is in seconds.
    ``code`` and ``param`` are OpenAI's, where the provider's own words allow them.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.maybe_billed = False
        """Whether the provider had the whole request and did not refuse it: it may bill what it did."""
        self.kind = kind
        self.message = message
        self.status = status
        self.retry_after = retry_after
        self.code = code
        self.param = param

    def again(self) -> "ProviderError":
        """The same, to be raised by who keeps it: what is kept and raised knows its keeper, and is forgotten late."""
        same = ProviderError(
            self.kind, self.message, status=self.status, retry_after=self.retry_after, code=self.code, param=self.param
        )
        same.maybe_billed = self.maybe_billed
        return same


class UnsupportedParameter(Exception):
    """The request carries a parameter (``param``, in OpenAI's path notation) that the provider cannot take."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


def bare(error: E) -> E:
    """An exception to be kept: without the frames that it and its causes went through, and all that is in them."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)

"""What an upstream's failure becomes for the client: a table from kind to error."""

from collections.abc import Mapping, Sequence

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter

from .call import CallRecord
from .errors import (
    LIMIT_SCOPE,
    LONGEST_WAIT,
    CapacityUnavailable,
    GatewayError,
    InvalidRequest,
    LimitExceeded,
    NoHealthyUpstream,
    Overloaded,
    RequestTooLarge,
    UpstreamFailed,
    UpstreamTimeout,
)
from .logs import log_crash
from .pools import FlexFull
from .upstream import NotSent
from .walk import CapacityUsedUp

CLASSES: Mapping[ErrorKind, type[GatewayError]] = {
    ErrorKind.INVALID_REQUEST: InvalidRequest,
    ErrorKind.CONTEXT_LENGTH: InvalidRequest,
    ErrorKind.CONTENT_POLICY: InvalidRequest,
    ErrorKind.TOO_LARGE: RequestTooLarge,
    ErrorKind.AUTHENTICATION: UpstreamFailed,  # our credential, never the client's (checklist C-400)
    ErrorKind.NOT_FOUND: UpstreamFailed,
    ErrorKind.RATE_LIMITED: LimitExceeded,
    ErrorKind.TOO_LARGE_FOR_RATE: LimitExceeded,
    ErrorKind.QUOTA: NoHealthyUpstream,
    ErrorKind.CAPACITY: CapacityUnavailable,
    ErrorKind.OVERLOADED: Overloaded,
    ErrorKind.SERVER: UpstreamFailed,
    ErrorKind.TIMEOUT: UpstreamTimeout,
    ErrorKind.CONNECTION: UpstreamFailed,
    ErrorKind.INCOMPLETE: UpstreamFailed,
    ErrorKind.PROTOCOL: UpstreamFailed,
}

MESSAGES: Mapping[ErrorKind, str] = {
    ErrorKind.AUTHENTICATION: "The provider of this model refused the gateway's own credential.",
    ErrorKind.NOT_FOUND: "The provider does not serve this model under the configured name.",
    ErrorKind.QUOTA: "The gateway's account at the provider of this model has no quota left.",
    ErrorKind.CONNECTION: "The provider of this model could not be reached.",
    ErrorKind.TIMEOUT: "The provider of this model did not answer in time.",
    ErrorKind.INCOMPLETE: "The provider of this model broke off its answer.",
    ErrorKind.PROTOCOL: "The provider of this model sent something that is not an answer.",
    ErrorKind.SERVER: "The provider of this model had an error.",
    ErrorKind.OVERLOADED: "The provider of this model is overloaded.",
    ErrorKind.RATE_LIMITED: "The provider of this model limits the rate of the gateway's requests.",
    ErrorKind.TOO_LARGE_FOR_RATE: "Request too large: it has more tokens than the provider of this model takes from the gateway in a minute.",
    ErrorKind.CAPACITY: "Resource Unavailable: there is no capacity for this service tier right now.",
}
"""Our own words where the provider's could tell of its account; the rest is about the request and is passed on."""

CODES: Mapping[ErrorKind, str] = {
    ErrorKind.CONTEXT_LENGTH: "context_length_exceeded",
    ErrorKind.CONTENT_POLICY: "content_policy_violation",
}

PARAMS: Mapping[ErrorKind, str] = {ErrorKind.CONTEXT_LENGTH: "messages"}
"""What a failure is about where the provider did not say (checklist C-175)."""

THEIR_CODES = frozenset({ErrorKind.INVALID_REQUEST, ErrorKind.CONTENT_POLICY, ErrorKind.CONTEXT_LENGTH})
"""Kinds that are about the request: the provider's own code helps the client."""

NOT_AGAIN = frozenset(
    {
        ErrorKind.TIMEOUT,
        ErrorKind.AUTHENTICATION,
        ErrorKind.NOT_FOUND,
        ErrorKind.QUOTA,
        ErrorKind.PROTOCOL,
        ErrorKind.TOO_LARGE_FOR_RATE,
    }
)
"""What the same provider is not asked for again: it may bill it again, or will say the same."""

NONSENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading an answer that nobody foresaw ends in."""


def unforeseen(error: Exception) -> ProviderError:
    """The failure of a provider whose answer could not be read at all; logs where."""
    log_crash(error)
    return ProviderError(ErrorKind.PROTOCOL, MESSAGES[ErrorKind.PROTOCOL])


def to_gateway_error(error: ProviderError, *, tried: int = 1) -> GatewayError:
    """The error that a client is told; the SDK's own retries are declined after several of ours, and where we make none."""
    foreign = error.kind in MESSAGES and not isinstance(error, NotSent)
    made = CLASSES[error.kind](
        MESSAGES[error.kind] if foreign else error.message,
        param=(None if foreign else error.param) or PARAMS.get(error.kind),
        code=(error.code if error.kind in THEIR_CODES else None) or CODES.get(error.kind),
        retry_after=error.retry_after,
    )
    _leave_no_long_wait(made)
    if error.kind is ErrorKind.TOO_LARGE_FOR_RATE:
        made.type = "tokens"
    if isinstance(error, CapacityUsedUp):
        _say_whose(made, error)
    if made.status >= 429 and (tried > 1 or error.kind in NOT_AGAIN):
        made.should_retry = False
    return made


def _leave_no_long_wait(made: GatewayError) -> None:
    """A wait that is long is not for the client's library, which might ask again at once."""
    if made.retry_after is not None and made.retry_after > LONGEST_WAIT:
        made.should_retry = False


def _say_whose(made: GatewayError, full: CapacityUsedUp) -> None:
    """Tell of a limit of our own: no provider was asked."""
    made.type, made.should_retry = full.type or made.type, full.should_retry
    made.extra_headers[LIMIT_SCOPE] = full.scope


class NobodyAvailable(Exception):
    """Every deployment of a model is open or cooling down; nothing was tried. ``kinds``: what took them out."""

    def __init__(self, wait: float, kinds: Sequence[ErrorKind]) -> None:
        super().__init__(wait)
        self.wait = wait
        self.kinds = kinds


def kinds_of(failure: Exception) -> Sequence[ErrorKind]:
    """The kinds of failure whose fallbacks hold, in order; none where only this provider lacks something."""
    if isinstance(failure, ProviderError) and failure.kind is ErrorKind.TOO_LARGE_FOR_RATE:
        return failure.kind, ErrorKind.CONTEXT_LENGTH  # what takes longer prompts may take this one
    if isinstance(failure, ProviderError | FlexFull):
        return (failure.kind,)
    if isinstance(failure, UnsupportedParameter):
        return ()
    return failure.kinds if isinstance(failure, NobodyAvailable) else (ErrorKind.OVERLOADED,)


def told(failure: Exception, record: CallRecord) -> GatewayError:
    """What the client is told of the last failure, and after how many attempts."""
    error = _error(failure, record)
    error.extra_headers["x-sluice-attempts"] = str(len(record.attempts))
    return error


def _error(failure: Exception, record: CallRecord) -> GatewayError:
    if isinstance(failure, ProviderError):
        error = to_gateway_error(failure, tried=len(record.attempts))
        if record.retry_denied:
            error.should_retry = False  # what we may not do the client should not do either
        return error
    if isinstance(failure, UnsupportedParameter):
        return InvalidRequest(failure.message, param=failure.param, code="unsupported_parameter")
    wait = failure.wait if isinstance(failure, NobodyAvailable) else 1.0
    nobody = NoHealthyUpstream("No provider of this model is available right now.", retry_after=max(wait, 1.0))
    _leave_no_long_wait(nobody)
    return nobody

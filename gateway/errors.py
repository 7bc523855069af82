"""
Everything the gateway says no with, and how OpenAI words it.

* GatewayError                      500  server_error
  - InvalidRequest                  400  invalid_request_error (``param``, ``code``)
    - RequestTooLarge               413
    - UnsupportedMediaType          415
    - ExpectationFailed             417
    - MethodNotAllowed              405
    - RouteNotFound                 404
    - ModelNotFound                 404  model_not_found
    - ResourceNotFound              404  not_found
    - IdempotencyInFlight           409
    - Conflict                      409  conflict
    - IdempotencyMismatch           422
  - Unauthenticated                 401  invalid_api_key
    - NoCredential                  401
  - PermissionDenied                403
  - LimitExceeded                   429  requests | tokens / rate_limit_exceeded
    - BudgetExceeded                429  insufficient_quota
    - CapacityUnavailable           429  resource_unavailable (a refused flex request)
  - Overloaded                      503  server_is_overloaded
    - NoHealthyUpstream             503  no_healthy_upstream
    - StoreUnavailable              503  budget_enforcement_unavailable
  - UpstreamFailed                  502  upstream_error
    - UpstreamTimeout               504  upstream_timeout
* ClientDisconnected                     nobody is there to be told
"""

from collections.abc import Mapping
from typing import Any, ClassVar

LONGEST_WAIT = 60.0
"""Seconds above which some SDKs ignore ``Retry-After`` and retry at once (C-434): they are told not to retry at all."""
LIMIT_SCOPE = "x-sluice-limit-scope"
"""The header of a refusal that says whose limit it was."""


class GatewayError(Exception):
    """We refuse or fail the client. Rendered by ``to_openai`` and ``headers``, nowhere else.

    ``retry_after`` is in seconds; ``should_retry`` becomes ``x-should-retry``, which the SDKs obey.
    """

    status: ClassVar[int] = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    should_retry: bool | None = None

    def __init__(
        self,
        message: str = "The server had an error while processing your request. Sorry about that!",
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,  # noqa: A002 - OpenAI's word
        retry_after: float | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code
        if type is not None:
            self.type = type
        if retry_after is not None:
            self.retry_after = retry_after
        if should_retry is not None:
            self.should_retry = should_retry
        self.extra_headers = dict(headers or {})

    @property
    def label(self) -> str:
        """A bounded word for metrics and the ledger."""
        return self.code or type(self).__name__

    def to_openai(self) -> dict[str, Any]:
        """The body of the error: all four keys, always (checklist C-360)."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Retry hints in the words that the SDKs obey, and headers of the refusal itself."""
        headers = dict(self.extra_headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, -int(-self.retry_after // 1)))
            headers["retry-after-ms"] = str(max(1, -int(-self.retry_after * 1000 // 1)))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"


class RequestTooLarge(InvalidRequest):
    status = 413


class UnsupportedMediaType(InvalidRequest):
    status = 415


class ExpectationFailed(InvalidRequest):
    status = 417


class MethodNotAllowed(InvalidRequest):
    status = 405


class RouteNotFound(InvalidRequest):
    status = 404


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class ResourceNotFound(InvalidRequest):
    status = 404
    code = "not_found"


class IdempotencyInFlight(InvalidRequest):
    status = 409
    code = "idempotency_in_flight"


class Conflict(InvalidRequest):
    """What is to be made exists already, or what is to be deleted is still in use."""

    status = 409
    code = "conflict"


class IdempotencyMismatch(InvalidRequest):
    status = 422
    code = "idempotency_mismatch"


class Unauthenticated(GatewayError):
    status = 401
    type = "invalid_request_error"
    code: str | None = "invalid_api_key"


class NoCredential(Unauthenticated):
    code = None


class PermissionDenied(GatewayError):
    status = 403
    type = "invalid_request_error"
    code = "permission_denied"


class LimitExceeded(GatewayError):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class BudgetExceeded(LimitExceeded):
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False  # the SDKs retry every 429 twice unless told (checklist C-391)
    remaining: int = 0
    """Nano-dollars that the budget has left."""


class CapacityUnavailable(LimitExceeded):
    type = "resource_unavailable"
    code = "resource_unavailable"


class Overloaded(GatewayError):
    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"
    retry_after = 1.0


class NoHealthyUpstream(Overloaded):
    code = "no_healthy_upstream"


class StoreUnavailable(Overloaded):
    code = "budget_enforcement_unavailable"


class UpstreamFailed(GatewayError):
    status = 502
    code = "upstream_error"


class UpstreamTimeout(UpstreamFailed):
    status = 504
    code = "upstream_timeout"


class ClientDisconnected(Exception):
    """The client left: nobody is there to be told, but what was used is still settled."""

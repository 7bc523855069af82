"""The only HTTP client of the gateway: an UpstreamRequest goes out, a byte stream comes back.

HTTP/1.1 on asyncio and llhttp, with a keep-alive pool per origin. Every foreign exception becomes a
ProviderError here: CONNECTION (no status line came), TIMEOUT, INCOMPLETE (the answer broke off), PROTOCOL (it is
not lawful HTTP, or more of it than we take); our own bound of requests in flight is DeploymentFull.

Not supported, by choice: redirects, cookies, proxies (of the environment or configured), content encodings
(but for those of refusals, whose status counts all the same), HTTP/2, upgrades. A redirect or a cookie would carry one
tenant's credential or answer to another place.
"""

from .addresses import Resolve, SystemResolver, refusal
from .client import DeploymentFull, NotSent, Upstream
from .connection import PLAIN
from .response import MAX_BODY, UpstreamResponse

__all__ = [
    "MAX_BODY",
    "PLAIN",
    "DeploymentFull",
    "NotSent",
    "Resolve",
    "SystemResolver",
    "Upstream",
    "UpstreamResponse",
    "refusal",
]

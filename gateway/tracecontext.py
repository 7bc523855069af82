"""W3C trace context: what clients may say, and what providers are told.

https://www.w3.org/TR/trace-context/ version 00: ``00-<32 hex digits>-<16>-<2>``, in lower case, neither id all zeros.
"""

import hashlib
import re
from typing import NamedTuple

_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
LENGTH = 55
SAMPLED = 1
LOW_64 = (1 << 64) - 1


class Span(NamedTuple):
    """The identity of the span of one call."""

    trace: int
    id: int
    sampled: bool

    def header(self) -> str:
        return f"00-{self.trace:032x}-{self.id:016x}-{int(self.sampled):02x}"


def valid(given: str | None) -> str | None:
    """A client's ``traceparent`` if it is one; anything else counts as none, as the standard demands."""
    return given if given is not None and len(given) == LENGTH and _PARENT.fullmatch(given) else None


def span_of(call_id: str, parent: str | None, bound: int) -> Span:
    """The span of a call: in its client's trace where it has one, else in one of its own.

    The ids follow from the call's id, so that the request path can name a span that is made when the call has ended.
    They do not tell it: that id is the token of settlements. ``bound``: an own trace is sampled where the lower 64 bits
    of its id are below (OpenTelemetry's ratio sampler).
    """
    made = hashlib.blake2b(call_id.encode(), digest_size=24).digest()
    span = int.from_bytes(made[16:]) or 1
    found = _PARENT.fullmatch(parent) if parent is not None else None
    if found is not None:
        return Span(int(found[1], 16), span, bool(int(found[3], 16) & SAMPLED))
    trace = int.from_bytes(made[:16]) or 1
    return Span(trace, span, (trace & LOW_64) < bound)

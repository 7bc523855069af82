"""Which time-outs an attempt has."""

from config.schema import TimeoutOverrides, Timeouts

LEAST = 0.001
"""Seconds that are left to an attempt whose time is over, so that it fails as one that took too long."""
_BOUNDED = ("connect", "first_byte", "response", "request")


def merged(*overrides: TimeoutOverrides) -> Timeouts:
    """Later overrides win. Whoever gives one attempt longer than ``request``, and does not say that, gives that as long."""
    values = Timeouts().model_dump()
    for override in overrides:
        chosen = override.model_dump(exclude_none=True)
        values.update(chosen)
        if "request" not in chosen:
            longest = max(chosen.get("first_byte", 0), chosen.get("response", 0))
            values["request"] = max(values["request"], longest)
    return Timeouts(**values)


def within(timeouts: Timeouts, left: float) -> Timeouts:
    """Those of an attempt that has only so many seconds until it must have answered."""
    left = max(left, LEAST)
    return timeouts.model_copy(update={name: min(getattr(timeouts, name), left) for name in _BOUNDED})

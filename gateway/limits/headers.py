"""What clients are told about limits: ``x-ratelimit-*`` on every answer, and why a request was refused.

The names and the Go-style durations are OpenAI's (checklist C-425 to C-434).
"""

from collections.abc import Mapping, Sequence

from ..errors import BudgetExceeded, LimitExceeded
from .amounts import COST
from .engine import Left, Refused, State
from .rules import CONCURRENCY, NAMES, WINDOW, LimitSet

WORDS: Mapping[str, str] = {
    "rpm": "requests per min (RPM)",
    "tpm": "tokens per min (TPM)",
    "itpm": "input tokens per min (ITPM)",
    "otpm": "output tokens per min (OTPM)",
    "rpd": "requests per day (RPD)",
    "tpd": "tokens per day (TPD)",
    "concurrency": "requests at once",
    "budget.day": "daily budget",
    "budget.week": "weekly budget",
    "budget.month": "monthly budget",
    "budget.total": "total budget",
}
OWNERS: Mapping[str, str] = {"k": "key", "u": "user", "t": "team", "o": "organization", "d": "deployment"}

LONGEST_WAIT_MS = 60_000
"""Above it some SDKs ignore ``Retry-After`` and retry at once (C-434): they are told not to retry at all."""
LONGEST_BUDGET_WAIT_MS = 3_600_000
UNKNOWN_WAIT_MS = 1_000
"""When a slot becomes free is not known."""
NANO = 1_000_000_000


def ratelimit_headers(limits: LimitSet, left: Sequence[Left]) -> dict[str, str]:
    """``x-ratelimit-*``: of each family the limit that has the least left, relative to its size."""
    headers = {}
    for limit, remaining, reset, members in limits.families:
        told, told_cap = members[0]
        for position, cap in members[1:]:
            if left[position][0] * told_cap < left[told][0] * cap:
                told, told_cap = position, cap
        found, wait = left[told]
        headers[limit] = str(told_cap)
        headers[remaining] = str(found)
        headers[reset] = duration(wait or 0)
    if limits.budgets:
        headers["x-sluice-budget-remaining-usd"] = dollars(min(left[position][0] for position in limits.budgets))
    return headers


def duration(milliseconds: int) -> str:
    """Go's ``time.Duration`` text: ``0s``, ``12ms``, ``8.64s``, ``6m0s``, ``1h2m3.5s``."""
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, thousandths = divmod(rest, 1000)
    text = f"{seconds}.{thousandths:03d}".rstrip("0").rstrip(".") + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def dollars(nano: int) -> str:
    """An exact amount without trailing zeros: ``1.25``, ``0``."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    return sign + f"{nano // NANO}.{nano % NANO:09d}".rstrip("0").rstrip(".")


def owner_words(scope: str) -> str:
    """``k:abc|m:fast`` -> ``key abc, model fast``."""
    owner, _, refinement = scope.partition("|")
    kind, _, name = owner.partition(":")
    words = f"{OWNERS.get(kind, kind)} {name}"
    if refinement:
        kind, _, name = refinement.partition(":")
        words += f", {'model' if kind == 'm' else 'tier'} {name}"
    return words


def refusal(refused: Refused) -> LimitExceeded:
    """The error a client gets: whose limit, how much is left, when it resets, and whether to try again."""
    found = refused.states()[refused.position]
    limit = refused.limit
    headers = ratelimit_headers(refused.limits, [(s.remaining, s.reset) for s in refused.states()])
    headers["x-sluice-limit-scope"] = f"{limit.scope} {NAMES[limit.field]}"
    if limit.unit == COST:
        return _over_budget(refused, found, headers)
    name = NAMES[limit.field]
    kind = "requests" if name in ("rpm", "rpd", "concurrency") else "tokens"
    who = f"gateway limit of {owner_words(limit.scope)} on {WORDS[name]}"
    if refused.wait is None:
        return LimitExceeded(
            f"Request too large for the {who}: Limit {limit.cap}, Requested {refused.need}. "
            "Make the prompt or max_completion_tokens smaller.",
            type=kind,
            should_retry=False,
            headers=headers,
        )
    used = limit.cap - found.remaining
    message = f"Rate limit reached for the {who}: Limit {limit.cap}, Used {used}, Requested {refused.need}."
    if limit.kind == CONCURRENCY:
        return LimitExceeded(message, type=kind, retry_after=UNKNOWN_WAIT_MS / 1000, headers=headers)
    wait = max(refused.wait, 1)
    return LimitExceeded(
        f"{message} Please try again in {duration(wait)}.",
        type=kind,
        retry_after=wait / 1000,
        should_retry=False if wait > LONGEST_WAIT_MS else None,
        headers=headers,
    )


def _over_budget(refused: Refused, found: State, headers: dict[str, str]) -> BudgetExceeded:
    limit = refused.limit
    message = (
        f"You exceeded the {WORDS[NAMES[limit.field]]} of {owner_words(limit.scope)}: Limit ${dollars(limit.cap)}, "
        + (f"overdraft of requests in flight ${dollars(limit.rate)}, " if limit.rate else "")
        + f"spent ${dollars(found.used)}, reserved by requests in flight ${dollars(found.reserved)}, "
        f"left ${dollars(found.remaining)}, this request may cost up to ${dollars(refused.need)}."
    )
    retry_after = None
    if limit.kind == WINDOW and found.reset is not None:
        message += f" It resets in {duration(found.reset)}."
        if found.reset < LONGEST_BUDGET_WAIT_MS and refused.wait is not None:
            retry_after = found.reset / 1000
    error = BudgetExceeded(message, retry_after=retry_after, headers=headers)
    error.remaining = found.remaining
    return error

"""What clients are told about limits: ``x-ratelimit-*`` on every answer, and why a request was refused.

The names and the Go-style durations are OpenAI's (checklist C-425 to C-434).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from ..errors import LIMIT_SCOPE, LONGEST_WAIT, BudgetExceeded, LimitExceeded
from .amounts import COST
from .engine import Refused, State
from .rules import BUCKET, CONCURRENCY, NAMES, WINDOW, LimitSet

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

LONGEST_BUDGET_WAIT_MS = 3_600_000
UNKNOWN_WAIT_MS = 1_000
"""When a slot becomes free is not known."""
NANO = 1_000_000_000


def ratelimit_headers(limits: LimitSet, remaining: Sequence[int], reset: Callable[[int], int | None]) -> dict[str, str]:
    """``x-ratelimit-*``: of each family the limit that has the least left, relative to its size.

    ``reset`` gives the milliseconds until all of a limit is there again, by its position in the set.
    """
    headers = {}
    for limit_name, remaining_name, reset_name, (told, cap, text), others in limits.families:
        for position, other_cap, other_text in others:
            if remaining[position] * cap < remaining[told] * other_cap:
                told, cap, text = position, other_cap, other_text  # noqa: PLW2901 - tighter than the first
        headers[limit_name] = text
        headers[remaining_name] = str(remaining[told])
        headers[reset_name] = duration(reset(told) or 0)
    if limits.budgets:
        headers["x-sluice-budget-remaining-usd"] = dollars(min(map(remaining.__getitem__, limits.budgets)))
    return headers


@lru_cache(maxsize=4096)
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
    if nano < 0:
        return "-" + dollars(-nano)
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)


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
    states = refused.states()
    found = states[refused.position]
    limit = refused.limit
    headers = ratelimit_headers(refused.limits, [s.remaining for s in states], lambda position: states[position].reset)
    headers[LIMIT_SCOPE] = f"{limit.scope} {NAMES[limit.field]}"
    if limit.unit == COST:
        return _over_budget(refused, found, headers)
    name = NAMES[limit.field]
    kind = "requests" if name in ("rpm", "rpd", "concurrency") else "tokens"
    who = f"gateway limit of {owner_words(limit.scope)} on {WORDS[name]}"
    paced = limit.kind == BUCKET and limit.scope.startswith("d:")  # see rules.paced: the cap is a part of what was set
    most = f"{'Burst' if paced else 'Limit'} {limit.cap}"
    if refused.wait is None:
        return LimitExceeded(
            f"Request too large for the {who}: {most}, Requested {refused.need}. "
            "Make the prompt or max_completion_tokens smaller.",
            type=kind,
            should_retry=False,
            headers=headers,
        )
    used = limit.cap - found.remaining
    message = f"Rate limit reached for the {who}: {most}, Used {used}, Requested {refused.need}."
    if limit.kind == CONCURRENCY:
        return LimitExceeded(message, type=kind, retry_after=UNKNOWN_WAIT_MS / 1000, headers=headers)
    wait = max(refused.wait, 1)
    return LimitExceeded(
        f"{message} Please try again in {duration(wait)}.",
        type=kind,
        retry_after=wait / 1000,
        should_retry=False if wait > LONGEST_WAIT * 1000 else None,
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

"""A call becomes rows of the ledger: lists of values in the order of ``LEDGER_COLUMNS``."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import orjson

from adapters.usage import NO_USAGE

from ..call import Attempt, CallRecord, Principal
from .tables import LEDGER_COLUMNS, LEDGER_NUMBERS, LEDGER_TEXTS

Row: TypeAlias = Sequence[Any]
Running: TypeAlias = Sequence[Any]
"""What the journal notes of a request that runs, written by ``Ledger.open``: the id, whose it is (organization, team, user,
key, tags), the model, the tiers asked for and given, when it began, whether it streams, the nano-dollars reserved, the
fallback that they are reserved for (older journals note none)."""

UNFINISHED = "unfinished"
"""The status of a request whose process died under it."""
REFUSED = "insufficient_quota"
"""The status of a request that a budget refused."""
_DAY = 86_400
_MAX_TEXT = 200
_MAX_TAGS = 500
"""Bytes. All dimensions of the daily roll-up together must fit a PostgreSQL index entry (2,704 bytes)."""
_MAX_INT = 2**63 - 1
_MAX_COST = 9 * 10**15
"""Nano-dollars, as far as budgets go."""
_MAX_TOKENS = 10**12
"""A count beyond it is nonsense from a provider, and thousands of such rows must still sum within 64 bits."""
_CEILINGS = tuple({"cost": _MAX_COST, "started": _MAX_INT}.get(name, _MAX_TOKENS) for name in LEDGER_NUMBERS)
_TAGS = LEDGER_TEXTS.index("tags")
_FIRST_AMOUNT = LEDGER_NUMBERS.index("started") + 1
"""Before it are numbers that come from our own clock and counts."""
_FIRST_FLAG = len(LEDGER_TEXTS) + len(LEDGER_NUMBERS)
_REQUEST_ID, _ATTEMPT = LEDGER_COLUMNS.index("request_id"), LEDGER_COLUMNS.index("attempt")
_NOBODY = Principal(key_id="", organization="")


def rows_of(record: CallRecord) -> list[Row]:
    """One row per attempt; the last one is ``final`` and stands for the request when requests are counted.

    A request that was refused does not count, nor does one that nobody had capacity for: as in limits.
    """
    attempts = record.attempts
    if len(attempts) == 1:  # nearly always
        status = attempts[0].status
        return [_row(record, attempts[0], final=status == "ok" or (status != REFUSED and record.ran))]
    last = len(attempts) - 1 if record.ran else -1
    return [_row(record, attempt, final=i == last) for i, attempt in enumerate(attempts)]


def _row(record: CallRecord, attempt: Attempt, *, final: bool) -> Row:
    principal, usage, ttft, calls = record.principal or _NOBODY, attempt.usage, attempt.ttft, attempt.usage.calls
    tags = orjson.dumps(principal.tags).decode() if principal.tags else "[]"
    started = record.started
    return (  # a tuple, which the garbage collector need not look through
        record.id, principal.organization, principal.team or "", principal.user or "", principal.key_id, tags,
        record.model[:_MAX_TEXT], attempt.deployment, attempt.provider, attempt.model,
        record.requested_tier or "", record.effective_tier or "", attempt.sent_tier or "", attempt.served_tier or "",
        attempt.status, attempt.error.value if attempt.error is not None else "", record.code,
        attempt.number, int(started) // _DAY, int(started * 1e6), int(attempt.seconds * 1e6),
        record.status, attempt.cost,
        usage.input, usage.cache_read, usage.cache_write, usage.cache_write_1h, usage.audio_input,
        usage.output, usage.reasoning, usage.audio_output,  # the TOKEN_BUCKETS in their order
        attempt.estimated, record.stream, final,
        None if ttft is None else int(ttft * 1e6),
        orjson.dumps(calls).decode() if calls else None,
        attempt.fallback,
    )  # fmt: skip


def unfinished_row(noted: Running) -> Row:
    """The row of a request that never ended: attempt 0, charged what was reserved for it, marked as estimated."""
    call_id, organization, team, user, key, tags, model, requested, effective, started, stream, reserved, *later = noted
    record = CallRecord(
        call_id, model, Principal(key, organization, team, user, tags=tuple(tags)), code=UNFINISHED,
        stream=stream, started=started, requested_tier=requested, effective_tier=effective,
    )  # fmt: skip
    attempt = Attempt(
        0, "", "", "", served_tier=effective, usage=NO_USAGE, estimated=True, cost=reserved, status=UNFINISHED,
    )  # fmt: skip
    attempt.fallback = later[0] if later else None
    record.attempts.append(attempt)
    return rows_of(record)[0]


def identity(row: Row) -> tuple[str, int]:
    """(request id, attempt): what makes a row unique."""
    return row[_REQUEST_ID], row[_ATTEMPT]


def encode(value: Any) -> bytes:
    """JSON of a journal record; foreign texts and numbers that JSON cannot carry are made to fit."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(fitting(value))


def fitting(value: Any) -> Any:
    """What JSON can carry of a value."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, -_MAX_INT), _MAX_INT)
    return [fitting(item) for item in value] if isinstance(value, list | tuple) else value


def all_cleaned(rows: Sequence[Row]) -> Sequence[Row]:
    """``cleaned`` of each; nearly always they are so already, which different values of all rows tell together."""
    if {*map(len, rows)} == {len(LEDGER_COLUMNS)}:
        columns = [*zip(*rows, strict=True)]
        texts = {*chain.from_iterable(columns[: len(LEDGER_TEXTS)])}
        numbers = {*chain.from_iterable(columns[len(LEDGER_TEXTS) : _FIRST_FLAG])}
        amounts = {*chain.from_iterable(columns[len(LEDGER_TEXTS) + _FIRST_AMOUNT : _FIRST_FLAG])}
        joined = "".join(texts)
        if (
            joined.isascii() and "\x00" not in joined and max(map(len, texts)) <= _MAX_TEXT
            and min(numbers) >= 0 and max(amounts) <= _MAX_TOKENS
        ):  # fmt: skip
            return rows
    return [*map(cleaned, rows)]


def cleaned(row: Row) -> tuple[Any, ...]:
    """A row as SQL can hold it: no NUL in texts, texts and numbers within their columns."""
    # One look at all texts together, and one at all numbers: nearly every row is short ASCII and has small numbers.
    texts, numbers = row[: len(LEDGER_TEXTS)], row[len(LEDGER_TEXTS) : _FIRST_FLAG]
    joined = "".join(texts)
    if not joined.isascii() or "\x00" in joined or (len(joined) > _MAX_TEXT and max(map(len, texts)) > _MAX_TEXT):
        texts = [_text(value) for value in texts]
        if len(row[_TAGS]) > _MAX_TEXT:
            texts[_TAGS] = _fewer_tags(row[_TAGS])
    if min(numbers) < 0 or max(numbers[_FIRST_AMOUNT:]) > _MAX_TOKENS:
        numbers = [min(max(value, 0), top) for value, top in zip(numbers, _CEILINGS, strict=True)]
    return (*texts, *numbers, *row[_FIRST_FLAG:], *[None] * (len(LEDGER_COLUMNS) - len(row)))


def _text(value: str) -> str:
    if value.isascii() and len(value) <= _MAX_TEXT and "\x00" not in value:
        return value
    return value.replace("\x00", "\ufffd").encode()[:_MAX_TEXT].decode("utf-8", "ignore")


def _fewer_tags(text: str) -> str:
    tags = orjson.loads(text)
    while len(shortened := orjson.dumps(tags)) > _MAX_TAGS:
        tags.pop()
    return shortened.decode()

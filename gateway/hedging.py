"""Ask a second deployment when the first one keeps a call waiting: the first answer wins."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from .answer import Answer, StreamedAnswer
from .call import CallRecord, Deployment
from .continuation import Sendable
from .walk import Walk

HEDGE_LOST = "hedge_lost"
"""The status of an attempt that was no longer wanted."""
CLIENT_CLOSED = "client_closed"
"""The status of an attempt whose client has left."""
Try: TypeAlias = Callable[[Sendable, Deployment, CallRecord], Coroutine[Any, Any, Answer]]
"""Makes one attempt, with its row in the record."""


async def hedged(
    attempt: Try, call: Sendable, walk: Walk, first: Deployment, record: CallRecord, after: float
) -> Answer:
    """The answer of ``first``, or of another one that is asked beside it after so many seconds."""
    tasks = {asyncio.create_task(attempt(call, first, record))}
    winner: asyncio.Task[Answer] | None = None
    try:
        done, _ = await asyncio.wait(tasks, timeout=after)
        if not done and (other := walk.beside()) is not None:
            tasks.add(asyncio.create_task(attempt(call, other, record)))
        winner = await _first_answer(tasks)
        return winner.result()
    finally:
        try:
            await _lose(tasks - {winner}, call, record, HEDGE_LOST if winner is not None else None)
        except BaseException:
            if winner is not None and winner.exception() is None:
                _unwanted(winner.result(), call, record, CLIENT_CLOSED)  # who asked has left: nobody has it now
            raise


async def _first_answer(tasks: set[asyncio.Task[Answer]]) -> asyncio.Task[Answer]:
    """The first task that succeeds; raises what the last one failed with when all fail."""
    waiting = tasks
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = next((task for task in done if task.exception() is None), None)
        if answered is not None:
            return answered
        if not waiting:
            return done.pop()  # its result is the failure


async def _lose(losers: set[asyncio.Task[Answer]], call: Sendable, record: CallRecord, why: str | None) -> None:
    """Cancel what is no longer wanted and account for it; the row of the answer, if there is one, comes last."""
    if not losers:
        return
    for task in losers:
        task.cancel(why)
    left = False
    while any(not task.done() for task in losers):
        try:
            await asyncio.wait(losers)
        except asyncio.CancelledError:
            left = True  # they end at once, and until then their answers are ours to account for
    for task in losers:
        if not task.cancelled() and task.exception() is None:
            _unwanted(task.result(), call, record, HEDGE_LOST)  # it answered at the same moment
    record.attempts.sort(key=lambda row: row.status == "ok")
    if left:
        raise asyncio.CancelledError


def _unwanted(answer: Answer, call: Sendable, record: CallRecord, status: str) -> None:
    """Let go of an answer that came and that nobody will have."""
    if isinstance(answer, StreamedAnswer):
        answer.abort()
    for row in record.attempts:
        if row.deployment == answer.deployment.id and row.status == "ok":
            row.status = status
            call.over(row, answer.deployment, maybe_billed=True)

"""Flex that is refused: asked again as long as its owner lets it wait, then run at default where its owner wants that."""

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

from . import tiers
from .answer import Answer
from .call import CallRecord, Plan, Route
from .dispatch import Dispatcher
from .errors import CapacityUnavailable
from .metering import Metered

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


def answer(dispatch: Dispatcher, call: Metered, record: CallRecord) -> Coroutine[Any, Any, Answer]:
    """The answer of a plan; raises GatewayError like ``Dispatcher.answer``, for flex CapacityUnavailable."""
    if call.tier != "flex":
        return dispatch.answer(call, record)
    return _flex(dispatch, call, record)


async def _flex(dispatch: Dispatcher, call: Metered, record: CallRecord) -> Answer:
    asked = call.route, call.plan
    try:
        return await _patiently(dispatch, call, record)
    except CapacityUnavailable as exc:
        fallback = tiers.flex_fallback(call.principal)
        if fallback is None:
            exc.should_retry = None  # flex is meant to be tried again later
            exc.retry_after = exc.retry_after or random.uniform(5, 15)  # noqa: S311 - not all at once
            raise
    await _back(call, record, *asked)
    await call.move(fallback)
    return await dispatch.answer(call, record)


async def _back(call: Metered, record: CallRecord, route: Route, plan: Plan) -> None:
    """To the model that was asked for, where a fallback refused as well."""
    if call.route is not route:
        await call.fall_back(route, plan)
        record.fallback, record.until = None, 0.0


async def _patiently(dispatch: Dispatcher, call: Metered, record: CallRecord) -> Answer:
    pause = FIRST_PAUSE
    asked = call.route, call.plan
    until = call.flex_until = time.monotonic() + tiers.flex_wait(call.principal)
    while True:
        try:
            return await dispatch.answer(call, record)
        except CapacityUnavailable as exc:
            wait = exc.retry_after or random.uniform(pause / 2, pause)  # noqa: S311 - not all at once
            if time.monotonic() + wait >= until:
                raise
        await asyncio.sleep(wait)
        await _back(call, record, *asked)
        pause = min(pause * 2, LONGEST_PAUSE)

"""Completions of requests that say ``store: true``, kept before the client has the last byte, so that it reads them back."""

import asyncio
import logging
from dataclasses import dataclass

from .answer import StreamedAnswer, WholeAnswer
from .call import Call, Principal
from .errors import GatewayError
from .records.stored import StoredCompletions, owner_of
from .remote_images import RemoteImages

log = logging.getLogger(__name__)

KEPT_WITHIN = 5.0
"""Seconds that an answer's last byte waits for its stored copy at most."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Puts complete answers into the store of their owner."""

    store: StoredCompletions
    images: RemoteImages | None = None
    """Fetches what prompts only name; None: the address is kept."""

    async def keep(self, call: Call, principal: Principal, answer: StreamedAnswer | WholeAnswer) -> None:
        """Keep a complete answer. A store that is down costs the copy, never the answer, which is paid for already."""
        completion = answer.completion(call)
        if completion is None:
            return
        try:
            async with asyncio.timeout(KEPT_WITHIN):
                request = call.request if self.images is None else await self.images.fetched(call.request)
                await self.store.create(owner_of(principal), request, completion, request_id=call.id)
        except (GatewayError, TimeoutError) as error:
            log.warning("the completion of %s could not be stored: %s", call.id, type(error).__name__)

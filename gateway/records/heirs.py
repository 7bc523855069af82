"""One process at a time takes journals of dead ones over: who comes second knows then that nothing was left, or that something may be."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from ..errors import StoreUnavailable

_SECONDS = 1.0
"""As long as one waits for another: usually that takes some milliseconds."""
_PAUSE = 0.005


@contextlib.asynccontextmanager
async def only_heir(folder: Path) -> AsyncIterator[None]:
    """While no other process is at it; raises StoreUnavailable where one stays at it, say because SQL is away."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _SECONDS
        while not _locks(fd):
            if time.monotonic() > end:
                raise StoreUnavailable(
                    "Another process takes over the journal of a dead one.", code="ledger_unavailable"
                )
            await asyncio.sleep(_PAUSE)
        yield
    finally:
        os.close(fd)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # NFS locks what can be written only, and so no folders: there each goes by itself
        return True
    return True

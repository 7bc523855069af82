"""Operations on the configuration that runs: what it is, and to read the file again."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from config import Config, ConfigError

from ..effective import effective
from ..errors import InvalidRequest, StoreUnavailable
from ..records.audit import AuditLog
from .operation import JSON, Asked, Operation
from .owners import BASE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configuration:
    """``running`` gives the configuration and its version; ``reload`` the new version, or raises ConfigError."""

    running: Callable[[], tuple[Config, str]]
    reload: Callable[[], Awaitable[str]]
    audit: AuditLog

    def operations(self) -> Iterator[Operation]:
        shown = "The configuration that runs, with every default filled in and every secret masked"
        yield Operation("GET", f"{BASE}/config/effective", "operator", shown, self.effective)
        again = "Read the configuration file again: everything it says runs, or nothing changes"
        yield Operation("POST", f"{BASE}/config/reload", "operator", again, self.read_again)

    async def effective(self, _: Asked) -> JSON:
        config, version = self.running()
        return {"object": "config", "version": version, "config": effective(config)}

    async def read_again(self, asked: Asked) -> JSON:
        actor = asked.actor
        entry = {"actor": actor.id, "action": "config.reload", "target": "config", "request_id": actor.request_id}
        try:
            version = await self.reload()
        except ConfigError as exc:
            await self._note(entry, result="invalid_config")
            raise InvalidRequest("; ".join(exc.problems), code="invalid_config") from exc
        await self._note(entry, after={"version": version})
        return {"object": "config.reload", "version": version}

    async def _note(self, entry: Mapping[str, str | None], **more: Any) -> None:
        """A database that is away does not keep an operator from reloading."""
        try:
            await self.audit.record(**entry, **more)
        except StoreUnavailable:
            log.warning("a reload of the configuration could not be written to the audit log")

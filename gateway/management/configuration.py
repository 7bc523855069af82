"""Operations on the configuration that runs: what it is, and to read the file again."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from config import Config, ConfigError

from ..effective import effective
from ..errors import InvalidRequest
from .operation import JSON, Asked, Operation
from .owners import BASE


@dataclass(frozen=True, slots=True)
class Configuration:
    """``running`` gives the configuration and its version; ``reload`` the new version, or raises ConfigError."""

    running: Callable[[], tuple[Config, str]]
    reload: Callable[[], Awaitable[str]]

    def operations(self) -> Iterator[Operation]:
        shown = "The configuration that runs, with every default filled in and every secret masked"
        yield Operation("GET", f"{BASE}/config/effective", "operator", shown, self.effective)
        again = "Read the configuration file again: everything it says runs, or nothing changes"
        yield Operation("POST", f"{BASE}/config/reload", "operator", again, self.read_again)

    async def effective(self, _: Asked) -> JSON:
        config, version = self.running()
        return {"object": "config", "version": version, "config": effective(config)}

    async def read_again(self, _: Asked) -> JSON:
        try:
            version = await self.reload()
        except ConfigError as exc:
            raise InvalidRequest("; ".join(exc.problems), code="invalid_config") from exc
        return {"object": "config.reload", "version": version}

"""How commands reach the operations of the admin API: in the database itself, or over HTTP with ``--url``."""

import asyncio
import functools
import getpass
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import click

from config import Config, ConfigError, load

from ..errors import GatewayError, StoreUnavailable
from ..management.catalogue import catalogue, record_operations
from ..management.operation import JSON, Asked, Download
from ..records.admin import Admin
from ..records.audit import AuditLog
from ..records.database import Database, DatabaseError, explained
from ..records.digests import Peppers
from ..records.grants import Actor
from ..records.usage import UsageStore

T = TypeVar("T")
BASE = "/admin/v1"
KEY_VARIABLE = "SLUICE_ADMIN_KEY"
TIMEOUT = 60.0
"""Seconds for one call over HTTP."""


class Operator(Protocol):
    """Calls an operation: by method and path as the admin API has them, ``{id}`` being filled in from ``identity``."""

    async def __call__(
        self, method: str, path: str, identity: str = "", query: Mapping[str, str] = {}, body: Any = None
    ) -> JSON: ...

    def download(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]: ...


class Direct:
    """Runs operations in this process, on the database of a configuration file."""

    def __init__(self, config: Config, database: Database) -> None:
        audit = AuditLog(database)
        admin = Admin(database, Peppers.of(config), config, audit=audit)
        listed = catalogue(record_operations(admin, UsageStore(database), audit))
        self._operations = {(o.method, o.path): o for o in listed}
        self._actor = Actor(f"cli:{_user()}")

    async def __call__(
        self, method: str, path: str, identity: str = "", query: Mapping[str, str] = {}, body: Any = None
    ) -> JSON:
        done = await self._run(method, path, identity, query, body)
        assert isinstance(done, dict), "downloads have a method of their own"
        return done

    async def download(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        done = await self._run("GET", path, "", query, None)
        assert isinstance(done, Download), "asked for as one"
        async for piece in done.pieces:
            yield piece

    async def _run(
        self, method: str, path: str, identity: str, query: Mapping[str, str], body: Any
    ) -> JSON | list[JSON] | Download:
        operation = self._operations.get((method, path))
        if operation is None:
            raise click.ClickException("Only a running gateway knows that: give its admin API's address with --url.")
        return await operation.run(Asked(self._actor, identity, query, body))


class Remote:
    """Calls the admin API of a running gateway."""

    def __init__(self, session: Any, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def __call__(
        self, method: str, path: str, identity: str = "", query: Mapping[str, str] = {}, body: Any = None
    ) -> JSON:
        filled = path.replace("{id}", quote(identity, safe=""))
        async with self._session.request(method, self._url + filled, params=query, json=body) as response:
            answer: Any = await response.json(content_type=None)
        if response.status >= 400:
            raise click.ClickException(_refusal(answer))
        if not isinstance(answer, dict):
            raise ValueError("no answer of an admin API")  # noqa: TRY004 - of the other side, not a type
        return answer

    async def download(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        import aiohttp

        slowest = aiohttp.ClientTimeout(
            total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT
        )  # millions of rows take long
        async with self._session.get(self._url + path, params=query, timeout=slowest) as response:
            if response.status >= 400:
                raise click.ClickException(_refusal(await response.json(content_type=None)))
            async for piece in response.content.iter_any():
                yield piece


def _refusal(answer: Any) -> str:
    """What an error says; raises ValueError for one that no gateway wrote."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        raise ValueError("no error of an admin API")  # noqa: TRY004 - of the other side, not a type
    return str(error["message"])


@asynccontextmanager
async def _remote(url: str, key: str) -> AsyncIterator[Remote]:
    import aiohttp

    headers = {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as session:
        try:
            yield Remote(session, url)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as exc:  # KeyError: JSON of something else
            raise click.ClickException(f"{url} does not answer as an admin API: {type(exc).__name__}") from None


@asynccontextmanager
async def opened(file: str) -> AsyncIterator[tuple[Config, Database]]:
    """The configuration and its database; what is wrong with either becomes a ClickException."""
    database: Database | None = None
    try:
        config = load(file)
        database = Database(config.database)
        yield config, database
    except ConfigError as exc:
        raise click.ClickException("\n".join(f"{file}: {problem}" for problem in exc.problems)) from None
    except DatabaseError as exc:
        raise click.ClickException(str(exc)) from None
    except GatewayError as exc:
        raise click.ClickException(explained(exc) if isinstance(exc, StoreUnavailable) else exc.message) from None
    finally:
        if database is not None:
            await database.close()


async def _with_operator(work: Callable[[Operator], Awaitable[T]], file: str, url: str | None, key: str | None) -> T:
    if url is not None:
        if not key:
            raise click.ClickException(f"--url needs an admin key in the environment variable {KEY_VARIABLE}.")
        async with _remote(url, key) as remote:
            return await work(remote)
    async with opened(file) as (config, database):
        if config.database.migrate:
            await database.upgrade()
        return await work(Direct(config, database))


def operating(command: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Options ``--config``, ``--url`` and ``--json``; the coroutine gets the operator and ``as_json`` first."""

    @file_option
    @click.option("--url", envvar="SLUICE_ADMIN_URL", help=f"Admin API to call instead; its key is ${KEY_VARIABLE}.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(command)
    def run(file: str, url: str | None, as_json: bool, **options: Any) -> None:
        import os

        async def work(operator: Operator) -> None:
            await command(operator, as_json, **options)

        asyncio.run(_with_operator(work, file, url, os.environ.get(KEY_VARIABLE)))

    return run


file_option = click.option(
    *("--config", "-c", "file"),
    envvar="SLUICE_CONFIG",
    default="sluice.yaml",
    show_default=True,
    help="Configuration file: its database is used.",
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def show(value: Any, as_json: bool, text: Callable[[Any], str] | None = None) -> None:
    click.echo(json.dumps(value, indent=2) if as_json or text is None else text(value))


def table(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any] | None = None
) -> None:
    """Print ``rows``; ``columns`` maps fields to headings. Numbers are to the right."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_footer=total is not None)
    for field, heading in columns.items():
        numeric = any(isinstance(row.get(field), int) for row in rows) or heading == "cost $"
        footer = _cell(total.get(field)) if total is not None else ""
        grid.add_column(heading, footer, justify="right" if numeric else "left", no_wrap=True, overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(row.get(field)) for field in columns))
    console = Console()
    # A pipe has no width to keep to.
    Console(width=console.width if console.is_terminal else 500, highlight=False, markup=False).print(grid)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def dollars(nano: int) -> str:
    return f"{nano // 1_000_000_000}.{nano % 1_000_000_000:09d}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return "unknown"

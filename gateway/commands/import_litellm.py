"""``sluice import-litellm``: a LiteLLM configuration becomes ours, its keys go on working."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import SecretStr

from config import Config, ConfigError, parse, where
from config.schema import Database as DatabaseOptions

from ..deployments import routes
from ..errors import GatewayError, StoreUnavailable
from ..litellm.document import Converted, convert
from ..litellm.records import Imported, Importer
from ..litellm.tables import plain, read
from ..price_book import PriceBook
from ..records.admin import Admin
from ..records.database import Database, DatabaseError, explained
from ..records.digests import Peppers
from .operator import dollars
from .progress import progress

_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SOURCE_SECONDS = 600.0
"""For reading whole tables, which may hold a million keys."""
_PLACEHOLDER = "x" * 40
"""Stands for secrets of the environment while the result is checked."""
_ADDRESS = re.compile(r"(?:base_)?url: '?\$\{(\w+)\}(?:/v1)?'?$", re.MULTILINE)
_PORT = re.compile(r":\$\{(\w+)\}/[0-9]+'?$", re.MULTILINE)


@click.command("import-litellm")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--output", "-o", default="sluice.yaml", show_default=True, help="Where our configuration goes; - prints it."
)
@click.option("--force", is_flag=True, help="Overwrite the output.")
@click.option(
    "--database-url", envvar="LITELLM_DATABASE_URL", help="LiteLLM's database: brings keys, teams, users, spend."
)
@click.option("--into", default="sqlite:///sluice.db", show_default=True, help="Our database, where they go.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(file: str, output: str, force: bool, database_url: str | None, into: str, as_json: bool) -> None:
    """Turn the LiteLLM configuration FILE into ours, and say what of it could not be taken over."""
    converted = convert(load_source(Path(file)))
    if database_url is not None:
        converted.document["database"] = {"url": _database(into, converted)}
    problems = check(converted)
    written = yaml.safe_dump(converted.document, sort_keys=False, allow_unicode=True)
    if output != "-":
        if Path(output).exists() and not force:
            raise click.ClickException(f"{output} exists; overwrite it with --force or choose another --output.")
        Path(output).write_text(written, encoding="utf-8")
    imported = asyncio.run(bring(database_url, into)) if database_url is not None else None
    if as_json:
        click.echo(json.dumps(_report(converted, problems, imported)))
        return
    if output == "-":
        click.echo(written, nl=False)
    for line in [*converted.notes, *(imported.notes if imported else ()), *(f"CHECK {p}" for p in problems)]:
        click.echo(line, err=True)
    models, providers = len(converted.document["models"]), len(converted.document["providers"])
    click.echo(f"{models} models at {providers} providers", err=True)
    if imported is not None:
        made = ", ".join(f"{count} {kind}s" for kind, count in imported.made.items()) or "nothing new"
        click.echo(f"{made}; ${dollars(imported.spent)} spent", err=True)


def _database(into: str, converted: Converted) -> str:
    """What the configuration says of our database: no password."""
    if "@" not in into:
        return into.replace("$", "$$")
    converted.notes.append("database.url: set DATABASE_URL to what --into was")
    return "${DATABASE_URL}"


def load_source(path: Path, depth: int = 0) -> dict[str, Any]:
    """Read a file with what it includes: lists are joined, everything else is replaced by the included file."""
    try:
        source = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{path}: not UTF-8") from None
    except yaml.YAMLError as error:
        raise click.ClickException(f"{path}: not YAML: {where(error)}") from None
    if not isinstance(source, dict):
        raise click.ClickException(f"{path}: not a mapping of options")
    merged: dict[str, Any] = {key: value for key, value in source.items() if key != "include"}
    included = source.get("include") or []
    if not isinstance(included, list):
        raise click.ClickException(f"{path}: include: not a list of files; write [{included}]")
    for name in included:
        if depth > 8:
            raise click.ClickException(f"{path}: files include each other")
        for key, value in load_source(path.parent / str(name), depth + 1).items():
            joined = isinstance(value, list) and isinstance(merged.get(key), list)
            merged[key] = [*merged[key], *value] if joined else value
    return merged


def check(converted: Converted) -> list[str]:
    """What is wrong with the result, every variable of the environment taken as set. Models without a price are notes."""
    text = yaml.safe_dump(converted.document, allow_unicode=True)
    given = dict.fromkeys(_VARIABLE.findall(text), _PLACEHOLDER)
    given |= dict.fromkeys(_ADDRESS.findall(text), "https://x") | dict.fromkeys(_PORT.findall(text), "6379")
    if "redis" in converted.document:
        given |= dict.fromkeys(_ADDRESS.findall(yaml.safe_dump(converted.document["redis"])), "redis://x")
    try:
        config = parse(text, given)
        table, prices = routes(config), PriceBook(config)
    except ConfigError as error:
        return error.problems
    for public, route in table.items():
        converted.notes += [
            f"models.{public}: {deployment.id} has no price that is known: refused under budgets, else recorded at $0"
            for deployment in route.deployments
            if prices.price(deployment) is None
        ]
    return []


async def bring(source_url: str, target_url: str) -> Imported:
    """Copy LiteLLM's owners, keys and spend into our database."""
    source = target = None
    try:
        source = Database(DatabaseOptions(url=SecretStr(plain(source_url))), timeout=SOURCE_SECONDS)
        target = Database(DatabaseOptions(url=SecretStr(target_url)), timeout=SOURCE_SECONDS)
        await target.upgrade()
        with progress("reading LiteLLM's database"):
            tables = await read(source)
        rows = sum(len(tables[name]) for name in ("organizations", "teams", "users", "keys"))
        with progress("owners and keys", rows) as advance:
            return await Importer(Admin(target, Peppers(()), Config()), target, advance).run(tables)
    except DatabaseError as error:
        raise click.ClickException(str(error)) from None
    except GatewayError as error:
        raise click.ClickException(explained(error) if isinstance(error, StoreUnavailable) else error.message) from None
    finally:
        for database in (source, target):
            if database is not None:
                await database.close()


def _report(converted: Converted, problems: list[str], imported: Imported | None) -> dict[str, Any]:
    return {
        "models": sorted(converted.document["models"]),
        "notes": converted.notes + (imported.notes if imported else []),
        "problems": problems,
        "made": imported.made if imported else {},
        "spent": imported.spent if imported else 0,
    }

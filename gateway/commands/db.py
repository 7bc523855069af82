"""``sluice db``: the schema of the records."""

import asyncio
import sys

import click

from .operator import file_option, json_option, opened, show
from .progress import progress


@click.group("db")
def command() -> None:
    """Look after the database of keys, ledger and stored completions."""


@command.command("upgrade")
@file_option
@json_option
def _upgrade(file: str, as_json: bool) -> None:
    """Bring the schema up to date; safe to run twice, and beside running gateways."""

    async def run() -> None:
        async with opened(file) as (_, database):
            await database.upgrade()

    with progress("bringing the schema up to date"):
        asyncio.run(run())
    show({"current": True}, as_json, lambda _: "up to date")


@command.command("check")
@file_option
@json_option
def _check(file: str, as_json: bool) -> None:
    """Exit with 1 when the schema is not the one this version expects."""

    async def run() -> bool:
        async with opened(file) as (_, database):
            return await database.current()

    current = asyncio.run(run())
    if as_json:
        show({"current": current}, as_json)
    else:
        click.echo("up to date" if current else "needs `sluice db upgrade`", err=not current)
    sys.exit(0 if current else 1)

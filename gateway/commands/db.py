"""``sluice db``: the schema of the records."""

import asyncio
import sys

import click

from .operator import file_option, opened


@click.group("db")
def command() -> None:
    """Look after the database of keys, ledger and stored completions."""


@command.command("upgrade")
@file_option
def _upgrade(file: str) -> None:
    """Bring the schema up to date; safe to run twice, and beside running gateways."""

    async def run() -> None:
        async with opened(file) as (_, database):
            await database.upgrade()

    asyncio.run(run())
    click.echo("up to date")


@command.command("check")
@file_option
def _check(file: str) -> None:
    """Exit with 1 when the schema is not the one this version expects."""

    async def run() -> bool:
        async with opened(file) as (_, database):
            return await database.current()

    current = asyncio.run(run())
    click.echo("up to date" if current else "needs `sluice db upgrade`", err=not current)
    sys.exit(0 if current else 1)

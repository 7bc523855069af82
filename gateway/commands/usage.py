"""``sluice usage``: what was used, by whom, for how much."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from ..records.usage import GROUPS
from .operator import BASE, Operator, dollars, operating, show, table

SHOWN = {"requests": "requests", "errors": "errors", "tokens": "tokens", "cost": "cost $"}
FILTERS = ("organization", "team", "user", "key", "model", "deployment", "provider", "tier", "tag")


async def report(operator: Operator, as_json: bool, by: Sequence[str], query: Mapping[str, str]) -> None:
    """Print sums by ``by``, with a total."""
    answer = await operator("GET", f"{BASE}/usage", query={**query, "group_by": ",".join(by)})
    if as_json:
        show(answer, as_json)
        return
    rows, total = answer["data"], answer["total"]
    footer = {**dict.fromkeys(by[:1], "total"), **{name: total[name] for name in SHOWN}, "cost": dollars(total["cost"])}
    shown = [{**row, "cost": dollars(row["cost"])} for row in rows]
    table({**{name: name for name in by}, **SHOWN}, shown, footer)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(FILTERS):
        command = click.option(f"--{name}", help=f"Only of this {name}.")(command)
    return command


@click.command("usage")
@click.option("--by", default="team", show_default=True, help=f"Comma-separated: {', '.join(GROUPS)}.")
@click.option("--since", default="30d", show_default=True, help="ISO 8601, or so long ago: 30d, 12h, 15m.")
@click.option("--until", help="ISO 8601, or so long ago.")
@click.option("--export", type=click.Choice(["csv", "json"]), help="Print every row of the ledger instead of sums.")
@filters
@operating
async def command(
    operator: Operator, as_json: bool, by: str, since: str, until: str | None, export: str | None, **given: str | None
) -> None:
    """Sums of usage and cost from the ledger."""
    query = {name: value for name, value in {"since": since, "until": until, **given}.items() if value is not None}
    if export is not None:
        out = sys.stdout.buffer
        async for piece in operator.download(f"{BASE}/usage/export", {**query, "format": export}):
            out.write(piece)
        return
    await report(operator, as_json, [name for name in by.split(",") if name], query)

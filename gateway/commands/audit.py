"""``sluice audit``: what operators did, and whether the log of it is whole."""

import sys

import click

from .operator import BASE, Operator, operating, show, table
from .progress import progress

COLUMNS = {"seq": "no.", "time": "time", "actor": "actor", "action": "action", "target": "target", "result": "result"}


@click.group("audit")
def command() -> None:
    """Read and verify the audit log."""


@command.command("verify")
@click.option("--anchor", help="A head noted elsewhere earlier, SEQ:HASH: the log must still hold it.")
@operating
async def _verify(operator: Operator, as_json: bool, anchor: str | None) -> None:
    """Recompute the whole chain; exit with 1 when a row was changed, removed or reordered."""
    with progress("recomputing the audit log's chain"):
        verdict = await operator("GET", f"{BASE}/audit/verify", query={"anchor": anchor} if anchor else {})
    head = verdict["head"]
    if as_json:
        show(verdict, as_json)
    elif verdict["intact"]:
        click.echo(f"intact: {head['seq']} rows, head {head['seq']}:{head['hash']}")
    else:
        click.echo(f"broken at row {verdict['broken_at']}: {verdict['reason']}", err=True)
    if not verdict["intact"]:
        sys.exit(1)


@command.command("list")
@click.option("--target", help="Say key:key_...")
@click.option("--after", default=0, help="The number of the last row seen.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@operating
async def _list(operator: Operator, as_json: bool, target: str | None, after: int, limit: int) -> None:
    """What operators did, oldest first."""
    from datetime import UTC, datetime

    query = {"after": str(after), "limit": str(limit), **({"target": target} if target else {})}
    page = await operator("GET", f"{BASE}/audit", query=query)
    if as_json:
        show(page["data"], as_json)
        return
    table(COLUMNS, [{**row, "time": datetime.fromtimestamp(row["at"], UTC).isoformat()} for row in page["data"]])

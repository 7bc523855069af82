"""``sluice reconcile``: do the counters say what the ledger says?"""

import click

from .operator import BASE, Operator, operating, show, table
from .progress import progress

COLUMNS = {"scope": "scope", "limit": "limit", "counter": "counter", "ledger": "ledger", "mended": "mended"}


@click.command("reconcile")
@click.option("--mend", is_flag=True, help="Set them right, up or down; requests may run.")
@operating
async def command(operator: Operator, as_json: bool, mend: bool) -> None:
    """Compare budgets and daily limits with the ledger (needs --url): money in nano-dollars."""
    with progress("comparing counters with the ledger"):
        found = await operator("POST" if mend else "GET", f"{BASE}/reconcile")
    if as_json:
        show(found["data"], as_json)
    elif found["data"]:
        table(COLUMNS, found["data"])
    else:
        click.echo("counters and ledger agree")

"""``sluice prices``: what models cost, and another price list, compared before it is written."""

import json
import sys
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from ..price_list import Change, PriceList, check, differences, less_and_less_precise
from .progress import progress

SHOWN = 200
"""Changes that are printed; the rest is counted."""


@click.group("prices")
def command() -> None:
    """What models cost: look up, and update a price list."""


@command.command("show")
@click.argument("model", metavar="PROVIDER/MODEL")
@click.option("--list", "path", type=click.Path(exists=True), help="A price list instead of the shipped one.")
@click.option("--json", is_flag=True, expose_value=False, help="Print JSON, as it does in any case.")
def show(model: str, path: str | None) -> None:
    """Print the price of a model as the gateway finds it: JSON, whole pico-dollars per token ($1/M is 1000000)."""
    provider, _, name = model.partition("/")
    known = _read(path)
    price = PriceList(known).find(provider, name)
    if price is None:
        raise click.ClickException(f"{model}: not in the price list; give it a `price` in the configuration.")
    listed = next(n for n in less_and_less_precise(name) if PriceList(known).find(provider, n) is not None)
    told = {"provider": provider, "model": listed, **asdict(price)}
    click.echo(json.dumps({**told, "source": known.get("source", ""), "date": known.get("date", "")}))


@command.command("update")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--to", type=click.Path(dir_okay=False), help="The list to replace: that of `pricing.prices`.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
def update(file: str, to: str | None, yes: bool, as_json: bool) -> None:
    """Show what FILE changes of the prices, then write it to --to; without --to compare with the shipped list."""
    with progress("comparing price lists"):
        after = _read(file)
        before = _read(to if to is not None and Path(to).exists() else None)
        changes = differences(before, after)
    if as_json:
        click.echo(json.dumps([change._asdict() for change in changes]))
    else:
        for change in changes[:SHOWN]:
            click.echo(_line(change))
        click.echo(f"{len(changes)} changes; {after.get('source', '')} {after.get('date', '')}".strip(), err=True)
    if to is None or not changes:
        return
    if not yes and not click.confirm(f"Write {to}?", err=True):
        sys.exit(1)
    Path(to).write_text(json.dumps(after, indent=1) + "\n", "utf-8")


def _line(change: Change) -> str:
    name = f"{change.provider}/{change.model}"
    if change.before is None:
        return f"+ {name} {_prices(change.after)}"
    if change.after is None:
        return f"- {name}"
    return f"~ {name} {_prices(change.before)} -> {_prices(change.after)}"


def _prices(row: Any) -> str:
    return json.dumps(row["prices"], separators=(",", ":"))


def _read(path: str | None) -> dict[str, Any]:
    """A price list that can be used, or an end with what is wrong with it."""
    source = Path(path) if path is not None else files("config") / "prices.json"
    try:
        data: dict[str, Any] = json.loads(source.read_text("utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("providers"), dict):
            raise ValueError("not a price list: no 'providers'")  # noqa: TRY004 - of the file, not a type
        check(data)
    except (OSError, ValueError) as exc:
        raise click.ClickException(f"{source}: {exc}") from exc
    return data

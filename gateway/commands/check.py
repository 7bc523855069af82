"""``sluice check``: is this configuration good, and what does it come to?"""

import json
import sys

import click
import yaml

from config import ConfigError, load

from ..deployments import routes
from ..effective import effective
from ..price_book import PriceBook


@click.command("check")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
@click.option("--quiet", "-q", is_flag=True, help="Print mistakes only.")
def command(file: str, as_json: bool, quiet: bool) -> None:
    """Check FILE: print the effective configuration, or every mistake at once and exit with 1."""
    try:
        config = load(file)
        routes(config)
        PriceBook(config)
    except ConfigError as exc:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": exc.problems}))
        else:
            for problem in exc.problems:
                click.echo(f"{file}: {problem}", err=True)
        sys.exit(1)
    if quiet:
        return
    shown = effective(config)
    if as_json:
        click.echo(json.dumps({"ok": True, "config": shown}))
    else:
        click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)

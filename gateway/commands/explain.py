"""``sluice explain``: what would be done with a request, without doing it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from config import Config, ConfigError, load

from ..auth import principal_of
from ..call import Principal
from ..deployments import routes
from ..errors import GatewayError
from ..explain import Explainer
from ..limits import Limiter
from ..limits.estimate import Estimator
from ..metering import Meter
from ..pools import Pools
from ..price_book import PriceBook
from ..ramps import Ramps
from ..routing import Router


def explainer(config: Config) -> Explainer:
    """An explainer of a configuration alone: it opens no database and no connection; raises ConfigError."""
    keys = {key.name: key for key in config.keys}
    prices = PriceBook(config)

    async def principal(name: str) -> Principal | None:
        return principal_of(keys[name], config) if name in keys else None

    return Explainer(
        router=Router(routes(config), config.aliases),
        meter=Meter(Limiter.from_config(config), prices, Estimator(config, prices), None, Pools(config), Ramps()),
        allow=frozenset(name for model in config.models.values() for name in model.params.allow),
        principals=principal,
    )


@click.command("explain")
@click.argument("request", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--config", "-c", "file", required=True, type=click.Path(), help="The configuration file.")
@click.option("--key", help="Name of a key of the configuration: its limits, tiers and models apply.")
@click.option("--json", is_flag=True, expose_value=False, help="Print JSON, as it does in any case.")
def command(request: str, file: str, key: str | None) -> None:
    """Print what would be done with the body in REQUEST (a JSON file, - for standard input), as JSON.

    Exits with 1 when the request would be refused, by a limit only where that could never admit it: what others use is not known.
    """
    try:
        text = sys.stdin.read() if request == "-" else Path(request).read_text("utf-8")
        body: Any = json.loads(text)
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - of the file, not a type
        told = asyncio.run(_explained(load(file), body, key))
    except ConfigError as exc:
        raise click.ClickException("\n".join(f"{file}: {problem}" for problem in exc.problems)) from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{request}: not UTF-8") from None
    except (ValueError, RecursionError) as exc:
        raise click.ClickException(f"{request}: {exc}") from None
    except GatewayError as exc:
        raise click.ClickException(exc.message) from None
    else:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        sys.exit(1 if told["refused"] else 0)


async def _explained(config: Config, body: dict[str, Any], key: str | None) -> dict[str, Any]:
    return await explainer(config).explain(body, key)  # queues are made where a loop runs

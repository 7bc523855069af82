"""``sluice serve``: run the gateway."""

import sys

import click

from config import ConfigError, load


@click.command("serve")
@click.argument("file", type=click.Path())
@click.option("--host", help="Listen here instead of `server.host`.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Listen here instead of `server.port`.")
def command(file: str, host: str | None, port: int | None) -> None:
    """Serve the configuration in FILE until SIGTERM or SIGINT; a second signal ends it at once."""
    from .. import worker

    try:
        config = load(file)
        given = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
        config = config.model_copy(update={"server": config.server.model_copy(update=given)})
        worker.run(config)
    except ConfigError as exc:
        for problem in exc.problems:
            click.echo(f"{file}: {problem}", err=True)
        sys.exit(1)

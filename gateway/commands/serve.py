"""``sluice serve``: run the gateway."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from config import Config, ConfigError, load


@click.command("serve")
@click.argument("file", type=click.Path())
@click.option("--host", help="Listen here instead of `server.host`.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Listen here instead of `server.port`.")
def command(file: str, host: str | None, port: int | None) -> None:
    """Serve the configuration in FILE until SIGTERM or SIGINT; a second signal ends it at once.

    FILE is read again when it changes and on SIGHUP; a file with mistakes changes nothing."""
    from .. import worker

    given = {k: v for k, v in (("host", host), ("port", port)) if v is not None}

    def read() -> Config:
        config = load(file)
        return config.model_copy(update={"server": config.server.model_copy(update=given)})

    def run(read: Callable[[], Config], path: Path) -> None:
        if read().server.workers == 1:
            worker.run(read, path)
            return
        try:
            from .. import workers
        except ImportError as exc:
            raise ConfigError(["server.workers: more than one needs the extra `workers` (gunicorn)"]) from exc
        workers.run(read, path)

    try:
        run(read, Path(file))
    except ConfigError as exc:
        for problem in exc.problems:
            click.echo(f"{file}: {problem}", err=True)
        sys.exit(1)

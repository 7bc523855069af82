"""``sluice serve``: run the gateway."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from config import Config, ConfigError, load


def forget(parent: int, folder: str) -> None:
    """Remove the metrics of the workers when their parent ends; a forked worker that ends changes nothing."""
    if os.getpid() == parent:
        shutil.rmtree(folder, ignore_errors=True)


@click.command("serve")
@click.argument("file", type=click.Path())
@click.option("--host", help="Listen here instead of `server.host`.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Listen here instead of `server.port`.")
@click.option("--json", "as_json", is_flag=True, help="Log JSON, whatever `logging.format` says.")
def command(file: str, host: str | None, port: int | None, as_json: bool) -> None:
    """Serve the configuration in FILE until SIGTERM or SIGINT; a second signal ends it at once.

    FILE is read again when it changes and on SIGHUP; a file with mistakes changes nothing."""
    given = {k: v for k, v in (("host", host), ("port", port)) if v is not None}

    def read() -> Config:
        config = load(file)
        logging = config.logging.model_copy(update={"format": "json"}) if as_json else config.logging
        return config.model_copy(update={"server": config.server.model_copy(update=given), "logging": logging})

    def run(read: Callable[[], Config], path: Path) -> None:
        if read().server.workers == 1:
            from .. import worker

            worker.run(read, path)
            return
        # prometheus_client looks for this when it is imported: workers keep their values in files that are summed.
        folder = tempfile.mkdtemp(prefix="sluice-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        atexit.register(forget, os.getpid(), folder)
        try:
            from .. import workers
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] != "gunicorn":
                raise
            raise ConfigError(["server.workers: more than one needs the extra `workers` (gunicorn)"]) from exc
        workers.run(read, path)

    try:
        run(read, Path(file))
    except ConfigError as exc:
        problems = [f"{file}: {problem}" for problem in exc.problems]
        if as_json:
            raise click.ClickException("\n".join(problems)) from None
        click.echo("\n".join(problems), err=True)
        sys.exit(1)

"""The command line: ``sluice`` or ``python -m gateway``."""

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

COMMANDS = {
    "serve": "serve",
    "check": "check",
    "explain": "explain",
    "demo": "demo",
    "keys": "owners:keys",
    "users": "owners:users",
    "teams": "owners:teams",
    "orgs": "owners:orgs",
    "usage": "usage",
    "audit": "audit",
    "prices": "prices",
    "db": "db",
    "reconcile": "reconcile",
    "import-litellm": "import_litellm",
    "bench": "bench",
}
"""Command -> module of ``gateway.commands``, and what of it where that is not ``command``; imported only when asked
for, because a gateway must start quickly."""


class Lazy(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: Any = getattr(import_module(f"gateway.commands.{module}"), name or "command")
        assert isinstance(command, click.Command)
        return command

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]  # ours takes no other arguments by position
        """With ``--json`` an error is JSON too: ``{"error": {"message": ...}}`` on standard error."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        given = list(args) if args is not None else sys.argv[1:]
        try:
            code = super().main(given, standalone_mode=False, **extra)
        except click.ClickException as exc:
            _fail(exc, given)
        except click.Abort:
            click.echo("Aborted!", err=True)
            sys.exit(1)
        except BrokenPipeError:  # as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as exc:
            if (text := _of_operator(exc)) is None:
                raise
            _fail(click.ClickException(text), given)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(error: click.ClickException, given: Sequence[str]) -> NoReturn:
    if "--json" in given:
        click.echo(json.dumps({"error": {"message": error.format_message()}}), err=True)
    else:
        error.show()
    sys.exit(error.exit_code)


def _of_operator(error: Exception) -> str | None:
    """What an operator can mend is a line and no stack trace: the configuration, files, ports; None for all else."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "A file is not UTF-8."
    problems = getattr(error, "problems", None)  # a ConfigError's, which is not imported for this
    return "\n".join(problems) if isinstance(problems, list) else None


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sluice-gateway", prog_name="sluice")
def main() -> None:
    """One OpenAI-compatible endpoint in front of every model provider."""


if __name__ == "__main__":
    main(prog_name="sluice")

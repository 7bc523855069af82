"""The command line: ``sluice`` or ``python -m gateway``."""

from importlib import import_module
from typing import Any

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


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sluice-gateway", prog_name="sluice")
def main() -> None:
    """One OpenAI-compatible endpoint in front of every model provider."""


if __name__ == "__main__":
    main(prog_name="sluice")

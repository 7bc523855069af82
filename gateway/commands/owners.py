"""``sluice keys``, ``users``, ``teams`` and ``orgs``: what the admin API does, by hand or by script."""

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from ..records.resources import KindName
from .operator import BASE, Operator, operating, show, table

RATES = ("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "concurrency")
WINDOWS = ("day", "week", "month", "total")
_SPAN = re.compile(r"([0-9]{1,9})([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_COLUMNS = {
    "organization": {"id": "id", "blocked": "blocked"},
    "team": {"id": "id", "organization": "organization", "blocked": "blocked"},
    "user": {"id": "id", "organization": "organization", "team": "team", "blocked": "blocked"},
    "key": {
        "id": "id",
        "name": "name",
        "preview": "key",
        "organization": "organization",
        "team": "team",
        "user": "user",
        "role": "role",
        "expires": "expires",
        "blocked": "blocked",
    },
}


class Amount(click.ParamType[Any]):
    """Money per window: ``50/month``; ``50`` alone is a total."""

    name = "amount/window"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        amount, _, window = str(value).partition("/")
        try:
            good = Decimal(amount) >= 0
        except InvalidOperation:
            good = False
        if not good or (window or "total") not in WINDOWS:
            self.fail(f"{value!r} is not like 50/month; windows are {', '.join(WINDOWS)}", param, ctx)
        return window or "total", amount


class Span(click.ParamType[Any]):
    """A time in seconds: ``90``, ``30m``, ``12h``, ``7d``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _SPAN.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is not like 90, 30m, 12h or 7d", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


class Pair(click.ParamType[Any]):
    """``name=value``."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not like name=value", param, ctx)
        return name, text


def settings(kind: KindName) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that create and update have alike."""
    options = [
        click.option("--budget", type=Amount(), multiple=True, help="US dollars: 50/month, 5/day, 1000 in total."),
        *(click.option(f"--{rate}", type=click.IntRange(0)) for rate in RATES),
        click.option("--models", help="Models it may use, comma-separated; `*` at the end is a wildcard."),
        click.option("--tag", "tags", multiple=True, help="Counts its usage under a tag; may be repeated."),
        click.option("--metadata", type=Pair(), multiple=True),
        click.option("--store/--no-store", default=None, help="Whether store: true may keep completions."),
        click.option("--options", help="Any further options, as JSON; added to what flags say."),
    ]
    if kind == "key":
        options += [
            click.option("--expires", help="ISO 8601 time from which it is refused."),
            click.option("--role", type=click.Choice(["viewer", "team_admin", "admin"]), help="In the admin API."),
        ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def body_of(given: dict[str, Any]) -> dict[str, Any]:
    """Options of the command line as the body of the admin API; what was not given is left out."""
    limits = {rate: value for rate in RATES if (value := given.pop(rate)) is not None}
    if budget := given.pop("budget"):
        limits["budget"] = dict(budget)
        if len(limits["budget"]) < len(budget):
            raise click.BadParameter("a window is given twice", param_hint="--budget")
    body: dict[str, Any] = {"limits": limits} if limits else {}
    if (models := given.pop("models")) is not None:
        body["models"] = [name for part in models.split(",") if (name := part.strip())]
    if metadata := dict(given.pop("metadata")):
        body["metadata"] = metadata
    further = _object(given.pop("options"))
    body |= {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v not in (None, ())}
    return _both(body, further)


def _object(text: str | None) -> dict[str, Any]:
    """The value of ``--options``; raises BadParameter for what is no JSON object."""
    try:
        found = {} if text is None else json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter("not a JSON object", param_hint="--options")
    return found


def _both(flags: dict[str, Any], further: dict[str, Any], path: str = "") -> dict[str, Any]:
    """What flags and ``--options`` say together; raises BadParameter where they say an option differently."""
    merged = {**flags, **further}
    for name in flags.keys() & further.keys():
        one, other, where = flags[name], further[name], f"{path}{name}"
        if isinstance(one, dict) and isinstance(other, dict):
            merged[name] = _both(one, other, f"{where}.")
        elif str(one) != str(other):  # the flag's money is text, that of JSON may be a number
            said = f"{where}: {json.dumps(other)} here and {json.dumps(one)} by a flag of its own; say it once"
            raise click.BadParameter(said, param_hint="--options")
    return merged


def group(kind: KindName) -> click.Group:
    """The commands of one kind of owner."""
    path, one = f"{BASE}/{kind}s", f"{BASE}/{kind}s/{{id}}"
    commands = click.Group(f"{kind}s", help=f"Create, list, change, block and delete {kind}s.")

    @commands.command("list", help=f"List {kind}s.")
    @_places(kind)
    @operating
    async def _list(operator: Operator, as_json: bool, **filters: str | None) -> None:
        query = {name: value for name, value in filters.items() if value is not None}
        rows: list[Any] = []
        page: dict[str, Any] = {"has_more": True}
        while page["has_more"]:
            page = await operator("GET", path, query={**query, "limit": "1000"})
            rows += page["data"]
            query["after"] = page["last_id"] or ""
        if as_json:
            show(rows, as_json)
        else:
            table(_COLUMNS[kind], rows)

    @commands.command("create", help=f"Create a {kind} called NAME.")
    @click.argument("name")
    @_places(kind)
    @settings(kind)
    @operating
    async def _create(operator: Operator, as_json: bool, name: str, **given: Any) -> None:
        body = body_of({"name" if kind == "key" else "id": name, **given})
        show(await operator("POST", path, body=body), as_json, _made)

    @commands.command("update", help=f"Change options of the {kind} ID; limits given replace all limits it had.")
    @click.argument("identity", metavar="ID")
    @settings(kind)
    @operating
    async def _update(operator: Operator, as_json: bool, identity: str, **given: Any) -> None:
        show(await operator("PATCH", one, identity, body=body_of(given)), as_json)

    for verb, method, suffix, text in (
        ("show", "GET", "", f"Show the {kind} ID."),
        ("delete", "DELETE", "", f"Delete the {kind} ID; its usage stays in the ledger."),
        ("block", "POST", "/block", f"Refuse everything of the {kind} ID."),
        ("unblock", "POST", "/unblock", f"Let the {kind} ID work again."),
        ("limits", "GET", "/limits", f"Where the limits of the {kind} ID stand (needs --url)."),
    ):
        commands.add_command(_simple(verb, method, one + suffix, text))

    @commands.command("usage", help=f"What the {kind} ID has used, by day.")
    @click.argument("identity", metavar="ID")
    @click.option("--since", default="30d", show_default=True, help="ISO 8601, or so long ago: 30d, 12h.")
    @operating
    async def _usage(operator: Operator, as_json: bool, identity: str, since: str) -> None:
        from .usage import report

        await report(operator, as_json, ["day"], {kind: identity, "since": since})

    if kind == "key":
        commands.add_command(_rotate(one))
    return commands


def _simple(verb: str, method: str, path: str, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("identity", metavar="ID")
    @operating
    async def command(operator: Operator, as_json: bool, identity: str) -> None:
        show(await operator(method, path, identity), as_json)

    return command


def _rotate(one: str) -> click.Command:
    @click.command("rotate", help="Give the key ID a new secret, shown this once.")
    @click.argument("identity", metavar="ID")
    @click.option("--overlap", type=Span(), default=0, help="How long the old secret goes on working: 30m, 12h, 7d.")
    @operating
    async def command(operator: Operator, as_json: bool, identity: str, overlap: int) -> None:
        rotated = await operator("POST", f"{one}/rotate", identity, {"overlap": str(overlap)})
        show(rotated, as_json, _made)

    return command


def _places(kind: KindName) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Where an owner belongs: options of create, and filters of list."""
    above: dict[KindName, tuple[str, ...]] = {
        "organization": (),
        "team": ("organization",),
        "user": ("organization", "team"),
        "key": ("organization", "team", "user"),
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(above[kind]):
            flags = ("--org", "--organization") if name == "organization" else (f"--{name}",)
            command = click.option(*flags, name)(command)
        return command

    return decorate


def _made(made: dict[str, Any]) -> str:
    lines = [f"{made['object']} {made['id']}"]
    if "key" in made:
        lines += [made["key"], "Keep it now: it is not shown again."]
    budget = (made.get("limits") or {}).get("budget") or {}
    lines += [f"budget ${Decimal(amount):f} per {window}" for window, amount in budget.items() if amount is not None]
    return "\n".join(lines)


keys, users, teams, orgs = group("key"), group("user"), group("team"), group("organization")

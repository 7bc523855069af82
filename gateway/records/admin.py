"""
What operators do to organizations, teams, users and keys: the service behind the admin API and the command line.

Every change is one transaction that holds the change itself, its row of the audit log and its row of the table of
changes, by which caches everywhere drop what they knew. Changes are rare and run one at a time. A refused change is in the
audit log too. Owners in the config file are not touched: the file is their source of truth, and their names are taken.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import delete, exc, func, insert, or_, select, update

from config.schema import Config

from ..errors import Conflict, GatewayError, InvalidRequest, ResourceNotFound, StoreUnavailable
from .audit import AuditLog
from .database import Database, sql_text
from .digests import Peppers, generate, preview
from .engine import Connection
from .grants import Actor, check_extension, check_grant, check_reach, counted_toward
from .keys import DEFAULT_ORGANIZATION, Place
from .resources import (
    JSON,
    KINDS,
    Body,
    KeyBody,
    Kind,
    KindName,
    counts_toward,
    current,
    expiry,
    parse,
    place_of,
    resource,
    settings_json,
)
from .stored import end, owner
from .tables import changes, counted_keys, key_digests, keys, teams, users

_ADMIN_LOCK = 0x51_1C_E3
MAX_PAGE = 1000
MAX_OVERLAP = 30 * 86_400.0


@dataclass(slots=True)
class _Change:
    """A change on its way: what the audit log will say of it."""

    connection: Connection
    target: str
    before: JSON | None = None
    after: JSON | None = None
    made: bool = field(default=True)


class Admin:
    """All methods take the acting role first and raise GatewayErrors: 400, 403, 404, 409, or 503 without a database."""

    def __init__(
        self,
        database: Database,
        peppers: Peppers,
        config: Config | None = None,
        *,
        audit: AuditLog | None = None,
        on_change: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_change`` runs after each committed change, say ``KeyCache.poll``, so that this process sees it at once."""
        self._database = database
        self._peppers = peppers
        self._audit = audit or AuditLog(database, clock=clock)
        self._on_change = on_change
        self._clock = clock
        self.configure(config or Config())

    def configure(self, config: Config) -> None:
        self._configured: dict[str, Mapping[str, Any]] = {
            "organization": config.organizations,
            "team": config.teams,
            "user": config.users,
            "key": {},
        }

    async def create(self, actor: Actor, kind_name: KindName, values: Any) -> JSON:
        """Make an owner or a key. A new key's secret is in the answer as ``key``: this once, and nowhere else."""
        kind = KINDS[kind_name]
        body = parse(kind, values)
        identity = f"key_{int(self._clock() * 1000):012x}{secrets.token_hex(6)}" if kind.name == "key" else body.id
        async with self._change(actor, f"{kind.name}.create", kind, identity) as change:
            place = await self._place(change.connection, actor, kind, body)
            self._check(actor, kind, body, place)
            if identity in self._configured[kind.name]:
                raise Conflict(f"The {kind.name} '{identity}' is in the configuration file.", code="already_exists")
            secret = generate() if isinstance(body, KeyBody) and body.digest is None else None
            await self._insert(change.connection, kind, identity, body, place, secret=secret)
            if kind.name == "key":
                await self._count(change.connection, identity, counted_toward(actor, _above(kind, place)))
            change.after = await self._resource(change.connection, kind, identity)
        return {**change.after, "key": secret} if secret is not None else change.after

    async def get(self, actor: Actor, kind_name: KindName, identity: str) -> JSON:
        kind = KINDS[kind_name]
        async with self._database.read() as connection:
            row = await self._row(connection, actor, kind, identity, change=False)
        return resource(kind, row)

    async def list(
        self,
        actor: Actor,
        kind_name: KindName,
        *,
        after: str | None = None,
        limit: int = 100,
        organization: str | None = None,
        team: str | None = None,
        user: str | None = None,
    ) -> JSON:
        """A page in order of ids, from behind ``after``; of what the role may see, narrowed by the filters."""
        kind = KINDS[kind_name]
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"Invalid 'limit': 1 to {MAX_PAGE}.", param="limit", code="invalid_value")
        table = kind.table
        own = {"organization": "id"} if kind.name == "organization" else {"team": "id"} if kind.name == "team" else {}
        wanted = [] if after is None else [table.c.id > sql_text(after)]
        bounds = (("organization", actor.organization), ("team", actor.team))
        for name, value in (*bounds, ("organization", organization), ("team", team), ("user", user)):
            column = own.get(name, name)
            if value is not None and column in table.c:
                wanted.append(table.c[column] == sql_text(value))
        query = select(table).where(*wanted).order_by(table.c.id).limit(limit + 1)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        items = [resource(kind, row) for row in rows[:limit]]
        return {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": len(rows) > limit,
        }

    async def update(self, actor: Actor, kind_name: KindName, identity: str, values: Any) -> JSON:
        """Change the options named in ``values``; null brings one back to its default. Where it belongs cannot change."""
        kind = KINDS[kind_name]
        if not isinstance(values, dict):
            raise InvalidRequest("The body must be a JSON object.")
        for name in kind.fixed:
            if name in values:
                raise InvalidRequest(f"'{name}' of a {kind.name} cannot be changed.", param=name, code="invalid_value")
        async with self._change(actor, f"{kind.name}.update", kind, identity) as change:
            row = await self._row(change.connection, actor, kind, identity, change=True)
            change.before = resource(kind, row)
            merged = {**current(kind, row), **values}
            kept = {name: value for name, value in merged.items() if not (name in values and value is None)}
            body = parse(kind, kept)
            if values != {"blocked": True}:  # whoever reaches a key may stop it, also one that has more than they do
                self._check(actor, kind, body, place_of(kind, row))
                before = parse(kind, current(kind, row))
                self._check_extension(actor, kind, body, None if _revives(body, before) else before, row)
            columns: JSON = {"settings": settings_json(kind, body), "blocked": body.blocked, "updated": self._clock()}
            if isinstance(body, KeyBody):
                columns |= {"name": body.name, "expires": expiry(body)}
            with _taken(kind):
                await change.connection.execute(update(kind.table).where(kind.table.c.id == identity).values(columns))
            change.after = await self._resource(change.connection, kind, identity)
        return change.after

    async def block(self, actor: Actor, kind_name: KindName, identity: str) -> JSON:
        """Refuse everything of this owner from now on."""
        return await self.update(actor, kind_name, identity, {"blocked": True})

    async def unblock(self, actor: Actor, kind_name: KindName, identity: str) -> JSON:
        return await self.update(actor, kind_name, identity, {"blocked": False})

    async def delete(self, actor: Actor, kind_name: KindName, identity: str) -> JSON:
        """Remove for good; Conflict while something belongs to it. Its rows in the ledger stay, what it stored does not.

        Names become free again: who has one next must not read what the one before said.
        """
        kind = KINDS[kind_name]
        async with self._change(actor, f"{kind.name}.delete", kind, identity) as change:
            row = await self._row(change.connection, actor, kind, identity, change=True)
            change.before = resource(kind, row)
            for table in kind.members:
                if await change.connection.scalar(select(func.count()).where(table.c[kind.name] == identity)):
                    raise Conflict(f"The {kind.name} '{identity}' still has {table.name}.", code="in_use")
            if await self._has_counted(change.connection, f"{kind.name[0]}:{identity}"):
                raise Conflict(
                    f"Keys count toward the limits of the {kind.name} '{identity}': block it instead.", code="in_use"
                )
            if kind.name in ("team", "key") and identity not in self._configured[kind.name]:
                await end(change.connection, owner(kind.name, row.organization, identity), self._clock())
            await change.connection.execute(delete(kind.table).where(kind.table.c.id == identity))
        return {"object": f"{kind.name}.deleted", "id": identity, "deleted": True}

    async def rotate(self, actor: Actor, identity: str, *, overlap: float = 0.0) -> JSON:
        """Give a key a new secret (``key`` in the answer); the old one works for ``overlap`` more seconds."""
        if not 0 <= overlap <= MAX_OVERLAP:
            raise InvalidRequest(f"Invalid 'overlap': 0 to {int(MAX_OVERLAP)} seconds.", param="overlap")
        kind, now, secret = KINDS["key"], self._clock(), generate()
        async with self._change(actor, "key.rotate", kind, identity) as change:
            row = await self._row(change.connection, actor, kind, identity, change=True)
            change.before = resource(kind, row)
            # The secret is handed to the actor, and with it everything the key may do.
            body = parse(kind, current(kind, row))
            self._check(actor, kind, body, place_of(kind, row))
            self._check_extension(actor, kind, body, None, row)
            mine, until = key_digests.c.key_id == identity, now + overlap
            await change.connection.execute(
                update(key_digests)
                .where(mine, or_(key_digests.c.expires.is_(None), key_digests.c.expires > until))
                .values(expires=until)
            )
            await change.connection.execute(delete(key_digests).where(mine, key_digests.c.expires <= now))
            await self._add_digest(change.connection, identity, self._peppers.digest(secret))
            columns = {"preview": preview(secret), "updated": now}
            await change.connection.execute(update(keys).where(keys.c.id == identity).values(columns))
            change.after = await self._resource(change.connection, kind, identity)
        return {**change.after, "key": secret}

    @contextlib.asynccontextmanager
    async def _change(self, actor: Actor, action: str, kind: Kind, identity: str) -> AsyncIterator[_Change]:
        target = f"{kind.name}:{identity}"
        entry: dict[str, Any] = {"actor": actor.id, "action": action, "target": target, "request_id": actor.request_id}
        try:
            async with self._database.write() as connection:
                # One at a time: numbers in the table of changes then come in the order of the commits.
                await self._database.lock(connection, _ADMIN_LOCK)
                change = _Change(connection, target)
                yield change
                await self._audit.append(connection, **entry, before=change.before, after=change.after)
                noted = insert(changes).values(kind=kind.name, target=identity, at=self._clock())
                await connection.execute(noted)
        except StoreUnavailable:
            raise
        except GatewayError as error:
            await self._audit.record(**entry, result=error.label)
            raise
        if self._on_change is not None:
            with contextlib.suppress(StoreUnavailable):
                await self._on_change()

    def _check(self, actor: Actor, kind: Kind, body: Body, place: Place) -> None:
        if isinstance(body, KeyBody) and body.role == "team_admin" and place.team is None:
            raise InvalidRequest("A team admin's key needs a team.", param="team", code="invalid_value")
        check_reach(actor, kind.name, place, change=True)
        check_grant(actor, body, expiry(body) if kind.name == "key" else actor.expires, _above(kind, place))

    def _check_extension(self, actor: Actor, kind: Kind, body: Body, before: Body | None, row: Any) -> None:
        counted = [f"{kind.name[0]}:{row.id}", *counts_toward(kind, row)]
        check_extension(actor, body, before, _above(kind, place_of(kind, row)), counted)

    async def _count(self, connection: Connection, identity: str, owners: Sequence[str]) -> None:
        """Let a key count toward ``owners``, for good."""
        if owners:
            listed = {"counts_toward": orjson.dumps(owners).decode()}
            await connection.execute(update(keys).where(keys.c.id == identity).values(listed))
            await connection.execute(insert(counted_keys), [{"owner": o, "key_id": identity} for o in owners])

    async def _has_counted(self, connection: Connection, owner: str) -> bool:
        """Whether a key that is still there counts toward ``owner``."""
        counted = select(counted_keys.c.key_id).where(counted_keys.c.owner == owner)
        return await connection.scalar(select(keys.c.id).where(keys.c.id.in_(counted)).limit(1)) is not None

    async def _row(self, connection: Connection, actor: Actor, kind: Kind, identity: str, *, change: bool) -> Any:
        """The row, if the actor may know of it; one that it may not answers like one that is not there."""
        query = select(kind.table).where(kind.table.c.id == sql_text(identity))
        row = (await connection.execute(query)).first()
        if row is None:
            raise ResourceNotFound(f"No such {kind.name}.")
        check_reach(actor, kind.name, place_of(kind, row), change=change)
        return row

    async def _resource(self, connection: Connection, kind: Kind, identity: str) -> JSON:
        row = (await connection.execute(select(kind.table).where(kind.table.c.id == identity))).one()
        return resource(kind, row)

    async def _place(self, connection: Connection, actor: Actor, kind: Kind, body: Any) -> Place:
        """Where a new owner belongs; raises InvalidRequest for owners that do not exist or do not fit together.

        Owners that the actor must not know of are none.
        """
        if kind.name == "organization":
            return Place(body.id)
        if kind.name == "team":
            await self._organization(connection, actor, body.organization)
            return Place(body.organization, body.id)
        user = getattr(body, "user", None)
        of_user = await self._known(connection, actor, "user", user) if user is not None else None
        team = body.team or (of_user.team if of_user else None)
        of_team = await self._known(connection, actor, "team", team) if team is not None else None
        homes = [home.organization for home in (of_team, of_user) if home is not None]
        organization = body.organization or next(iter(homes), DEFAULT_ORGANIZATION)
        if any(home != organization for home in homes):
            raise InvalidRequest("The team and the user belong to another organization.", param="organization")
        await self._organization(connection, actor, organization)
        return Place(organization, team, body.id if kind.name == "user" else user)

    async def _organization(self, connection: Connection, actor: Actor, name: str) -> None:
        if not actor.is_operator and name != actor.organization:
            raise _none("organization", name)
        if name == DEFAULT_ORGANIZATION or name in self._configured["organization"]:
            return
        table = KINDS["organization"].table
        if not await connection.scalar(select(func.count()).where(table.c.id == name)):
            raise _none("organization", name)

    async def _known(self, connection: Connection, actor: Actor, kind: KindName, name: str) -> Place:
        place = await self._member(connection, kind, name)
        try:
            check_reach(actor, kind, place, change=False)
        except ResourceNotFound:
            raise _none(kind, name) from None
        return place

    async def _member(self, connection: Connection, kind: KindName, name: str) -> Place:
        configured = self._configured[kind].get(name)
        if configured is not None and kind == "team":
            return Place(configured.organization, name)
        if configured is not None:
            team = configured.team
            return Place(
                (await self._member(connection, "team", team)).organization if team else DEFAULT_ORGANIZATION, team
            )
        table = teams if kind == "team" else users
        row = (await connection.execute(select(table).where(table.c.id == name))).first()
        if row is None:
            raise _none(kind, name)
        return place_of(KINDS[kind], row)

    async def _insert(
        self, connection: Connection, kind: Kind, identity: str, body: Any, place: Place, *, secret: str | None
    ) -> None:
        now = self._clock()
        columns: JSON = {
            "id": identity,
            "settings": settings_json(kind, body),
            "blocked": body.blocked,
            "created": now,
            "updated": now,
        }
        home = {"organization": place.organization, "team": place.team, "user": place.user}
        columns |= {name: value for name, value in home.items() if name in kind.table.c}
        if kind.name == "key":
            columns |= {"name": body.name, "expires": expiry(body), "preview": preview(secret or "")}
        with _taken(kind):
            await connection.execute(insert(kind.table).values(columns))
            if kind.name == "key":
                await self._add_digest(connection, identity, self._peppers.digest(secret) if secret else body.digest)

    async def _add_digest(self, connection: Connection, identity: str, digest: str) -> None:
        await connection.execute(insert(key_digests).values(digest=digest, key_id=identity, created=self._clock()))


def _none(kind: KindName, name: str) -> InvalidRequest:
    return InvalidRequest(f"No {kind} '{name}'.", param=kind, code="not_found")


def _revives(body: Body, before: Body) -> bool:
    """Whether a change lets something work again, or for longer."""
    end, was = expiry(body), expiry(before)
    return (before.blocked and not body.blocked) or (was is not None and (end is None or end > was))


def _above(kind: Kind, place: Place) -> list[str]:
    """Ids of the owners that bound whoever is there, beside themselves."""
    above = [f"o:{place.organization}"]
    above += [f"t:{place.team}"] if place.team and kind.name != "team" else []
    above += [f"u:{place.user}"] if place.user and kind.name == "key" else []
    return above


@contextlib.contextmanager
def _taken(kind: Kind) -> Any:
    try:
        yield
    except exc.IntegrityError:
        raise Conflict(
            f"A {kind.name} of this name, or with this digest, exists already.", code="already_exists"
        ) from None

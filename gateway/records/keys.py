"""Virtual keys: what is kept of them, and the one query that finds their owner."""

import hashlib
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import orjson
from pydantic import Field
from sqlalchemy import Dialect, Select, bindparam, select

from config.schema import Config
from config.schema import Key as ConfigKey
from config.schema import Owner as Settings

from ..call import Owner, Principal
from .audit import ROLE_ACTOR, maker_of
from .database import Database, sql_text
from .digests import sha256_digest
from .engine import Connection
from .tables import key_digests, keys, organizations, teams, users

DEFAULT_ORGANIZATION = "default"
Role: TypeAlias = Literal["viewer", "team_admin", "admin"]
"""What a key may do in the admin API: read, manage its team's users and keys, manage its organization."""
ROLE_RANK: Mapping[Role | None, int] = {None: -1, "viewer": 0, "team_admin": 1, "admin": 2}


class KeySettings(Settings):
    """What a key has beyond an owner's options; the same options as a key of the config file."""

    aliases: dict[str, str] = Field({})
    allow_pinning: bool = False
    allow_cheaper: bool = False
    restricted_params: tuple[str, ...] = ()
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as the request path needs it. ``principal`` is complete: nothing is looked up per request."""

    id: str
    name: str
    principal: Principal
    expires: float | None = None
    blocked: bool = False
    """Whether the key or any of its owners is blocked."""
    owners: frozenset[tuple[str, str]] = frozenset()
    """(kind, id) of everything a change of which makes this record stale."""
    role: Role | None = None

    def is_usable(self, now: float) -> bool:
        return not self.blocked and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class Scope:
    """One owner of a key: ``kind`` is key, user, team or organization."""

    kind: str
    id: str
    settings: Settings


def principal(key_id: str, scopes: Sequence[Scope], settings: KeySettings, place: "Place") -> Principal:
    """Put together what a key may do from its owners, narrowest first; equal contents give an equal ``version``."""
    owners = tuple(
        Owner(f"{s.kind[0]}:{s.id}", s.settings.limits, s.settings.tiers, s.settings.models, s.settings.store)
        for s in scopes
    )
    content = orjson.dumps(
        [key_id, place.organization, place.team, place.user]
        + [[s.kind, s.id, s.settings.model_dump(mode="json")] for s in scopes]
    )
    return Principal(
        key_id=key_id,
        organization=place.organization,
        team=place.team,
        user=place.user,
        owners=owners,
        tags=tuple(dict.fromkeys(tag for s in scopes for tag in s.settings.tags)),
        metadata={k: v for s in reversed(scopes) for k, v in s.settings.metadata.items()},
        aliases=settings.aliases,
        allow_pinning=settings.allow_pinning,
        allow_cheaper=settings.allow_cheaper,
        restricted_params=frozenset(settings.restricted_params),
        may_store=all(s.settings.store for s in scopes),
        version=int.from_bytes(hashlib.sha256(content).digest()[:7], "big"),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key belongs."""

    organization: str = DEFAULT_ORGANIZATION
    team: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An owner of the config file or the database."""

    settings: Settings
    organization: str | None
    team: str | None = None
    blocked: bool = False


class KeyStore:
    """Finds keys by digest. Owners in the config file win over those of the same name in the database."""

    def __init__(self, database: Database, config: Config | None = None) -> None:
        self._database = database
        self.configure(config or Config())

    def configure(self, config: Config) -> None:
        """Take another configuration; caches in front of this store must be cleared."""
        self._configured: dict[str, Mapping[str, Settings]] = {
            "user": config.users,
            "team": config.teams,
            "organization": config.organizations,
        }

    async def lookup(self, *digests: str) -> KeyRecord | None:
        """The key kept under one of ``digests``, expired and blocked ones included; one indexed query."""
        if not digests:
            return None
        sql, found = _prepared(len(digests), self._database.dialect)
        rows = [found._make(row) for row in await self._database.direct.rows(sql, digests)]
        return await self._record(min(rows, key=lambda row: digests.index(row.digest))) if rows else None

    async def find(self, key_id: str) -> KeyRecord | None:
        """The key of that id, expired and blocked ones included."""
        async with self._database.read() as connection:
            row = (await connection.execute(_records().where(keys.c.id == sql_text(key_id)).limit(1))).first()
        return await self._record(row) if row is not None else None

    async def member(self, user: str, team: str | None) -> KeyRecord | None:
        """A user without a key, in ``team`` or else in their own; None for a team nobody knows.

        A user nobody knows has no limits of their own: what the team and organization say holds.
        """
        async with self._database.read() as connection:
            of_team = await self._owner(connection, "team", team) if team is not None else None
            own = await self._vouched(connection, user, team, of_team)
            if team is None and own is not None and own.team is not None:
                team, of_team = own.team, await self._owner(connection, "team", own.team)
            if team is not None and of_team is None:
                return None
            homes = (o.organization for o in (of_team, own) if o is not None)
            organization = next(filter(None, homes), DEFAULT_ORGANIZATION)
            above = await self._owner(connection, "organization", organization)
        found = {"user": (user, own), "team": (team or "", of_team), "organization": (organization, above)}
        scopes = [Scope(kind, name, o.settings) for kind, (name, o) in found.items() if o is not None]
        place, key_id = Place(organization, team, user), f"jwt:{user}"
        return KeyRecord(
            id=key_id,
            name=user,
            principal=principal(key_id, scopes, KeySettings(), place),
            blocked=any(o.blocked for o in (own, of_team, above) if o is not None)
            or (above is None and organization != DEFAULT_ORGANIZATION),  # the file has it no more, as in ``_record``
            owners=frozenset(_owners(key_id, place)),
        )

    async def _vouched(
        self, connection: Connection, user: str, team: str | None, of_team: "_Found | None"
    ) -> "_Found | None":
        """The record of a user whom a token names, in ``team`` if it names one; None for one that says nothing of them.

        Names of users are those of the whole gateway, and every tenant's roles make some: where the token names no team,
        or another one, only what an operator wrote holds, or a tenant would get, or stop, the users of others.
        """
        own = await self._owner(connection, "user", user)
        if own is None or (of_team is not None and own.organization not in (None, of_team.organization)):
            return None
        if (team is not None and own.team in (None, team)) or user in self._configured["user"]:
            return own
        maker = await maker_of(connection, f"user:{user}")
        return own if maker is not None and not maker.startswith(ROLE_ACTOR) else None

    async def _owner(self, connection: Connection, kind: str, name: str) -> "_Found | None":
        configured = self._configured[kind].get(name)
        if configured is not None:
            team = getattr(configured, "team", None)
            home = self._configured["team"].get(team) if team is not None else configured
            return _Found(configured, getattr(home, "organization", None), team)
        table = {"user": users, "team": teams, "organization": organizations}[kind]
        query = select(table).where(table.c.id == sql_text(name))
        row = (await connection.execute(query)).first()
        if row is None:
            return None
        settings = Settings.model_validate_json(row.settings)
        return _Found(settings, getattr(row, "organization", None), getattr(row, "team", None), row.blocked)

    async def _record(self, row: Any) -> KeyRecord:
        place = Place(row.organization, row.team, row.user)
        settings = KeySettings.model_validate_json(row.key_settings)
        scopes = [Scope("key", row.id, settings)]
        blocked = bool(row.key_blocked)
        for kind, name in (("user", row.user), ("team", row.team), ("organization", row.organization)):
            if name is None:
                continue
            found = self._configured[kind].get(name)
            if found is None and (text := getattr(row, f"{kind}_settings")) is not None:
                found = Settings.model_validate_json(text)
                blocked = blocked or bool(getattr(row, f"{kind}_blocked"))
            if found is not None:
                scopes.append(Scope(kind, name, found))
            elif name != DEFAULT_ORGANIZATION or kind != "organization":  # that one is there without being written
                blocked = True  # the file has them no more: what bounded the key must not be gone with them
        toward = orjson.loads(row.counts_toward) if row.counts_toward else []
        shared = await self._shared(toward) if toward else []
        blocked = blocked or len(shared) < len(toward)
        ends = [end for end in (row.key_expires, row.digest_expires) if end is not None]
        return KeyRecord(
            id=row.id,
            name=row.name,
            principal=principal(row.id, [*scopes, *shared], settings, place),
            expires=min(ends, default=None),
            blocked=blocked,
            owners=frozenset((*_owners(row.id, place), *((scope.kind, scope.id) for scope in shared))),
            role=settings.role,
        )

    async def _shared(self, ids: Sequence[str]) -> "list[Scope]":
        """Whoever a key counts toward and is still there: their limits hold for it, not what else they may do."""
        found = []
        async with self._database.read() as connection:
            for owner in ids:
                kind, _, name = owner.partition(":")
                table = {"k": keys, "u": users}[kind]
                if (settings := self._configured["user"].get(name) if kind == "u" else None) is None:
                    text = await connection.scalar(select(table.c.settings).where(table.c.id == name))
                    settings = KeySettings.model_validate_json(text) if text is not None else None
                if settings is not None:
                    found.append(Scope(table.name.removesuffix("s"), name, Settings(limits=settings.limits)))
        return found


def _owners(key_id: str, place: Place) -> Iterable[tuple[str, str]]:
    yield "key", key_id
    yield "organization", place.organization
    if place.team is not None:
        yield "team", place.team
    if place.user is not None:
        yield "user", place.user


@lru_cache(maxsize=32)
def _prepared(count: int, dialect: Dialect) -> tuple[str, Any]:
    """The look-up by so many digests as the driver takes it, and what its rows are made into."""
    query = _lookup([bindparam(f"digest_{n}", type_=key_digests.c.digest.type) for n in range(count)])
    return str(query.compile(dialect=dialect)), namedtuple("_Row", [column.name for column in query.selected_columns])


def _lookup(digests: Sequence[Any]) -> Select[Any]:
    return _records().where(key_digests.c.digest.in_(digests))


def _records() -> Select[Any]:
    columns = [
        *(key_digests.c.digest, key_digests.c.expires.label("digest_expires")),
        *(keys.c.id, keys.c.name, keys.c.organization, keys.c.team, keys.c.user),
        *(keys.c.expires.label("key_expires"), keys.c.counts_toward),
    ]
    for kind, table in (("key", keys), ("user", users), ("team", teams), ("organization", organizations)):
        columns += [table.c.settings.label(f"{kind}_settings"), table.c.blocked.label(f"{kind}_blocked")]
    return select(*columns).select_from(
        key_digests.join(keys, key_digests.c.key_id == keys.c.id)
        .outerjoin(users, users.c.id == keys.c.user)
        .outerjoin(teams, teams.c.id == keys.c.team)
        .outerjoin(organizations, organizations.c.id == keys.c.organization)
    )


def configured(config: Config) -> dict[str, KeyRecord]:
    """The config file's own keys by their sha256 digest: they need no database."""
    return {_config_digest(key): _configured_record(key, config) for key in config.keys}


def _config_digest(key: ConfigKey) -> str:
    return key.digest if key.digest is not None else sha256_digest(key.key.get_secret_value() if key.key else "")


def _configured_record(key: ConfigKey, config: Config) -> KeyRecord:
    user = config.users.get(key.user) if key.user else None
    team_id = key.team or (user.team if user else None)
    team = config.teams.get(team_id) if team_id else None
    place = Place(team.organization if team else DEFAULT_ORGANIZATION, team_id, key.user)
    settings = KeySettings.model_validate(key.model_dump(include=set(KeySettings.model_fields)))
    scopes = [Scope("key", key.name, settings)]
    scopes += [Scope("user", key.user, user)] if user and key.user else []
    scopes += [Scope("team", team_id, team)] if team and team_id else []
    organization = config.organizations.get(place.organization)
    scopes += [Scope("organization", place.organization, organization)] if organization else []
    return KeyRecord(
        id=key.name,
        name=key.name,
        principal=principal(key.name, scopes, settings, place),
        expires=instant(key.expires),
        blocked=key.blocked,
        owners=frozenset(_owners(key.name, place)),
    )


def instant(text: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 time, taken as UTC when it names no zone; ValueError when it is none."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

"""What the admin interface takes and gives: bodies of organizations, teams, users and keys, and their resources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import orjson
from pydantic import ConfigDict, Field, ValidationError
from sqlalchemy import Row, Table

from config.schema import Name
from config.schema import Owner as Settings

from ..errors import InvalidRequest
from .keys import DEFAULT_ORGANIZATION, KeySettings, Place, instant
from .tables import keys, organizations, teams, users

JSON: TypeAlias = dict[str, Any]
KindName = Literal["organization", "team", "user", "key"]
MAX_SETTINGS = 65_536
"""Every worker keeps the options of the keys in use in memory."""
_LATE = ConfigDict(defer_build=True)
"""Built when first used: a gateway must start quickly."""


class OrganizationBody(Settings):
    model_config = _LATE

    id: Name
    blocked: bool = False


class TeamBody(Settings):
    model_config = _LATE

    id: Name
    organization: Name = DEFAULT_ORGANIZATION
    blocked: bool = False


class UserBody(Settings):
    model_config = _LATE

    id: Name
    organization: Name | None = None
    """Absent: the team's."""
    team: Name | None = None
    blocked: bool = False


class KeyBody(KeySettings):
    model_config = _LATE

    name: Name
    organization: Name | None = None
    """Absent: the team's, else the user's."""
    team: Name | None = None
    """Absent: the user's."""
    user: Name | None = None
    expires: str | None = None
    """ISO 8601."""
    blocked: bool = False
    digest: str | None = Field(None, pattern=r"^sha256:[0-9a-f]{64}$")
    """Of a key that exists elsewhere and goes on being used; absent: a new key is made."""


Body: TypeAlias = OrganizationBody | TeamBody | UserBody | KeyBody


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of owner: its table, its body and what of it can never change."""

    name: KindName
    table: Table
    body: type[OrganizationBody] | type[TeamBody] | type[UserBody] | type[KeyBody]
    settings: type[Settings]
    fixed: tuple[str, ...]
    members: tuple[Table, ...] = ()
    """Tables whose rows can belong to one of this kind."""


KINDS: Mapping[KindName, Kind] = {
    "organization": Kind("organization", organizations, OrganizationBody, Settings, ("id",), (teams, users, keys)),
    "team": Kind("team", teams, TeamBody, Settings, ("id", "organization"), (users, keys)),
    "user": Kind("user", users, UserBody, Settings, ("id", "organization", "team"), (keys,)),
    "key": Kind("key", keys, KeyBody, KeySettings, ("organization", "team", "user", "digest")),
}


def parse(kind: Kind, values: Any) -> Any:
    """A body of ``kind``; raises InvalidRequest naming the option, without repeating its value."""
    if not isinstance(values, dict):
        raise InvalidRequest("The body must be a JSON object.")
    try:
        body = kind.body.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])[:128]
        raise InvalidRequest(f"Invalid '{path}': {first['msg']}.", param=path, code="invalid_value") from None
    expiry(body)
    return body


def expiry(body: Body) -> float | None:
    """When a key ends, in seconds since the epoch; raises InvalidRequest for what is no time, or none that UTC has a date for."""
    try:
        end = instant(getattr(body, "expires", None))
        if end is not None:
            _iso(end)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "Invalid 'expires': not an ISO 8601 time.", param="expires", code="invalid_value"
        ) from None
    return end


def settings_json(kind: Kind, body: Body) -> str:
    """The part of a body that is kept as JSON; options at their defaults are left out."""
    text = body.model_dump_json(include=set(kind.settings.model_fields), exclude_defaults=True)
    if len(text) > MAX_SETTINGS:
        raise InvalidRequest(f"The options of a {kind.name} may have {MAX_SETTINGS} characters of JSON at most.")
    return text


def place_of(kind: Kind, row: Row[Any]) -> Place:
    if kind.name == "organization":
        return Place(row.id)
    return Place(
        row.organization,
        row.id if kind.name == "team" else row.team,
        row.id if kind.name == "user" else getattr(row, "user", None),
    )


def current(kind: Kind, row: Row[Any]) -> JSON:
    """A row as the body that would make it: what an update starts from."""
    settings = kind.settings.model_validate_json(row.settings)
    values: JSON = settings.model_dump(mode="json", exclude_defaults=True)
    for name in kind.body.model_fields:
        if name in kind.table.c:
            values[name] = getattr(row, name)
    if values.get("expires") is not None:
        values["expires"] = _iso(values["expires"])
    return values


def resource(kind: Kind, row: Row[Any]) -> JSON:
    """A row as the interface shows it; a key's secret is in none."""
    body = kind.body.model_validate(current(kind, row))
    shown: JSON = {"object": kind.name, "id": row.id, **body.model_dump(mode="json", exclude={"digest"})}
    if kind.name == "key":
        shown["preview"] = row.preview
        shown["counts_toward"] = list(counts_toward(kind, row))
    return {**shown, "created": _iso(row.created), "updated": _iso(row.updated)}


def counts_toward(kind: Kind, row: Row[Any]) -> Sequence[str]:
    """Ids of the owners whose limits hold for a key as well, because they made it with limits of their own."""
    listed: Sequence[str] = orjson.loads(row.counts_toward) if kind.name == "key" and row.counts_toward else ()
    return listed


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()

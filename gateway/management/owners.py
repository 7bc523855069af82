"""Operations on organizations, teams, users and keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..records.admin import MAX_OVERLAP, MAX_PAGE, Admin
from ..records.resources import KINDS, Kind, KindName
from .operation import JSON, Asked, Level, Operation

BASE = "/admin/v1"
_CHANGE: dict[KindName, Level] = {
    "organization": "operator",
    "team": "admin",
    "user": "team_admin",
    "key": "team_admin",
}
"""Who may change one of a kind."""
_PAGE = {
    "after": "The id of the last item seen.",
    "limit": f"1 to {MAX_PAGE}; 100 if absent.",
}
_FILTERS: dict[KindName, tuple[str, ...]] = {
    "organization": (),
    "team": ("organization",),
    "user": ("organization", "team"),
    "key": ("organization", "team", "user"),
}


@dataclass(frozen=True, slots=True)
class Owners:
    """The operations of one kind."""

    admin: Admin
    kind: Kind

    def operations(self) -> Iterator[Operation]:
        name, change = self.kind.name, _CHANGE[self.kind.name]
        path = f"{BASE}/{name}s"
        one = f"{path}/{{id}}"
        filters = {f: f"Only those of this {f}." for f in _FILTERS[name]}
        yield Operation("GET", path, "viewer", f"List {name}s", self.list, {**_PAGE, **filters})
        yield Operation("POST", path, change, f"Create a {name}", self.create, body=self.kind.body, status=201)
        yield Operation("GET", one, "viewer", f"Show a {name}", self.get)
        kind, told = self.kind, f"Change options of a {name}"
        yield Operation("PATCH", one, change, told, self.update, body=kind.body, fixed=kind.fixed)
        yield Operation("DELETE", one, change, f"Delete a {name}", self.delete)
        yield Operation("POST", f"{one}/block", change, f"Refuse everything of a {name}", self.block)
        yield Operation("POST", f"{one}/unblock", change, f"Let a {name} work again", self.unblock)
        if name == "key":
            overlap = {"overlap": f"Seconds that the old secret goes on working: 0 to {int(MAX_OVERLAP)}."}
            yield Operation("POST", f"{one}/rotate", change, "Give a key a new secret", self.rotate, overlap)

    async def list(self, asked: Asked) -> JSON:
        filters: dict[str, Any] = {name: asked.query.get(name) for name in _FILTERS[self.kind.name]}
        limit = asked.number("limit", 100, MAX_PAGE)
        return await self.admin.list(
            asked.actor, self.kind.name, after=asked.query.get("after"), limit=limit, **filters
        )

    async def create(self, asked: Asked) -> JSON:
        """What an actor makes belongs to where the actor is, unless the body says otherwise."""
        body = asked.body
        if isinstance(body, dict) and not asked.actor.is_operator:
            home = {"organization": asked.actor.organization, "team": asked.actor.team}
            fields = self.kind.body.model_fields
            body = {**{k: v for k, v in home.items() if v is not None and k in fields}, **body}
        return await self.admin.create(asked.actor, self.kind.name, body)

    async def get(self, asked: Asked) -> JSON:
        return await self.admin.get(asked.actor, self.kind.name, asked.id)

    async def update(self, asked: Asked) -> JSON:
        return await self.admin.update(asked.actor, self.kind.name, asked.id, asked.body)

    async def delete(self, asked: Asked) -> JSON:
        return await self.admin.delete(asked.actor, self.kind.name, asked.id)

    async def block(self, asked: Asked) -> JSON:
        return await self.admin.block(asked.actor, self.kind.name, asked.id)

    async def unblock(self, asked: Asked) -> JSON:
        return await self.admin.unblock(asked.actor, self.kind.name, asked.id)

    async def rotate(self, asked: Asked) -> JSON:
        overlap = asked.number("overlap", 0, int(MAX_OVERLAP))
        return await self.admin.rotate(asked.actor, asked.id, overlap=float(overlap))


def operations(admin: Admin) -> Iterator[Operation]:
    for kind in KINDS.values():
        yield from Owners(admin, kind).operations()

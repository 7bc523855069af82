"""One operation of operators: where it is, who may call it, what it does."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..errors import InvalidRequest, PermissionDenied
from ..records.grants import Actor
from ..records.keys import ROLE_RANK

JSON: TypeAlias = dict[str, Any]
Level = Literal["viewer", "team_admin", "admin", "operator"]
"""The least role; an operator is an admin who is bound to no organization."""
_ASKED: Mapping[Level, int] = {"viewer": 0, "team_admin": 1, "admin": 2, "operator": 3}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a handler gets."""

    actor: Actor
    id: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query from 0 to ``most``; raises InvalidRequest."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= most):
            raise InvalidRequest(f"Invalid '{name}': a whole number up to {most}.", param=name, code="invalid_value")
        return int(text)


@dataclass(frozen=True, slots=True)
class Download:
    """An answer that is too long to be one piece."""

    content_type: str
    pieces: AsyncIterator[bytes]


Handler: TypeAlias = Callable[[Asked], Awaitable[JSON | list[JSON] | Download]]


@dataclass(frozen=True, slots=True)
class Operation:
    """``path`` may hold one ``{id}``. ``query`` names what may stand in the query, with a word on each."""

    method: str
    path: str
    level: Level
    summary: str
    handler: Handler
    query: Mapping[str, str] = field(default_factory=dict)
    body: type[Any] | None = None
    """A pydantic model of the body; None: no body."""
    fixed: tuple[str, ...] = ()
    """What of the body a PATCH cannot change."""
    status: int = 200

    @property
    def body_name(self) -> str:
        """What its body is called: a PATCH takes a part of what a POST does."""
        name = self.body.__name__ if self.body is not None else ""
        return f"{name.removesuffix('Body')}Changes" if self.method == "PATCH" else name

    def allow(self, actor: Actor) -> None:
        """Raise PermissionDenied for a role that this is not for."""
        if rank(actor) < _ASKED[self.level]:
            raise PermissionDenied(f"This needs the role {self.level}.")

    async def run(self, asked: Asked) -> JSON | list[JSON] | Download:
        """Check the role and the query's names, then do it. Raises GatewayErrors."""
        self.allow(asked.actor)
        for name in asked.query:
            if name not in self.query:
                known = ", ".join(self.query) or "none"
                raise InvalidRequest(f"Unknown query parameter '{name[:64]}'; known: {known}.", param=name[:64])
        return await self.handler(asked)


def rank(actor: Actor) -> int:
    return _ASKED["operator"] if actor.is_operator else ROLE_RANK[actor.role]

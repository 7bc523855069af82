"""Paths to handlers: exact ones by look-up, those with an id by prefix. The matched route alone decides who may call."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote

from .. import web
from ..errors import MethodNotAllowed, RouteNotFound
from .exchange import Exchange

Handler: TypeAlias = Callable[[Exchange, str], Awaitable[web.StreamResponse | None]]
"""Gets the exchange and the path's id (empty when the path has none); gives None where it wrote to ``exchange.reply``."""


@dataclass(slots=True)
class Routes:
    """``exact`` maps a path, ``with_id`` a pair of prefix and suffix around an id, to handlers by method."""

    exact: dict[str, dict[str, Handler]] = field(default_factory=dict)
    with_id: dict[tuple[str, str], dict[str, Handler]] = field(default_factory=dict)

    def add(self, method: str, path: str, handler: Handler) -> None:
        """``path`` may hold one ``{id}``; an id may hold slashes (model names do)."""
        prefix, braces, suffix = path.partition("{id}")
        table = self.with_id.setdefault((prefix, suffix), {}) if braces else self.exact.setdefault(path, {})
        table[method] = handler

    def listed(self) -> list[tuple[str, str]]:
        """Method and path of every route."""
        tables = [*self.exact.items(), *((f"{p}{{id}}{s}", methods) for (p, s), methods in self.with_id.items())]
        return [(method, path) for path, methods in tables for method in methods]

    def match(self, method: str, raw_path: str) -> tuple[Handler, str]:
        """The handler and the id; raises RouteNotFound or MethodNotAllowed (with ``Allow``)."""
        if (methods := self.exact.get(raw_path)) is not None and (handler := methods.get(method)) is not None:
            return handler, ""
        return self._found(method, raw_path.partition("?")[0])

    def _found(self, method: str, path: str) -> tuple[Handler, str]:
        methods: Mapping[str, Handler] | None = self.exact.get(path)
        found = ""
        if methods is None:
            methods, found = self._with_id(path)
        if methods is None:
            raise RouteNotFound(f"Invalid URL ({method[:16]} {_printable(path)})")
        handler = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if handler is None:
            raise MethodNotAllowed(
                f"Not allowed to {method[:16]} on {_printable(path)}.", headers={"allow": ", ".join(sorted(methods))}
            )
        return handler, found

    def _with_id(self, path: str) -> tuple[Mapping[str, Handler] | None, str]:
        # The longest suffix first, so that /{id}/messages is not taken for an id that ends so.
        for (prefix, suffix), methods in sorted(self.with_id.items(), key=lambda item: -len(item[0][1])):
            if path.startswith(prefix) and path.endswith(suffix) and len(path) > len(prefix) + len(suffix):
                return methods, unquote(path[len(prefix) : len(path) - len(suffix)])
        return None, ""


def _printable(path: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in path[:200])

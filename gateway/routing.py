"""A model's name becomes the deployments to try."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from .call import Deployment, Plan, Principal, Route
from .errors import ModelNotFound, PermissionDenied


def not_found(name: str) -> ModelNotFound:
    """The same words for a model that is unknown and one that the key may not see (checklist C-106, C-024)."""
    return ModelNotFound(f"The model `{name[:200]}` does not exist or you do not have access to it.")


class Router:
    """Public names, aliases and wildcards; the order of deployments by each model's strategy."""

    def __init__(self, routes: Mapping[str, Route], aliases: Mapping[str, str]) -> None:
        self._routes = dict(routes)
        self._exact = {name: to for name, to in aliases.items() if not name.endswith("*")}
        # The longest wildcard wins, whatever its place in the file.
        self._wild = sorted(((n[:-1], to) for n, to in aliases.items() if n.endswith("*")), key=lambda w: -len(w[0]))

    def visible(self, principal: Principal) -> list[Route]:
        """The models a principal may use, for GET /v1/models."""
        return [r for r in self._routes.values() if not r.config.hidden and allowed(r.name, principal)]

    def resolve(self, name: str, principal: Principal) -> Route:
        """The model of that name; raises ModelNotFound, also where the principal may not use it."""
        wanted = principal.aliases.get(name, name)
        base, at, pin = wanted.rpartition("@")
        if at and base and wanted not in self._routes:
            return self._pinned(base, pin, principal, name)
        route = self._route(wanted)
        if route is None or not allowed(route.name, principal):
            raise not_found(name)
        return route

    def plan(self, route: Route) -> Plan:
        """The route's deployments, best first: by priority group, within a group by the model's strategy."""
        if len(route.deployments) == 1:
            return route.deployments
        order = ORDERS[route.config.strategy]
        groups = groupby(sorted(route.deployments, key=_order), key=_order)
        return [deployment for _, group in groups for deployment in order(list(group))]

    def _route(self, name: str) -> Route | None:
        if (route := self._routes.get(name)) is not None:
            return route
        target = self._exact.get(name)
        if target is None:
            target = next((to for prefix, to in self._wild if name.startswith(prefix)), None)
        return self._routes.get(target) if target is not None else None

    def _pinned(self, base: str, pin: str, principal: Principal, name: str) -> Route:
        route = self._route(principal.aliases.get(base, base))
        if route is None or not allowed(route.name, principal):
            raise not_found(name)
        if not principal.allow_pinning:
            raise PermissionDenied("This API key may not choose the provider of a model.", param="model")
        chosen = tuple(d for d in route.deployments if pin in (d.provider, d.id))
        if not chosen:
            raise not_found(name)
        return Route(route.name, route.config, chosen)


def allowed(model: str, principal: Principal) -> bool:
    """Whether every owner of the key allows the model."""
    return all(o.models is None or any(_matches(model, p) for p in o.models) for o in principal.owners)


def _matches(model: str, pattern: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def _order(deployment: Deployment) -> int:
    return deployment.config.order


def ordered(group: Sequence[Deployment]) -> Sequence[Deployment]:
    return group


def weighted(group: Sequence[Deployment]) -> Sequence[Deployment]:
    """A random order in which each place is drawn by weight (Efraimidis and Spirakis, 2006); weight 0 comes last."""
    keyed = [(random.random() ** (1 / d.config.weight) if d.config.weight else -1.0, d) for d in group]  # noqa: S311
    return [d for _, d in sorted(keyed, key=lambda pair: -pair[0])]


ORDERS: dict[str, Callable[[Sequence[Deployment]], Sequence[Deployment]]] = {
    "ordered": ordered,
    "weighted": weighted,
    "least_busy": ordered,
    "lowest_latency": ordered,
    "lowest_cost": ordered,
}

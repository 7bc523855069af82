"""A model's name becomes the deployments to try."""

from collections.abc import Mapping
from itertools import groupby

from adapters.errors import ErrorKind
from config.schema import Fallbacks

from .call import Call, Deployment, Plan, Principal, Route
from .errors import ModelNotFound, PermissionDenied
from .fleet import Fleet
from .strategies import LADDER, STRATEGIES, Facts, conversation, sticky

LISTS: Mapping[ErrorKind, str] = {
    ErrorKind.RATE_LIMITED: "rate_limited",
    ErrorKind.TOO_LARGE_FOR_RATE: "rate_limited",
    ErrorKind.OVERLOADED: "overloaded",
    ErrorKind.CAPACITY: "overloaded",
    ErrorKind.TIMEOUT: "timeout",
    ErrorKind.CONTEXT_LENGTH: "context_length",
    ErrorKind.TOO_LARGE: "context_length",
    ErrorKind.CONTENT_POLICY: "content_policy",
    ErrorKind.QUOTA: "quota",
}
"""What went wrong -> the option of ``fallbacks`` that is for it; what is not here has ``any``."""
OWN_LIST_ONLY = frozenset({"context_length", "content_policy"})
"""The request's own fault: ``any`` is not meant for these."""


def not_found(name: str) -> ModelNotFound:
    """The same words for a model that is unknown and one that the key may not see (checklist C-106, C-024)."""
    return ModelNotFound(f"The model `{name[:200]}` does not exist or you do not have access to it.")


class Router:
    """Public names, aliases and wildcards; the order of deployments by each model's strategy."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        aliases: Mapping[str, str],
        fleet: Fleet | None = None,
        costs: Mapping[str, int] | None = None,
    ) -> None:
        self._facts = Facts(fleet or Fleet(), costs or {})
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
        route = self._routes.get(wanted)
        if route is None:
            base, at, pin = wanted.rpartition("@")
            if at and base:
                return self._pinned(base, pin, principal, name)
            route = self._route(wanted)
        if route is None or not allowed(route.name, principal):
            raise not_found(name)
        return route

    def plan(self, route: Route, call: Call | None = None) -> Plan:
        """The route's deployments, best first: by priority group and rung of the ladder, then by the strategy."""
        if len(route.deployments) == 1:
            return route.deployments
        strategy, identity = STRATEGIES[route.config.strategy], None
        if route.config.sticky and call is not None:
            identity = conversation(call.request)
        plan: list[Deployment] = []
        for _, group in groupby(sorted(route.deployments, key=_rank), key=_rank):
            members = list(group)
            if len(members) > 1:
                members = list(strategy(members, self._facts, call) if identity is None else sticky(members, identity))
            plan += members
        return plan

    def fallbacks(self, route: Route, kind: ErrorKind, principal: Principal) -> list[Route]:
        """The models to try after a failure of that kind, as far as the principal may use them."""
        names = _fallback_names(route.config.fallbacks, kind)
        return [self._routes[name] for name in names if allowed(name, principal)]

    def cheaper(self, route: Route, principal: Principal) -> Route | None:
        """The model that may serve instead of a refusal by a limit; None where there is none or the key may not."""
        name = route.config.cheaper
        if name is None or not principal.allow_cheaper or not allowed(name, principal):
            return None
        return self._routes[name]

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
        pinned = route.config.model_copy(update={"fallbacks": Fallbacks(), "cheaper": None})
        return Route(route.name, pinned, chosen)


def allowed(model: str, principal: Principal) -> bool:
    """Whether every owner of the key allows the model."""
    for owner in principal.owners:
        if owner.models is not None and not any(_matches(model, pattern) for pattern in owner.models):
            return False
    return True


def _matches(model: str, pattern: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def _rank(deployment: Deployment) -> tuple[int, int]:
    return deployment.config.order, LADDER[deployment.config.capacity]


def _fallback_names(fallbacks: Fallbacks, kind: ErrorKind) -> tuple[str, ...]:
    if kind is ErrorKind.INVALID_REQUEST:
        return ()
    option = LISTS.get(kind, "any")
    own: tuple[str, ...] = getattr(fallbacks, option)
    return own or (() if option in OWN_LIST_ONLY else fallbacks.any)

"""Names to models, models to plans."""

from collections import Counter
from typing import Any

import pytest

from config.schema import Deployment as DeploymentConfig
from config.schema import PublicModel
from gateway.call import Deployment, Owner, Principal, Route
from gateway.errors import ModelNotFound, PermissionDenied
from gateway.routing import Router

ANYONE = Principal("k", "default", owners=(Owner("k:k"),))


def route(name: str, *deployments: dict[str, Any], **model: Any) -> Route:
    configs = [DeploymentConfig(provider="p", **d) for d in deployments or ({"model": "m"},)]
    made = tuple(Deployment(f"p/{c.model}", c.provider, None, None, c) for c in configs)  # type: ignore[arg-type]
    return Route(name, PublicModel(deployments=tuple(configs), **model), made)


def router(*routes: Route, **aliases: str) -> Router:
    return Router({r.name: r for r in routes}, aliases)


def test_an_alias_and_the_longest_wildcard_win() -> None:
    table = Router({n: route(n) for n in ("a", "b")}, {"x": "a", "claude-*": "a", "claude-opus-*": "b"})
    assert table.resolve("x", ANYONE).name == "a"
    assert table.resolve("claude-3", ANYONE).name == "a"
    assert table.resolve("claude-opus-4", ANYONE).name == "b"
    with pytest.raises(ModelNotFound):
        table.resolve("y", ANYONE)


def test_a_key_has_names_of_its_own() -> None:
    mine = Principal("k", "default", aliases={"best": "a"})
    assert router(route("a")).resolve("best", mine).name == "a"


@pytest.mark.parametrize(
    ("owners", "visible"),
    [
        ((None,), ["a", "ab", "b"]),
        ((("a",),), ["a"]),
        ((("a*",),), ["a", "ab"]),
        ((("a*",), ("ab", "b")), ["ab"]),
        (((),), []),
    ],
)
def test_every_owner_must_allow_a_model(owners: tuple[Any, ...], visible: list[str]) -> None:
    principal = Principal("k", "default", owners=tuple(Owner(f"o{i}", models=m) for i, m in enumerate(owners)))
    table = router(route("a"), route("ab"), route("b"), route("c", hidden=True))
    assert [r.name for r in table.visible(principal)] == visible


def test_a_model_that_may_not_be_seen_looks_like_one_that_is_not_there() -> None:
    principal = Principal("k", "default", owners=(Owner("k:k", models=("b",)),))
    with pytest.raises(ModelNotFound) as hidden:
        router(route("a")).resolve("a", principal)
    with pytest.raises(ModelNotFound) as missing:
        router().resolve("a", principal)
    assert hidden.value.to_openai() == missing.value.to_openai()


def test_pinning_needs_a_key_that_may() -> None:
    table = router(route("a", {"model": "m"}, {"model": "n"}))
    may = Principal("k", "default", allow_pinning=True)
    assert [d.id for d in table.resolve("a@p/n", may).deployments] == ["p/n"]
    with pytest.raises(PermissionDenied):
        table.resolve("a@p", ANYONE)
    with pytest.raises(ModelNotFound):
        table.resolve("a@q", may)


def test_priority_groups_come_first_and_weights_draw_within_them() -> None:
    a = route("a", {"model": "x", "order": 1}, {"model": "y", "weight": 3}, {"model": "z"}, strategy="weighted")
    plans = Counter(tuple(d.config.model for d in router(a).plan(a)) for _ in range(2000))
    assert all(p[-1] == "x" for p in plans)
    assert 0.7 < plans["y", "z", "x"] / 2000 < 0.8


def test_weight_zero_is_a_last_resort() -> None:
    a = route("a", {"model": "x", "weight": 0}, {"model": "y"}, strategy="weighted")
    assert {tuple(d.config.model for d in router(a).plan(a)) for _ in range(50)} == {("y", "x")}

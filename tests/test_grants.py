"""Nobody grants what they do not have: every option for every role, and what several keys have together."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
from openai import AsyncOpenAI, RateLimitError

from config.schema import Budget, Limits, LimitValues, TierPolicy
from gateway.call import Owner, Principal
from gateway.errors import Conflict, GatewayError, PermissionDenied
from gateway.records.database import Database
from gateway.records.grants import Actor
from gateway.records.keys import Role
from gateway.records.resources import KINDS, KindName
from gateway.records.tables import counted_keys

from .servers import RedisServer
from .test_admin_api import Caller, administered
from .test_records_admin import OPS, World

LIMITS: dict[str, Any] = {
    **dict.fromkeys(("rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "concurrency"), 10),
    "budget": dict.fromkeys(Budget.model_fields, 10),
}
HAS = {**LIMITS, "per_model": {"fast": {"rpm": 5}}, "per_tier": {"flex": {"rpm": 5}}}
"""What the acting key has of every limit there is."""
RAMP = {"above_tpm": 1000, "percent": 20, "minutes": 15}
TIERS = {"allowed": ["default", "flex"], "max": "default", "ramp": RAMP}
WITHIN: dict[str, Any] = {
    "limits": HAS, "tiers": TIERS, "models": ["fast"], "restricted_params": ["logprobs"], "store": False,
    "expires": "2027-01-15T07:59:00Z",
}  # fmt: skip
BEYOND: dict[str, tuple[str, Any]] = {
    **{f"limits.{n}": ("limits", {**HAS, n: 11}) for n in LIMITS if n != "budget"},
    **{f"limits.{n} absent": ("limits", {k: v for k, v in HAS.items() if k != n}) for n in LIMITS if n != "budget"},
    **{f"limits.budget.{n}": ("limits", {**HAS, "budget": {**LIMITS["budget"], n: 11}}) for n in LIMITS["budget"]},
    **{
        f"limits.budget.{n} absent": ("limits", {**HAS, "budget": {**LIMITS["budget"], n: None}})
        for n in LIMITS["budget"]
        if n != "overdraft"  # without one there is nothing to go beyond
    },
    "limits.per_model.rpm": ("limits", {**HAS, "per_model": {"fast": {"rpm": 6}}}),
    "limits.per_model.rpm absent": ("limits", {**HAS, "per_model": {}}),
    "limits.per_tier.rpm": ("limits", {**HAS, "per_tier": {"flex": {"rpm": 6}}}),
    "limits.per_tier.rpm absent": ("limits", {**HAS, "per_tier": {}}),
    "tiers.allowed": ("tiers", {**TIERS, "allowed": ["default", "priority"]}),
    "tiers.allowed absent": ("tiers", {"max": "default", "ramp": RAMP}),
    "tiers.max": ("tiers", {**TIERS, "max": "priority"}),
    "tiers.max absent": ("tiers", {"allowed": ["default"], "ramp": RAMP}),
    "tiers.ramp absent": ("tiers", {"allowed": ["default"], "max": "default"}),
    **{
        f"tiers.ramp.{n}": ("tiers", {**TIERS, "ramp": {**RAMP, n: v}})
        for n, v in (("above_tpm", 1001), ("percent", 21), ("minutes", 14))
    },
    "models": ("models", ["fast", "smart"]),
    "models wildcard": ("models", ["*"]),
    "models absent": ("models", None),
    "restricted_params": ("restricted_params", []),
    "store": ("store", True),
    "expires": ("expires", "2027-01-15T08:00:01Z"),
    "expires absent": ("expires", None),
    "allow_pinning": ("allow_pinning", True),
    "allow_cheaper": ("allow_cheaper", True),
    "role": ("role", "admin"),
    "organization": ("organization", "other"),
    "team": ("team", "far"),
    "user": ("user", "eve"),
}
FREE = {
    "id": "the name of what is made",
    "name": "the same",
    "tags": "say who used it, allow nothing",
    "metadata": "the same",
    "aliases": "the model they lead to must be allowed, and so must choosing its provider",
    "blocked": "allows nothing; letting work again is checked like a change of everything",
    "digest": "a secret of the caller's own choice",
}
NOT_AMOUNTS = {"default", "on_denied", "flex_fallback", "flex_wait"}
"""Of a tier policy: what happens with a tier, which `allowed` and `max` bound."""


def acting(role: Role) -> Actor:
    principal = Principal(
        "key_9", "acme", "blue",
        owners=(
            Owner("k:key_9", Limits.model_validate(HAS), TierPolicy.model_validate(TIERS), ("fast",), store=False),
            Owner("t:blue"),
            Owner("o:acme"),
        ),
        restricted_params=frozenset({"logprobs"}),
    )  # fmt: skip
    team = "blue" if role == "team_admin" else None
    return Actor("key_9", "acme", team, principal, expires=1_800_000_000.0, role=role)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    world = World(database)
    await world.cache.start()
    for kind, values in (
        ("organization", {"id": "acme"}), ("organization", {"id": "other"}),
        ("team", {"id": "blue", "organization": "acme"}), ("team", {"id": "far", "organization": "other"}),
        ("user", {"id": "eve", "team": "far"}), ("user", {"id": "ann", "team": "blue"}),
    ):  # fmt: skip
        await world.admin.create(OPS, kind, values)  # type: ignore[arg-type]
    yield world
    await world.cache.close()


def test_every_option_is_in_the_matrix() -> None:
    """A new option of an owner, of limits or of tier policies fails here until it is decided who may grant it."""
    tried = {option for option, _ in BEYOND.values()}
    for kind in KINDS.values():
        assert set(kind.body.model_fields) <= tried | set(FREE), kind.name
    assert set(LimitValues.model_fields) == set(LIMITS)
    assert set(Limits.model_fields) == {*LIMITS, "per_model", "per_tier"}
    assert set(TierPolicy.model_fields) == {*TIERS, *NOT_AMOUNTS}


@pytest.mark.parametrize("role", ["team_admin", "admin"])
async def test_S_07_no_role_grants_more_than_it_has(world: World, role: Role) -> None:
    tried = [case for case in BEYOND if await is_refused(world, role, case)]
    assert set(BEYOND) - set(tried) == ({"role"} if role == "admin" else set())


async def is_refused(world: World, role: Role, case: str) -> bool:
    """Whether there is something to be refused, which was refused then: in what is made, and in what it is changed to."""
    option, value = BEYOND[case]
    actor, tried = acting(role), False
    for kind in ("key", "user", *(["team"] if role == "admin" else [])):
        body = KINDS[kind].body.model_fields  # type: ignore[index] # a name of a kind
        if option not in body or (role == "admin" and case == "role") or (kind == "team" and option == "organization"):
            continue
        tried = True
        within = {k: v for k, v in WITHIN.items() if k in body}
        home = {"name": "n", "team": "blue"} if kind == "key" else {"id": "new", "team": "blue"}
        home = {"id": "new", "organization": "acme"} if kind == "team" else home
        with pytest.raises(GatewayError) as refused:
            await world.admin.create(actor, kind, {**home, **within, option: value})  # type: ignore[arg-type]
        assert refused.value.param == case.split(" ", maxsplit=1)[0], (case, kind, refused.value.message)
        made = await world.admin.create(actor, kind, {**home, **within})  # type: ignore[arg-type]
        if option not in ("organization", "team", "user"):  # which never change
            with pytest.raises(PermissionDenied) as refused:
                await world.admin.update(actor, kind, made["id"], {option: value})  # type: ignore[arg-type]
            assert refused.value.param == case.split(" ", maxsplit=1)[0], (case, kind)
        await world.admin.delete(OPS, kind, made["id"])  # type: ignore[arg-type]
    return tried


@pytest.mark.parametrize("role", ["viewer", None])
async def test_S_07_who_may_change_nothing_grants_nothing(role: Role | None) -> None:
    async with administered() as (gateway, http, operator):
        await operator.ok("POST", "/teams", {"id": "blue"})
        made = await operator.ok("POST", "/keys", {"name": "k", "team": "blue", "role": role})
        caller = Caller(http, gateway, made["key"])
        for path in ("/keys", "/users", "/teams", "/organizations"):
            assert (await caller("POST", path, {"id": "x", "name": "x"}))[0] == 403


async def test_what_was_made_with_limits_counts_toward_them(world: World, database: Database) -> None:
    """Its limits and those of whoever made it hold, down a chain of makers, and a change of theirs is seen."""
    made = await world.key(team="blue", role="team_admin", limits={"budget": {"month": 10}, "rpm": 100})
    records = [await world.cache.record(made["key"])]
    assert records[0] is not None
    for name in ("first", "second"):
        last = records[-1]
        assert last is not None
        maker = Actor(f"key:{last.id}", "acme", "blue", last.principal, role="team_admin")
        limits = {"budget": {"month": 10}, "rpm": 100}
        key = await world.key(maker, name=name, team="blue", user="ann", role="team_admin", limits=limits)
        records.append(await world.cache.record(key["key"]))
    chain = [f"k:{record.id}" for record in records if record]
    grandchild = records[2]
    assert grandchild is not None
    assert [o.id for o in grandchild.principal.owners] == [
        chain[2], "u:ann", "t:blue", "o:acme", chain[1], chain[0],
    ]  # fmt: skip
    assert (await world.admin.get(OPS, "key", grandchild.id))["counts_toward"] == [chain[1], chain[0]]
    await world.admin.update(OPS, "key", made["id"], {"limits": {"rpm": 7}})
    changed = await world.cache.record(key["key"])
    assert changed is not None
    assert changed.principal.owners[-1].limits == Limits(rpm=7)
    assert changed.principal.version != grandchild.principal.version
    with pytest.raises(Conflict, match="count toward"):
        await world.admin.delete(OPS, "key", made["id"])
    await world.admin.delete(OPS, "key", grandchild.id)
    async with database.read() as connection:
        assert len((await connection.execute(counted_keys.select())).all()) == 3  # what it spent stays counted


async def test_limits_of_ones_own_are_not_had_twice_by_way_of_others_keys(world: World) -> None:
    """Who has limits neither raises, revives nor takes over what does not count toward them."""
    maker = await world.key(team="blue", role="team_admin", limits={"budget": {"day": 10}})
    record = await world.cache.record(maker["key"])
    assert record is not None
    actor = Actor(f"key:{record.id}", "acme", "blue", record.principal, role="team_admin")
    others = await world.key(name="others", team="blue", limits={"budget": {"day": 3}})
    more = {"limits": {"budget": {"day": 9}}}
    with pytest.raises(PermissionDenied, match="count toward"):
        await world.admin.update(actor, "key", others["id"], more)
    with pytest.raises(PermissionDenied, match="count toward"):
        await world.admin.rotate(actor, others["id"])
    await world.admin.update(actor, "key", others["id"], {"tags": ["x"], "limits": {"budget": {"day": 2}}})
    await world.admin.block(actor, "key", others["id"])
    with pytest.raises(PermissionDenied, match="count toward"):
        await world.admin.unblock(actor, "key", others["id"])
    ended = await world.key(name="ended", team="blue", limits={"budget": {"day": 3}}, expires="2020-01-01T00:00:00Z")
    for expires in ("2030-01-01T00:00:00Z", None):
        with pytest.raises(PermissionDenied, match="count toward"):
            await world.admin.update(actor, "key", ended["id"], {"expires": expires})
    user = await world.admin.create(OPS, "user", {"id": "bob", "team": "blue", **more})
    with pytest.raises(PermissionDenied, match="count toward"):
        await world.admin.update(actor, "user", user["id"], {"limits": {"budget": {"day": 10}}})
    own = await world.key(actor, name="own", team="blue", limits={"budget": {"day": 3}})
    await world.admin.update(actor, "key", own["id"], more)
    await world.admin.block(actor, "key", own["id"])
    await world.admin.unblock(actor, "key", own["id"])
    await world.admin.rotate(actor, own["id"])
    await world.admin.rotate(actor, maker["id"])  # its own


async def test_what_the_team_says_needs_no_repetition(world: World) -> None:
    """Who has no limits of their own hands out what the team has: what the team may not holds for all its keys."""
    team = {"limits": {"budget": {"day": 10}}, "store": False, "models": ["fast"], "tiers": {"max": "default"}}
    await world.admin.update(OPS, "team", "blue", team)
    maker = await world.key(team="blue", role="team_admin")
    record = await world.cache.record(maker["key"])
    assert record is not None
    actor = Actor(f"key:{record.id}", "acme", "blue", record.principal, role="team_admin")
    made = await world.key(actor, name="free", team="blue")
    assert made["counts_toward"] == []
    await world.admin.rotate(actor, made["id"])


@pytest.mark.parametrize("shared", [False, True])
async def test_S_07_many_keys_spend_together_what_their_maker_had(shared: bool, redis_server: RedisServer) -> None:
    """Through the front door: new keys, deleted keys, and after the counters were lost."""
    sections: dict[str, Any] = {"redis": {"url": redis_server.url, "timeout": 2}} if shared else {}
    most = 2_500_000
    limits = {"budget": {"day": most / 1e9}}
    async with administered(**sections) as (gateway, http, operator):
        await operator.ok("POST", "/organizations", {"id": f"grants-{shared}"})
        await operator.ok("POST", "/teams", {"id": "blue", "organization": f"grants-{shared}"})
        made = await operator.ok(
            "POST", "/keys", {"name": "maker", "team": "blue", "role": "team_admin", "limits": limits}
        )
        maker = Caller(http, gateway, made["key"])

        async def refused_after(key: str) -> int:
            """So many answers, then the budget."""
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=8) as client:
                for answered in range(300):
                    try:
                        await client.chat.completions.create(
                            model="m", messages=[{"role": "user", "content": "x"}], max_completion_tokens=1
                        )
                    except RateLimitError as error:
                        if error.code == "insufficient_quota":
                            return answered
                        raise
            raise AssertionError("never refused")

        answered = []
        for n in range(3):
            key = await maker.ok("POST", "/keys", {"name": f"k{n}", "limits": limits})
            assert key["counts_toward"] == [f"k:{made['id']}"]
            answered.append(await refused_after(key["key"]))
            await maker.ok("DELETE", f"/keys/{key['id']}")
        assert answered[0] > 3
        assert [*answered[1:], await refused_after(made["key"])] == [0, 0, 0]
        if shared:
            redis.Redis.from_url(redis_server.url).flushall()
            key = await maker.ok("POST", "/keys", {"name": "late", "limits": limits})
            assert await refused_after(key["key"]) == 0
        (spent,) = await gateway.records.usage.report()
        assert 0 < spent["cost"] <= most
        assert (await operator.ok("GET", "/reconcile"))["data"] == []


def test_the_kinds_of_the_matrix_are_all_there_are() -> None:
    names: set[KindName] = {"organization", "team", "user", "key"}
    assert set(KINDS) == names

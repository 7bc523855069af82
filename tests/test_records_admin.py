"""What operators do: complete, audited, seen at once, and never more than the acting role has."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from config.loader import parse
from config.schema import Config, Limits, TierPolicy
from gateway.call import Owner, Principal
from gateway.errors import Conflict, InvalidRequest, PermissionDenied, ResourceNotFound
from gateway.records.admin import Admin
from gateway.records.audit import AuditLog
from gateway.records.cache import KeyCache
from gateway.records.database import Database
from gateway.records.digests import Peppers, generate, is_well_formed, sha256_digest
from gateway.records.grants import Actor
from gateway.records.keys import KeyStore

PEPPERS = Peppers(["p" * 32])
OPS = Actor("ops", request_id="req_1")
ORG = Actor("acme-admin", organization="acme")
TEAM = Actor("blue-admin", organization="acme", team="blue")


class World:
    def __init__(self, database: Database, config: Config | None = None) -> None:
        self.now = [1_800_000_000.0]
        clock = lambda: self.now[0]  # noqa: E731
        self.audit = AuditLog(database, clock=clock)
        self.cache = KeyCache(database, KeyStore(database, config), PEPPERS, clock=clock)
        self.admin = Admin(database, PEPPERS, config, audit=self.audit, on_change=self.cache.poll, clock=clock)

    async def key(self, actor: Actor = OPS, **values: Any) -> dict[str, Any]:
        return await self.admin.create(actor, "key", {"name": "k", **values})


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    world = World(database)
    await world.cache.start()
    for kind, values in (
        ("organization", {"id": "acme", "limits": {"rpm": 1000}}),
        ("organization", {"id": "other"}),
        ("team", {"id": "blue", "organization": "acme", "tags": ["b"]}),
        ("team", {"id": "red", "organization": "acme"}),
        ("team", {"id": "far", "organization": "other"}),
        ("user", {"id": "ann", "team": "blue"}),
    ):
        await world.admin.create(OPS, kind, values)  # type: ignore[arg-type]
    yield world
    await world.cache.close()


async def test_a_key_from_creation_to_deletion(world: World) -> None:
    made = await world.key(user="ann", limits={"rpm": 5, "budget": {"day": "1.5"}}, aliases={"a": "b"})
    secret = made.pop("key")
    assert is_well_formed(secret)
    assert made["preview"] == f"sk-sl-...{secret[-4:]}"
    assert (made["organization"], made["team"], made["user"]) == ("acme", "blue", "ann")
    assert await world.admin.get(OPS, "key", made["id"]) == made
    principal = await world.cache.principal(secret)
    assert principal is not None
    assert [owner.id for owner in principal.owners] == [f"k:{made['id']}", "u:ann", "t:blue", "o:acme"]
    assert principal.owners[0].limits.budget is not None
    assert principal.owners[0].limits.budget.day == Decimal("1.5")
    await world.admin.update(OPS, "key", made["id"], {"limits": {"rpm": 6}, "name": "renamed", "aliases": None})
    changed = await world.cache.principal(secret)
    assert changed is not None
    assert (changed.owners[0].limits.rpm, changed.aliases) == (6, {})
    assert changed.version != principal.version
    await world.admin.block(OPS, "team", "blue")
    assert await world.cache.principal(secret) is None
    await world.admin.unblock(OPS, "team", "blue")
    assert await world.cache.principal(secret) is not None
    assert await world.admin.delete(OPS, "key", made["id"]) == {
        "object": "key.deleted", "id": made["id"], "deleted": True,
    }  # fmt: skip
    assert await world.cache.principal(secret) is None
    with pytest.raises(ResourceNotFound):
        await world.admin.get(OPS, "key", made["id"])


async def test_S_02_no_secret_is_in_the_database(world: World, database: Database) -> None:
    secrets = [(await world.key(name=f"k{n}"))["key"] for n in range(3)]
    rotated = await world.admin.rotate(OPS, (await world.admin.list(OPS, "key"))["first_id"], overlap=60)
    dump = ""
    async with database.read() as connection:
        for table in ("keys", "key_digests", "audit", "changes"):
            dump += str((await connection.execute(text(f"SELECT * FROM {table}"))).all())
    assert "k0" in dump
    for secret in (*secrets, rotated["key"]):
        assert secret not in dump
        assert secret[6:-6] not in dump


async def test_S_14_keys_that_are_not_valid_are_all_alike(world: World) -> None:
    """Unknown, mistyped, malformed, expired, blocked, deleted: one answer, which says nothing of why."""
    expired = await world.key(name="expired", expires="2020-01-01")
    blocked = await world.key(name="blocked", blocked=True)
    deleted = await world.key(name="deleted")
    await world.admin.delete(OPS, "key", deleted["id"])
    mistyped = blocked["key"][:-1] + ("0" if blocked["key"][-1] != "0" else "1")
    for key in (
        generate(),
        mistyped,
        "",
        "\x00",
        "\udcff",
        "x" * 10_000,
        *(k["key"] for k in (expired, blocked, deleted)),
    ):
        assert await world.cache.principal(key) is None


async def test_rotation_lets_the_old_secret_work_for_a_while(world: World) -> None:
    made = await world.key()
    rotated = await world.admin.rotate(OPS, made["id"], overlap=3600)
    assert rotated["id"] == made["id"]
    old, new = made["key"], rotated["key"]
    for at, works in ((0, True), (3599, True), (3601, False)):
        world.now[0] = 1_800_000_000.0 + at
        assert (await world.cache.principal(old) is not None) is works
        assert await world.cache.principal(new) is not None
    third = await world.admin.rotate(OPS, made["id"])
    assert await world.cache.principal(new) is None
    assert await world.cache.principal(third["key"]) is not None
    with pytest.raises(InvalidRequest, match="overlap"):
        await world.admin.rotate(OPS, made["id"], overlap=-1)


async def test_a_second_rotation_does_not_prolong_the_first_secret(world: World) -> None:
    made = await world.key()
    await world.admin.rotate(OPS, made["id"], overlap=10)
    await world.admin.rotate(OPS, made["id"], overlap=3600)
    world.now[0] += 11
    assert await world.cache.principal(made["key"]) is None


async def test_an_imported_key_goes_on_working(world: World) -> None:
    made = await world.key(digest=sha256_digest("sk-from-elsewhere"), expires="2030-01-01T00:00:00Z")
    assert "key" not in made
    assert made["preview"] == "imported"
    assert await world.cache.principal("sk-from-elsewhere") is not None
    with pytest.raises(Conflict):
        await world.key(name="again", digest=sha256_digest("sk-from-elsewhere"))
    rotated = await world.admin.rotate(OPS, made["id"])
    assert await world.cache.principal("sk-from-elsewhere") is None
    assert await world.cache.principal(rotated["key"]) is not None


async def test_pages_of_keys(world: World) -> None:
    ids = []
    for n in range(7):
        world.now[0] += 1
        ids.append((await world.key(name=f"k{n}", team="blue" if n % 2 else "far"))["id"])
    seen: list[str] = []
    after = None
    while True:
        page = await world.admin.list(OPS, "key", after=after, limit=3)
        seen += [item["id"] for item in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == ids
    assert [k["id"] for k in (await world.admin.list(OPS, "key", team="blue"))["data"]] == ids[1::2]
    assert [k["id"] for k in (await world.admin.list(ORG, "key"))["data"]] == ids[1::2]
    assert (await world.admin.list(OPS, "key", after="\x00\udcff"))["data"] == []
    for limit in (0, 1001):
        with pytest.raises(InvalidRequest):
            await world.admin.list(OPS, "key", limit=limit)


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "k", "limits": {"rpm": -1}}, "limits.rpm"),
        ({"name": "k", "limits": {"rpn": 1}}, "limits.rpn"),
        ({"name": "k", "expires": "tomorrow"}, "expires"),
        ({"name": "k", "expires": "9999-12-31T23:59:59-05:00"}, "expires"),
        ({"name": "k", "expires": "0001-01-01T00:00:00+05:00"}, "expires"),
        ({"name": "k", "team": "none"}, "team"),
        ({"name": "k", "user": "none"}, "user"),
        ({"name": "k", "organization": "none"}, "organization"),
        ({"name": "k", "organization": "other", "team": "blue"}, "organization"),
        ({"name": "k", "digest": "md5:x"}, "digest"),
        ({"name": "k", "key": "my-own"}, "key"),
        ([], None),
    ],
)
async def test_bad_bodies_are_named_without_their_values(world: World, values: Any, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await world.admin.create(OPS, "key", values)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert "my-own" not in caught.value.message


async def test_options_are_bounded(world: World) -> None:
    with pytest.raises(InvalidRequest, match="65536"):
        await world.key(metadata={"a": "x" * 70_000})


async def test_names_are_taken_once(world: World) -> None:
    await world.key()
    with pytest.raises(Conflict):
        await world.key()
    with pytest.raises(Conflict):
        await world.admin.create(OPS, "team", {"id": "blue"})
    await world.key(organization="other")


async def test_what_has_members_is_not_deleted(world: World) -> None:
    for kind, name in (("organization", "acme"), ("team", "blue")):
        with pytest.raises(Conflict):
            await world.admin.delete(OPS, kind, name)  # type: ignore[arg-type]
    await world.admin.delete(OPS, "team", "red")
    with pytest.raises(InvalidRequest, match="organization"):
        await world.admin.update(OPS, "team", "blue", {"organization": "other"})


async def test_owners_of_the_config_file_are_known_and_not_taken(database: Database) -> None:
    config = parse("{organizations: {filed: {}}, teams: {squad: {organization: filed, limits: {rpm: 3}}}}")
    world = World(database, config)
    made = await world.admin.create(OPS, "key", {"name": "k", "team": "squad"})
    assert made["organization"] == "filed"
    principal = await world.cache.principal(made["key"])
    assert principal is not None
    assert [o.id for o in principal.owners] == [f"k:{made['id']}", "t:squad", "o:filed"]
    with pytest.raises(Conflict, match="configuration"):
        await world.admin.create(OPS, "team", {"id": "squad", "organization": "filed"})


async def test_S_07_a_role_reaches_only_what_is_its_own(world: World) -> None:
    """Every operation of every foreign owner answers like one that does not exist."""
    foreign = {
        "organization": "other",
        "team": "far",
        "user": (await world.admin.create(OPS, "user", {"id": "eve", "team": "far"}))["id"],
        "key": (await world.key(team="far"))["id"],
    }
    for actor in (ORG, TEAM):
        for kind, identity in foreign.items():
            for operation in (
                world.admin.get(actor, kind, identity),  # type: ignore[arg-type]
                world.admin.update(actor, kind, identity, {"blocked": True}),  # type: ignore[arg-type]
                world.admin.delete(actor, kind, identity),  # type: ignore[arg-type]
                *([world.admin.rotate(actor, identity)] if kind == "key" else []),
            ):
                with pytest.raises(ResourceNotFound) as caught:
                    await operation
                missing = pytest.raises(ResourceNotFound)
                with missing as unknown:
                    await world.admin.get(OPS, kind, "no-such")  # type: ignore[arg-type]
                assert caught.value.message == unknown.value.message
        for option, foreign_one in (("team", "far"), ("user", "eve"), ("organization", "other")):
            for identity in (foreign_one, "no-such"):
                with pytest.raises(InvalidRequest, match=f"^No {option} '{identity}'"):
                    await world.admin.create(actor, "key", {"name": "x", option: identity})
    with pytest.raises(InvalidRequest, match="No user 'bob'"):  # of its organization, of another team
        await world.admin.create(OPS, "user", {"id": "bob", "team": "red"})
        await world.admin.create(TEAM, "key", {"name": "x", "team": "blue", "user": "bob"})
    for kind in ("team", "user", "key"):
        assert all(i["organization"] == "acme" for i in (await world.admin.list(ORG, kind))["data"])  # type: ignore[arg-type]
    assert [i["id"] for i in (await world.admin.list(ORG, "organization"))["data"]] == ["acme"]
    assert [i["id"] for i in (await world.admin.list(TEAM, "team"))["data"]] == ["blue"]


async def test_S_07_a_role_does_not_change_what_is_above_it(world: World) -> None:
    for actor, kind, identity in (
        (ORG, "organization", "acme"),
        (TEAM, "organization", "acme"),
        (TEAM, "team", "blue"),
    ):
        await world.admin.get(actor, kind, identity)  # type: ignore[arg-type]
        with pytest.raises(PermissionDenied):
            await world.admin.update(actor, kind, identity, {"limits": {}})  # type: ignore[arg-type]
        with pytest.raises(PermissionDenied):
            await world.admin.delete(actor, kind, identity)  # type: ignore[arg-type]
    with pytest.raises(PermissionDenied):
        await world.admin.create(ORG, "organization", {"id": "acme"})
    await world.admin.create(ORG, "team", {"id": "green", "organization": "acme"})
    await world.key(TEAM, team="blue")
    with pytest.raises(InvalidRequest, match="No team 'red'"):
        await world.key(TEAM, name="x", team="red")
    with pytest.raises(ResourceNotFound):
        await world.key(TEAM, name="x", organization="acme")


BOUND = Principal(
    "key_9", "acme", "blue",
    owners=(
        Owner(
            "k:key_9",
            Limits.model_validate({"rpm": 10, "budget": {"day": 5}, "per_model": {"fast": {"tpm": 100}}}),
            TierPolicy(allowed=("default", "flex"), max="default"),
            ("fast", "gpt-*"),
            store=False,
        ),
        Owner("t:blue", Limits(rpm=50)),
    ),
    restricted_params=frozenset({"logprobs"}),
)  # fmt: skip
ALLOWED: dict[str, Any] = {
    "team": "blue",
    "models": ["gpt-4*", "fast"],
    "limits": {"rpm": 10, "budget": {"day": "4.99"}, "per_model": {"fast": {"tpm": 99}}},
    "tiers": {"allowed": ["flex"], "max": "flex"},
    "restricted_params": ["logprobs", "n"],
    "store": False,
    "expires": "2027-01-15T07:59:00Z",
}


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("models", {"models": None}),
        ("models", {"models": ["claude"]}),
        ("models", {"models": ["*"]}),
        ("models", {"models": ["gp*"]}),
        ("limits.rpm", {"limits": {**ALLOWED["limits"], "rpm": 11}}),
        ("limits.rpm", {"limits": {"budget": {"day": 1}, "tpm": 1}}),
        ("limits.budget.day", {"limits": {"rpm": 1, "tpm": 1}}),
        ("limits.budget.day", {"limits": {"rpm": 1, "tpm": 1, "budget": {"day": "5.000000001"}}}),
        ("limits.budget.overdraft", {"limits": {"rpm": 1, "tpm": 1, "budget": {"day": 1, "overdraft": "0.01"}}}),
        ("limits.per_model.tpm", {"limits": {"rpm": 1, "budget": {"day": 1}}}),
        ("limits.per_model.tpm", {"limits": {"rpm": 1, "budget": {"day": 1}, "per_model": {"fast": {"tpm": 101}}}}),
        ("tiers.allowed", {"tiers": {"max": "flex"}}),
        ("tiers.allowed", {"tiers": {"allowed": ["priority"], "max": "flex"}}),
        ("tiers.max", {"tiers": {"allowed": ["flex"]}}),
        ("tiers.max", {"tiers": {"allowed": ["flex"], "max": "priority"}}),
        ("restricted_params", {"restricted_params": []}),
        ("store", {"store": True}),
        ("allow_pinning", {"allow_pinning": True}),
        ("allow_cheaper", {"allow_cheaper": True}),
        ("expires", {"expires": None}),
        ("expires", {"expires": "2027-01-15T08:00:01Z"}),
    ],
)
async def test_S_07_nobody_gives_what_they_do_not_have(world: World, option: str, change: dict[str, Any]) -> None:
    actor = Actor("key_9", "acme", "blue", BOUND, expires=1_800_000_000.0)
    made = await world.key(actor, **ALLOWED)
    with pytest.raises(PermissionDenied) as caught:
        await world.key(actor, **{**ALLOWED, "name": "more", **change})
    assert caught.value.param == option
    with pytest.raises(PermissionDenied):
        await world.admin.update(actor, "key", made["id"], change)
    strong = await world.key(**{**ALLOWED, "name": "strong", **change})
    with pytest.raises(PermissionDenied):
        await world.admin.rotate(actor, strong["id"])  # its secret would be the actor's
    assert (await world.admin.block(actor, "key", strong["id"]))["blocked"]
    with pytest.raises(PermissionDenied):
        await world.admin.unblock(actor, "key", strong["id"])


async def test_a_low_general_limit_stands_for_one_per_model(world: World) -> None:
    actor = Actor("key_9", "acme", "blue", BOUND, expires=1_800_000_000.0)
    await world.key(actor, **{**ALLOWED, "limits": {"rpm": 1, "tpm": 100, "budget": {"day": 1}}})


async def test_S_39_every_change_is_in_the_audit_log_refused_ones_too(world: World) -> None:
    made = await world.key(team="blue")
    await world.admin.update(OPS, "key", made["id"], {"limits": {"rpm": 2}})
    with pytest.raises(PermissionDenied):
        await world.admin.delete(TEAM, "team", "blue")
    with pytest.raises(ResourceNotFound):
        await world.admin.delete(TEAM, "key", "key_none")
    await world.admin.rotate(OPS, made["id"])
    await world.admin.delete(OPS, "key", made["id"])
    entries = (await world.audit.list(limit=1000))[6:]
    assert [(e["actor"], e["action"], e["result"]) for e in entries] == [
        ("ops", "key.create", "ok"),
        ("ops", "key.update", "ok"),
        ("blue-admin", "team.delete", "permission_denied"),
        ("blue-admin", "key.delete", "not_found"),
        ("ops", "key.rotate", "ok"),
        ("ops", "key.delete", "ok"),
    ]
    assert entries[1]["before"]["limits"]["rpm"] is None
    assert entries[1]["after"]["limits"]["rpm"] == 2
    assert entries[0]["request_id"] == "req_1"
    assert (await world.audit.verify()).is_intact


async def test_changes_at_once_all_happen_and_reach_another_replica(
    world: World, database: Database, database_url: str
) -> None:
    """Sequence numbers in the order of the commits: a replica that polls in between misses none."""
    replica = KeyCache(database, KeyStore(database), PEPPERS, clock=lambda: world.now[0])
    await replica.start()
    keys = await asyncio.gather(*(world.key(name=f"k{n}") for n in range(20)))
    for made in keys:
        assert await replica.principal(made["key"]) is not None

    async def poll() -> None:
        for _ in range(50):
            await replica.poll()
            await asyncio.sleep(0.005)

    await asyncio.gather(poll(), *(world.admin.block(OPS, "key", made["id"]) for made in keys))
    await replica.poll()
    assert [await replica.principal(made["key"]) for made in keys] == [None] * 20
    assert (await world.audit.verify()).is_intact
    await replica.close()


async def test_hostile_ids_are_not_found(world: World) -> None:
    for identity in ("", "\x00", "\udcff", "' OR 1=1", "x" * 10_000, "../key"):
        for operation in (
            world.admin.get(OPS, "key", identity),
            world.admin.update(OPS, "key", identity, {}),
            world.admin.delete(OPS, "key", identity),
            world.admin.rotate(OPS, identity),
        ):
            with pytest.raises(ResourceNotFound):
                await operation
